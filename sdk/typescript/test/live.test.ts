/** The real daemon at CELLA_URL. With the driver "plain" (CELLA_TEST_DRIVER) what needs branches or a cgroup is skipped. */

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import {
  Cella, ConflictError, FileExists, FileNotFound, GoneError, ImageRefused, InvalidRequest, IsADirectory, NotFoundError, PermissionDenied,
  Sandbox, Snapshot, Space, UnsupportedError, type ExecutionEvent, type FileEvent, type WebSocketClass,
} from "@cella/sdk";

if (!process.env["CELLA_URL"]) throw new Error("CELLA_URL names no daemon: run sdk/typescript/check");
const plain = process.env["CELLA_TEST_DRIVER"] === "plain";
const isolated = plain ? { skip: "the plain driver has no branches" } : {};
// Node 20 has none: there the option that takes one is what is tested.
const webSocket = "WebSocket" in globalThis ? undefined : ((await import("ws" as string)) as { default: WebSocketClass }).default;

let box: Sandbox;
before(async () => {
  box = await Sandbox.create({ metadata: { test: "typescript" }, env: { GREETING: "hello" }, webSocket });
});
after(() => box.close());

/** Until it holds; the test's own time limit ends what never does. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((done) => setTimeout(done, 20));
}

const value = async (sandbox: Sandbox, code: string): Promise<unknown> =>
  JSON.parse((await sandbox.runCode(`import json; print(json.dumps(${code}))`, { check: true })).stdout);

const commands = async (): Promise<string> => (await box.listProcesses()).map((process) => process.command).join("\n");

// ---- code ----

test("state stays; text, tables, figures, JSON", async () => {
  await box.runCode("x = 20 + 1");
  assert.equal((await box.runCode("x * 2")).text, "42");
  const table = await box.runCode("import pandas as pd; pd.DataFrame({'a': [1, 2]})");
  assert.match(table.html!, /<table/);
  const chart = await box.runCode("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])", { svg: true });
  assert.deepEqual([...chart.png!.subarray(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
  assert.match(chart.svg!, /<svg/);
  assert.deepEqual((await box.runCode("from IPython.display import JSON; JSON({'a': [1]})")).json, { a: [1] });
  assert.equal((await box.runCode("import os; print(os.environ['GREETING'], os.environ['ONCE'])", { env: { ONCE: "1" } })).stdout, "hello 1\n");
});

test("errors, exits and timeouts of the code come back as values", async () => {
  const raised = await box.runCode("print('before'); 1/0");
  assert.deepEqual([raised.exit, raised.stdout, raised.error?.name], ["error", "before\n", "ZeroDivisionError"]);
  assert.ok(!raised.error!.traceback.includes("\x1b"));
  await assert.rejects(box.runCode("1/0", { check: true }), { name: "ExecutionError", code: "error" });
  const late = await box.runCode("kept = 1\nwhile True: pass", { timeoutSeconds: 0.3 });
  assert.deepEqual([late.exit, (await box.runCode("kept")).text], ["timeout", "1"]);
  const bash = await box.runCode("cd /tmp; v=7; exit_() { return 3; }; exit_", { language: "bash" });
  assert.deepEqual([bash.exit, bash.exitCode], ["error", 3]);
  assert.equal((await box.runCode("echo $PWD $v", { language: "bash" })).stdout, "/tmp 7\n");
});

test("output as it is printed, results, input()", async () => {
  const seen: string[] = [];
  const run = await box.runCode("import sys\nprint(input('who? '))\nprint('e', file=sys.stderr)\ndisplay(5)\n6", {
    onStdout: (text) => void seen.push(`out ${text}`),
    onStderr: (text) => void seen.push(`err ${text}`),
    onResult: (result) => void seen.push(`result ${result.text} ${result.isMainResult}`),
    onInput: async (prompt) => (prompt === "who? " ? "ünï" : null),
  });
  assert.ok(run.ok && run.stdout.includes("ünï\n"));
  // How much text comes at once is the pipe's business.
  assert.equal(seen.filter((line) => line.startsWith("err ")).map((line) => line.slice(4)).join(""), "e\n");
  assert.deepEqual(seen.filter((line) => line.startsWith("result ")), ["result 5 false", "result 6 true"]);
  assert.equal((await box.runCode("input()")).error?.name, "EOFError");
});

test("events of a stream, and leaving it", async () => {
  const seen: ExecutionEvent[] = [];
  for await (const event of box.runCodeStream("print('a')\n1 + 1")) seen.push(event);
  assert.deepEqual([...new Set(seen.map((event) => event.type))], ["start", "stdout", "result", "end"]);
  const last = seen.at(-1)!;
  assert.ok(last.type === "end" && last.execution.text === "2" && last.execution.stdout === "a\n");
  for await (const event of box.runCodeStream("import time\nprint('on')\ntime.sleep(600)")) if (event.type === "stdout") break;
  assert.equal((await box.runCode("'free'")).text, "'free'");
});

test("aborting a call interrupts the code and keeps the state", { timeout: 60_000 }, async () => {
  const control = new AbortController();
  const running = box.runCode("state = 'kept'\nprint('on')\nwhile True: pass", { signal: control.signal, onStdout: () => control.abort() });
  await assert.rejects(running, { name: "AbortError" });
  assert.equal((await box.runCode("state")).text, "'kept'");
  const waiting = new AbortController();
  const first = box.runCode("import time; time.sleep(0.6); 'first'");
  const queued = box.runCode("state = 'changed'", { signal: waiting.signal });
  setTimeout(() => waiting.abort(), 150);
  await assert.rejects(queued, { name: "AbortError" });
  assert.equal((await first).text, "'first'");
  assert.equal((await box.runCode("state")).text, "'kept'", "what waited in the queue never ran");
});

test("contexts are apart; interrupt and restart", async () => {
  await using context = await box.createCodeContext({ cwd: "/tmp", env: { HERE: "1" } });
  await box.runCode("mine = 1");
  assert.equal((await context.runCode("mine")).error?.name, "NameError");
  assert.equal((await box.runCode("import os; os.getcwd(), os.environ['HERE']", { context })).text, "('/tmp', '1')");
  assert.ok((await box.listCodeContexts()).some((info) => info.id === context.id && info.executionCount === 2));
  const stream = context.runCodeStream("print('on')\nwhile True: pass");
  let exit = "";
  let printed = "";
  for await (const event of stream) {
    if (event.type === "stdout" && (printed += event.text) === "on\n") await context.interrupt();
    if (event.type === "end") exit = event.execution.exit;
  }
  assert.equal(exit, "interrupted");
  await assert.rejects(context.interrupt(), ConflictError);
  await context.runCode("v = 1");
  await context.restart();
  assert.equal((await context.runCode("v")).error?.name, "NameError");
  await context.close();
  await assert.rejects(context.info(), NotFoundError);
});

// ---- processes ----

test("commands", { timeout: 60_000 }, async () => {
  const result = await box.exec("cat; echo err >&2; echo $V; exit 4", { stdin: "in\n", env: { V: "v" } });
  assert.deepEqual([result.stdout, result.stderr, result.exitCode, result.exit], ["in\nv\n", "err\n", 4, "error"]);
  assert.equal((await box.exec(["printf", "%s|", "a b", "$V"], { cwd: "/" })).stdout, "a b|$V|");
  await assert.rejects(box.exec("exit 4", { check: true }), { name: "CommandError", code: "error" });
  assert.equal((await box.exec("sleep 60", { timeoutSeconds: 0.2 })).exit, "timeout");
  assert.deepEqual([(await box.exec("kill -9 $$")).signal, (await box.exec("kill -9 $$")).exitCode], [9, null]);
  const seen: string[] = [];
  for await (const event of box.execStream("echo 1; sleep 0.1; echo 2 >&2")) seen.push(event.type);
  assert.deepEqual([...new Set(seen)], ["start", "stdout", "stderr", "end"]);
  for await (const event of box.execStream("echo on; sleep 311")) if (event.type === "stdout") break;
  await until(async () => !(await commands()).includes("sleep 311"));
  const control = new AbortController();
  await assert.rejects(box.exec("echo on; sleep 312", { signal: control.signal, onStdout: () => control.abort() }), { name: "AbortError" });
  await until(async () => !(await commands()).includes("sleep 312"));
});

test("background processes", { timeout: 60_000 }, async () => {
  const process = await box.start("echo on; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo off; exit 5");
  await until(async () => (await process.output()).stdout === "on\n");
  assert.deepEqual([await process.result(), (await process.output()).exit, typeof process.pid], [null, "running", "number"]);
  const waiting = (await box.getProcess(process.id)).wait();
  await box.filesystem.write("go", "");
  const result = await waiting;
  assert.deepEqual([result.stdout, result.exitCode, (await process.result())?.exitCode], ["on\noff\n", 5, 5]);
  const other = await box.start(["sleep", "313"]);
  for await (const event of other.attach()) if (event.type === "start") break;
  assert.equal(await other.result(), null, "leaving ends only the watching");
  await other.signal("SIGTERM");
  assert.equal((await other.wait()).signal, 15);
  await other.kill();
  await assert.rejects(box.getProcess("proc_" + "0".repeat(32)), NotFoundError);
});

test("a process with its input open", { timeout: 60_000 }, async () => {
  await using process = await box.spawn("read a; echo got $a; cat; exit 3");
  process.write("one\n");
  const seen: string[] = [];
  for await (const event of process) {
    if (event.type === "stdout" && event.text.includes("got one")) {
      process.write("é".repeat(300_000) + "\n");
      process.end();
    }
    seen.push(event.type);
  }
  assert.equal(seen.at(-1), "end");
  const result = await process.wait();
  assert.deepEqual([result.stdout === `got one\n${"é".repeat(300_000)}\n`, result.exitCode, result.exit], [true, 3, "error"]);
  await assert.rejects(process.wait({ check: true }), { name: "CommandError" });
  const killed = await box.spawn(["sleep", "314"]);
  killed.kill();
  assert.ok(!(await killed.wait()).ok);
  const control = new AbortController();
  const aborted = await box.spawn(["sleep", "315"], { signal: control.signal });
  control.abort();
  await assert.rejects(aborted.wait(), { name: "AbortError" });
  await until(async () => !/sleep 31[45]/.test(await commands()));
  await assert.rejects((await box.spawn(["/no/such/program"])).wait());
});

test("a terminal", { timeout: 60_000 }, async () => {
  const terminal = await box.pty({ rows: 30, cols: 100 });
  let screen = "";
  const decoder = new TextDecoder();
  terminal.write("stty size; echo do''ne-1\n");
  for await (const bytes of terminal) {
    screen += decoder.decode(bytes, { stream: true });
    if (screen.includes("done-1\r\n")) break;
  }
  assert.match(screen, /30 100\r\n/);
  terminal.resize(41, 133);
  terminal.write("stty size; exit 7\n");
  for await (const bytes of terminal) screen += decoder.decode(bytes, { stream: true });
  assert.match(screen, /41 133\r\n/);
  assert.deepEqual(await terminal.wait(), { exitCode: 7, signal: null, exit: "error" });
});

test("without a WebSocket, or without a sandbox for it", async () => {
  const own = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
  delete (globalThis as { WebSocket?: unknown }).WebSocket;
  try {
    await assert.rejects((await Sandbox.connect(box.id)).pty(), UnsupportedError);
  } finally {
    if (own) Object.defineProperty(globalThis, "WebSocket", own);
  }
  const mute = class {
    binaryType = "";
    constructor(readonly url: string) {}
    send(): void {}
    close(): void {}
    addEventListener(type: string, listener: (event: unknown) => void): void {
      if (type === "error") setTimeout(listener, 5);
    }
  };
  await assert.rejects((await Sandbox.connect(box.id, { webSocket: mute })).pty(), { name: "ConnectionFailed" });
  const gone = await Sandbox.create({ webSocket: mute });
  await gone.delete();
  await assert.rejects(gone.spawn("true"), NotFoundError);
});

// ---- files ----

test("files", async () => {
  const files = box.filesystem;
  const bytes = new Uint8Array(randomBytes(3_000_000));
  assert.equal(await files.write("deep/er/b.bin", bytes, { mode: 0o755 }), bytes.length);
  assert.ok(Buffer.from(await files.read("deep/er/b.bin", { format: "bytes" })).equals(bytes));
  assert.deepEqual([...(await files.read("deep/er/b.bin", { format: "bytes", offset: 5, length: 3 }))], [...bytes.subarray(5, 8)]);
  const stat = await files.stat("deep/er/b.bin");
  assert.deepEqual([stat.size, stat.mode, stat.type, stat.path], [bytes.length, 0o755, "file", "/workspace/deep/er/b.bin"]);
  assert.ok(Math.abs(Date.now() - stat.modified.getTime()) < 60_000);
  await files.write("t.txt", "hé");
  await files.write("t.txt", new Blob(["llo"]), { append: true });
  assert.equal(await files.read("/workspace/t.txt"), "héllo");
  assert.equal(await files.write("iter", [new Uint8Array([97]), new Uint8Array([98])]), 2);
  assert.equal(await new Response(await files.read("iter", { format: "stream" })).text(), "ab");
  assert.deepEqual([await files.mkdir("d"), await files.mkdir("d")], [true, false]);
  await files.move("t.txt", "d/t.txt");
  await assert.rejects(files.move("iter", "d/t.txt"), FileExists);
  await files.move("iter", "d/t.txt", { overwrite: true });
  assert.deepEqual((await files.list("d")).map((entry) => [entry.name, entry.size]), [["t.txt", 2]]);
  assert.ok((await files.list("/workspace", { depth: 3 })).some((entry) => entry.path.endsWith("er/b.bin")));
  assert.deepEqual([await files.exists("d/t.txt"), await files.exists("t.txt"), await files.exists("d/t.txt/x")], [true, false, false]);
  await assert.rejects(files.read("none"), FileNotFound);
  await assert.rejects(files.read("none", { format: "stream" }), FileNotFound);
  await assert.rejects(files.read("d"), IsADirectory);
  if (!plain) await assert.rejects(files.write("/etc/x", "x"), PermissionDenied);
  await files.remove("d", { recursive: true });
  assert.equal(await files.exists("d"), false);
});

test("upload, download and tar", async () => {
  const local = await mkdtemp(join(tmpdir(), "cella-ts-"));
  try {
    const bytes = randomBytes(5_000_001);
    await writeFile(join(local, "in"), bytes);
    assert.equal(await box.upload(join(local, "in"), "up.bin"), bytes.length);
    assert.equal((await box.exec("sha256sum < up.bin")).stdout.split(" ")[0], createHash("sha256").update(bytes).digest("hex"));
    assert.equal(await box.download("up.bin", join(local, "out")), bytes.length);
    assert.ok((await readFile(join(local, "out"))).equals(bytes));
    await assert.rejects(box.download("none", join(local, "not")), FileNotFound);
    await assert.rejects(readFile(join(local, "not")), { code: "ENOENT" });
    await assert.rejects(box.upload(join(local, "not"), "x"), { code: "ENOENT" });
    assert.equal(await box.filesystem.exists("x"), false);
    await box.exec("mkdir -p tree/a && echo 1 > tree/a/f", { check: true });
    assert.equal(await box.filesystem.writeTar("copy", await box.filesystem.readTar("tree")) > 0, true);
    assert.equal(await box.filesystem.read("copy/a/f"), "1\n");
  } finally {
    await rm(local, { recursive: true });
  }
});

test("watching files", { timeout: 60_000 }, async () => {
  await box.filesystem.mkdir("watched");
  const control = new AbortController();
  const seen: FileEvent[] = [];
  const changes = await box.filesystem.watch("watched", { recursive: true, signal: control.signal });
  await box.filesystem.write("watched/sub/f", "x");
  for await (const change of changes) {
    seen.push(change);
    if (seen.some((event) => event.path.includes("watched/sub"))) break;
  }
  assert.ok(seen.length);
  const again = await box.filesystem.watch("watched", { signal: control.signal });
  setTimeout(() => control.abort(), 50);
  await assert.rejects(again.next().then(() => again.next()).then(() => again.next()), { name: "AbortError" });
  await assert.rejects(box.filesystem.watch("none"), FileNotFound);
});

// ---- life ----

test("finding, describing, pausing, limits in time", async () => {
  const cella = new Cella();
  const found = await cella.sandboxes.list({ metadata: { test: "typescript" } });
  assert.ok(found.some((info) => info.id === box.id));
  assert.equal((await cella.sandboxes.get(box.id)).id, box.id);
  assert.equal((await box.info()).status, "running");
  assert.match(await box.logs("stdout"), /\n/);
  const stats = await box.stats();
  assert.ok(stats.pids > 0 && stats.uptimeSeconds > 0);
  await box.pause();
  assert.equal((await box.info()).status, "paused");
  await box.unpause();
  await box.setLifecycle({ ttlSeconds: 500 });
  await box.info();
  assert.ok(box.remainingSeconds! > 400 && box.remainingSeconds! <= 500);
  await box.setLifecycle({ ttlSeconds: null });
  assert.equal((await box.info()).expiresAt, null);
  const short = await cella.sandboxes.create();
  await short.delete();
  await short.kill();
  await short.close();
  await assert.rejects(short.runCode("1"), GoneError);
  await assert.rejects(cella.sandboxes.get("sbx_" + "0".repeat(32)), NotFoundError);
  await assert.rejects(Sandbox.create({ template: "no_such_template" }), NotFoundError);
});

test("ports; no network policy in this version", isolated, async () => {
  await assert.rejects(box.network(), UnsupportedError);
  await assert.rejects(box.setNetwork({ mode: "none" }), UnsupportedError);
  const server = await box.start("python3 -m http.server 8123 --bind 127.0.0.1");
  await until(async () => (await box.ports()).some((entry) => entry.port === 8123));
  await server.kill();
});

// ---- branches ----

test("branches are apart, and merge", isolated, async () => {
  await using family = await Sandbox.create();
  await family.runCode("x = [1, 2]", { check: true });
  await using branches = await family.fork(3, { metadata: { try: "1" } });
  assert.deepEqual([branches.length, branches.errors.length], [3, 0]);
  await Promise.all([...branches].map((branch, i) => branch.runCode(`x.append(${i})`, { check: true })));
  assert.deepEqual(await value(family, "x"), [1, 2]);
  assert.deepEqual(await value(branches[1]!, "x"), [1, 2, 1]);
  assert.deepEqual([(await branches[0]!.info()).parentId, (await branches[0]!.info()).metadata], [family.id, { try: "1" }]);
  const diff = await branches[2]!.diff(null, { text: true });
  assert.deepEqual([diff.against, diff.variables?.changed.map((change) => change.name)], [family.id, ["x"]]);
  await family.mergeInto(branches[1]!);
  assert.deepEqual(await value(family, "x"), [1, 2, 1]);
  await assert.rejects(branches[1]!.info(), GoneError);
  await assert.rejects(family.mergeInto(family), InvalidRequest);
  await assert.rejects(family.mergeInto(box), ConflictError);
  const tree = await family.tree();
  assert.ok(tree.id === family.id && tree.find(branches[2]!.id)?.parentId === family.id);
});

test("forkTree and promote", isolated, async () => {
  await using family = await Sandbox.create();
  await using branches = await family.forkTree(3);
  const promotion = await branches[0]!.promote({ cleanupSiblings: true });
  assert.deepEqual([promotion.deleted.sort(), promotion.treeId], [[branches[1]!.id, branches[2]!.id].sort(), branches.treeId]);
  await assert.rejects(branches[1]!.info(), NotFoundError);
});

test("snapshots", isolated, async () => {
  await using family = await Sandbox.create();
  await family.runCode("x = [1]", { check: true });
  const snapshot = await family.snapshot(`ts-${randomBytes(4).toString("hex")}`);
  try {
    await family.runCode("x.append(2)", { check: true });
    assert.deepEqual((await family.snapshots()).map((one) => one.id), [snapshot.id]);
    assert.ok((await Snapshot.get(snapshot.id)).sizeBytes > 0);
    await using one = await snapshot.start();
    await using two = await Sandbox.create({ fromSnapshot: snapshot.name! });
    await one.runCode("x.append(3)");
    assert.deepEqual([await value(one, "x"), await value(two, "x"), await value(family, "x")], [[1, 3], [1], [1, 2]]);
  } finally {
    await snapshot.delete();
  }
  await snapshot.delete();
  await assert.rejects(snapshot.start(), (error: unknown) => error instanceof NotFoundError || error instanceof ImageRefused);
});

test("freeze and come back", isolated, async () => {
  let space: string;
  {
    await using sandbox = await Sandbox.create({ persistent: true, idleTimeoutSeconds: 300 });
    await sandbox.runCode("import itertools; n = itertools.count(); next(n)", { check: true });
    assert.deepEqual([sandbox.persistent, sandbox.onTimeout], [true, "freeze"]);
    space = sandbox.spaceId!;
  }
  assert.equal((await Space.get(space)).state, "frozen");
  const again = await Sandbox.resume(space);
  try {
    assert.equal(await value(again, "next(n)"), 1);
    await again.hibernate();
    assert.equal((await again.info()).status, "hibernated");
    assert.equal(await value(again, "next(n)"), 2, "any request wakes it");
    await again.hibernate();
    await again.wake();
    assert.equal((await again.info()).status, "running");
  } finally {
    await again.delete();
  }
  assert.ok(!(await Space.list()).some((one) => one.id === space));
  await assert.rejects(Sandbox.resume(space), NotFoundError);
});
