/** The examples run as a reader would run them, against models that follow a script. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { FakeModels } from "./fake-models.js";
import { LIMIT } from "./support.js";

async function example(name: string, models?: FakeModels): Promise<string> {
  const path = fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url));
  const env = { ...process.env, OPENAI_API_KEY: "x", OPENAI_AGENTS_DISABLE_TRACING: "1", ...(models && { OPENAI_BASE_URL: `${models.url}/v1` }) };
  const child = spawn(process.execPath, [path], { env, stdio: ["ignore", "pipe", "pipe"] });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
  const status = await new Promise((done) => child.on("close", done));
  assert.equal(status, 0, err);
  return out + err;
}

const code = (text: string) => ({ calls: [{ name: "run_python", input: { code: text } }] });

test("the AI SDK's loop", LIMIT, async () => {
  await using models = await FakeModels.start(code("n = 1000"), code("sum(all(p % d for d in range(2, p)) for p in range(2, n))"), (request) => ({ text: `There are ${request["input"].at(-1).output[0].text}.` }));
  const output = await example("ai-sdk-loop", models);
  assert.match(output, /There are 168\./);
  assert.equal(output.match(/ran in \d+ ms: ok/g)?.length, 2);
});

test("only the coder has the cell", LIMIT, async () => {
  await using models = await FakeModels.start(
    code("import random\nrandom.seed(1)\nprint(sum(range(10)))"),
    { calls: [{ name: "transfer_to_Writer", input: {} }] },
    (request) => ({ text: `The sum is ${request["input"].find((item: any) => item.type === "function_call_output").output}.` }),
  );
  assert.match(await example("openai-agents-handoff", models), /Writer: The sum is 45\./);
  const tools = models.asked.map((request) => (request["tools"] ?? []).map((tool: any) => tool.name));
  assert.deepEqual(tools, [["run_python", "transfer_to_Writer"], ["run_python", "transfer_to_Writer"], []]);
});

test("three turns of a notebook", LIMIT, async () => {
  const output = await example("notebook");
  assert.match(output, /3 +Apr +210/);
  assert.match(output, /Mar 85\.0/);
  assert.match(output, /total 605, a chart of \d{4,} bytes/);
});
