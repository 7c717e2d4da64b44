/** A command of a session, which may outlive the call that started it. */

import type { Sandbox } from "../sandbox.js";
import type { CommandSession } from "../session.js";
import type { Terminal } from "../terminal.js";
import type { ExecArgs } from "./agents-session.js";
import { shorten } from "./shared.js";

/** What a command printed since the last call, and how it ended: without `exitCode` and with `sessionId` it goes on. */
export interface ExecResult {
  /** Both streams as they came. */
  output: string;
  stdout: string;
  stderr: string;
  wallTimeSeconds: number;
  /** null: a signal ended it. */
  exitCode?: number | null;
  sessionId?: number;
  /** Of an output that was cut. */
  originalTokenCount?: number;
}

const TOKEN = 4; // characters, as the framework counts

/** @internal */
export class Running {
  #process: CommandSession | null = null;
  #terminal: Terminal | null = null;
  #new: { both: string; stdout: string; stderr: string } = { both: "", stdout: "", stderr: "" };
  #exitCode: number | null = null;
  #failure: unknown = null;
  #done: Promise<void> = Promise.resolve();
  ended = false;

  static async start(sandbox: Sandbox, args: ExecArgs & { cwd: string; user: "user" | "root" | undefined }): Promise<Running> {
    const running = new Running();
    const { cmd, cwd, user, tty, shell, login } = args;
    const print = (stream: "stdout" | "stderr") => (text: string) => {
      running.#new[stream] += text;
      running.#new.both += text;
    };
    let exit: Promise<{ exitCode: number | null }>;
    if (tty) {
      const decoder = new TextDecoder();
      const onData = (bytes: Uint8Array) => print("stdout")(decoder.decode(bytes, { stream: true }));
      running.#terminal = await sandbox.pty({ cmd, cwd, user, onData });
      exit = running.#terminal.wait();
    } else {
      const argv = [shell ?? "/bin/bash", login === false ? "-c" : "-lc", cmd];
      running.#process = await sandbox.spawn(argv, { cwd, user, onStdout: print("stdout"), onStderr: print("stderr") });
      exit = running.#process.wait();
    }
    running.#done = exit.then(
      ({ exitCode }) => void ((running.#exitCode = exitCode), (running.ended = true)),
      (error: unknown) => void ((running.#failure = error), (running.ended = true)),
    );
    return running;
  }

  /** Type; `\u0003` interrupts. Nothing happens when it has ended. */
  write(chars: string): void {
    if (this.ended || chars === "") return;
    if (this.#terminal) return this.#terminal.write(chars);
    if (chars.includes("\u0003")) this.#process?.signal("SIGINT");
    const rest = chars.replaceAll("\u0003", "");
    if (rest) this.#process?.write(rest);
  }

  /** Until it ends, at most so long; then what is new. Throws when nobody knows how it ended. */
  async wait(ms: number, maxTokens: number | undefined): Promise<ExecResult> {
    const begun = performance.now();
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([this.#done, new Promise((late) => (timer = setTimeout(late, ms)))]);
    clearTimeout(timer);
    if (this.#failure) throw this.#failure;
    const { both, stdout, stderr } = this.#new;
    this.#new = { both: "", stdout: "", stderr: "" };
    const cut = maxTokens !== undefined && both.length > maxTokens * TOKEN;
    return {
      output: cut ? shorten(both, maxTokens * TOKEN) : both,
      stdout,
      stderr,
      wallTimeSeconds: (performance.now() - begun) / 1000,
      ...(this.ended && { exitCode: this.#exitCode }),
      ...(cut && { originalTokenCount: Math.ceil(both.length / TOKEN) }),
    };
  }

  close(): void {
    this.#process?.close();
    this.#terminal?.close();
  }
}
