/** What arrives while code or a process runs, and how it is put together again. */

import { ConnectionFailed, errorFor } from "./errors.js";
import { number, numberOrNull, text, type JsonObject } from "./json.js";
import { commandResult, type CommandResult } from "./models.js";
import { errorInfo, Execution, Result, type ErrorInfo } from "./result.js";

/** One event of `runCodeStream`. The last one has type `"end"` and the whole Execution. */
export type ExecutionEvent =
  | { type: "start"; executionId: string; contextId: string }
  | { type: "stdout" | "stderr"; text: string }
  | { type: "display" | "result"; result: Result }
  | { type: "error"; error: ErrorInfo }
  | { type: "input_request"; prompt: string; password: boolean; executionId: string }
  | { type: "end"; execution: Execution };

/** One event of `execStream`. The last one has type `"end"` and the CommandResult. */
export type CommandEvent =
  | { type: "start"; id: string; pid: number | null }
  | { type: "stdout" | "stderr"; text: string }
  | { type: "end"; command: CommandResult };

/** Turns the objects of one execution's stream into events, and into the Execution at the end. @internal */
export class ExecutionCollector {
  #out: { stdout: string[]; stderr: string[] } = { stdout: [], stderr: [] };
  #results: Result[] = [];
  #error: JsonObject | null = null;
  #id = "";
  #done = false;

  /** null: an event of a kind that this package does not know. */
  feed(raw: JsonObject): ExecutionEvent | null {
    const type = raw["type"];
    switch (type) {
      case "start":
        this.#id = text(raw["execution_id"]);
        return { type, executionId: this.#id, contextId: text(raw["context_id"]) };
      case "stdout":
      case "stderr":
        this.#out[type].push(text(raw["text"]));
        return { type, text: text(raw["text"]) };
      case "display":
      case "result": {
        const result = Result.from(raw, type === "result");
        this.#results.push(result);
        return { type, result };
      }
      case "error":
        this.#error = raw;
        return { type, error: errorInfo(raw)! };
      case "input_request":
        return { type, prompt: text(raw["prompt"]), password: raw["password"] === true, executionId: this.#id };
      case "end":
        this.#done = true;
        return { type, execution: this.#execution(raw) };
      default:
        return null;
    }
  }

  #execution(end: JsonObject): Execution {
    const { type: _type, ...value } = end;
    value["id"] ??= this.#id;
    value["error"] ??= this.#error;
    return new Execution({ ...value, stdout: this.#out.stdout.join(""), stderr: this.#out.stderr.join("") }, this.#results);
  }

  /** The stream is over. Without an end event its outcome is unknown: say so instead of inventing one. */
  finish(): void {
    if (!this.#done) throw new ConnectionFailed("the stream ended before the execution did; its outcome is not known", { code: "lost" });
  }
}

/** The same for a process. @internal */
export class CommandCollector {
  #out: { stdout: string[]; stderr: string[] } = { stdout: [], stderr: [] };
  #start: JsonObject = {};
  #done = false;

  feed(raw: JsonObject): CommandEvent | null {
    const type = raw["type"];
    switch (type) {
      case "start":
        this.#start = raw;
        return { type, id: text(raw["id"]), pid: numberOrNull(raw["pid"]) };
      case "stdout":
      case "stderr":
        this.#out[type].push(text(raw["chunk"]));
        return { type, text: text(raw["chunk"]) };
      case "error":
        throw errorFor(number(raw["status"]) || null, raw);
      case "exit": {
        this.#done = true;
        const { type: _type, ...value } = { ...this.#start, ...raw };
        const printed = { stdout: this.#out.stdout.join(""), stderr: this.#out.stderr.join("") };
        return { type: "end", command: commandResult({ ...value, ...printed }) };
      }
      default:
        return null;
    }
  }

  finish(): void {
    if (!this.#done) throw new ConnectionFailed("the stream ended before the process did; its outcome is not known", { code: "lost" });
  }
}
