/** The API's requests, one function each: no I/O. */

import { some, type JsonObject } from "./json.js";
import type { Call } from "./transport.js";
import type { Body } from "./wire.js";

/** A string for the shell, or a program and its arguments. */
export type Command = string | readonly string[];

/** Making many copies, or writing and reading gigabytes of memory, takes its time. */
const BRANCH_SECONDS = 300;
/** A first create on a host starts the template, which takes as long as importing its libraries. */
const CREATE_SECONDS = 300;
const NDJSON = { Accept: "application/x-ndjson" };

const segment = (text: string | number): string => encodeURIComponent(String(text));
const box = (id: string, rest = ""): string => `/v1/sandboxes/${segment(id)}${rest}`;
const flag = (value: boolean | undefined): string | undefined => (value === undefined ? undefined : value ? "true" : "false");

// ---- sandboxes ----

export const create = (fields: JsonObject): Call => ({ method: "POST", path: "/v1/sandboxes", json: some(fields), waitSeconds: CREATE_SECONDS });

export const listSandboxes = (metadata: Record<string, string> | undefined, state: string | undefined): Call => {
  const pairs = Object.entries(metadata ?? {}).map(([name, value]) => `${name}=${value}`);
  return { method: "GET", path: "/v1/sandboxes", query: { metadata: pairs, state } };
};

export const describe = (id: string): Call => ({ method: "GET", path: box(id) });
export const remove = (id: string): Call => ({ method: "DELETE", path: box(id) });
export const pause = (id: string): Call => ({ method: "POST", path: box(id, "/pause") });
export const unpause = (id: string): Call => ({ method: "POST", path: box(id, "/resume") });
export const lifecycle = (id: string, patch: JsonObject): Call => ({ method: "PATCH", path: box(id, "/lifecycle"), json: some(patch) });
export const stats = (id: string): Call => ({ method: "GET", path: box(id, "/stats") });
export const logs = (id: string, stream: string): Call => ({ method: "GET", path: box(id, "/logs"), query: { stream }, headers: { Accept: "text/plain, application/json" } });
export const network = (id: string): Call => ({ method: "GET", path: box(id, "/network") });
export const networkSet = (id: string, policy: JsonObject): Call => ({ method: "PUT", path: box(id, "/network"), json: policy });
export const ports = (id: string): Call => ({ method: "GET", path: box(id, "/ports") });

// ---- code ----

/**
 * Always as events: they come at least every 15 s, so that code may run silently for hours under clients that give up on
 * a silent connection; and hanging up interrupts the code.
 */
export const execute = (id: string, fields: JsonObject): Call => ({
  method: "POST",
  path: box(id, "/execute"),
  json: some({ ...fields, stream: true }),
  headers: NDJSON,
  waitSeconds: null,
});

export const executionInput = (id: string, execution: string, line: string | null): Call => {
  const json = line === null ? { eof: true } : { input: line };
  return { method: "POST", path: box(id, `/executions/${segment(execution)}/input`), json };
};

export const contextCreate = (id: string, fields: JsonObject): Call => ({ method: "POST", path: box(id, "/contexts"), json: some(fields) });
export const contextList = (id: string): Call => ({ method: "GET", path: box(id, "/contexts") });
export const context = (id: string, context: string): Call => ({ method: "GET", path: box(id, `/contexts/${segment(context)}`) });
export const contextDelete = (id: string, context: string): Call => ({ method: "DELETE", path: box(id, `/contexts/${segment(context)}`) });
export const contextAction = (id: string, context: string, action: "interrupt" | "restart"): Call => ({
  method: "POST",
  path: box(id, `/contexts/${segment(context)}/${action}`),
});

// ---- processes ----

export const exec = (id: string, fields: JsonObject): Call => ({
  method: "POST",
  path: box(id, "/exec/stream"),
  json: some(fields),
  headers: NDJSON,
  waitSeconds: null,
});

export const start = (id: string, fields: JsonObject): Call => ({ method: "POST", path: box(id, "/exec"), json: some({ ...fields, background: true }) });
export const processes = (id: string): Call => ({ method: "GET", path: box(id, "/processes") });
export const process = (id: string, pid: string | number): Call => ({ method: "GET", path: box(id, `/processes/${segment(pid)}`) });
export const processSignal = (id: string, pid: string | number, signal: string | number): Call => ({
  method: "POST",
  path: box(id, `/processes/${segment(pid)}/signal`),
  json: { signal },
});
export const processAttach = (id: string, pid: string | number): Call => ({
  method: "GET",
  path: box(id, `/processes/${segment(pid)}/attach`),
  headers: NDJSON,
  waitSeconds: null,
});
export const terminalPath = (id: string): string => box(id, "/exec/pty");
export const commandsPath = (id: string): string => box(id, "/exec/ws");

