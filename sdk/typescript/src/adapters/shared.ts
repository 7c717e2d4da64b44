/** What the adapters share: a sandbox that is made when first needed, and what a model is told about its code. */

import type { ConnectionOptions } from "../config.js";
import type { Execution } from "../result.js";
import { Sandbox, type CreateOptions } from "../sandbox.js";

/** Options of every tool for models. */
export interface ToolOptions {
  /** Run in this sandbox, which is yours to close. Default: one of the tool's own, made when the model first runs something. */
  sandbox?: Sandbox | undefined;
  /** How the tool's own sandbox is made. */
  create?: (Omit<CreateOptions, "signal"> & ConnectionOptions) | undefined;
  /** What the model calls it. Default `"run_python"` (`"code_execution"` for Anthropic's models). */
  name?: string | undefined;
  /** What the model knows about it. */
  description?: string | undefined;
  /** Of one run; then the code is interrupted and the model is told. Default 120. */
  timeoutSeconds?: number | undefined;
  /** A longer output loses its middle, and says so. Default 20 000 characters. */
  maxChars?: number | undefined;
  /** Gets each run as it was, for what the model does not see. */
  onExecution?: ((execution: Execution) => unknown) | undefined;
}

/** @internal */
export const DESCRIPTION =
  "Runs Python code in an isolated sandbox and returns what it printed and the value of its last expression. Variables, imports and " +
  "files stay between calls. numpy, pandas and matplotlib are there; open figures are returned as images.";

/** The tool's input, as JSON schema. @internal */
export const CODE_INPUT = {
  type: "object",
  properties: { code: { type: "string", description: "Python code. State stays between calls." } },
  required: ["code"],
  additionalProperties: false,
} as const;

/** The code in a tool call's input; null when there is none. @internal */
export function codeOf(input: unknown): string | null {
  const code = typeof input === "object" && input !== null ? (input as { code?: unknown }).code : undefined;
  return typeof code === "string" ? code : null;
}

/** The sandbox of a tool: the given one, or one of its own. @internal */
export class Lent {
  #options: ToolOptions;
  #own: Promise<Sandbox> | null = null;

  constructor(options: ToolOptions) {
    this.#options = options;
  }

  /** Calls that come at once get the same one. After a failure the next call tries again. */
  sandbox(): Promise<Sandbox> {
    if (this.#options.sandbox) return Promise.resolve(this.#options.sandbox);
    const made = (this.#own ??= Sandbox.create(this.#options.create));
    made.catch(() => this.#own === made && (this.#own = null));
    return made;
  }

  async run(code: string, signal?: AbortSignal): Promise<Execution> {
    const { timeoutSeconds = 120, onExecution } = this.#options;
    const execution = await (await this.sandbox()).runCode(code, { timeoutSeconds, signal });
    await onExecution?.(execution);
    return execution;
  }

  /** End its own sandbox; a given one stays. */
  async close(): Promise<void> {
    const own = this.#own;
    this.#own = null;
    await (await own?.catch(() => null))?.close();
  }
}

/** What a model is told about a run. @internal */
export function report(execution: Execution, maxChars = 20_000): string {
  const { stdout, text, stderr, error, exit, exitCode } = execution;
  const parts = [stdout.trimEnd(), text ?? "", stderr && `stderr:\n${stderr.trimEnd()}`, error?.traceback || (error && `${error.name}: ${error.value}`)];
  if (!error && exit !== "ok") parts.push(`[the code ended with "${exit}"${exitCode === null ? "" : `, exit code ${exitCode}`}]`);
  if (execution.contextRestarted) parts.push("[all variables are gone: the interpreter was started afresh]");
  for (const [stream, { droppedBytes }] of Object.entries(execution.truncated ?? {})) parts.push(`[${droppedBytes} bytes of ${stream} are left out]`);
  return shorten(parts.filter(Boolean).join("\n"), maxChars) || "(no output)";
}

/** Without its middle when it is longer than `max`, which is said. @internal */
export function shorten(text: string, max: number): string {
  if (text.length <= max) return text;
  const half = Math.floor(max / 2);
  return `${text.slice(0, half)}\n[… ${text.length - 2 * half} characters are left out …]\n${text.slice(text.length - half)}`;
}

/** A picture, as base64. */
export interface Picture {
  mediaType: "image/png" | "image/jpeg";
  data: string;
}

/** The pictures of a run: figures, and what was displayed. @internal */
export function pictures(execution: Execution): Picture[] {
  return execution.results.flatMap(({ data }) => {
    const mediaType = (["image/png", "image/jpeg"] as const).find((type) => typeof data[type] === "string");
    return mediaType ? [{ mediaType, data: (data[mediaType] as string).replace(/\s/g, "") }] : [];
  });
}
