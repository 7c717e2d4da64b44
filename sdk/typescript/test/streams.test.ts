/** Events and values: what the package makes of what arrives. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { CellaError, CommandError, ConnectionFailed, ExecutionError, FilesystemError, Sandbox, type ExecutionEvent } from "@cella/sdk";
import { A, cell, empty, events, FakeDaemon, json, type Answer } from "./support.js";

const START = { type: "start", execution_id: "exe_1", context_id: "default" };
const OK = { type: "end", id: "exe_1", exit: "ok", truncated: null, duration_ms: 1.5, context_id: "default", language: "python" };

async function with_(answer: Answer, ...more: Answer[]): Promise<{ daemon: FakeDaemon; sandbox: Sandbox } & AsyncDisposable> {
  const daemon = await FakeDaemon.start(cell(), answer, ...more);
  const sandbox = await Sandbox.create({ host: daemon.url });
  return { daemon, sandbox, [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose]() };
}

test("an execution and its views", async () => {
  await using t = await with_(events([
    START,
    { type: "keepalive" },
    { type: "stdout", text: "o" }, { type: "stderr", text: "e" }, { type: "stdout", text: "ut" },
    { type: "display", data: { "text/plain": "shown", "text/html": "<b>", "image/png": "aGk=" }, metadata: {} },
    { type: "result", data: { "text/plain": "main", "application/json": { a: 1 } } },
    { type: "display", data: { "text/plain": "after", "image/jpeg": "aGo=", "image/svg+xml": ["<svg", "/>"] } },
    { type: "something_of_tomorrow" },
    { ...OK, truncated: { stdout: { dropped_bytes: 7 } }, exit_code: null, remaining_seconds: 5 },
  ]));
  const run = await t.sandbox.runCode("x", { timeoutSeconds: 3, env: { A: "1" }, svg: true });
  assert.deepEqual([run.text, run.html, run.svg, run.json, run.markdown], ["main", "<b>", "<svg/>", { a: 1 }, null]);
  assert.deepEqual([run.png, run.jpeg], [new TextEncoder().encode("hi"), new TextEncoder().encode("hj")]);
  assert.deepEqual([run.ok, run.exit, run.stdout, run.logs.stderr, run.error, run.id], [true, "ok", "out", "e", null, "exe_1"]);
  assert.deepEqual([run.truncated, run.remainingSeconds, run.durationMs], [{ stdout: { droppedBytes: 7 } }, 5, 1.5]);
  assert.deepEqual(run.results.map((result) => result.isMainResult), [false, true, false]);
  assert.deepEqual(run.results[0]?.formats(), ["text/plain", "text/html", "image/png"]);
  const asked = JSON.parse(t.daemon.asked[1]!.body) as object;
  assert.deepEqual(asked, { code: "x", language: "python", timeout_seconds: 3, env: { A: "1" }, svg: true, stream: true });
});

test("an error of the code is no error of the call, unless asked", async () => {
  const raised = [START, { type: "error", name: "ZeroDivisionError", value: "by zero", traceback: "T" }, { ...OK, exit: "error" }];
  await using t = await with_(events(raised), events(raised), events([START, { ...OK, exit: "timeout" }]));
  const run = await t.sandbox.runCode("1/0");
  assert.deepEqual([run.ok, run.error], [false, { name: "ZeroDivisionError", value: "by zero", traceback: "T" }]);
  await assert.rejects(t.sandbox.runCode("1/0", { check: true }), (error: unknown) => {
    assert.ok(error instanceof ExecutionError && error instanceof CellaError);
    assert.deepEqual([error.message, error.code, error.execution.exit, error.name], ["ZeroDivisionError: by zero", "error", "error", "ExecutionError"]);
    return true;
  });
  await assert.rejects(t.sandbox.runCode("sleep", { check: true }), { code: "timeout" });
});

test("handlers get things in order, are waited for, and their errors end the run", async () => {
  const list = [START, { type: "stdout", text: "a" }, { type: "display", data: { "text/plain": "r" } }, { type: "stderr", text: "b" }, OK];
  await using t = await with_(events(list), events(list));
  const seen: string[] = [];
  await t.sandbox.runCode("x", {
    onStdout: async (text) => {
      await new Promise((done) => setTimeout(done, 20));
      seen.push(text);
    },
    onResult: (result) => void seen.push(result.text!),
    onStderr: (text) => void seen.push(text),
  });
  assert.deepEqual(seen, ["a", "r", "b"]);
  const stop = new Error("stop");
  await assert.rejects(t.sandbox.runCode("x", { onStdout: () => Promise.reject(stop) }), stop);
});

test("input() is answered, or told that there is none", async () => {
  const asks = [START, { type: "input_request", prompt: "name? ", password: false }, OK];
  await using t = await with_(events(asks), empty(), events(asks), empty());
  await t.sandbox.runCode("input()", { onInput: (prompt) => prompt.toUpperCase() });
  await t.sandbox.runCode("input()");
  assert.equal(t.daemon.lines[2], `POST /v1/sandboxes/${A}/executions/exe_1/input`);
  assert.deepEqual([t.daemon.asked[2]?.body, t.daemon.asked[4]?.body], ['{"input":"NAME? "}', '{"eof":true}']);
});

test("a stream without its end is lost, however it stops", async () => {
  const part = [START, { type: "stdout", text: "x" }];
  await using t = await with_(events(part), events(part, true));
  for (let i = 0; i < 2; i++) {
    const seen: string[] = [];
    await assert.rejects(t.sandbox.runCode("x", { onStdout: (text) => void seen.push(text) }), ConnectionFailed);
    assert.deepEqual(seen, ["x"]);
  }
});

test("lines are cut at newlines only, wherever the pieces are cut", async () => {
  const text = [START, { type: "stdout", text: "d\u2028\u{1F600}é\r" }, OK].map((event) => JSON.stringify(event) + "\n").join("\n");
  const bytes = Buffer.from(text);
  await using t = await with_(async (response) => {
    response.writeHead(200);
    for (let at = 0; at < bytes.length; at += 7) {
      response.write(bytes.subarray(at, at + 7));
      await new Promise((done) => setImmediate(done));
    }
    response.end();
  });
  assert.equal((await t.sandbox.runCode("x")).stdout, "d\u2028\u{1F600}é\r");
});

test("an event that is not JSON is an error", async () => {
  await using t = await with_((response) => response.end('{"type":"start"}\nhello\n'));
  await assert.rejects(t.sandbox.runCode("x"), /not JSON/);
});

test("a line of many megabytes", async () => {
  const image = "QUJD".repeat(2_000_000);
  await using t = await with_(events([START, { type: "display", data: { "image/png": image } }, OK]));
  const run = await t.sandbox.runCode("x");
  assert.equal(run.png?.length, 6_000_000);
  assert.equal(run.png?.at(-1), 67);
});

test("runCodeStream: events as they come; leaving the loop hangs up", async () => {
  let hungUp = false;
  await using t = await with_(events([START, { type: "result", data: { "text/plain": "2" } }, OK]), (response) => {
    response.on("close", () => (hungUp = true));
    response.write(JSON.stringify(START) + "\n" + JSON.stringify({ type: "stdout", text: "tick" }) + "\n");
  });
  const seen: ExecutionEvent[] = [];
  for await (const event of t.sandbox.runCodeStream("1 + 1")) seen.push(event);
  assert.deepEqual(seen.map((event) => event.type), ["start", "result", "end"]);
  const last = seen.at(-1);
  assert.ok(last?.type === "end" && last.execution.text === "2");
  for await (const event of t.sandbox.runCodeStream("while True: print()")) if (event.type === "stdout") break;
  while (!hungUp) await new Promise((done) => setTimeout(done, 5));
});

test("an abort hangs up in the middle of a stream", async () => {
  let hungUp = false;
  await using t = await with_((response) => {
    response.on("close", () => (hungUp = true));
    response.write(JSON.stringify(START) + "\n");
  });
  const control = new AbortController();
  const running = t.sandbox.runCode("while True: pass", { signal: control.signal });
  setTimeout(() => control.abort(), 30);
  await assert.rejects(running, { name: "AbortError" });
  while (!hungUp) await new Promise((done) => setTimeout(done, 5));
});

test("commands", async () => {
  const ran = [
    { type: "start", id: "proc_1", pid: 7 }, { type: "stdout", chunk: "a" }, { type: "stderr", chunk: "b" },
    { type: "exit", exit_code: 3, signal: null, exit: "error", duration_ms: 2, truncated: null },
  ];
  const failed = [{ type: "error", error: "no such program", code: "invalid_request", hint: null }];
  await using t = await with_(events(ran), events(ran), events(ran, true), events(failed), events(ran.slice(0, 2), true));
  const result = await t.sandbox.exec(["false"], { cwd: "/", stdin: "in", timeoutSeconds: 1, user: "root" });
  assert.deepEqual([result.stdout, result.stderr, result.exitCode, result.exit, result.ok, result.pid], ["a", "b", 3, "error", false, 7]);
  assert.deepEqual(JSON.parse(t.daemon.asked[1]!.body), { cmd: ["false"], cwd: "/", stdin: "in", timeout_seconds: 1, user: "root" });
  await assert.rejects(t.sandbox.exec("false", { check: true }), (error: unknown) => {
    assert.ok(error instanceof CommandError);
    return error.message === "the command ended with exit code 3: b" && error.result.exitCode === 3;
  });
  await assert.rejects(t.sandbox.exec("x"), ConnectionFailed, "cut after its end: the daemon may have more to say");
  await assert.rejects(t.sandbox.exec("x"), { name: "InvalidRequest", message: "no such program" });
  await assert.rejects(t.sandbox.exec("x"), ConnectionFailed);
});

test("missing fields are never success", async () => {
  await using t = await with_(events([START, { type: "end" }]), events([{ type: "exit" }]), json({}));
  const run = await t.sandbox.runCode("x");
  assert.deepEqual([run.exit, run.ok], ["lost", false]);
  const command = await t.sandbox.exec("x");
  assert.deepEqual([command.exit, command.ok, command.exitCode], ["lost", false, null]);
  assert.equal((await t.sandbox.info()).raw["new_field"], undefined);
});

test("files: pieces, offsets, text that is none", async () => {
  await using t = await with_(
    (response) => response.end(Buffer.from([0xef, 0xbb, 0xbf, 0x61])),
    (response) => response.end(Buffer.from([0xff, 0xfe])),
    (response) => {
      response.writeHead(200, { "Content-Length": "100" });
      response.write("abc", () => response.socket?.destroy());
    },
    json({ bytes: 6 }),
  );
  assert.equal(await t.sandbox.filesystem.read("/f?#é", { offset: 1, length: 4 }), "\ufeffa");
  assert.equal(t.daemon.asked[1]?.url, `/v1/sandboxes/${A}/fs?path=%2Ff%3F%23%C3%A9&offset=1&length=4`);
  await assert.rejects(t.sandbox.filesystem.read("bin"), /not UTF-8/);
  const cut = await t.sandbox.filesystem.read("cut", { format: "stream" });
  await assert.rejects(new Response(cut).text(), ConnectionFailed);
  async function* pieces() {
    yield new Uint8Array([97, 98, 99]);
    yield new Uint8Array([100, 101, 102]);
  }
  assert.equal(await t.sandbox.filesystem.write("f", pieces(), { mode: 0o755, append: true }), 6);
  assert.deepEqual([t.daemon.asked[4]?.body, t.daemon.asked[4]?.url], ["abcdef", `/v1/sandboxes/${A}/fs?path=f&mode=0755&append=true`]);
});

test("an error of the content's own source is what the caller sees", async () => {
  await using t = await with_(json({ bytes: 0 }));
  const broken = new Error("disk of mine");
  async function* pieces() {
    yield new Uint8Array([97]);
    throw broken;
  }
  await assert.rejects(t.sandbox.filesystem.write("f", pieces()), broken);
  assert.ok(!(broken instanceof FilesystemError));
});
