/**
 * One request and its answer. By `fetch`, which every runtime has; in Node by node:http where it can, because Node's fetch
 * takes some tenths of a millisecond more for each call. Both keep connections.
 */

/** What can be sent. */
export type Body = string | Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array>;

/** @internal */
export interface Request {
  method: string;
  url: string;
  headers: Record<string, string>;
  body: Body | undefined;
  signal: AbortSignal;
}

/** An answer whose body is not read yet. @internal */
export interface Answer {
  status: number;
  header(name: string): string | null;
  text(): Promise<string>;
  bytes(): Promise<Uint8Array>;
  /** What arrives, as it arrives. */
  pieces(): AsyncIterator<Uint8Array>;
}

/** @internal */
export type Send = (request: Request) => Promise<Answer>;

/** By this fetch, or by what the runtime has. @internal */
export function sender(fetch: typeof globalThis.fetch | undefined): Send {
  if (fetch) return (request) => byFetch(fetch, request);
  // Looked up at each call: tests and tracing tools replace the global one.
  const global: Send = (request) => byFetch((input, init) => globalThis.fetch(input, init), request);
  // Uploads stay with fetch, which copes with answers that come before the upload's end.
  return isNode() ? (request) => (request.body === undefined || typeof request.body === "string" ? byNode(request) : global(request)) : global;
}

function isNode(): boolean {
  const scope = globalThis as { process?: { release?: { name?: string }; versions?: Record<string, string> } };
  return scope.process?.release?.name === "node" && !("Bun" in globalThis) && !("Deno" in globalThis) && !scope.process.versions?.["electron"];
}

// ---- fetch ----

async function byFetch(fetch: typeof globalThis.fetch, request: Request): Promise<Answer> {
  const { method, url, headers, body, signal } = request;
  // Redirects have no place between a program and its daemon: "manual" makes them an error like any other status.
  // Bun ends a request after five minutes unless timeout is false; others ignore the field.
  const init: Record<string, unknown> = { method, headers, body, signal, redirect: "manual", timeout: false };
  if (body instanceof ReadableStream) init["duplex"] = "half";
  const response = await fetch(url, init);
  return {
    status: response.status,
    header: (name) => response.headers.get(name),
    text: () => response.text(),
    bytes: async () => new Uint8Array(await response.arrayBuffer()),
    pieces: () => {
      const reader = response.body?.getReader();
      return { next: async () => (await reader?.read()) as IteratorResult<Uint8Array> ?? { done: true, value: undefined } };
    },
  };
}

// ---- node:http ----

type Http = typeof import("node:http");
type Ask = (request: Request) => Promise<import("node:http").IncomingMessage>;
const asks = new Map<string, Promise<Ask>>();

async function byNode(request: Request): Promise<Answer> {
  const protocol = request.url.slice(0, request.url.indexOf(":"));
  let ask = asks.get(protocol);
  if (!ask) asks.set(protocol, (ask = (protocol === "https" ? import("node:https") : import("node:http")).then((module) => askWith(module as Http))));
  const response = await (await ask)(request);
  const all = async (): Promise<Buffer> => {
    const pieces: Buffer[] = [];
    for await (const piece of response) pieces.push(piece as Buffer);
    return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
  };
  return {
    status: response.statusCode ?? 0,
    header: (name) => {
      const value = response.headers[name.toLowerCase()];
      return value === undefined ? null : String(value);
    },
    text: async () => (await all()).toString("utf8"),
    bytes: all,
    pieces: () => response[Symbol.asyncIterator](),
  };
}

/** How long an unused connection is kept: less than any server's patience, so that none is used that just went. */
const IDLE_MS = 4000;

function askWith(module: Http): Ask {
  const agent = new module.Agent({ keepAlive: true, timeout: IDLE_MS });
  return ({ method, url, headers, body, signal }) =>
    new Promise((answered, failed) => {
      const more = body === undefined ? headers : { ...headers, "Content-Length": String(Buffer.byteLength(body as string)) };
      const request = module.request(url, { method, headers: more, agent });
      // Without a reason of its own: whoever waits sees a broken connection, and knows the signal.
      const abort = () => void request.destroy();
      signal.addEventListener("abort", abort, { once: true });
      request.on("close", () => signal.removeEventListener("abort", abort));
      request.on("error", failed).on("response", (response) => {
        response.on("error", () => {}); // whoever reads has heard it; nobody does after the answer was let go
        answered(response);
      });
      request.end(body);
      if (signal.aborted) abort();
    });
}
