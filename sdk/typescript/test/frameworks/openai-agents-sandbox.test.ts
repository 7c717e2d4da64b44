/** SandboxAgent of @openai/agents, with cells as its sandboxes. */

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Sandbox } from "@cella/sdk";
import { CellaSandboxClient } from "@cella/sdk/openai-agents-sandbox";
import { OpenAIProvider, Runner, RunState } from "@openai/agents";
import { dir, file, localDir, Manifest, SandboxAgent, s3Mount, shell, type SandboxClient } from "@openai/agents/sandbox";

import { FakeModels } from "./fake-models.js";
import { CHART, FREEZES, LIMIT, marked } from "./support.js";

const runner = (models: FakeModels) => new Runner({ tracingDisabled: true, modelProvider: new OpenAIProvider({ apiKey: "x", baseURL: `${models.url}/v1`, useResponses: false }) });
const call = (name: string, input: unknown) => ({ calls: [{ name, input }] });
const told = (models: FakeModels): string[] => models.asked.at(-1)!["messages"].filter((message: any) => message.role === "tool").map((message: any) => String(message.content));

test("an agent works in a cell: manifest, shell, patches, images; the cell ends with the run", LIMIT, async () => {
  const mark = marked();
  const client: SandboxClient<any, any> = new CellaSandboxClient(mark.create);
  const exec = (cmd: string, more: object = {}) => call("exec_command", { cmd, ...more });
  await using models = await FakeModels.start(
    exec("cat notes/todo.txt; echo $GREETING; pwd; exit 3"),
    call("apply_patch", { type: "update_file", path: "notes/todo.txt", diff: "@@\n-first\n+1st\n second\n" }),
    call("apply_patch", { patch: "*** Begin Patch\n*** Add File: new.py\n+print('made')\n*** End Patch" }),
    exec("python3 new.py; cat notes/todo.txt"),
    exec("read line; echo got $line", { yield_time_ms: 50 }),
    (request) => call("write_stdin", { session_id: Number(/session ID (\d+)/.exec(request["messages"].at(-1).content)![1]), chars: "it\n", yield_time_ms: 60_000 }),
    call("view_image", { path: "none.png" }),
    { text: "done" },
  );
  const agent = new SandboxAgent({
    name: "Engineer",
    instructions: "work",
    defaultManifest: new Manifest({ entries: { notes: dir({ children: { "todo.txt": file({ content: "first\nsecond\n" }) } }) }, environment: { GREETING: "hello" } }),
  });
  const result = await runner(models).run(agent, "go", { sandbox: { client } });
  assert.equal(result.finalOutput, "done");
  const [listed, patched, added, ran, waiting, answered, none] = told(models);
  assert.match(listed!, /exited with code 3[^]*first\nsecond\nhello\n\/workspace\n/);
  assert.deepEqual([patched, added], ["Updated notes/todo.txt", "Created new.py"]);
  assert.match(ran!, /exited with code 0[^]*made\n1st\nsecond\n/);
  assert.match(waiting!, /running with session ID 1/);
  assert.match(answered!, /exited with code 0[^]*got it\n/);
  assert.match(none!, /none\.png/);
  await mark.gone();
});

test("a session of the program's own stays, and is found again by its state", LIMIT, async () => {
  const client = new CellaSandboxClient();
  const session = await client.create({ manifest: { entries: { "a.txt": { type: "file", content: "A" } } } });
  try {
    await using models = await FakeModels.start(call("exec_command", { cmd: "echo more >> a.txt" }), { text: "done" });
    await runner(models).run(new SandboxAgent({ name: "E", instructions: "work" }), "go", { sandbox: { client: client as SandboxClient<any, any>, session } });
    assert.equal(await session.sandbox.filesystem.read("a.txt"), "Amore\n");
    assert.deepEqual([await session.running(), await session.pathExists("a.txt"), await session.pathExists("b"), await session.directoryExists("a.txt")], [true, true, false, false]);
    assert.deepEqual(await session.listDir({ path: "." }), [{ name: "a.txt", path: "a.txt", type: "file" }]);
    const kept = JSON.parse(JSON.stringify(await client.serializeSessionState(session.state)));
    const again = await client.resume(await client.deserializeSessionState({ ...kept, manifest: session.state.manifest }));
    assert.equal(Buffer.from(await again.readFile({ path: "a.txt", maxBytes: 3 })).toString(), "Amo");
    const other = await client.create();
    try {
      await other.hydrateWorkspace(await session.persistWorkspace());
      assert.equal(await other.sandbox.filesystem.read("a.txt"), "Amore\n");
    } finally {
      await other.close();
    }
  } finally {
    await client.delete(session.state);
  }
  assert.ok(!(await Sandbox.list()).some((info) => info.id === session.sandbox.id));
});