// ---- files ----

export const fileRead = (id: string, path: string, offset?: number, length?: number): Call => ({
  method: "GET",
  path: box(id, "/fs"),
  query: { path, offset, length },
  headers: { Accept: "application/octet-stream, application/json" },
  waitSeconds: null,
  files: true,
});

export const fileWrite = (id: string, path: string, body: Body, options: { mode?: number | undefined; append?: boolean | undefined; parents?: boolean | undefined }): Call => ({
  method: "PUT",
  path: box(id, "/fs"),
  query: { path, mode: options.mode?.toString(8).padStart(4, "0"), append: flag(options.append), parents: flag(options.parents) },
  body,
  headers: { "Content-Type": "application/octet-stream" },
  waitSeconds: null,
  files: true,
});

export const fileRemove = (id: string, path: string, recursive: boolean): Call => ({
  method: "DELETE",
  path: box(id, "/fs"),
  query: { path, recursive: recursive ? "true" : undefined },
  files: true,
});

export const fileStat = (id: string, path: string): Call => ({ method: "GET", path: box(id, "/fs/stat"), query: { path }, files: true });
export const fileList = (id: string, path: string, depth: number): Call => ({ method: "GET", path: box(id, "/fs/dir"), query: { path, depth }, files: true });
export const fileMkdir = (id: string, path: string, parents: boolean): Call => ({ method: "POST", path: box(id, "/fs/mkdir"), json: { path, parents }, files: true });
export const fileMove = (id: string, from: string, to: string, overwrite: boolean): Call => ({
  method: "POST",
  path: box(id, "/fs/move"),
  json: { from, to, overwrite },
  files: true,
});

export const fileWatch = (id: string, path: string, recursive: boolean): Call => ({
  method: "GET",
  path: box(id, "/fs/watch"),
  query: { path, recursive: recursive ? "true" : undefined },
  headers: NDJSON,
  waitSeconds: null,
  files: true,
});

export const tarRead = (id: string, path: string): Call => ({
  method: "GET",
  path: box(id, "/fs/tar"),
  query: { path },
  headers: { Accept: "application/x-tar, application/json" },
  waitSeconds: null,
  files: true,
});

export const tarWrite = (id: string, path: string, body: Body): Call => ({
  method: "PUT",
  path: box(id, "/fs/tar"),
  query: { path },
  body,
  headers: { "Content-Type": "application/x-tar" },
  waitSeconds: null,
  files: true,
});

// ---- branches ----

const slow = (path: string, json?: JsonObject): Call => ({ method: "POST", path, ...(json && { json: some(json) }), waitSeconds: BRANCH_SECONDS });

export const fork = (id: string, fields: JsonObject): Call => slow(box(id, "/fork"), fields);
export const forkTree = (id: string, fields: JsonObject): Call => slow(box(id, "/fork-tree"), fields);
export const promote = (id: string, fields: JsonObject): Call => slow(box(id, "/promote"), fields);
export const merge = (id: string, branch: string): Call => slow(box(id, `/merge_into/${segment(branch)}`));
export const diff = (id: string, against: string | undefined, text: boolean, variables: boolean, context: string | undefined): Call => ({
  method: "GET",
  path: box(id, "/diff"),
  query: { against, context_id: context, text: flag(text), variables: flag(variables) },
  waitSeconds: BRANCH_SECONDS,
});
export const tree = (id: string): Call => ({ method: "GET", path: box(id, "/tree") });

// ---- the disk ----

export const snapshotCreate = (id: string, name: string | undefined): Call => slow(box(id, "/snapshots"), { name });
export const snapshotList = (sandbox: string | undefined, name: string | undefined): Call => ({
  method: "GET",
  path: "/v1/snapshots",
  query: { sandbox_id: sandbox, name },
});
export const snapshot = (id: string): Call => ({ method: "GET", path: `/v1/snapshots/${segment(id)}` });
export const snapshotDelete = (id: string): Call => ({ method: "DELETE", path: `/v1/snapshots/${segment(id)}` });
export const hibernate = (id: string): Call => slow(box(id, "/hibernate"));
export const wake = (id: string): Call => slow(box(id, "/wake"));
export const spaceList = (): Call => ({ method: "GET", path: "/v1/spaces" });
export const space = (id: string): Call => ({ method: "GET", path: `/v1/spaces/${segment(id)}` });
export const spaceDelete = (id: string): Call => ({ method: "DELETE", path: `/v1/spaces/${segment(id)}` });
export const spaceResume = (id: string): Call => slow(`/v1/spaces/${segment(id)}/resume`);
