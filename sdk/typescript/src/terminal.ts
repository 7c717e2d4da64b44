/** A terminal (PTY) in a sandbox, over a WebSocket. */

import * as calls from "./calls.js";
import { Channel, parseMessage, Queue } from "./channel.js";
import { ConnectionFailed, errorFor } from "./errors.js";
import { numberOrNull, text } from "./json.js";
import type { Exit } from "./result.js";
import type { CallOptions } from "./runner.js";
import type { Transport } from "./transport.js";

/** Options of `pty`. `signal`: an abort ends the terminal and what runs in it. */
export interface TerminalOptions extends CallOptions {
  /** Default 24 × 80. */
  rows?: number | undefined;
  cols?: number | undefined;
  /** For the shell, instead of a login bash. */
  cmd?: string | undefined;
  cwd?: string | undefined;
  user?: "user" | "root" | undefined;
  /** Gets the screen's bytes instead of the iteration. */
  onData?: ((bytes: Uint8Array) => unknown) | undefined;
}

/** How what ran in a terminal ended. */
export interface TerminalExit {
  /** null when a signal ended it. */
  exitCode: number | null;
  signal: number | null;
  exit: Exit;
}

/** A terminal. Iterate over it for the bytes of its screen; they wait in memory until they are taken, unless `onData` is there. */
export class Terminal {
  #channel: Channel | null = null;
  #screen = new Queue<Uint8Array>();
  #options: TerminalOptions;
  #finish!: (exit: TerminalExit) => void;
  #fail!: (error: unknown) => void;
  #exited: Promise<TerminalExit>;

  /** @internal */
  constructor(options: TerminalOptions) {
    this.#options = options;
    this.#exited = new Promise<TerminalExit>((finish, fail) => {
      this.#finish = finish;
      this.#fail = fail;
    });
    this.#exited.catch(() => {}); // whoever waits hears it; nobody has to wait
  }

  /** Type: text (as UTF-8) or bytes, at most 1 MiB at once. Throws ConnectionFailed when it has ended. */
  write(data: string | Uint8Array): void {
    this.#need().send(typeof data === "string" ? new TextEncoder().encode(data) : data);
  }

  resize(rows: number, cols: number): void {
    this.#need().send(JSON.stringify({ resize: { rows, cols } }));
  }

  /** How it ended. ConnectionFailed when nobody knows: it was closed, or the connection broke. */
  wait(): Promise<TerminalExit> {
    return this.#exited;
  }

  /** The screen's bytes as they come. One reader at a time. */
  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#screen[Symbol.asyncIterator]();
  }

  /** End it, and kill what runs in it. */
  close(): void {
    this.#channel?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#exited.catch(() => {});
  }

  #need(): Channel {
    if (!this.#channel) throw new ConnectionFailed("the terminal is not open");
    return this.#channel;
  }

  /** @internal */
  opened(channel: Channel): void {
    this.#channel = channel;
  }

  /** @internal */
  message(data: string | Uint8Array): void {
    if (typeof data !== "string") {
      if (this.#options.onData) this.#options.onData(data);
      else this.#screen.push(data);
      return;
    }
    const message = parseMessage(data);
    if ("error" in message) return this.ended(errorFor(null, message));
    if (!("exit" in message)) return;
    this.#screen.end();
    this.#finish({ exitCode: numberOrNull(message["exit"]), signal: numberOrNull(message["signal"]), exit: text(message["status"], "lost") as Exit });
    this.close();
  }

  /** @internal */
  ended(error: unknown): void {
    this.#screen.end(error);
    this.#fail(error);
    this.close();
  }
}

/** @internal */
export async function openTerminal(transport: Transport, sandboxId: string, options: TerminalOptions): Promise<Terminal> {
  const terminal = new Terminal(options);
  const { rows, cols, cmd, cwd, user, signal } = options;
  const events = {
    message: (data: string | Uint8Array) => {
      try {
        terminal.message(data);
      } catch (error) {
        terminal.ended(error);
      }
    },
    closed: () => terminal.ended(signal?.aborted ? signal.reason : new ConnectionFailed("the terminal's connection was closed", { code: "lost" })),
  };
  terminal.opened(await Channel.open(transport, sandboxId, calls.terminalPath(sandboxId), { rows, cols, cmd, cwd, user }, events, signal));
  return terminal;
}
