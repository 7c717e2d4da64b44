/**
 * What can go wrong between this program and Cella.
 *
 * Nothing here is about the user's code: code that raises, times out or is killed comes back as an {@link Execution}
 * whose `error` and `exit` say so. Only `check: true` turns that into {@link ExecutionError} (code) or
 * {@link CommandError} (a process).
 */

import type { CommandResult } from "./models.js";
import type { Execution } from "./result.js";

/** What an error carries beside its sentence. */
export interface ErrorDetails {
  code?: string | null;
  hint?: string | null;
  status?: number | null;
  cause?: unknown;
}

/** Base of everything this package throws, but for the reason of an AbortSignal, which is thrown as it is. */
export class CellaError extends Error {
  /** Cella's machine word (`"not_found"`, `"no_space"`…); null when no answer came. */
  readonly code: string | null;
  /** What to do about it, or null. */
  readonly hint: string | null;
  /** HTTP status of the answer; null when no answer came. */
  readonly status: number | null;
  /** Of the copies that `fork` could not make: which one. */
  index?: number;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code ?? null;
    this.hint = details.hint ?? null;
    this.status = details.status ?? null;
  }

  /** With the hint. */
  override toString(): string {
    return `${this.name}: ${this.message}` + (this.hint ? ` (${this.hint})` : "");
  }
}

/** No connection to the daemon, or it broke before the answer was complete. */
export class ConnectionFailed extends CellaError {}

/** The daemon did not answer in time. What was asked for may still happen. */
export class RequestTimeout extends CellaError {}

/** A field is missing or wrong; the message names it. */
export class InvalidRequest extends CellaError {}

/** The API key is missing or not valid (401). */
export class AuthenticationError extends CellaError {}

/** The daemon refuses this Host, Origin or key (403). */
export class ForbiddenError extends CellaError {}

/** No such sandbox, context, process, execution, template, file or directory. */
export class NotFoundError extends CellaError {}

/** The sandbox existed and has ended; the message says why. */
export class GoneError extends NotFoundError {}

/** The object is in the wrong state for this request, or exists already. */
export class ConflictError extends CellaError {}

/**
 * A snapshot or Space cannot come back here: it is damaged, of another installation, or its template, format or
 * processor does not fit. `hint` says what to do.
 */
export class ImageRefused extends ConflictError {}

/** A limit of the key or the host is reached; try later. */
export class LimitError extends CellaError {}

/** The request is larger than the daemon accepts. */
export class TooLargeError extends CellaError {}

/**
 * Not in this version, not on this host, or not in this JavaScript runtime. Also a `driver` that cannot be used here, or that the
 * template was not built for.
 */
export class UnsupportedError extends CellaError {}

/** The daemon, its keeper or the template is not ready yet; try again. */
export class UnavailableError extends CellaError {}

/** The daemon failed, or lost the sandbox. */
export class ServerError extends CellaError {}

/**
 * Base of what a sandbox's file system refuses. `instanceof FilesystemError` is true for {@link FileNotFound} and
 * {@link FileExists} too, which extend {@link NotFoundError} and {@link ConflictError}.
 */
export class FilesystemError extends CellaError {
  static override [Symbol.hasInstance](value: unknown): boolean {
    const ordinary = Function.prototype[Symbol.hasInstance].call(this, value);
    return ordinary || (this === FilesystemError && (value instanceof FileNotFound || value instanceof FileExists));
  }
}

/** The path does not exist. */
export class FileNotFound extends NotFoundError {}

/** The target exists already. */
export class FileExists extends ConflictError {}

/** A file was expected. */
export class IsADirectory extends FilesystemError {}

/** A directory was expected. */
export class NotADirectory extends FilesystemError {}

/** The sandbox's user may not do this. */
export class PermissionDenied extends FilesystemError {}

/** The sandbox's disk is full. */
export class NoSpaceError extends FilesystemError {}

