/**
 * Tools for Anthropic's Messages API (`@anthropic-ai/sdk`): code, shell and text editor, run in a sandbox of yours.
 *
 * ```ts
 * import { codeExecutionTool, handleCodeExecutionToolUse } from "@cella/sdk/anthropic";
 *
 * const message = await client.messages.create({ model, max_tokens, messages, tools: [codeExecutionTool(), bashTool()] });
 * const results = await Promise.all(message.content.filter(isToolUse).map((block) => handleCodeExecutionToolUse(block, sandbox)));
 * ```
 *
 * @packageDocumentation
 */

import { FilesystemError, InvalidRequest } from "../errors.js";
import type { Sandbox } from "../sandbox.js";
import { edit, type Edited } from "./editor.js";
import { CODE_INPUT, codeOf, DESCRIPTION, Lent, pictures, report, shorten, type Picture, type ToolOptions } from "./shared.js";

export type { ToolOptions };

/** A block of the model's answer that asks for something. */
export interface ToolUse {
  type: "tool_use" | "server_tool_use";
  id: string;
  name: string;
  input: unknown;
}

export type ResultContent =
  | { type: "text"; text: string }
  | { type: "image"; source: { type: "base64"; media_type: "image/png" | "image/jpeg"; data: string } };

/** What goes back for a `tool_use` block, in the next user message. */
export interface ToolResult {
  type: "tool_result";
  tool_use_id: string;
  content: ResultContent[];
  is_error: boolean;
}

/** What stands behind a `server_tool_use` block, in the shapes of Anthropic's own code execution. */
export interface ServerToolResult {
  type: "code_execution_tool_result" | "bash_code_execution_tool_result" | "text_editor_code_execution_tool_result";
  tool_use_id: string;
  content: Record<string, unknown>;
}

/** How `handleCodeExecutionToolUse` runs what it is asked for. An abort interrupts the code. */
export type HandleOptions = Pick<ToolOptions, "timeoutSeconds" | "maxChars" | "onExecution"> & { signal?: AbortSignal | undefined };

/** Of a sandbox's default shell. */
const SHELL = "shell";
const CODE = new Set(["code_execution", "run_code", "run_python"]);
const BASH = new Set(["bash", "bash_code_execution"]);
const EDITOR = new Set(["str_replace_based_edit_tool", "str_replace_editor", "text_editor_code_execution"]);

/** The text editor tool of Claude 4 models; the sandbox's files are what it edits. */
export const textEditorTool = () => ({ type: "text_editor_20250728", name: "str_replace_based_edit_tool" }) as const;

/** The bash tool of Claude 4 models: one shell that stays. */
export const bashTool = () => ({ type: "bash_20250124", name: "bash" }) as const;

/**
 * A custom tool that runs Python: for `tools` of `messages.create`, with {@link handleCodeExecutionToolUse} for the calls,
 * or as it is for `client.beta.messages.toolRunner`, which runs them by itself. Without `sandbox` it has one of its own,
 * until `close()` (or `await using`).
 */
export function codeExecutionTool(options: ToolOptions = {}) {
  const lent = new Lent(options);
  return {
    type: "custom" as const,
    name: options.name ?? "code_execution",
    description: options.description ?? DESCRIPTION,
    input_schema: { ...CODE_INPUT, required: ["code"] },
    parse: (input: unknown) => ({ code: codeOf(input) ?? "" }),
    run: async (input: { code: string }, call?: { signal?: AbortSignal | null | undefined }): Promise<ResultContent[]> => {
      const execution = await lent.run(input.code, call?.signal ?? undefined);
      return [{ type: "text", text: report(execution, options.maxChars) }, ...pictures(execution).map(imageBlock)];
    },
    close: () => lent.close(),
    [Symbol.asyncDispose]: () => lent.close(),
  };
}

/** Whether this block is a call that {@link handleCodeExecutionToolUse} answers: with others, a program's own tools, it has nothing to do. */
export function isCodeExecution<T extends { type: string; name?: unknown }>(block: T): block is T & ToolUse & { type: "tool_use" } {
  const name = String(block.name);
  return block.type === "tool_use" && (CODE.has(name) || BASH.has(name) || EDITOR.has(name));
}

/**
 * Run what a block asks for: code (`code_execution`, `run_code`, `run_python`), shell (`bash`) or file edits
 * (`str_replace_based_edit_tool`), and their `server_tool_use` forms. Charts come back as image blocks (`server_tool_use`
 * has no place for them: see `onExecution`). What the code does wrong is the answer; only what is wrong with the sandbox
 * throws.
 */
