// What the SDK adds to a call: the same work asked for over one kept connection by hand (node:http), and through the SDK, in
// turns. Prints one JSON object; times in milliseconds, `samples` in the order in which they came. Needs a daemon (CELLA_URL, CELLA_API_KEY) and the built package.
//
//     node bench/overhead.mjs [n]        n calls of each kind, 300 unless told

import http from "node:http";

import { Sandbox } from "@cella/sdk";

const n = Number(process.argv[2] ?? 300);
const WARM = 30; // until the JIT and the connections are warm
const url = process.env.CELLA_URL ?? "http://127.0.0.1:7070";
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function post(path, fields) {
  const body = JSON.stringify(fields);
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
  if (process.env.CELLA_API_KEY) headers.Authorization = `Bearer ${process.env.CELLA_API_KEY}`;
  return new Promise((done, failed) => {
    const request = http.request(url + path, { method: "POST", agent, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (piece) => (text += piece)).on("error", failed);
      response.on("end", () => (response.statusCode === 200 ? done(JSON.parse(text)) : failed(new Error(text))));
    });
    request.on("error", failed).end(body);
  });
}

async function timed(work, samples, expected) {
  const begun = performance.now();
  const value = await work();
  samples.push(performance.now() - begun);
  if (value !== expected) throw new Error(`"${expected}" was expected, "${value}" came`);
}

const percentile = (sorted, p) => sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)];
function told(samples) {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (p) => Math.round(percentile(sorted, p) * 1000) / 1000;
  return { n: sorted.length, p50: at(50), p90: at(90), p99: at(99), min: at(0), max: at(100), samples };
}

async function compare(raw, sdk, expected) {
  const samples = { raw: [], sdk: [] };
  for (let i = 0; i < n + WARM; i++) {
    await timed(raw, samples.raw, expected);
    await timed(sdk, samples.sdk, expected);
  }
  const [a, b] = [told(samples.raw.slice(WARM)), told(samples.sdk.slice(WARM))];
  return { raw: a, sdk: b, overhead_p50: Math.round((b.p50 - a.p50) * 1000) / 1000 };
}

const sandbox = await Sandbox.create();
try {
  const path = `/v1/sandboxes/${sandbox.id}`;
  const result = {
    node: process.version,
    run_code: await compare(
      async () => (await post(`${path}/execute`, { code: "1 + 1", language: "python" })).results[0].data["text/plain"],
      async () => (await sandbox.runCode("1 + 1")).text,
      "2",
    ),
    exec: await compare(async () => (await post(`${path}/exec`, { cmd: ["echo", "hi"] })).stdout, async () => (await sandbox.exec(["echo", "hi"])).stdout, "hi\n"),
  };
  console.log(JSON.stringify(result));
} finally {
  await sandbox.delete();
  agent.destroy();
}
