/** The sandbox object. */

import { Branching } from "./branching.js";
import * as calls from "./calls.js";
import type { Command } from "./calls.js";
import { resolve, type ConnectionOptions } from "./config.js";
import { CodeContext, Process } from "./contexts.js";
import { NotFoundError } from "./errors.js";
import type { CommandEvent, ExecutionEvent } from "./events.js";
import { Filesystem, type WriteOptions } from "./filesystem.js";
import { list, numberOrNull, object, text, type JsonObject } from "./json.js";
import type { LocalPath } from "./local.js";
import {
  contextInfo, processInfo, sandboxInfo, statsOf,
  type CommandResult, type ContextInfo, type ProcessInfo, type SandboxInfo, type Stats,
} from "./models.js";
import type { Execution } from "./result.js";
import {
  processFields, Runner,
  type CallOptions, type ExecOptions, type ExecStreamOptions, type ProcessOptions, type RunOptions, type StreamOptions,
} from "./runner.js";
import type { Snapshot } from "./snapshots.js";
import { CommandSession, openCommand, type SpawnOptions } from "./session.js";
import { openTerminal, type Terminal, type TerminalOptions } from "./terminal.js";
import { madeOrUndone, Transport } from "./transport.js";
import type { Answer } from "./wire.js";

const DEFAULT_CONTEXT = "default";

/** How a sandbox is made. An abort rejects at once; a sandbox that is made all the same is deleted. */
export interface CreateOptions extends CallOptions {
  /** Name of the image to start from. Default: the daemon's (Python with numpy, pandas, matplotlib). */
  template?: string | undefined;
  /** Environment of everything that runs in it. */
  env?: Record<string, string> | undefined;
  /** Strings of your own, for {@link Sandbox.list}. */
  metadata?: Record<string, string> | undefined;
  /** It ends this long after its creation; null: never. Default: the daemon's. */
  ttlSeconds?: number | null | undefined;
  /** It ends when no request came for this long; null: never. Default: the daemon's. */
  idleTimeoutSeconds?: number | null | undefined;
  limits?: Limits | undefined;
  /** Loopback only. Other modes throw UnsupportedError in this version. */
  network?: { mode: "none" } | undefined;
  /** Start as this snapshot (or its id or name) instead of a template. */
  fromSnapshot?: Snapshot | string | undefined;
  /** It belongs to a Space: `close()` and timeouts freeze it, only `delete()` ends it. */
  persistent?: boolean | undefined;
  /** What "ends" means above. Default `"freeze"` when persistent, else `"delete"`. */
  onTimeout?: "freeze" | "delete" | undefined;
  /**
   * What isolates it: `"process"` (shares the host's kernel) or `"microvm"` (a virtual machine of its own). Default: whichever the daemon
   * prefers. UnsupportedError when the daemon cannot, or will not; its text says why.
   */
  driver?: "auto" | "process" | "microvm" | undefined;
}

/** What a sandbox may use. Without one of them: the daemon's default. */
export interface Limits {
  memoryMb?: number | undefined;
  /** 1 is one CPU. */
  cpus?: number | undefined;
  /** Processes and threads. */
  pids?: number | undefined;
  diskMb?: number | undefined;
  /** Per process. */
  openFiles?: number | undefined;
}

/** Where code runs. */
export interface Where {
  /** `"python"` (default) or `"bash"`; each has one context that keeps its state. */
  language?: string | undefined;
  /** Run in this context (or its id) instead. */
  context?: CodeContext | string | undefined;
}

/** Which sandboxes. */
export interface SandboxFilter {
  /** Those that have every pair of it. */
  metadata?: Record<string, string> | undefined;
  /** Those with this status. */
  state?: string | undefined;
}

/** What to change about a sandbox's life. What is not given stays. */
export interface LifecyclePatch {
  /** Counted from now; null: no end. */
  ttlSeconds?: number | null | undefined;
  idleTimeoutSeconds?: number | null | undefined;
  onTimeout?: "freeze" | "delete" | undefined;
  /** Makes a Space of it, or an ordinary sandbox again. */
  persistent?: boolean | undefined;
  metadata?: Record<string, string> | undefined;
}