export function handleCodeExecutionToolUse(block: ToolUse & { type: "tool_use" }, sandbox: Sandbox, options?: HandleOptions): Promise<ToolResult>;
export function handleCodeExecutionToolUse(block: ToolUse & { type: "server_tool_use" }, sandbox: Sandbox, options?: HandleOptions): Promise<ServerToolResult>;
export function handleCodeExecutionToolUse(block: ToolUse, sandbox: Sandbox, options?: HandleOptions): Promise<ToolResult | ServerToolResult>;
export async function handleCodeExecutionToolUse(block: ToolUse, sandbox: Sandbox, options: HandleOptions = {}): Promise<ToolResult | ServerToolResult> {
  const input = (typeof block.input === "object" && block.input !== null ? block.input : {}) as Record<string, unknown>;
  const answer = block.type === "server_tool_use" ? serverResult : toolResult;
  if (EDITOR.has(block.name)) {
    try {
      const edited = await edit(sandbox, input);
      return answer(block, { text: shorten(edited.text, options.maxChars ?? 20_000), edited });
    } catch (error) {
      if (!(error instanceof FilesystemError || error instanceof InvalidRequest)) throw error;
      return answer(block, { text: error.toString(), failed: "invalid_tool_input" });
    }
  }
  const language = CODE.has(block.name) ? "python" : BASH.has(block.name) ? "bash" : null;
  if (!language) return answer(block, { text: `there is no tool "${block.name}" here`, failed: "unavailable" });
  if (language === "bash" && input["restart"] === true) {
    if ((await sandbox.listCodeContexts()).some((context) => context.id === SHELL)) await sandbox.restartContext(SHELL);
    return answer(block, { text: "the shell is a new one" });
  }
  const code = language === "bash" ? input["command"] : input["code"];
  if (typeof code !== "string") return answer(block, { text: `${language === "bash" ? "command" : "code"} is missing`, failed: "invalid_tool_input" });
  const run = await sandbox.runCode(code, { language, timeoutSeconds: options.timeoutSeconds ?? 120, signal: options.signal });
  await options.onExecution?.(run);
  const text = report(run, options.maxChars);
  const stderr = [run.stderr, run.error?.traceback].filter(Boolean).join("\n");
  const failed = run.ok ? undefined : run.exit === "timeout" ? "execution_time_exceeded" : "";
  const stdout = [run.stdout, run.text].filter(Boolean).join("");
  return answer(block, { text, images: pictures(run), failed, stdout, stderr, returnCode: run.ok ? 0 : (run.exitCode ?? 1) });
}

interface Outcome {
  text: string;
  images?: Picture[];
  /** What went wrong, in the server tool's words; "": the code itself did. */
  failed?: string | undefined;
  edited?: Edited;
  stdout?: string;
  stderr?: string;
  returnCode?: number;
}

function toolResult(block: ToolUse, { text, images = [], failed }: Outcome): ToolResult {
  return { type: "tool_result", tool_use_id: block.id, content: [{ type: "text", text }, ...images.map(imageBlock)], is_error: failed !== undefined };
}

function serverResult(block: ToolUse, outcome: Outcome): ServerToolResult {
  const kind = EDITOR.has(block.name) ? "text_editor_code_execution" : BASH.has(block.name) ? "bash_code_execution" : "code_execution";
  const { text, failed, edited, stdout = text, stderr = "", returnCode = 0 } = outcome;
  const shape = (type: string, fields: object): ServerToolResult => ({ type: `${kind}_tool_result`, tool_use_id: block.id, content: { type: `${kind}_${type}`, ...fields } });
  if (failed) return shape("tool_result_error", { error_code: failed });
  if (edited?.view) {
    const { content, startLine, lines, totalLines } = edited.view;
    return shape("view_result", { content, file_type: "text", num_lines: lines, start_line: startLine, total_lines: totalLines });
  }
  if (edited?.created) return shape("create_result", { is_file_update: edited.created.isUpdate });
  if (edited?.replaced) {
    const { start, oldLines, newLines } = edited.replaced;
    const lines = [...oldLines.map((line) => `-${line}`), ...newLines.map((line) => `+${line}`)];
    return shape("str_replace_result", { lines, old_start: start, old_lines: oldLines.length, new_start: start, new_lines: newLines.length });
  }
  return shape("result", { stdout, stderr, return_code: returnCode, content: [] });
}

function imageBlock({ mediaType, data }: Picture): ResultContent {
  return { type: "image", source: { type: "base64", media_type: mediaType, data } };
}
