/** A process whose standard input stays open, over a WebSocket of its own. */

import * as calls from "./calls.js";
import { Channel, parseMessage, Queue } from "./channel.js";
import { CommandError, ConnectionFailed, errorFor } from "./errors.js";
import type { CommandEvent } from "./events.js";
import { some, text } from "./json.js";
import { commandResult, type CommandResult } from "./models.js";
import { processFields, type OutputHandlers, type ProcessOptions } from "./runner.js";
import type { Transport } from "./transport.js";

/** Options of `spawn`. `signal`: an abort kills the process. */
export interface SpawnOptions extends ProcessOptions, OutputHandlers {}

/** Of the daemon's 1 MiB per message, with room for JSON's escapes (at most six characters for one). */
const PIECE = 128 * 1024;
const ID = "p";

/**
 * A running process with its input open. It is killed when the object is closed or the program ends.
 *
 * ```ts
 * await using process = await sandbox.spawn("cat");
 * process.write("hello\n");
 * process.end();
 * console.log((await process.wait()).stdout);
 * ```
 *
 * Iterate over it for its events: the last has type `"end"`. Events wait in memory until they are taken; with `onStdout`
 * and `onStderr` output goes there instead. `wait()` gives the whole output in each case.
 */
export class CommandSession {
  #channel: Channel | null = null;
  #events = new Queue<CommandEvent>();
  #out: { stdout: string[]; stderr: string[] } = { stdout: [], stderr: [] };
  #options: SpawnOptions;
  #finish!: (result: CommandResult) => void;
  #fail!: (error: unknown) => void;
  #result: Promise<CommandResult>;

  /** @internal */
  constructor(options: SpawnOptions) {
    this.#options = options;
    this.#result = new Promise<CommandResult>((finish, fail) => {
      this.#finish = finish;
      this.#fail = fail;
    });
    this.#result.catch(() => {}); // whoever waits hears it; nobody has to wait
  }

  /** Give it text on its standard input. Throws ConnectionFailed when it has ended. */
  write(text: string): void {
    // Never between the halves of a character that takes two units.
    for (let from = 0; from < text.length; ) {
      let to = Math.min(from + PIECE, text.length);
      if (to < text.length && (text.charCodeAt(to - 1) & 0xfc00) === 0xd800) to--;
      this.#send({ stdin: text.slice(from, to) });
      from = to;
    }
  }

  /** End of its standard input. */
  end(): void {
    this.#send({ stdin_eof: true });
  }

  /** Send it a signal: SIGINT, SIGTERM, SIGHUP or SIGKILL. */
  signal(name: "SIGINT" | "SIGTERM" | "SIGHUP" | "SIGKILL"): void {
    this.#send({ signal: name });
  }

  /** Kill it with its children; nothing happens when it has ended already. `wait()` tells how it ended. */
  kill(): void {
    if (this.#channel?.isOpen) this.#send({ cancel: true });
  }

  /** How it ended. With `check`, CommandError unless with exit code 0. ConnectionFailed when nobody knows. */
  async wait(options: { check?: boolean | undefined } = {}): Promise<CommandResult> {
    const result = await this.#result;
    if (options.check && !result.ok) throw new CommandError(result);
    return result;
  }

  /** Its events as they come. One reader at a time. */
  [Symbol.asyncIterator](): AsyncGenerator<CommandEvent, void, undefined> {
    return this.#events[Symbol.asyncIterator]();
  }

  /** Kill it when it still runs, and let go of the connection. */
  close(): void {
    this.#channel?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.#result.catch(() => {});
    this.close();
  }

  #send(fields: Record<string, unknown>): void {
    if (!this.#channel) throw new ConnectionFailed("the process is not started");
    this.#channel.send(JSON.stringify({ id: ID, ...fields }));
  }

  /** @internal */
  started(channel: Channel, fields: Record<string, unknown>): void {
    this.#channel = channel;
    this.#send(some({ ...fields, stdin: true }));
  }

  /** @internal */
  message(data: string): void {
    const message = parseMessage(data);
    const stream = message["stream"];
    if (stream === "stdout" || stream === "stderr") this.#output(stream, text(message["data"]));
    else if ("error" in message) this.ended(errorFor(null, message));
    else if ("exit" in message) this.#exit(message);
  }

  #output(stream: "stdout" | "stderr", chunk: string): void {
    this.#out[stream].push(chunk);
    const handler = stream === "stdout" ? this.#options.onStdout : this.#options.onStderr;
    if (handler) handler(chunk);
    else this.#events.push({ type: stream, text: chunk });
  }

  #exit(message: Record<string, unknown>): void {
    const printed = { stdout: this.#out.stdout.join(""), stderr: this.#out.stderr.join("") };
    const { exit, status, ...rest } = message;
    const command = commandResult({ ...rest, ...printed, id: "", exit_code: exit, exit: status });
    this.#events.push({ type: "end", command });
    this.#events.end();
    this.#finish(command);
    this.close();
  }

  /** @internal */
  ended(error: unknown): void {
    this.#events.end(error);
    this.#fail(error);
    this.close();
  }
}

/** @internal */
export async function openCommand(transport: Transport, sandboxId: string, cmd: calls.Command, options: SpawnOptions): Promise<CommandSession> {
  const session = new CommandSession(options);
  const { signal } = options;
  const lost = () => signal?.aborted ? signal.reason : new ConnectionFailed("the connection broke before the process ended; its outcome is not known", { code: "lost" });
  const events = {
    message: (data: string | Uint8Array) => {
      try {
        if (typeof data === "string") session.message(data);
      } catch (error) {
        session.ended(error);
      }
    },
    closed: () => session.ended(lost()),
  };
  const channel = await Channel.open(transport, sandboxId, calls.commandsPath(sandboxId), {}, events, signal);
  session.started(channel, processFields(cmd, options));
  return session;
}
