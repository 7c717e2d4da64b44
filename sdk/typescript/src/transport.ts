/**
 * One HTTP exchange with the daemon, by `fetch`, which keeps connections.
 *
 * A request is sent again only when that changes nothing: always when no connection came about, and after a broken
 * connection or "not ready yet" (503) when it only reads (GET).
 */

import type { Config } from "./config.js";
import { CellaError, ConnectionFailed, errorFor, RequestTimeout, UnavailableError } from "./errors.js";
import type { JsonObject } from "./json.js";

/** What can be sent as a file's content. */
export type Body = string | Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array>;

/**
 * A request. `json` and `body` exclude each other. `waitSeconds`: how long the answer may take, null for any time.
 * `files`: "not found" in the answer means a path.
 * @internal
 */
export interface Call {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  path: string;
  query?: Record<string, string | number | string[] | undefined>;
  json?: JsonObject;
  body?: Body;
  headers?: Record<string, string>;
  waitSeconds?: number | null;
  files?: boolean;
}

/** Of an answer that takes no time of its own. */
const ANSWER_SECONDS = 60;
/** Before the first and the second repetition, and so on; with up to half of it added, so that clients spread. */
const RETRY_MS = [100, 300, 900, 2700] as const;

/** An answer whose body is not read yet. `release` must be called in the end; it lets go of what is not read. */
interface Exchange {
  response: Response;
  release(): void;
  /** What really happened, for an error that reading the body threw. */
  explain(error: unknown): unknown;
}

/** @internal */
export class Transport {
  readonly config: Config;
  #seen: ((headers: Headers) => void) | null = null;
  #headers: Record<string, string>;

  constructor(config: Config) {
    this.config = config;
    this.#headers = { Accept: "application/json", "User-Agent": "cella-typescript" };
    if (config.apiKey) this.#headers["Authorization"] = `Bearer ${config.apiKey}`;
  }

  /** The same daemon, for one object that wants to see the headers of its answers. */
  watched(seen: (headers: Headers) => void): Transport {
    const transport = new Transport(this.config);
    transport.#seen = seen;
    return transport;
  }

  unwatched(): Transport {
    return new Transport(this.config);
  }

  /** The answer's JSON value; null for an empty answer. Throws a CellaError for anything but 2xx. */
  async json(call: Call, signal?: AbortSignal): Promise<unknown> {
    const text = await this.read(call, signal, (response) => response.text());
    if (text === "") return null;
    try {
      return JSON.parse(text);
    } catch {
      throw new CellaError("the daemon's answer is not JSON");
    }
  }

