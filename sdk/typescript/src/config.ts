/** Where the daemon is and with which key: options first, then CELLA_URL and CELLA_API_KEY, then the default. */

import { InvalidRequest } from "./errors.js";
import { sender, type Send } from "./wire.js";

export const DEFAULT_URL = "http://127.0.0.1:7070";

/** A WebSocket class as browsers, Node 22, Bun, Deno and the package `ws` have it. */
export type WebSocketClass = new (url: string) => WebSocketLike;

/** What this package uses of a WebSocket. */
export interface WebSocketLike {
  binaryType: string;
  send(data: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: any) => void): void;
}

/** How to reach a daemon. Every field has a default. */
export interface ConnectionOptions {
  /** URL of the daemon, or `name:port` (http is meant). Default: `CELLA_URL`, else http://127.0.0.1:7070. */
  host?: string | undefined;
  /** Default: `CELLA_API_KEY`. A daemon on loopback needs none. */
  apiKey?: string | undefined;
  /** How often a request is sent again that has changed nothing: see the README. Default 2; 0: never. */
  maxRetries?: number | undefined;
  /** Used instead of the runtime's own (`node:http` in Node, else the global `fetch`). */
  fetch?: typeof globalThis.fetch | undefined;
  /**
   * W3C trace context that requests carry, so that what Cella does for them joins your trace: a value, or a function that
   * is asked before each. Default: `TRACEPARENT`.
   */
  traceparent?: string | (() => string | undefined) | undefined;
  /** Used instead of the global `WebSocket`, which Node has from version 22 on; `ws` of npm fits. */
  webSocket?: WebSocketClass | undefined;
}

/** @internal */
export interface Config {
  /** Without a slash at its end. */
  url: string;
  apiKey: string | null;
  maxRetries: number;
  send: Send;
  webSocket: WebSocketClass | undefined;
  traceparent: () => string | undefined;
}

/**
 * The configuration that these options and the environment give. Throws InvalidRequest for what is no address.
 * @internal
 */
export function resolve(options: ConnectionOptions = {}): Config {
  const given = (options.host ?? (environment("CELLA_URL") || DEFAULT_URL)).trim();
  const maxRetries = options.maxRetries ?? 2;
  if (!Number.isInteger(maxRetries) || maxRetries < 0) throw new InvalidRequest("maxRetries is a number of times: 0, 1, 2…");
  return {
    url: address(given),
    apiKey: options.apiKey ?? (environment("CELLA_API_KEY") || null),
    maxRetries,
    send: sender(options.fetch),
    traceparent: traceparent(options.traceparent),
    webSocket: options.webSocket ?? (globalThis as { WebSocket?: WebSocketClass }).WebSocket,
  };
}

const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

function traceparent(given: ConnectionOptions["traceparent"]): () => string | undefined {
  if (typeof given === "function") return given;
  if (given !== undefined) {
    if (!TRACEPARENT.test(given)) throw new InvalidRequest(`"${given}" is no traceparent`, { hint: "00-<32 hex digits>-<16 hex digits>-<2 hex digits>" });
    return () => given;
  }
  const inherited = environment("TRACEPARENT");
  return () => (inherited !== undefined && TRACEPARENT.test(inherited) ? inherited : undefined);
}

function address(given: string): string {
  const text = given.includes("://") ? given : `http://${given}`;
  let url: URL | null = null;
  try {
    url = new URL(text);
  } catch {
    // said below
  }
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:") || !url.hostname) {
    throw new InvalidRequest(`"${given}" is not the address of a daemon`, { hint: "use http://name:port" });
  }
  if (url.username || url.password || url.search || url.hash) {
    throw new InvalidRequest("the daemon's address has no name, password, query or fragment", { hint: "the key goes into apiKey" });
  }
  return url.origin + url.pathname.replace(/\/+$/, "");
}

/** Deno throws when the program may not read its environment: then there is none. */
function environment(name: string): string | undefined {
  const scope = globalThis as {
    process?: { env?: Record<string, string | undefined> };
    Deno?: { env: { get(name: string): string | undefined } };
  };
  try {
    return scope.process?.env?.[name] ?? scope.Deno?.env.get(name);
  } catch {
    return undefined;
  }
}
