/**
 * Cella: run code nobody reviewed in isolated sandboxes.
 *
 * ```ts
 * import { Sandbox } from "@cella/sdk";
 *
 * await using sandbox = await Sandbox.create();
 * console.log((await sandbox.runCode("1 + 1")).text); // 2
 * ```
 *
 * Environment: `CELLA_URL` (default http://127.0.0.1:7070), `CELLA_API_KEY`.
 *
 * @packageDocumentation
 */

export { Sandbox } from "./sandbox.js";
export type { CreateOptions, LifecyclePatch, Limits, SandboxFilter, Where } from "./sandbox.js";
export type { DiffOptions, ForkOptions } from "./branching.js";
export { Branches, TreeNode } from "./branches.js";
export type { Diff, FileChange, FileChanges, NotCarried, Promotion, Shown, VariableChange, VariableChanges } from "./branches.js";
export { Cella } from "./client.js";
export type { Sandboxes, Snapshots, Spaces } from "./client.js";
export type { Command } from "./calls.js";
export { DEFAULT_URL } from "./config.js";
export type { ConnectionOptions, WebSocketClass, WebSocketLike } from "./config.js";
export { CodeContext, Process } from "./contexts.js";
export {
  AuthenticationError, CellaError, CommandError, ConflictError, ConnectionFailed, ExecutionError, FileExists, FileNotFound,
  FilesystemError, ForbiddenError, GoneError, ImageRefused, InvalidRequest, IsADirectory, LimitError, NoSpaceError, NotADirectory,
  NotFoundError, PermissionDenied, RequestTimeout, ServerError, TooLargeError, UnavailableError, UnsupportedError,
} from "./errors.js";
export type { ErrorDetails } from "./errors.js";
export type { CommandEvent, ExecutionEvent } from "./events.js";
export { Filesystem } from "./filesystem.js";
export type { Content, ReadOptions, WriteOptions } from "./filesystem.js";
export type { JsonObject } from "./json.js";
export type { LocalPath } from "./local.js";
export type { CommandResult, ContextInfo, FileEvent, FileInfo, ProcessInfo, SandboxInfo, Stats } from "./models.js";
export { Execution, Result } from "./result.js";
export type { ErrorInfo, Exit, Logs, Truncated } from "./result.js";
export type {
  CallOptions, ExecOptions, ExecStreamOptions, OutputHandlers, ProcessOptions, RunOptions, StreamOptions,
} from "./runner.js";
export { CommandSession } from "./session.js";
export type { SpawnOptions } from "./session.js";
export { Snapshot, Space } from "./snapshots.js";
export type { SnapshotFilter } from "./snapshots.js";
export { Terminal } from "./terminal.js";
export type { TerminalExit, TerminalOptions } from "./terminal.js";