/**
 * An isolated machine of its own for code nobody reviewed.
 *
 * ```ts
 * await using sandbox = await Sandbox.create();
 * await sandbox.runCode("x = 20 + 1");
 * console.log((await sandbox.runCode("x * 2")).text); // 42
 * ```
 *
 * Leaving the `await using` block (or {@link close}) deletes it with everything in it. A persistent sandbox is frozen
 * instead: its live objects wait on the disk under its `spaceId`, for {@link Sandbox.resume}.
 */
export class Sandbox extends Branching {
  /** What requests name it by; stays over freezing, and over a merge into it. */
  readonly id: string;
  readonly filesystem: Filesystem;
  /** @internal */
  protected readonly transport: Transport;
  #runner: Runner;
  #spaceId: string | null;
  #persistent: boolean;
  #onTimeout: "freeze" | "delete";
  #mergedInto: string | null = null;
  #closing: Promise<void> | null = null;
  #remaining: { seconds: number | null; at: number };

  private constructor(transport: Transport, info: SandboxInfo) {
    super();
    this.id = info.id;
    this.#spaceId = info.spaceId;
    this.#persistent = info.persistent || info.spaceId !== null;
    this.#onTimeout = info.onTimeout;
    this.#remaining = { seconds: info.remainingSeconds, at: performance.now() };
    this.transport = transport.watched((answer) => this.#learn(answer));
    this.#runner = new Runner(this.transport, info.id);
    this.filesystem = new Filesystem(this.transport, info.id);
  }

  // ---- finding ----

  /**
   * A new sandbox, ready.
   *
   * Throws ConnectionFailed, AuthenticationError, InvalidRequest, NotFoundError (template, snapshot), LimitError,
   * UnavailableError, ImageRefused (snapshot).
   */
  static create(options?: CreateOptions & ConnectionOptions): Promise<Sandbox>;
  static create(template: string, options?: CreateOptions & ConnectionOptions): Promise<Sandbox>;
  static create(first: string | (CreateOptions & ConnectionOptions) = {}, second: CreateOptions & ConnectionOptions = {}): Promise<Sandbox> {
    const options = typeof first === "string" ? { ...second, template: first } : first;
    return Sandbox.createOn(new Transport(resolve(options)), options);
  }

  /** A sandbox that exists already, running or frozen. NotFoundError when there is none, GoneError when it has ended. */
  static connect(id: string, options: ConnectionOptions & CallOptions = {}): Promise<Sandbox> {
    return Sandbox.connectOn(new Transport(resolve(options)), id, options);
  }

  /**
   * The sandbox of a Space, awake, with the objects it had. NotFoundError when there is no such Space, ImageRefused
   * when it does not fit this host any more.
   */
  static resume(spaceId: string, options: ConnectionOptions & CallOptions = {}): Promise<Sandbox> {
    return Sandbox.resumeOn(new Transport(resolve(options)), spaceId, options);
  }

  /** Living and frozen sandboxes, oldest first. */
  static list(options: SandboxFilter & ConnectionOptions & CallOptions = {}): Promise<SandboxInfo[]> {
    return Sandbox.listOn(new Transport(resolve(options)), options);
  }

  /** @internal */
  static createOn(transport: Transport, options: CreateOptions): Promise<Sandbox> {
    const make = async () => new Sandbox(transport, sandboxInfo(object(await transport.json(calls.create(createFields(options))))));
    return madeOrUndone(make, options.signal, (sandbox) => sandbox.delete());
  }

  /** @internal */
  static async connectOn(transport: Transport, id: string, options: CallOptions): Promise<Sandbox> {
    return new Sandbox(transport, sandboxInfo(object(await transport.json(calls.describe(id), options.signal))));
  }

  /** @internal */
  static async resumeOn(transport: Transport, spaceId: string, options: CallOptions): Promise<Sandbox> {
    const info = sandboxInfo(object(await transport.json(calls.spaceResume(spaceId), options.signal)));
    return new Sandbox(transport, { ...info, spaceId, persistent: true });
  }

  /** @internal */
  static async listOn(transport: Transport, options: SandboxFilter & CallOptions): Promise<SandboxInfo[]> {
    return list(await transport.json(calls.listSandboxes(options.metadata, options.state), options.signal)).map(sandboxInfo);
  }

  // ---- what is known without asking ----

  /** For {@link Sandbox.resume}; null when it is not persistent. */
  get spaceId(): string | null {
    return this.#spaceId;
  }
  /** `close()` freezes it instead of deleting it. */
  get persistent(): boolean {
    return this.#persistent;
  }
  /** What happens when its time is over, as the newest answer said. */
  get onTimeout(): "freeze" | "delete" {
    return this.#onTimeout;
  }
  /** Id of the sandbox that took this one's state over, else null. */
  get mergedInto(): string | null {
    return this.#mergedInto;
  }
  /**
   * Seconds until its time is over and `onTimeout` happens, as far as the newest answer told; null: it has no end. Asks
   * nobody: a request would itself be activity.
   */
  get remainingSeconds(): number | null {
    const { seconds, at } = this.#remaining;
    return seconds === null ? null : Math.max(0, seconds - (performance.now() - at) / 1000);
  }

  // ---- code ----

  /**
   * Run code and wait for its end. Whatever the code does, an Execution comes back: look at its `exit` and `error`, or
   * ask for an ExecutionError with `check: true`.
   */
  runCode(code: string, options: RunOptions & Where = {}): Promise<Execution> {
    return this.#runner.run(code, languageOf(options), contextId(options.context), options);
  }

  /**
   * Run code and yield its events as they happen; the last has type `"end"` and the whole Execution. Leaving the loop
   * early interrupts the code. A stream that breaks throws ConnectionFailed. The code starts with the first `next()`.
   */
  runCodeStream(code: string, options: StreamOptions & Where = {}): AsyncGenerator<ExecutionEvent, void, undefined> {
    return this.#runner.stream(code, languageOf(options), contextId(options.context), options);
  }

  /** Answer an `"input_request"` event; null: end of input. */
  answerInput(executionId: string, line: string | null): Promise<void> {
    return this.#runner.answer(executionId, line);
  }

  /** A further interpreter with a state of its own. */
  async createCodeContext(options: CallOptions & { language?: string; cwd?: string; env?: Record<string, string> } = {}): Promise<CodeContext> {
    const { language = "python", cwd, env, signal } = options;
    const answer = await this.transport.json(calls.contextCreate(this.id, { language, cwd, env }), signal);
    return new CodeContext(this.transport, this.id, contextInfo(object(answer)));
  }

  async listCodeContexts(options: CallOptions = {}): Promise<ContextInfo[]> {
    return list(await this.transport.json(calls.contextList(this.id), options.signal)).map(contextInfo);
  }

  /** Interrupt what runs in a context (the default Python one). ConflictError when nothing does. */
  async interrupt(context: CodeContext | string = DEFAULT_CONTEXT): Promise<void> {
    await this.transport.json(calls.contextAction(this.id, contextId(context) ?? DEFAULT_CONTEXT, "interrupt"));
  }

  /** A fresh interpreter under the same id; what ran ends as `"killed"`. */
  async restartContext(context: CodeContext | string = DEFAULT_CONTEXT): Promise<void> {
    await this.transport.json(calls.contextAction(this.id, contextId(context) ?? DEFAULT_CONTEXT, "restart"));
  }

  // ---- processes ----

  /**
   * Run a process and wait for its end. `cmd`: a string for the shell, or a list of arguments. Whatever it does, a
   * CommandResult comes back, unless `check: true` asks for a CommandError.
   */
  exec(cmd: Command, options: ExecOptions = {}): Promise<CommandResult> {
    return this.#runner.commandResult(calls.exec(this.id, processFields(cmd, options)), options);
  }

  /**
   * Run a process and yield its output as it comes; the last event has type `"end"` and the CommandResult. Leaving the
   * loop early kills the process.
   */
  execStream(cmd: Command, options: ExecStreamOptions = {}): AsyncGenerator<CommandEvent, void, undefined> {
    return this.#runner.command(calls.exec(this.id, processFields(cmd, options)), options.signal);
  }

  /** Start a background process and return at once. It lives on when this program ends. */
  async start(cmd: Command, options: ProcessOptions = {}): Promise<Process> {
    const value = object(await this.transport.json(calls.start(this.id, processFields(cmd, options)), options.signal));
    return new Process(this.transport, this.id, text(value["id"]), numberOrNull(value["pid"]));
  }

  /** A background process that was started before, by its id. NotFoundError when there is none. */
  async getProcess(id: string, options: CallOptions = {}): Promise<Process> {
    const value = object(await this.transport.json(calls.process(this.id, id), options.signal));
    return new Process(this.transport, this.id, text(value["id"], id), numberOrNull(value["pid"]));
  }

  /**
   * Start a process whose standard input stays open, over a WebSocket of its own: it ends when the object is closed, or
   * this program ends. Throws UnsupportedError where there is no WebSocket (see the README).
   */
  spawn(cmd: Command, options: SpawnOptions = {}): Promise<CommandSession> {
    return openCommand(this.transport, this.id, cmd, options);
  }

  /** Open a terminal. Throws UnsupportedError where there is no WebSocket (see the README). */
  pty(options: TerminalOptions = {}): Promise<Terminal> {
    return openTerminal(this.transport, this.id, options);
  }

  /** Every process in the sandbox as its kernel sees it. */
  async listProcesses(options: CallOptions = {}): Promise<ProcessInfo[]> {
    return list(await this.transport.json(calls.processes(this.id), options.signal)).map(processInfo);
  }

  // ---- files ----

  /** Copy a local file into the sandbox. Returns its bytes. */
  upload(local: LocalPath, path: string, options: WriteOptions = {}): Promise<number> {
    return this.filesystem.upload(local, path, options);
  }

  /** Copy a file out. The local file appears only when it is complete. Returns its bytes. */
  download(path: string, local: LocalPath, options: CallOptions = {}): Promise<number> {
    return this.filesystem.download(path, local, options);
  }

  // ---- life ----

  async info(options: CallOptions = {}): Promise<SandboxInfo> {
    return sandboxInfo(object(await this.transport.json(calls.describe(this.id), options.signal)));
  }

  /** What it uses now. */
  async stats(options: CallOptions = {}): Promise<Stats> {
    return statsOf(object(await this.transport.json(calls.stats(this.id), options.signal)));
  }

  /** The last lines (256 KiB) that code and processes printed. */
  logs(stream: "stdout" | "stderr" | "both" = "both", options: CallOptions = {}): Promise<string> {
    return this.transport.read(calls.logs(this.id, stream), options.signal, (answer) => answer.text());
  }

  /** TCP ports that programs in it listen on. */
  async ports(options: CallOptions = {}): Promise<{ port: number; pid: number | null }[]> {
    const answer = list(await this.transport.json(calls.ports(this.id), options.signal));
    return answer.map((value) => ({ port: numberOrNull(value["port"]) ?? 0, pid: numberOrNull(value["pid"]) }));
  }

  /** The network policy. UnsupportedError in this version: every sandbox has loopback only. */
  async network(options: CallOptions = {}): Promise<JsonObject> {
    return object(await this.transport.json(calls.network(this.id), options.signal));
  }

  /** Change the network policy of a living sandbox. UnsupportedError in this version. */
  async setNetwork(policy: JsonObject, options: CallOptions = {}): Promise<JsonObject> {
    return object(await this.transport.json(calls.networkSet(this.id, policy), options.signal));
  }

  /** Stop every process of the sandbox where it is; memory is kept. */
  async pause(options: CallOptions = {}): Promise<void> {
    await this.transport.json(calls.pause(this.id), options.signal);
  }

  /** Let a paused sandbox go on. ({@link wake} is for a frozen one.) */
  async unpause(options: CallOptions = {}): Promise<void> {
    await this.transport.json(calls.unpause(this.id), options.signal);
  }

  /** Change when the sandbox ends (or freezes: `onTimeout`), and more. */
  async setLifecycle(patch: LifecyclePatch, options: CallOptions = {}): Promise<void> {
    const { ttlSeconds, idleTimeoutSeconds, onTimeout, persistent, metadata } = patch;
    const fields = { ttl_seconds: ttlSeconds, idle_timeout_seconds: idleTimeoutSeconds, on_timeout: onTimeout, persistent, metadata };
    const answer = object(await this.transport.json(calls.lifecycle(this.id, fields), options.signal));
    this.#persistent = answer["persistent"] === true;
    this.#spaceId = this.#persistent && typeof answer["space_id"] === "string" ? answer["space_id"] : null;
  }

  /**
   * Delete the sandbox, or freeze it when it is persistent. Nothing happens when it is closed, merged or gone already.
   * A close that failed can be tried again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#end(this.#persistent ? () => this.hibernate() : () => this.transport.json(calls.remove(this.id)));
    return this.#closing;
  }

  /** Delete the sandbox with everything in it, its Space too. Nothing happens when it is merged or gone already. */
  delete(): Promise<void> {
    if (this.#mergedInto !== null) return Promise.resolve();
    const earlier = this.#closing;
    this.#closing = this.#end(async () => {
      await earlier?.catch(() => {});
      await this.transport.json(calls.remove(this.id));
    });
    return this.#closing;
  }

