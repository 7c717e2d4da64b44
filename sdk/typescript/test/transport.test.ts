/** Addresses, errors, retries, aborts: with a daemon made of node:http. */

import assert from "node:assert/strict";
import { createServer, type AddressInfo } from "node:net";
import { test } from "node:test";

import {
  AuthenticationError, Cella, CellaError, ConflictError, ConnectionFailed, FileExists, FileNotFound, FilesystemError, ForbiddenError,
  GoneError, ImageRefused, InvalidRequest, LimitError, NoSpaceError, NotFoundError, PermissionDenied, RequestTimeout, Sandbox,
  ServerError, TooLargeError, UnavailableError, UnsupportedError,
} from "@cella/sdk";
import { A, cell, empty, FakeDaemon, hangUp, json, refuse } from "./support.js";

/** Runs with these variables, and gives the old ones back. */
async function withEnvironment(values: Record<string, string | undefined>, work: () => Promise<void>): Promise<void> {
  const before = { ...process.env };
  const set = (name: string, value: string | undefined) => (value === undefined ? delete process.env[name] : (process.env[name] = value));
  for (const [name, value] of Object.entries(values)) set(name, value);
  try {
    await work();
  } finally {
    for (const name of Object.keys(values)) set(name, before[name]);
  }
}

async function portOfNobody(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

test("address and key come from options, then the environment", async () => {
  await using daemon = await FakeDaemon.start(cell(), cell(), json([]));
  const bare = daemon.url.replace("http://", "");
  await withEnvironment({ CELLA_URL: daemon.url + "/", CELLA_API_KEY: "cella_env" }, async () => {
    await Sandbox.create();
    await Sandbox.create({ host: bare, apiKey: "cella_mine" });
  });
  await withEnvironment({ CELLA_URL: undefined, CELLA_API_KEY: undefined }, async () => {
    assert.deepEqual(await new Cella({ host: daemon.url }).sandboxes.list(), []);
  });
  assert.deepEqual(daemon.asked.map((asked) => asked.headers["authorization"]), ["Bearer cella_env", "Bearer cella_mine", undefined]);
  assert.equal(daemon.asked[0]?.url, "/v1/sandboxes");
});

test("a trace goes with every request", async () => {
  const trace = (last: string): string => `00-${"1".repeat(32)}-${"2".repeat(15)}${last}-01`;
  let asked = 3;
  await using daemon = await FakeDaemon.start(json([]), json([]), json([]), json([]), json([]));
  await withEnvironment({ TRACEPARENT: trace("a") }, async () => {
    await Sandbox.list({ host: daemon.url });
    const cella = new Cella({ host: daemon.url, traceparent: () => trace(String(asked++)) });
    await cella.sandboxes.list();
    await cella.sandboxes.list();
    await Sandbox.list({ host: daemon.url, traceparent: trace("b") });
  });
  await withEnvironment({ TRACEPARENT: "nonsense" }, async () => void (await Sandbox.list({ host: daemon.url })));
  assert.deepEqual(daemon.asked.map((request) => request.headers["traceparent"]), [trace("a"), trace("3"), trace("4"), trace("b"), undefined]);
  assert.throws(() => new Cella({ traceparent: "nonsense" }), InvalidRequest);
});

test("what is no address", () => {
  for (const host of ["ftp://x", "http://", "://", "http://user:pw@x", "http://x?y=1", "a b"]) {
    assert.throws(() => new Cella({ host }), InvalidRequest, host);
  }
  assert.throws(() => new Cella({ maxRetries: -1 }), InvalidRequest);
});

test("no daemon is a clear error", async () => {
  const host = `http://127.0.0.1:${await portOfNobody()}`;
  await assert.rejects(Sandbox.create({ host, maxRetries: 0 }), (error: unknown) => {
    assert.ok(error instanceof ConnectionFailed);
    assert.match(error.message, new RegExp(host));
    assert.match(String(error.hint), /cella up/);
    assert.equal(error.status, null);
    return true;
  });
});

const KINDS: [number, unknown, new (...args: never[]) => CellaError, string][] = [
  [404, { error: "e", code: "not_found" }, NotFoundError, "NotFoundError"],
  [410, { error: "e", code: "gone" }, GoneError, "GoneError"],
  [400, { error: "e", code: "invalid_request" }, InvalidRequest, "InvalidRequest"],
  [401, { error: "e", code: "unauthorized" }, AuthenticationError, "AuthenticationError"],
  [403, { error: "e", code: "forbidden" }, ForbiddenError, "ForbiddenError"],
  [403, { error: "e", code: "permission_denied" }, PermissionDenied, "PermissionDenied"],
  [408, { error: "e", code: "request_timeout" }, RequestTimeout, "RequestTimeout"],
  [409, { error: "e", code: "already_exists" }, ConflictError, "ConflictError"],
  [409, { error: "e", code: "image_refused" }, ImageRefused, "ImageRefused"],
  [413, { error: "e", code: "too_large" }, TooLargeError, "TooLargeError"],
  [429, { error: "e", code: "limit_reached" }, LimitError, "LimitError"],
  [501, { error: "e", code: "unsupported" }, UnsupportedError, "UnsupportedError"],
  [503, { error: "e", code: "unavailable" }, UnavailableError, "UnavailableError"],
  [507, { error: "e", code: "no_space" }, NoSpaceError, "NoSpaceError"],
  [500, { error: "e", code: "a_word_of_tomorrow" }, ServerError, "ServerError"],
  [500, { error: "e", code: "constructor" }, ServerError, "ServerError"],
  [418, "teapot", CellaError, "CellaError"],
  [502, "<html>", ServerError, "ServerError"],
  [404, {}, NotFoundError, "NotFoundError"],
  [302, {}, CellaError, "CellaError"],
];
for (const [status, body, kind, name] of KINDS) {
  test(`an answer of ${status} ${JSON.stringify(body)} is a ${name}`, async () => {
    await using daemon = await FakeDaemon.start((response) => {
      response.writeHead(status).end(typeof body === "string" ? body : JSON.stringify(body));
    });
    await assert.rejects(Sandbox.create({ host: daemon.url }), (error: unknown) => {
      assert.ok(error instanceof kind && error instanceof CellaError && error instanceof Error);
      assert.equal(error.constructor, kind);
      assert.deepEqual([error.name, error.status, error.message !== ""], [name, status, true]);
      return true;
    });
    assert.equal(daemon.asked.length, 1, "what makes something is not sent again");
  });
}

test("inside file calls the words mean the path", async () => {
  await using daemon = await FakeDaemon.start(
    cell(), refuse(404, "not_found", "no file", "look"), refuse(409, "already_exists"), refuse(404, "not_found"), refuse(410, "gone"),
  );
  const sandbox = await Sandbox.create({ host: daemon.url });
  const missing = await sandbox.filesystem.read("x").catch((error: unknown) => error);
  assert.ok(missing instanceof FileNotFound && missing instanceof NotFoundError && missing instanceof FilesystemError);
  assert.ok(!(missing instanceof NoSpaceError) && !(missing instanceof ConflictError));
  assert.deepEqual([missing.message, missing.hint, missing.code, missing.status], ["no file", "look", "not_found", 404]);
  assert.equal(String(missing), "FileNotFound: no file (look)");
  const there = await sandbox.filesystem.move("a", "b").catch((error: unknown) => error);
  assert.ok(there instanceof FileExists && there instanceof ConflictError && there instanceof FilesystemError);
  assert.equal(await sandbox.filesystem.exists("x"), false);
  await assert.rejects(sandbox.filesystem.exists("x"), GoneError);
  assert.ok(!(new NotFoundError("x") instanceof FilesystemError));
});

test("reading is repeated after a broken connection and while the daemon is not ready", async () => {
  await using daemon = await FakeDaemon.start(cell(), hangUp, refuse(503, "unavailable"), json({ id: A, status: "paused" }));
  const sandbox = await Sandbox.create({ host: daemon.url });
  assert.equal((await sandbox.info()).status, "paused");
  assert.equal(daemon.asked.length, 4);
});

test("reading is repeated at most maxRetries times", async () => {
  await using daemon = await FakeDaemon.start(cell(), hangUp, hangUp, json({}));
  const sandbox = await Sandbox.create({ host: daemon.url, maxRetries: 1 });
  await assert.rejects(sandbox.info(), ConnectionFailed);
  assert.equal(daemon.asked.length, 3);
});

test("what was sent and may have happened is not repeated", async () => {
  await using daemon = await FakeDaemon.start(cell(), hangUp, hangUp, hangUp, hangUp, refuse(503, "unavailable"));
  const sandbox = await Sandbox.create({ host: daemon.url });
  await assert.rejects(sandbox.runCode("1"), ConnectionFailed);
  await assert.rejects(sandbox.fork(), ConnectionFailed);
  await assert.rejects(sandbox.filesystem.write("f", "x"), ConnectionFailed);
  await assert.rejects(sandbox.filesystem.remove("f"), ConnectionFailed);
  await assert.rejects(sandbox.hibernate(), UnavailableError);
  assert.equal(daemon.asked.length, 6);
});

test("what was never sent is repeated, whatever it is", async () => {
  let calls = 0;
  const refused = Object.assign(new TypeError("fetch failed"), { cause: Object.assign(new Error("refused"), { code: "ECONNREFUSED" }) });
  await using daemon = await FakeDaemon.start(cell());
  const sandbox = await Sandbox.create({
    host: daemon.url,
    fetch: (input, init) => (calls++ < 2 ? Promise.reject(refused) : fetch(input, init)),
  });
  assert.deepEqual([sandbox.id, calls], [A, 3]);
});

test("an answer that is no JSON, and one that is cut", async () => {
  await using daemon = await FakeDaemon.start(
    (response) => response.end("hello"),
    (response) => {
      response.writeHead(200, { "Content-Length": "500" });
      response.write('{"id": "x"', () => response.socket?.destroy());
    },
  );
  await assert.rejects(Sandbox.create({ host: daemon.url }), /not JSON/);
  await assert.rejects(Sandbox.create({ host: daemon.url }), ConnectionFailed);
});

test("connections are kept", async () => {
  await using daemon = await FakeDaemon.start(...Array.from({ length: 30 }, () => json([])));
  for (let i = 0; i < 30; i++) await Sandbox.list({ host: daemon.url });
  // Node opens a second one when the first is not back in its pool yet.
  assert.ok(daemon.connections.size <= 2, `${daemon.connections.size} connections`);
});

test("an abort rejects with the signal's reason, before, during and between attempts", async () => {
  await using daemon = await FakeDaemon.start(cell(), () => {}, hangUp, hangUp, hangUp);
  const sandbox = await Sandbox.create({ host: daemon.url });
  const reason = new Error("enough");
  await assert.rejects(sandbox.info({ signal: AbortSignal.abort(reason) }), reason);
  assert.equal(daemon.asked.length, 1, "an aborted call asks nobody");
  const control = new AbortController();
  const asking = sandbox.info({ signal: control.signal });
  setTimeout(() => control.abort(reason), 30);
  await assert.rejects(asking, reason);
  const between = new AbortController();
  const repeating = sandbox.info({ signal: between.signal });
  setTimeout(() => between.abort(reason), 60);
  await assert.rejects(repeating, reason);
  assert.ok(daemon.asked.length < 5);
  await assert.rejects(sandbox.info({ signal: AbortSignal.timeout(20) }), { name: "TimeoutError" });
});

test("a sandbox that is made although its call was aborted is deleted", async () => {
  let make = () => {};
  const deleted = withResolvers<string>();
  await using daemon = await FakeDaemon.start(
    (response) => (make = () => void cell()(response, daemon.asked[0]!, response.req)),
    (response, asked) => {
      response.writeHead(204).end();
      deleted.resolve(`${asked.method} ${asked.url}`);
    },
  );
  const control = new AbortController();
  const creating = Sandbox.create({ host: daemon.url, signal: control.signal });
  while (!daemon.asked.length) await new Promise((done) => setTimeout(done, 5));
  control.abort();
  await assert.rejects(creating, { name: "AbortError" });
  make();
  assert.equal(await deleted.promise, `DELETE /v1/sandboxes/${A}`);
});

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  return { promise: new Promise<T>((done) => (resolve = done)), resolve };
}