  /** The whole answer, read by `reader`. */
  read<T>(call: Call, signal: AbortSignal | undefined, reader: (response: Response) => Promise<T>): Promise<T> {
    return this.#repeat(call, signal, async () => {
      const exchange = await this.#exchange(call, signal);
      try {
        return await reader(exchange.response);
      } catch (error) {
        throw exchange.explain(error);
      } finally {
        exchange.release();
      }
    });
  }

  /**
   * The body of an answer as it arrives. Leaving the loop early hangs up. A body that ends early throws
   * ConnectionFailed. Nothing is sent before the first `next()`.
   */
  async *pieces(call: Call, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const exchange = await this.#repeat(call, signal, () => this.#exchange(call, signal));
    const reader = exchange.response.body?.getReader();
    try {
      while (reader) {
        const { done, value } = await reader.read().catch((error: unknown) => {
          throw exchange.explain(error);
        });
        if (done) return;
        yield value;
      }
    } finally {
      exchange.release();
    }
  }

  async #repeat<T>(call: Call, signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
    for (let i = 0; ; i++) {
      try {
        return await attempt();
      } catch (error) {
        if (i >= this.config.maxRetries || !mayRepeat(call, error)) throw error;
        const pause = RETRY_MS[Math.min(i, RETRY_MS.length - 1)] ?? 0;
        await sleep(pause * (1 + Math.random() / 2), signal);
      }
    }
  }

  async #exchange(call: Call, signal: AbortSignal | undefined): Promise<Exchange> {
    signal?.throwIfAborted();
    const control = new AbortController();
    const abort = () => control.abort(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    const wait = call.waitSeconds === undefined ? ANSWER_SECONDS : call.waitSeconds;
    let late = false;
    const timer = wait === null ? undefined : setTimeout(() => ((late = true), control.abort()), wait * 1000);
    const explain = (error: unknown, answered = true): unknown => {
      if (signal?.aborted) return signal.reason;
      return late ? this.#late(error) : this.#broken(error, answered);
    };
    let settled = false;
    const release = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      if (!settled) control.abort();
      settled = true;
    };
    try {
      const response = await this.config.fetch(this.#url(call), this.#init(call, control.signal)).catch((error: unknown) => {
        throw explain(error, false);
      });
      this.#seen?.(response.headers);
      if (response.status < 200 || response.status > 299) {
        const body = await response.text().catch((error: unknown) => {
          throw explain(error);
        });
        throw errorFor(response.status, maybeJson(body), call.files ?? false);
      }
      return { response, release, explain };
    } catch (error) {
      release();
      throw error;
    }
  }

  #url(call: Call): string {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (Array.isArray(value)) value.forEach((one) => query.append(name, one));
      else if (value !== undefined) query.append(name, String(value));
    }
    const text = query.toString();
    return this.config.url + call.path + (text ? `?${text}` : "");
  }

  #init(call: Call, signal: AbortSignal): RequestInit {
    const headers = { ...this.#headers, ...call.headers };
    // Redirects have no place between a program and its daemon: "manual" makes them an error like any other status.
    // Bun ends a request after five minutes unless timeout is false; others ignore the field.
    const init: Record<string, unknown> = { method: call.method, headers, signal, redirect: "manual", timeout: false };
    if (call.json !== undefined) {
      init["body"] = JSON.stringify(call.json);
      headers["Content-Type"] = "application/json";
    } else if (call.body !== undefined) {
      init["body"] = call.body;
      if (call.body instanceof ReadableStream) init["duplex"] = "half";
    }
    return init;
  }

  #late(cause: unknown): RequestTimeout {
    return new RequestTimeout(`${this.config.url} did not answer in time`, { code: "request_timeout", cause });
  }

  #broken(cause: unknown, answered: boolean): CellaError {
    const words = codes(cause);
    if (words.some((word) => word === "UND_ERR_HEADERS_TIMEOUT" || word === "UND_ERR_BODY_TIMEOUT")) return this.#late(cause);
    const url = this.config.url;
    if (!answered && words.some((word) => NEVER_SENT.test(word))) {
      const hint = "is the daemon up? (cella up)";
      return Object.assign(new ConnectionFailed(`no connection to ${url}: ${words[0]}`, { hint, cause }), { neverSent: true });
    }
    const when = answered ? "before the answer was complete" : "before an answer came";
    return new ConnectionFailed(`the connection to ${url} broke ${when}: ${words[0] ?? String(cause)}`, { cause });
  }
}

/** Codes of Node and Bun, and Deno's words: no connection, so nothing was sent. */
const NEVER_SENT =
  /^(ECONNREFUSED|ConnectionRefused|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|FailedToOpenSocket|UND_ERR_CONNECT_TIMEOUT)$|tcp connect error|dns error/;

/** What an error and its causes say of themselves: codes first. */
function codes(error: unknown): string[] {
  const found: string[] = [];
  const words: string[] = [];
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const code: unknown = (at as { code?: unknown }).code;
    if (typeof code === "string") found.push(code);
    if (at.message) words.push(at.message);
  }
  return [...found, ...words.reverse()];
}

function mayRepeat(call: Call, error: unknown): boolean {
  if (error instanceof ConnectionFailed) {
    const sent = (error as { neverSent?: boolean }).neverSent !== true;
    return sent ? call.method === "GET" : !(call.body instanceof ReadableStream);
  }
  return error instanceof UnavailableError && call.method === "GET";
}

function maybeJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return { error: body.trim().slice(0, 500) };
  }
}

/** Rejects with the signal's reason. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((done, failed) => {
    const stop = () => (clearTimeout(timer), failed(signal?.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), done()), ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * The value of `work`, which makes something that costs; an abort rejects at once, and what is made all the same
 * is given to `undo`. (Hanging up in the middle would leave it behind, with an id that nobody knows.)
 * @internal
 */
export async function madeOrUndone<T>(work: () => Promise<T>, signal: AbortSignal | undefined, undo: (made: T) => Promise<unknown>): Promise<T> {
  if (!signal) return work();
  signal.throwIfAborted();
  const making = work();
  let abort = () => {};
  const aborted = new Promise<never>((_, failed) => {
    abort = () => failed(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([making, aborted]);
  } catch (error) {
    // Either the making failed, and this does nothing, or it goes on behind our back.
    making.then(undo).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