test("commands that go on, terminals, interrupting, cut output", LIMIT, async () => {
  const session = await new CellaSandboxClient().create();
  try {
    const sleeping = await session.exec({ cmd: "trap 'echo stopped; exit 9' INT; echo on; while :; do sleep 0.05; done", yieldTimeMs: 200 });
    assert.equal(typeof sleeping.sessionId, "number");
    const stopped = await session.writeStdin({ sessionId: sleeping.sessionId!, chars: "\u0003", yieldTimeMs: 60_000 });
    assert.match(stopped, /exited with code 9[^]*stopped/);
    assert.match(await session.writeStdin({ sessionId: sleeping.sessionId! }), /no session/);
    const terminal = await session.exec({ cmd: "test -t 0 && echo a terminal; exit 5", tty: true, yieldTimeMs: 60_000 });
    assert.deepEqual([terminal.exitCode, terminal.stdout.trim()], [5, "a terminal"]);
    const long = await session.exec({ cmd: "seq 10000", maxOutputTokens: 100, yieldTimeMs: 60_000 });
    assert.ok(long.output.length < 600 && long.output.startsWith("1\n2\n") && long.output.endsWith("10000\n") && long.originalTokenCount! > 1000);
    assert.equal(long.stdout.split("\n").length, 10_001);
    await session.sandbox.runCode(CHART + "\nplt.gcf().savefig('c.png')\nopen('t.png', 'w').write('no')", { check: true });
    const { image } = await session.viewImage({ path: "c.png" });
    assert.ok(image.mediaType === "image/png" && image.data.startsWith("iVBOR"));
    await assert.rejects(session.viewImage({ path: "t.png" }), /not a supported image/);
    await assert.rejects(session.exec({ cmd: "true", runAs: "nobody" }), { name: "UnsupportedError" });
  } finally {
    await session.close();
  }
});

test("files of this machine, when they are allowed; what cannot be had is refused", LIMIT, async () => {
  const client = new CellaSandboxClient();
  const local = await mkdtemp(join(tmpdir(), "cella-manifest-"));
  try {
    await writeFile(join(local, "f"), "local\n");
    const entries = { src: localDir({ src: local }) };
    await assert.rejects(client.create({ manifest: new Manifest({ entries }) }), { name: "ForbiddenError" });
    const session = await client.create({ manifest: new Manifest({ entries, extraPathGrants: [{ path: local }] }) });
    assert.equal(await session.sandbox.filesystem.read("src/f"), "local\n");
    await session.close();
    await assert.rejects(client.create({ manifest: new Manifest({ entries: { data: s3Mount({ bucket: "b" }) } }) }), { name: "UnsupportedError" });
    await assert.rejects(client.create({ snapshot: { type: "remote" } }), { name: "UnsupportedError" });
  } finally {
    await rm(local, { recursive: true });
  }
});

test("a persistent session is frozen, and comes back", FREEZES, async () => {
  const client = new CellaSandboxClient({ persistent: true });
  const session = await client.create();
  try {
    assert.match(await session.execCommand({ cmd: "echo kept > f", yieldTimeMs: 60_000 }), /exited with code 0/);
    await session.close();
    assert.deepEqual([(await session.sandbox.info()).status, client.canPersistOwnedSessionState(), await session.running()], ["hibernated", true, false]);
    const again = await client.resume(await client.deserializeSessionState(await client.serializeSessionState(session.state)));
    assert.equal(Buffer.from(await again.readFile({ path: "f" })).toString(), "kept\n");
  } finally {
    await client.delete(session.state);
  }
});

test("a run that waits for an approval goes on in the same cell, in another process's client too", LIMIT, async () => {
  const mark = marked();
  const asking = shell({ configureTools: (tools) => tools.map((tool) => ({ ...tool, needsApproval: async (_run: unknown, input: any) => String(input.cmd).includes("rm") }) as typeof tool) });
  const agent = new SandboxAgent({ name: "E", instructions: "work", capabilities: [asking] });
  await using models = await FakeModels.start(call("exec_command", { cmd: "echo kept > f" }), call("exec_command", { cmd: "cat f; rm f" }), { text: "done" });
  const first = await runner(models).run(agent, "go", { sandbox: { client: new CellaSandboxClient(mark.create) } });
  assert.equal(first.interruptions.length, 1);
  const state = await RunState.fromString(agent, first.state.toString());
  state.approve(state.getInterruptions()[0]!);
  const second = await runner(models).run(agent, state, { sandbox: { client: new CellaSandboxClient(mark.create) } });
  assert.equal(second.finalOutput, "done");
  assert.match(told(models).at(-1)!, /exited with code 0[^]*kept\n/);
  await mark.gone();
});