test("close is idempotent, also of what is gone, and can be repeated after a failure", async () => {
  await using daemon = await FakeDaemon.start(cell(), empty(), cell(), refuse(410, "gone"), cell(), refuse(500, "internal"), empty());
  const one = await Sandbox.create({ host: daemon.url });
  await Promise.all([one.close(), one.close()]);
  await one.close();
  assert.equal(daemon.asked.length, 2);
  await (await Sandbox.create({ host: daemon.url })).close();
  const third = await Sandbox.create({ host: daemon.url });
  await assert.rejects(third.close(), ServerError);
  await third.close();
  await third.close();
  assert.equal(daemon.asked.length, 7);
});

test("await using closes on errors too; using begins to close", async () => {
  await using daemon = await FakeDaemon.start(cell(), empty(), cell(), empty());
  const failing = async () => {
    await using sandbox = await Sandbox.create({ host: daemon.url });
    throw new RangeError(sandbox.id);
  };
  await assert.rejects(failing(), RangeError);
  assert.equal(daemon.lines[1], `DELETE /v1/sandboxes/${A}`);
  {
    using sandbox = await Sandbox.create({ host: daemon.url });
    assert.equal(sandbox.id, A);
  }
  while (daemon.asked.length < 4) await new Promise((done) => setTimeout(done, 5));
  assert.equal(daemon.lines[3], `DELETE /v1/sandboxes/${A}`);
});

test("every answer tells how long the sandbox has", async () => {
  const headers = { "X-Cella-On-Timeout": "freeze", "X-Cella-Remaining-Seconds": "12.5" };
  await using daemon = await FakeDaemon.start(cell(A, { remaining_seconds: 100 }), json({}, 200, headers), json({}, 200, { "X-Cella-On-Timeout": "delete" }));
  const sandbox = await Sandbox.create({ host: daemon.url });
  const known = () => [sandbox.remainingSeconds === null ? null : Math.ceil(sandbox.remainingSeconds / 10), sandbox.onTimeout];
  assert.deepEqual(known(), [10, "delete"]);
  await sandbox.stats();
  assert.deepEqual(known(), [2, "freeze"]);
  await sandbox.stats();
  assert.deepEqual(known(), [null, "delete"]);
});
