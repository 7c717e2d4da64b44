/** Runs code and processes and follows their streams: what Sandbox, CodeContext and Process share. */

import * as calls from "./calls.js";
import { CommandError, ConnectionFailed, ExecutionError } from "./errors.js";
import { CommandCollector, ExecutionCollector, type CommandEvent, type ExecutionEvent } from "./events.js";
import { ndjson } from "./lines.js";
import type { CommandResult } from "./models.js";
import type { Execution, Result } from "./result.js";
import type { Call, Transport } from "./transport.js";

/** Options of calls that take only this. */
export interface CallOptions {
  /** Ends the call: it rejects with the signal's reason, and what it started is interrupted as far as the API allows. */
  signal?: AbortSignal | undefined;
}

/** Gets what is printed, or shown. A promise that it returns is waited for, and so paces the code. */
export interface OutputHandlers {
  onStdout?: ((text: string) => unknown) | undefined;
  onStderr?: ((text: string) => unknown) | undefined;
}

/** How code is run. `signal`: an abort interrupts the code; its state stays. */
export interface StreamOptions extends CallOptions {
  /** Then the code is interrupted, its state kept, and `exit` is `"timeout"`. Default: never. */
  timeoutSeconds?: number | undefined;
  /** Environment variables for this run only. */
  env?: Record<string, string> | undefined;
  /** Figures as SVG too. */
  svg?: boolean | undefined;
}

/** Options of `ctx.runCode`. */
export interface RunOptions extends StreamOptions, OutputHandlers {
  /** Throw ExecutionError unless `exit` is `"ok"`. */
  check?: boolean | undefined;
  /** Called with each Result as it is displayed. */
  onResult?: ((result: Result) => unknown) | undefined;
  /**
   * Called with the prompt of `input()`; gives the line, or null for end of input. Without it `input()` raises
   * EOFError in the sandbox.
   */
  onInput?: ((prompt: string) => string | null | Promise<string | null>) | undefined;
}

/** How a process is started. */
export interface ProcessOptions extends CallOptions {
  /** Default: /workspace. */
  cwd?: string | undefined;
  env?: Record<string, string> | undefined;
  /** `"root"`: uid 0 of the sandbox, without capabilities. Default `"user"`. */
  user?: "user" | "root" | undefined;
  /** Then it and its children are killed, and `exit` is `"timeout"`. Default: never. */
  timeoutSeconds?: number | undefined;
}

/** Options of `execStream`. `signal`: an abort kills the process and its group. */
export interface ExecStreamOptions extends ProcessOptions {
  /** Text for its standard input. */
  stdin?: string | undefined;
}

/** Options of `exec`. */
export interface ExecOptions extends ExecStreamOptions, OutputHandlers {
  /** Throw CommandError unless it ended with exit code 0. */
  check?: boolean | undefined;
}

/** The wire's fields of ProcessOptions. @internal */
export function processFields(cmd: calls.Command, options: ExecStreamOptions): Record<string, unknown> {
  const { cwd, env, user, stdin, timeoutSeconds } = options;
  return { cmd, cwd, env, user, stdin, timeout_seconds: timeoutSeconds };
}

/** @internal */
export class Runner {
  #transport: Transport;
  #id: string;

  constructor(transport: Transport, sandboxId: string) {
    this.#transport = transport;
    this.#id = sandboxId;
  }

  async run(code: string, language: string | undefined, context: string | undefined, options: RunOptions): Promise<Execution> {
    const execution = await this.#collect(this.stream(code, language, context, options), options);
    if (options.check && !execution.ok) throw new ExecutionError(execution);
    return execution;
  }

  async #collect(events: AsyncIterable<ExecutionEvent>, options: RunOptions): Promise<Execution> {
    let execution: Execution | null = null;
    for await (const event of events) {
      if (event.type === "stdout") await options.onStdout?.(event.text);
      else if (event.type === "stderr") await options.onStderr?.(event.text);
      else if (event.type === "display" || event.type === "result") await options.onResult?.(event.result);
      else if (event.type === "input_request") await this.answer(event.executionId, (await options.onInput?.(event.prompt)) ?? null);
      else if (event.type === "end") execution = event.execution;
    }
    return execution ?? lost();
  }

  async *stream(
    code: string,
    language: string | undefined,
    context: string | undefined,
    options: StreamOptions,
  ): AsyncGenerator<ExecutionEvent, void, undefined> {
    const { timeoutSeconds, env, svg, signal } = options;
    const fields = { code, language, context_id: context, timeout_seconds: timeoutSeconds, env, svg };
    const collector = new ExecutionCollector();
    for await (const raw of ndjson(this.#transport.pieces(calls.execute(this.#id, fields), signal))) {
      const event = collector.feed(raw);
      if (event) yield event;
    }
    collector.finish();
  }

  /** Answer `input()`; null: end of input. */
  async answer(executionId: string, line: string | null): Promise<void> {
    await this.#transport.json(calls.executionInput(this.#id, executionId, line));
  }

  async *command(call: Call, signal: AbortSignal | undefined): AsyncGenerator<CommandEvent, void, undefined> {
    const collector = new CommandCollector();
    for await (const raw of ndjson(this.#transport.pieces(call, signal))) {
      const event = collector.feed(raw);
      if (event) yield event;
    }
    collector.finish();
  }

  async commandResult(call: Call, options: ExecOptions): Promise<CommandResult> {
    let result: CommandResult | null = null;
    for await (const event of this.command(call, options.signal)) {
      if (event.type === "stdout") await options.onStdout?.(event.text);
      else if (event.type === "stderr") await options.onStderr?.(event.text);
      else if (event.type === "end") result = event.command;
    }
    if (result && options.check && !result.ok) throw new CommandError(result);
    return result ?? lost();
  }
}

/** Streams without an end throw before this can be reached. */
function lost(): never {
  throw new ConnectionFailed("the daemon did not say how it ended", { code: "lost" });
}