/** `runCode` with `check: true`: the code did not end well. `execution` has everything it printed and returned. */
export class ExecutionError extends CellaError {
  readonly execution: Execution;

  constructor(execution: Execution) {
    const error = execution.error;
    super(error ? `${error.name}: ${error.value}` : `the code ended with "${execution.exit}"`, { code: execution.exit });
    this.execution = execution;
  }
}

/** `exec` with `check: true`: the process did not end with exit code 0. `result` has its output. */
export class CommandError extends CellaError {
  readonly result: CommandResult;

  constructor(result: CommandResult) {
    const tail = result.stderr.trim().slice(-500);
    const ended = result.exit === "error" && result.exitCode !== null ? `exit code ${result.exitCode}` : result.exit;
    super(`the command ended with ${ended}` + (tail ? `: ${tail}` : ""), { code: result.exit });
    this.result = result;
  }
}

type Kind = new (message: string, details?: ErrorDetails) => CellaError;

const BY_CODE: Record<string, Kind> = {
  invalid_request: InvalidRequest,
  unauthorized: AuthenticationError,
  forbidden: ForbiddenError,
  permission_denied: PermissionDenied,
  not_found: NotFoundError,
  request_timeout: RequestTimeout,
  conflict: ConflictError,
  already_exists: ConflictError,
  image_refused: ImageRefused,
  driver_unavailable: UnsupportedError,
  template_not_ready: UnsupportedError,
  gone: GoneError,
  too_large: TooLargeError,
  is_a_directory: IsADirectory,
  not_a_directory: NotADirectory,
  unsupported: UnsupportedError,
  limit_reached: LimitError,
  no_space: NoSpaceError,
  unavailable: UnavailableError,
  lost: ServerError,
  internal: ServerError,
};

const BY_STATUS: Record<number, Kind> = {
  400: InvalidRequest,
  401: AuthenticationError,
  403: ForbiddenError,
  404: NotFoundError,
  409: ConflictError,
  410: GoneError,
  413: TooLargeError,
  429: LimitError,
  501: UnsupportedError,
  503: UnavailableError,
};

// In calls about files these words mean the path.
const FILE_CODES: Record<string, Kind> = { not_found: FileNotFound, already_exists: FileExists };

/**
 * The error for an error answer. `body` is its parsed JSON, or anything else; `files`: the call was about a file.
 * @internal
 */
export function errorFor(status: number | null, body: unknown, files = false): CellaError {
  const detail = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  const code = typeof detail["code"] === "string" ? detail["code"] : null;
  const hint = typeof detail["hint"] === "string" ? detail["hint"] : null;
  const said = typeof detail["error"] === "string" ? detail["error"] : "";
  const known = code === null ? undefined : ((files ? own(FILE_CODES, code) : undefined) ?? own(BY_CODE, code));
  const kind = known ?? own(BY_STATUS, status ?? 0) ?? ((status ?? 0) >= 500 ? ServerError : CellaError);
  return new kind(said || (status === null ? "the daemon says nothing more" : `the daemon answered ${status}`), { code, hint, status });
}

function own<K extends string | number>(table: Record<K, Kind>, key: K): Kind | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}

// Written down once: a minifier changes the names of classes, and people search logs for these.
const NAMES: Record<string, { prototype: CellaError }> = {
  CellaError, ConnectionFailed, RequestTimeout, InvalidRequest, AuthenticationError, ForbiddenError, NotFoundError, GoneError,
  ConflictError, ImageRefused, LimitError, TooLargeError, UnsupportedError, UnavailableError, ServerError, FilesystemError,
  FileNotFound, FileExists, IsADirectory, NotADirectory, PermissionDenied, NoSpaceError, ExecutionError, CommandError,
};
for (const [name, kind] of Object.entries(NAMES)) {
  Object.defineProperty(kind.prototype, "name", { value: name, writable: true, configurable: true });
}
