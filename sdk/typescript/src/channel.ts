/**
 * A WebSocket to the daemon. It cannot set headers, so the key goes into the query, as the API allows for it.
 *
 * WebSockets have no way to slow the sender down: what is not taken yet is kept in memory.
 */

import type { WebSocketLike } from "./config.js";
import * as calls from "./calls.js";
import { CellaError, ConnectionFailed, UnsupportedError } from "./errors.js";
import type { Transport } from "./transport.js";

/** Who gets what arrives. `closed` is called once, last. @internal */
export interface ChannelEvents {
  message(data: string | Uint8Array): void;
  closed(): void;
}

/** @internal */
export class Channel {
  #socket: WebSocketLike;
  #open = true;

  private constructor(socket: WebSocketLike) {
    this.#socket = socket;
  }

  /** Rejects with what the daemon says about the sandbox when there is no WebSocket to be had from it. */
  static async open(
    transport: Transport,
    sandboxId: string,
    path: string,
    query: Record<string, string | number | undefined>,
    events: ChannelEvents,
    signal: AbortSignal | undefined,
  ): Promise<Channel> {
    const { webSocket: Socket, apiKey, url } = transport.config;
    if (!Socket) {
      const hint = "use Node 22 or newer, Bun or Deno, or pass a class as the option webSocket (that of the package ws fits)";
      throw new UnsupportedError("this JavaScript runtime has no WebSocket", { hint });
    }
    signal?.throwIfAborted();
    const address = new URL(url.replace(/^http/, "ws") + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) address.searchParams.set(name, String(value));
    if (apiKey) address.searchParams.set("token", apiKey);
    const socket = new Socket(address.href);
    socket.binaryType = "arraybuffer";
    const channel = new Channel(socket);
    const opened = await channel.#opened(events, signal);
    if (opened) return channel;
    signal?.throwIfAborted();
    // The handshake's answer is hidden from programs: ask again in a way that shows what is wrong.
    await transport.json(calls.describe(sandboxId), signal);
    throw new ConnectionFailed(`no WebSocket to ${url}${path}`);
  }

  #opened(events: ChannelEvents, signal: AbortSignal | undefined): Promise<boolean> {
    return new Promise((done) => {
      let open = false;
      const abort = () => this.#socket.close();
      const end = () => {
        if (!this.#open) return;
        this.#open = false;
        signal?.removeEventListener("abort", abort);
        if (open) events.closed();
        done(false);
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.#socket.addEventListener("open", () => done((open = true)));
      this.#socket.addEventListener("close", end);
      this.#socket.addEventListener("error", end);
      this.#socket.addEventListener("message", (event: { data: unknown }) => {
        if (typeof event.data === "string") events.message(event.data);
        else if (event.data instanceof ArrayBuffer) events.message(new Uint8Array(event.data));
      });
    });
  }

  /** False when it is closed. */
  get isOpen(): boolean {
    return this.#open;
  }

  /** Throws ConnectionFailed when it is closed. */
  send(data: string | Uint8Array): void {
    if (!this.#open) throw new ConnectionFailed("the connection to the process is closed");
    this.#socket.send(data);
  }

  close(): void {
    if (this.#open) this.#socket.close();
  }
}

/** The object in a text message. @internal */
export function parseMessage(data: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // said below
  }
  throw new CellaError("the daemon sent a message that is not a JSON object");
}

/** Values that wait for a reader; one reader at a time. @internal */
export class Queue<T> {
  #values: T[] = [];
  #ended = false;
  #error: unknown = null;
  #wake: (() => void) | null = null;

  push(value: T): void {
    if (this.#ended) return;
    this.#values.push(value);
    this.#wake?.();
  }

  /** After what is in it, the readers end; with an error they throw it. */
  end(error: unknown = null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const batch = this.#values;
      this.#values = [];
      yield* batch;
      if (this.#values.length) continue;
      if (this.#error) throw this.#error;
      if (this.#ended) return;
      await new Promise<void>((done) => (this.#wake = done));
    }
  }
}
