/** What code comes to: Execution, and the rich values in it. null everywhere: there is none. */

import { bytes, list, number, numberOrNull, object, text, textOrNull, type JsonObject } from "./json.js";

/**
 * How something ended: `"ok"`; `"error"` (it raised, or exited with another code than 0); `"timeout"` and
 * `"interrupted"` (state kept); `"oom"` and `"killed"`; `"lost"`: nobody knows.
 */
export type Exit = "ok" | "error" | "timeout" | "interrupted" | "oom" | "killed" | "lost";

/** The exception that the user's code ended with. `traceback` is plain text without escape codes. */
export interface ErrorInfo {
  name: string;
  value: string;
  traceback: string;
}

/** What was cut off, in bytes per stream. */
export type Truncated = Record<string, { droppedBytes: number }>;

/** What the code printed, each stream whole (unless `truncated` says otherwise). */
export interface Logs {
  stdout: string;
  stderr: string;
}

/** One rich value: of the last expression, of `display()`, or an open figure. */
export class Result {
  /** MIME type to value: text as string, images as base64, `application/json` as the value itself. */
  readonly data: Readonly<Record<string, unknown>>;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** True for the value of the last expression. */
  readonly isMainResult: boolean;

  constructor(data: Record<string, unknown>, metadata: Record<string, unknown> = {}, isMainResult = false) {
    this.data = data;
    this.metadata = metadata;
    this.isMainResult = isMainResult;
  }

  get text(): string | null {
    return words(this.data["text/plain"]);
  }
  get html(): string | null {
    return words(this.data["text/html"]);
  }
  get markdown(): string | null {
    return words(this.data["text/markdown"]);
  }
  get latex(): string | null {
    return words(this.data["text/latex"]);
  }
  get javascript(): string | null {
    return words(this.data["application/javascript"]);
  }
  get svg(): string | null {
    return words(this.data["image/svg+xml"]);
  }
  get json(): unknown {
    return this.data["application/json"] ?? null;
  }
  /** The image's bytes, decoded. (`data["image/png"]` is the base64.) */
  get png(): Uint8Array | null {
    return bytes(this.data["image/png"]);
  }
  get jpeg(): Uint8Array | null {
    return bytes(this.data["image/jpeg"]);
  }
  get pdf(): Uint8Array | null {
    return bytes(this.data["application/pdf"]);
  }

  /** The MIME types there are. */
  formats(): string[] {
    return Object.keys(this.data);
  }

  /** @internal */
  static from(value: JsonObject, isMainResult = value["is_main_result"] === true): Result {
    return new Result(object(value["data"]), object(value["metadata"]), isMainResult);
  }
}

/** What became of one `runCode`. `exit` is the one word that tells. */
export class Execution {
  readonly id: string;
  readonly exit: Exit;
  readonly contextId: string;
  readonly language: string;
  readonly results: readonly Result[];
  readonly logs: Readonly<Logs>;
  readonly error: ErrorInfo | null;
  /** Of SystemExit or the shell. */
  readonly exitCode: number | null;
  /** Running number within the context. */
  readonly executionCount: number | null;
  readonly durationMs: number;
  /** RFC 3339. */
  readonly startedAt: string | null;
  /** What was cut off; null: nothing. */
  readonly truncated: Truncated | null;
  /** The state is gone: a fresh context took the place. */
  readonly contextRestarted: boolean;
  /** Until the sandbox ends, in seconds; null: it has no end. */
  readonly remainingSeconds: number | null;
  /** The answer as it came: fields newer than this package can be read there. */
  readonly raw: JsonObject;

  /** @internal */
  constructor(value: JsonObject, results: Result[] = list(value["results"]).map((v) => Result.from(v))) {
    this.id = text(value["id"]);
    this.exit = text(value["exit"], "lost") as Exit;
    this.contextId = text(value["context_id"]);
    this.language = text(value["language"]);
    this.results = results;
    this.logs = { stdout: text(value["stdout"]), stderr: text(value["stderr"]) };
    this.error = errorInfo(value["error"]);
    this.exitCode = numberOrNull(value["exit_code"]);
    this.executionCount = numberOrNull(value["execution_count"]);
    this.durationMs = number(value["duration_ms"]);
    this.startedAt = textOrNull(value["started_at"]);
    this.truncated = truncated(value["truncated"]);
    this.contextRestarted = value["context_restarted"] === true;
    this.remainingSeconds = numberOrNull(value["remaining_seconds"]);
    this.raw = value;
  }

  /** `exit` is `"ok"`. */
  get ok(): boolean {
    return this.exit === "ok";
  }
  get stdout(): string {
    return this.logs.stdout;
  }
  get stderr(): string {
    return this.logs.stderr;
  }
  /** The value of the last expression. */
  get mainResult(): Result | null {
    return this.results.filter((result) => result.isMainResult).at(-1) ?? null;
  }
  /** Plain text of the last expression's value, else of the last thing displayed. */
  get text(): string | null {
    return this.#first((result) => result.text);
  }
  get html(): string | null {
    return this.#first((result) => result.html);
  }
  get markdown(): string | null {
    return this.#first((result) => result.markdown);
  }
  get svg(): string | null {
    return this.#first((result) => result.svg);
  }
  get json(): unknown {
    return this.#first((result) => result.json);
  }
  /** Bytes of the last expression's image, else of the last one displayed; `results` has all of them. */
  get png(): Uint8Array | null {
    return this.#first((result) => result.png);
  }
  get jpeg(): Uint8Array | null {
    return this.#first((result) => result.jpeg);
  }

  #first<T>(view: (result: Result) => T | null): T | null {
    const main = this.mainResult;
    for (const result of [...(main ? [main] : []), ...[...this.results].reverse()]) {
      const value = view(result);
      if (value !== null) return value;
    }
    return null;
  }
}

/** @internal */
export function errorInfo(value: unknown): ErrorInfo | null {
  if (typeof value !== "object" || value === null) return null;
  const detail = object(value);
  return { name: text(detail["name"]), value: text(detail["value"]), traceback: text(detail["traceback"]) };
}

/** @internal */
export function truncated(value: unknown): Truncated | null {
  const streams = Object.entries(object(value));
  if (!streams.length) return null;
  return Object.fromEntries(streams.map(([name, cut]) => [name, { droppedBytes: number(object(cut)["dropped_bytes"]) }]));
}

function words(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  return Array.isArray(value) ? value.join("") : String(value); // nbformat allows a list of lines
}