  /** The same as {@link delete}. */
  kill(): Promise<void> {
    return this.delete();
  }

  async #end(how: () => Promise<unknown>): Promise<void> {
    try {
      await how();
    } catch (error) {
      if (error instanceof NotFoundError) return;
      this.#closing = null;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** `using` cannot wait: closing begins, and a failure is only a warning on the console. `await using` is better. */
  [Symbol.dispose](): void {
    this.close().catch((error: unknown) => console.warn(`sandbox ${this.id} could not be closed: ${String(error)}`));
  }

  // ---- for its relatives ----

  /** Every answer about the sandbox says how long it has and what then. */
  #learn(answer: Answer): void {
    const then = answer.header("X-Cella-On-Timeout");
    if (then === null) return;
    const seconds = parseFloat(answer.header("X-Cella-Remaining-Seconds") ?? "");
    this.#onTimeout = then === "freeze" ? "freeze" : "delete";
    this.#remaining = { seconds: Number.isNaN(seconds) ? null : seconds, at: performance.now() };
  }

  /** @internal */
  protected learnSpace(spaceId: string): void {
    this.#spaceId = spaceId;
  }

  /** @internal */
  protected branch(description: JsonObject): Sandbox {
    return new Sandbox(this.transport.unwatched(), sandboxInfo(description));
  }

  /** @internal */
  mergedAway(parentId: string): void {
    this.#mergedInto = parentId;
    this.#closing = Promise.resolve();
  }
}

function createFields(options: CreateOptions): JsonObject {
  const { template, env, metadata, ttlSeconds, idleTimeoutSeconds, limits, network, fromSnapshot, persistent, onTimeout, driver } = options;
  const { memoryMb, cpus, pids, diskMb, openFiles } = limits ?? {};
  return {
    template,
    env,
    metadata,
    ttl_seconds: ttlSeconds,
    idle_timeout_seconds: idleTimeoutSeconds,
    limits: limits && { memory_mb: memoryMb, cpus, pids, disk_mb: diskMb, open_files: openFiles },
    network,
    from_snapshot: typeof fromSnapshot === "string" ? fromSnapshot : fromSnapshot?.id,
    persistent,
    on_timeout: onTimeout,
    driver,
  };
}

function contextId(context: CodeContext | string | undefined): string | undefined {
  return typeof context === "string" ? context : context?.id;
}

function languageOf(where: Where): string | undefined {
  return where.language ?? (where.context === undefined ? "python" : undefined);
}
