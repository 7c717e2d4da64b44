/**
 * A tool for the OpenAI Agents SDK (`@openai/agents`).
 *
 * ```ts
 * import { codeInterpreter } from "@cella/sdk/openai-agents";
 *
 * const agent = new Agent({ name: "Analyst", instructions, tools: [codeInterpreter()] });
 * await run(agent, "What is the median of …?");
 * ```
 *
 * @packageDocumentation
 */

import { CODE_INPUT, codeOf, DESCRIPTION, Lent, pictures, report, type ToolOptions } from "./shared.js";

export type { ToolOptions };

/** What the tool needs of an agent: to hear of its runs' ends. */
interface AgentLike {
  on(event: any, listener: (...values: any[]) => void): unknown;
}

/** Text, or text and images. */
export type CodeInterpreterOutput = string | ({ type: "text"; text: string } | { type: "image"; image: string })[];

/** A function tool as the Agents SDK has it. */
export interface CodeInterpreter {
  type: "function";
  name: string;
  description: string;
  parameters: any;
  strict: true;
  invoke(runContext: object, input: string, details?: { signal?: AbortSignal | undefined }): Promise<CodeInterpreterOutput>;
  needsApproval(): Promise<boolean>;
  isEnabled(runContext: object, agent: AgentLike): Promise<boolean>;
  /** End the sandboxes of all runs. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Options of `codeInterpreter`. */
export interface CodeInterpreterOptions extends ToolOptions {
  /** Give figures to the model. Default true; models behind chat completions take text only. */
  images?: boolean | undefined;
}

/**
 * A tool that runs Python. Without `sandbox` each run of an agent gets its own sandbox, when its model first runs code; two
 * runs never share one, agents of one run do. It is closed when the run ends with an answer. The framework does not tell
 * of a run that throws: then the sandbox goes with `close()` (or `await using`) or when the run is garbage, at the latest
 * with its idle timeout.
 */
export function codeInterpreter(options: CodeInterpreterOptions = {}): CodeInterpreter {
  const runs = new Map<WeakRef<object>, Lent>();
  const keys = new WeakMap<object, WeakRef<object>>();
  const watched = new WeakSet<object>();
  const garbage = new FinalizationRegistry<WeakRef<object>>((key) => void end(key).catch(() => {}));

  function lentTo(run: object): Lent {
    let key = keys.get(run);
    if (!key) keys.set(run, (key = new WeakRef(run))), garbage.register(run, key);
    let lent = runs.get(key);
    if (!lent) runs.set(key, (lent = new Lent(options)));
    return lent;
  }

  async function end(key: WeakRef<object> | undefined): Promise<void> {
    const lent = key && runs.get(key);
    if (!key || !lent) return;
    await lent.close();
    runs.delete(key);
  }

  function watch(agent: AgentLike): void {
    if (watched.has(agent)) return;
    watched.add(agent);
    agent.on("agent_handoff", (_run: object, next: AgentLike) => watch(next));
    agent.on("agent_end", (run: object) => void end(keys.get(run)).catch((error: unknown) => console.warn(`a run's sandbox could not be closed: ${String(error)}`)));
  }

  const close = async () => void (await Promise.all([...runs.keys()].map(end)));
  return {
    type: "function",
    name: options.name ?? "run_python",
    description: options.description ?? DESCRIPTION,
    parameters: CODE_INPUT,
    strict: true,
    async invoke(runContext, input, details) {
      const code = codeOf(parse(input));
      if (code === null) return 'The input must be a JSON object with the field "code".';
      const execution = await lentTo(runContext).run(code, details?.signal);
      const text = report(execution, options.maxChars);
      const images = options.images === false ? [] : pictures(execution);
      if (!images.length) return text;
      return [{ type: "text", text }, ...images.map(({ mediaType, data }) => ({ type: "image" as const, image: `data:${mediaType};base64,${data}` }))];
    },
    needsApproval: async () => false,
    // Asked before each turn, with the agent: the only place where a tool learns whose it is.
    isEnabled: async (_runContext, agent) => (watch(agent), true),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function parse(input: string): unknown {
  try {
    return JSON.parse(input);
  } catch {
    return null;
  }
}
