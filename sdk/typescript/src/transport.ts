/**
 * One exchange with the daemon.
 *
 * A request is sent again only when that changes nothing: always when no connection came about, and after a broken
 * connection or "not ready yet" (503) when it only reads (GET).
 */

import type { Config } from "./config.js";
import { CellaError, ConnectionFailed, errorFor, RequestTimeout, UnavailableError } from "./errors.js";
import type { JsonObject } from "./json.js";
import type { Answer, Body, Request } from "./wire.js";

/**
 * A request. `json` and `body` exclude each other. `waitSeconds`: how long the answer may take, null for any time.
 * `files`: "not found" in the answer means a path.
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

/** An answer, in use. `release` must be called in the end; unless all of it is read, it hangs up. */
interface Exchange {
  answer: Answer;
  release(allRead?: boolean): void;
  /** What really happened, for an error that reading the body threw. */
  explain(error: unknown): unknown;
}

/** @internal */
export class Transport {
  readonly config: Config;
  #seen: ((answer: Answer) => void) | null = null;
  #headers: Record<string, string>;

  constructor(config: Config) {
    this.config = config;
    this.#headers = { Accept: "application/json", "User-Agent": "cella-typescript" };
    if (config.apiKey) this.#headers["Authorization"] = `Bearer ${config.apiKey}`;
  }

  /** The same daemon, for one object that wants to see the headers of its answers. */
  watched(seen: (answer: Answer) => void): Transport {
    const transport = new Transport(this.config);
    transport.#seen = seen;
    return transport;
  }

  unwatched(): Transport {
    return new Transport(this.config);
  }

  /** The answer's JSON value; null for an empty answer. Throws a CellaError for anything but 2xx. */
  async json(call: Call, signal?: AbortSignal): Promise<unknown> {
    const text = await this.read(call, signal, (answer) => answer.text());
    if (text === "") return null;
    try {
      return JSON.parse(text);
    } catch {
      throw new CellaError("the daemon's answer is not JSON");
    }
  }

  /** The whole answer, read by `reader`. */
  read<T>(call: Call, signal: AbortSignal | undefined, reader: (answer: Answer) => Promise<T>): Promise<T> {
    return this.#repeat(call, signal, async () => {
      const exchange = await this.#exchange(call, signal);
      try {
        const value = await reader(exchange.answer);
        exchange.release(true);
        return value;
      } catch (error) {
        exchange.release();
        throw exchange.explain(error);
      }
    });
  }

  /**
   * The body of an answer as it arrives. Leaving the loop early hangs up. A body that ends early throws
   * ConnectionFailed. Nothing is sent before the first `next()`.
   */
  async *pieces(call: Call, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const exchange = await this.#repeat(call, signal, () => this.#exchange(call, signal));
    const reader = exchange.answer.pieces();
    try {
      for (;;) {
        const { done, value } = await reader.next().catch((error: unknown) => {
          throw exchange.explain(error);
        });
        if (done) return exchange.release(true);
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
    const release = (allRead = false) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      if (!settled && !allRead) control.abort();
      settled = true;
    };
    try {
      const answer = await this.config.send(this.#request(call, control.signal)).catch((error: unknown) => {
        throw explain(error, false);
      });
      this.#seen?.(answer);
      if (answer.status < 200 || answer.status > 299) {
        const body = await answer.text().catch((error: unknown) => {
          throw explain(error);
        });
        throw errorFor(answer.status, maybeJson(body), call.files ?? false);
      }
      return { answer, release, explain };
    } catch (error) {
      release();
      throw error;
    }
  }

  #url(call: Call): string {
    if (!call.query) return this.config.url + call.path;
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(call.query)) {
      if (Array.isArray(value)) value.forEach((one) => query.append(name, one));
      else if (value !== undefined) query.append(name, String(value));
    }
    const text = query.toString();
    return this.config.url + call.path + (text ? `?${text}` : "");
  }

  #request(call: Call, signal: AbortSignal): Request {
    const { method, json } = call;
    const headers: Record<string, string> = { ...this.#headers, ...call.headers };
    const traceparent = this.config.traceparent();
    if (traceparent !== undefined) headers["traceparent"] = traceparent;
    if (json === undefined) return { method, url: this.#url(call), headers, body: call.body, signal };
    headers["Content-Type"] = "application/json";
    return { method, url: this.#url(call), headers, body: JSON.stringify(json), signal };
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
