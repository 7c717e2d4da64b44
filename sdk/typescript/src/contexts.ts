/** Objects that live inside a sandbox: code contexts and background processes. */

import * as calls from "./calls.js";
import { ConflictError, NotFoundError } from "./errors.js";
import type { CommandEvent, ExecutionEvent } from "./events.js";
import { object } from "./json.js";
import { commandResult, contextInfo, type CommandResult, type ContextInfo } from "./models.js";
import type { Execution } from "./result.js";
import { Runner, type CallOptions, type ExecOptions, type RunOptions, type StreamOptions } from "./runner.js";
import type { Transport } from "./transport.js";

/**
 * An interpreter of its own inside a sandbox: its variables (Python) or directory, environment and functions (shell)
 * stay between runs, apart from those of other contexts. Contexts of a sandbox run side by side; the runs of one
 * context follow each other.
 */
export class CodeContext {
  readonly id: string;
  readonly language: string;
  #transport: Transport;
  #sandboxId: string;
  #runner: Runner;

  /** @internal */
  constructor(transport: Transport, sandboxId: string, info: ContextInfo) {
    this.id = info.id;
    this.language = info.language;
    this.#transport = transport;
    this.#sandboxId = sandboxId;
    this.#runner = new Runner(transport, sandboxId);
  }

  /** As {@link Sandbox.runCode}, in this context. */
  runCode(code: string, options: RunOptions = {}): Promise<Execution> {
    return this.#runner.run(code, undefined, this.id, options);
  }

  /** As {@link Sandbox.runCodeStream}, in this context. */
  runCodeStream(code: string, options: StreamOptions = {}): AsyncGenerator<ExecutionEvent, void, undefined> {
    return this.#runner.stream(code, undefined, this.id, options);
  }

  async info(options: CallOptions = {}): Promise<ContextInfo> {
    return contextInfo(object(await this.#transport.json(calls.context(this.#sandboxId, this.id), options.signal)));
  }

  /** Interrupt what runs. ConflictError when nothing does. */
  async interrupt(): Promise<void> {
    await this.#transport.json(calls.contextAction(this.#sandboxId, this.id, "interrupt"));
  }

  /** A fresh interpreter under the same id; what ran ends as `"killed"`. */
  async restart(): Promise<void> {
    await this.#transport.json(calls.contextAction(this.#sandboxId, this.id, "restart"));
  }

  /** Delete the context. Nothing happens when it is gone already. */
  async close(): Promise<void> {
    try {
      await this.#transport.json(calls.contextDelete(this.#sandboxId, this.id));
    } catch (error) {
      if (!(error instanceof NotFoundError)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A background process. Of its output the daemon keeps the last 256 KiB per stream. */
export class Process {
  /** What requests name it by. */
  readonly id: string;
  /** Its number in the sandbox; null when it is not known. */
  readonly pid: number | null;
  #transport: Transport;
  #sandboxId: string;

  /** @internal */
  constructor(transport: Transport, sandboxId: string, id: string, pid: number | null) {
    this.id = id;
    this.pid = pid;
    this.#transport = transport;
    this.#sandboxId = sandboxId;
  }

  /** How it ended, with the output kept; null while it runs. */
  async result(options: CallOptions = {}): Promise<CommandResult | null> {
    const result = await this.output(options);
    return result.exit === "running" ? null : result;
  }

  /** The output kept so far; while it runs `exit` is `"running"`. */
  async output(options: CallOptions = {}): Promise<CommandResult> {
    const value = object(await this.#transport.json(calls.process(this.#sandboxId, this.id), options.signal));
    const running = value["status"] === "running" || value["status"] === "starting";
    return commandResult(running ? { ...value, exit: "running" } : value);
  }

  /** Its events: first the output kept, then what comes; last `"end"`. Leaving early only ends the watching. */
  attach(options: CallOptions = {}): AsyncGenerator<CommandEvent, void, undefined> {
    return new Runner(this.#transport, this.#sandboxId).command(calls.processAttach(this.#sandboxId, this.id), options.signal);
  }

  /** Wait for its end. Aborting the signal ends the waiting, not the process. */
  wait(options: Pick<ExecOptions, "check" | "onStdout" | "onStderr" | "signal"> = {}): Promise<CommandResult> {
    return new Runner(this.#transport, this.#sandboxId).commandResult(calls.processAttach(this.#sandboxId, this.id), options);
  }

  /** Send a signal to its process group: a number, or a name such as `"SIGINT"`. ConflictError when it has ended. */
  async signal(signal: number | string): Promise<void> {
    await this.#transport.json(calls.processSignal(this.#sandboxId, this.id, signal));
  }

  /** SIGKILL; nothing happens when it has ended already. */
  async kill(): Promise<void> {
    try {
      await this.signal(9);
    } catch (error) {
      if (!(error instanceof ConflictError || error instanceof NotFoundError)) throw error;
    }
  }
}
