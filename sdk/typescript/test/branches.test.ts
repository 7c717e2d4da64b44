/** Branches, snapshots, Spaces: what the package makes of answers. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Cella, ImageRefused, LimitError, Sandbox, Snapshot, Space, TreeNode } from "@cella/sdk";
import { A, B, C, cell, described, empty, FakeDaemon, json, refuse } from "./support.js";

const SPACE = "space_" + "a".repeat(32);

test("fork gives an array and says what failed", async () => {
  await using daemon = await FakeDaemon.start(cell(), json({
    parent_id: A, children: [B, C], sandboxes: [described(B, { metadata: { a: "1" } }), described(C)], frozen_ms: 2.5,
    errors: [{ index: 2, error: "no more", code: "limit_reached", hint: "delete some" }],
    not_carried: [{ kind: "socket", context_id: "default", fd: 7, pid: null, text: "a connection" }],
  }, 201));
  const branches = await (await Sandbox.create({ host: daemon.url })).fork(3, { metadata: { a: "1" } });
  assert.deepEqual(branches.map((branch) => branch.id), [B, C]);
  assert.equal(branches.map((branch) => branch.id).constructor, Array);
  assert.ok(Array.isArray(branches) && branches.every((branch) => branch instanceof Sandbox));
  const [error] = branches.errors;
  assert.ok(error instanceof LimitError);
  assert.deepEqual([error.message, error.hint, error.index, error.status], ["no more", "delete some", 2, null]);
  assert.deepEqual([branches.frozenMs, branches.treeId], [2.5, null]);
  assert.deepEqual(branches.notCarried, [{ kind: "socket", text: "a connection", sandboxId: null, contextId: "default", fd: 7, pid: null }]);
  assert.deepEqual(JSON.parse(daemon.asked[1]!.body), { count: 3, metadata: { a: "1" } });
});

test("fork that made nothing throws", async () => {
  await using daemon = await FakeDaemon.start(cell(), refuse(429, "limit_reached", "full"));
  const sandbox = await Sandbox.create({ host: daemon.url });
  await assert.rejects(sandbox.fork(2), LimitError);
});

test("leaving branches closes all but the merged; a merged object is harmless", async () => {
  await using daemon = await FakeDaemon.start(cell(), json({ children: [B, C] }, 201), empty(), empty(), json(described(A)));
  const parent = await Sandbox.create({ host: daemon.url });
  let merged: Sandbox;
  {
    await using branches = await parent.fork(2);
    merged = branches[0]!;
    await parent.mergeInto(merged);
  }
  assert.deepEqual(daemon.lines.slice(2), [`POST /v1/sandboxes/${A}/merge_into/${B}`, `DELETE /v1/sandboxes/${C}`]);
  assert.equal(merged.mergedInto, A);
  await merged.close();
  await merged.delete();
  assert.deepEqual([parent.mergedInto, (await parent.info()).id, daemon.asked.length], [null, A, 5]);
});

test("a merge that is refused leaves the object alone", async () => {
  await using daemon = await FakeDaemon.start(cell(), cell(B), refuse(409, "conflict", "no kin"), empty());
  const [a, b] = [await Sandbox.create({ host: daemon.url }), await Sandbox.create({ host: daemon.url })];
  await assert.rejects(a.mergeInto(b), { name: "ConflictError" });
  await b.close();
  assert.deepEqual([b.mergedInto, daemon.lines[3]], [null, `DELETE /v1/sandboxes/${B}`]);
});

test("forkTree and promote", async () => {
  await using daemon = await FakeDaemon.start(
    cell(),
    json({ tree_id: "tree_1", parent_id: A, children: [{ id: B, index: 0 }], errors: [{ index: 1, err: "no" }] }, 201),
    json({ winner: B, tree_id: "tree_1", deleted: [C], failures: {} }),
  );
  const branches = await (await Sandbox.create({ host: daemon.url })).forkTree(2);
  assert.deepEqual([branches.treeId, branches[0]?.id, branches.errors[0]?.message, branches.errors[0]?.index], ["tree_1", B, "no", 1]);
  assert.deepEqual((await branches[0]!.promote({ cleanupSiblings: true })).deleted, [C]);
  assert.deepEqual(JSON.parse(daemon.asked[2]!.body), { cleanup_siblings: true });
});

test("a diff", async () => {
  const answer = {
    sandbox_id: B, against: A,
    files: {
      added: [{ path: "/workspace/n", type: "file", size: 3 }],
      modified: [{ path: "/workspace/m", type: "file", size: 5, size_before: 4, text_diff: "-a\n+b\n" }],
      removed: [], counts: { added: 1, modified: 1, removed: 0 }, truncated: { shown: 2, total: 9 },
    },
    variables: {
      added: [{ name: "y", type: "int", value: "2" }], removed: [], unknown: ["big"], truncated: null,
      changed: [{ name: "x", type: "str", value: "'1'", type_before: "int", value_before: "1" }],
    },
  };
  const busy = { files: {}, variables: null, variables_error: { error: "busy", code: "conflict", hint: null } };
  await using daemon = await FakeDaemon.start(cell(B), json(answer), json(busy));
  const sandbox = await Sandbox.create({ host: daemon.url });
  const diff = await sandbox.diff(null, { text: true });
  assert.deepEqual([diff.isEmpty, diff.against, diff.files.truncated], [false, A, { shown: 2, total: 9 }]);
  assert.deepEqual([diff.files.modified[0]?.textDiff, diff.files.modified[0]?.sizeBefore], ["-a\n+b\n", 4]);
  assert.deepEqual([diff.variables?.changed[0]?.typeBefore, diff.variables?.unknown], ["int", ["big"]]);
  const nothing = await sandbox.diff("template", { variables: false });
  assert.deepEqual([nothing.isEmpty, nothing.variables, nothing.variablesError?.message], [true, null, "busy"]);
  assert.deepEqual(daemon.lines.slice(1), [
    `GET /v1/sandboxes/${B}/diff?text=true&variables=true`,
    `GET /v1/sandboxes/${B}/diff?against=template&text=false&variables=false`,
  ]);
});

test("a deep tree, and its picture", async () => {
  let deep: object = { id: "leaf", state: "running" };
  for (let i = 0; i < 2000; i++) deep = { id: `n${i}`, state: "ended", reason: "deleted", children: [deep] };
  const small = { id: "r", state: "running", children: [{ id: "a", state: "paused", children: [{ id: "b", state: "running" }] }, { id: "c", state: "ended", reason: "merged" }] };
  await using daemon = await FakeDaemon.start(cell(), json({ tree: deep }), json({ tree: small }));
  const sandbox = await Sandbox.create({ host: daemon.url });
  const root = await sandbox.tree();
  assert.ok(root instanceof TreeNode && [...root].length === 2001 && root.find("leaf")?.state === "running" && root.find("x") === null);
  const picture = String(await sandbox.tree());
  assert.equal(picture, ["r running", "├─ a paused", "│  └─ b running", "└─ c ended merged"].join("\n"));
});

test("snapshots and Spaces", async () => {
  const snapshot = { id: "snap_1", sandbox_id: A, name: "n", size_bytes: 5, memory_bytes: 3, disk_bytes: 2, created_at: "t", not_carried: [] };
  const space = { space_id: SPACE, sandbox_id: A, state: "frozen", created_at: "t", frozen_at: null, size_bytes: 7, metadata: { a: "1" } };
  await using daemon = await FakeDaemon.start(
    cell(), json(snapshot, 201), json([snapshot]), cell(B), empty(), json([space]), empty(),
    refuse(409, "image_refused", "not here", "do this"), refuse(404, "not_found"), json(snapshot), json([]),
  );
  const cella = new Cella({ host: daemon.url, apiKey: "cella_k" });
  const made = await (await cella.sandboxes.create("python")).snapshot("n");
  assert.ok(made instanceof Snapshot && made.sizeBytes === 5 && made.name === "n");
  const [listed] = await cella.snapshots.list({ sandboxId: A, name: "n" });
  assert.equal((await listed!.start({ ttlSeconds: 5 })).id, B);
  assert.deepEqual(JSON.parse(daemon.asked[3]!.body), { ttl_seconds: 5, from_snapshot: "snap_1" });
  await cella.snapshots.delete("snap_1");
  const [home] = await cella.spaces.list();
  assert.ok(home instanceof Space && home.state === "frozen" && home.frozenAt === null && home.metadata["a"] === "1");
  await home.delete();
  await assert.rejects(home.resume(), (error: unknown) => error instanceof ImageRefused && error.hint === "do this");
  await home.delete();
  assert.equal((await Snapshot.get("snap_1", { host: daemon.url })).diskBytes, 2);
  assert.deepEqual(await Snapshot.list({ host: daemon.url }), []);
  assert.equal(daemon.lines[2], `GET /v1/snapshots?sandbox_id=${A}&name=n`);
  assert.ok(daemon.asked.slice(0, 9).every((asked) => asked.headers["authorization"] === "Bearer cella_k"), "what a client makes keeps its key");
});

test("closing a persistent sandbox freezes it; resume and delete", async () => {
  const live = described(A, { persistent: true, space_id: SPACE, on_timeout: "freeze" });
  await using daemon = await FakeDaemon.start(json(live, 201), json({ status: "hibernated", space_id: SPACE }), empty(), json(live));
  const sandbox = await Sandbox.create({ host: daemon.url, persistent: true });
  assert.deepEqual([sandbox.persistent, sandbox.spaceId, sandbox.onTimeout], [true, SPACE, "freeze"]);
  await sandbox.close();
  await sandbox.close();
  await sandbox.kill();
  const again = await Sandbox.resume(SPACE, { host: daemon.url });
  assert.deepEqual([again.id, again.spaceId, again.persistent], [A, SPACE, true]);
  assert.deepEqual(daemon.lines.slice(1), [
    `POST /v1/sandboxes/${A}/hibernate`, `DELETE /v1/sandboxes/${A}`, `POST /v1/spaces/${SPACE}/resume`,
  ]);
});

test("what create sends", async () => {
  await using daemon = await FakeDaemon.start(cell(), cell());
  await Sandbox.create("python", {
    host: daemon.url, env: { A: "1" }, metadata: { job: "7" }, ttlSeconds: null, idleTimeoutSeconds: 5, persistent: true, onTimeout: "delete",
    limits: { memoryMb: 512, openFiles: 9 }, network: { mode: "none" },
  });
  await Sandbox.create({ host: daemon.url });
  assert.deepEqual(JSON.parse(daemon.asked[0]!.body), {
    template: "python", env: { A: "1" }, metadata: { job: "7" }, ttl_seconds: null, idle_timeout_seconds: 5, persistent: true,
    on_timeout: "delete", limits: { memory_mb: 512, open_files: 9 }, network: { mode: "none" },
  });
  assert.equal(daemon.asked[1]?.body, "{}");
});
