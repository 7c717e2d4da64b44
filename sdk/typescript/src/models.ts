/** Plain values that Cella answers with. Sizes in bytes, times as their names say; null: there is none. */

import { number, numberOrNull, strings, text, textOrNull, type JsonObject } from "./json.js";
import { truncated, type Exit, type Truncated } from "./result.js";

/** What became of one process. */
export interface CommandResult {
  stdout: string;
  stderr: string;
  /** null when a signal ended it, or nobody knows. */
  exitCode: number | null;
  /** `"running"` only in what {@link Process.output} gives. */
  exit: Exit | "running";
  /** `exit` is `"ok"`: it ended with exit code 0. */
  ok: boolean;
  /** Number of the signal that ended it. */
  signal: number | null;
  durationMs: number;
  id: string;
  pid: number | null;
  /** What was cut off; null: nothing. */
  truncated: Truncated | null;
  raw: JsonObject;
}

/** One entry of a sandbox's file system. */
export interface FileInfo {
  name: string;
  path: string;
  type: "file" | "directory" | "symlink" | "other";
  isDirectory: boolean;
  isFile: boolean;
  size: number;
  /** Permission bits, such as 0o644. */
  mode: number;
  uid: number;
  gid: number;
  modified: Date;
  /** Where a symlink points. */
  target: string | null;
}

/** A change below a watched directory. */
export interface FileEvent {
  type: "create" | "write" | "remove" | "rename" | "chmod";
  path: string;
}

/** A sandbox as the daemon describes it. */
export interface SandboxInfo {
  id: string;
  template: string;
  status: "running" | "paused" | "hibernating" | "hibernated" | "waking" | "deleted";
  /** What isolates it, in one word and in several. */
  driver: string;
  isolation: string;
  /** RFC 3339, as all times. */
  createdAt: string;
  expiresAt: string | null;
  idleTimeoutSeconds: number | null;
  /** null: it has no end. */
  remainingSeconds: number | null;
  metadata: Record<string, string>;
  /** Of which it is a fork. */
  parentId: string | null;
  spaceId: string | null;
  persistent: boolean;
  /** What happens when its time is over. */
  onTimeout: "freeze" | "delete";
  raw: JsonObject;
}

/** A code context: an interpreter that keeps its state. */
export interface ContextInfo {
  id: string;
  language: string;
  state: "idle" | "busy" | "restarting" | "starting" | "lost";
  executionCount: number;
  restarts: number;
  raw: JsonObject;
}

/** What a sandbox uses now. */
export interface Stats {
  memoryBytes: number;
  memoryPeakBytes: number | null;
  memoryLimitBytes: number | null;
  cpuUs: number;
  pids: number;
  diskBytes: number | null;
  diskLimitBytes: number | null;
  oomKills: number | null;
  uptimeSeconds: number;
  raw: JsonObject;
}

/** A process as the sandbox's kernel sees it. `id`: when Cella started it. */
export interface ProcessInfo {
  pid: number;
  ppid: number | null;
  uid: number | null;
  state: string;
  command: string;
  cpuMs: number | null;
  memoryBytes: number | null;
  id: string | null;
}

/** @internal */
export function commandResult(value: JsonObject): CommandResult {
  const exit = text(value["exit"], "lost") as Exit;
  return {
    stdout: text(value["stdout"]),
    stderr: text(value["stderr"]),
    exitCode: numberOrNull(value["exit_code"]),
    exit,
    ok: exit === "ok",
    signal: numberOrNull(value["signal"]),
    durationMs: number(value["duration_ms"]),
    id: text(value["id"]),
    pid: numberOrNull(value["pid"]),
    truncated: truncated(value["truncated"]),
    raw: value,
  };
}

/** @internal */
export function fileInfo(value: JsonObject): FileInfo {
  const type = text(value["type"], "other") as FileInfo["type"];
  return {
    name: text(value["name"]),
    path: text(value["path"]),
    type,
    isDirectory: type === "directory",
    isFile: type === "file",
    size: number(value["size"]),
    mode: parseInt(text(value["permissions"], "0"), 8),
    uid: number(value["uid"]),
    gid: number(value["gid"]),
    modified: new Date(number(value["mtime_ms"])),
    target: textOrNull(value["target"]),
  };
}

/** @internal */
export function sandboxInfo(value: JsonObject): SandboxInfo {
  return {
    id: text(value["id"]),
    template: text(value["template"]),
    status: text(value["status"]) as SandboxInfo["status"],
    driver: text(value["driver"]),
    isolation: text(value["isolation"]),
    createdAt: text(value["created_at"]),
    expiresAt: textOrNull(value["expires_at"]),
    idleTimeoutSeconds: numberOrNull(value["idle_timeout_seconds"]),
    remainingSeconds: numberOrNull(value["remaining_seconds"]),
    metadata: strings(value["metadata"]),
    parentId: textOrNull(value["parent_id"]),
    spaceId: textOrNull(value["space_id"]),
    persistent: value["persistent"] === true,
    onTimeout: value["on_timeout"] === "freeze" ? "freeze" : "delete",
    raw: value,
  };
}

/** @internal */
export function contextInfo(value: JsonObject): ContextInfo {
  return {
    id: text(value["id"]),
    language: text(value["language"]),
    state: text(value["state"]) as ContextInfo["state"],
    executionCount: number(value["execution_count"]),
    restarts: number(value["restarts"]),
    raw: value,
  };
}

/** @internal */
export function statsOf(value: JsonObject): Stats {
  return {
    memoryBytes: number(value["memory_bytes"]),
    memoryPeakBytes: numberOrNull(value["memory_peak_bytes"]),
    memoryLimitBytes: numberOrNull(value["memory_limit_bytes"]),
    cpuUs: number(value["cpu_us"]),
    pids: number(value["pids"]),
    diskBytes: numberOrNull(value["disk_bytes"]),
    diskLimitBytes: numberOrNull(value["disk_limit_bytes"]),
    oomKills: numberOrNull(value["oom_kills"]),
    uptimeSeconds: number(value["uptime_seconds"]),
    raw: value,
  };
}

/** @internal */
export function processInfo(value: JsonObject): ProcessInfo {
  return {
    pid: number(value["pid"]),
    ppid: numberOrNull(value["ppid"]),
    uid: numberOrNull(value["uid"]),
    state: text(value["state"]),
    command: text(value["command"]),
    cpuMs: numberOrNull(value["cpu_ms"]),
    memoryBytes: numberOrNull(value["memory_bytes"]),
    id: textOrNull(value["id"]),
  };
}
