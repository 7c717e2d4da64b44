/**
 * A tool for the Vercel AI SDK (`ai` 7; older versions find what they look for: `parameters`, their schema's mark).
 *
 * ```ts
 * import { runCode } from "@cella/sdk/ai-sdk";
 *
 * await using tool = runCode();
 * await generateText({ model, tools: { run_python: tool }, stopWhen: isStepCount(8), prompt });
 * ```
 *
 * @packageDocumentation
 */

import { CODE_INPUT, codeOf, DESCRIPTION, Lent, pictures, report, type Picture, type ToolOptions } from "./shared.js";

export type { Picture, ToolOptions };

/** Options of `runCode`. */
export interface RunCodeOptions extends ToolOptions {
  /** Give figures to the model. Default true. */
  images?: boolean | undefined;
}

/** What the program sees of a run; the model gets `output` and the images. */
export interface RunCodeOutput {
  exit: string;
  output: string;
  images: Picture[];
}

/** The schema of the tool's input: as `jsonSchema()` of every version makes it, typed as a Standard Schema. */
export interface CodeSchema {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly types?: { readonly input: unknown; readonly output: { code: string } } | undefined;
    readonly validate: (value: unknown) => { value: { code: string } } | { issues: { message: string }[] };
    readonly jsonSchema: { input: () => Record<string, unknown>; output: () => Record<string, unknown> };
  };
}

function validate(value: unknown): { success: true; value: { code: string } } | { success: false; error: Error } {
  const code = codeOf(value);
  return code === null ? { success: false, error: new TypeError("code must be a string") } : { success: true, value: { code } };
}

const schema = {
  [Symbol.for("vercel.ai.schema")]: true,
  [Symbol.for("vercel.ai.validator")]: true,
  jsonSchema: CODE_INPUT,
  validate,
  "~standard": {
    version: 1,
    vendor: "cella",
    validate: (value: unknown) => {
      const result = validate(value);
      return result.success ? { value: result.value } : { issues: [{ message: result.error.message }] };
    },
    jsonSchema: { input: () => ({ ...CODE_INPUT }), output: () => ({ ...CODE_INPUT }) },
  },
} as CodeSchema;

/**
 * A tool that runs Python. Its state stays from call to call; without `sandbox` it has one of its own, until `close()`
 * (or `await using`). Aborting the generation interrupts the code.
 */
export function runCode(options: RunCodeOptions = {}) {
  const lent = new Lent(options);
  return {
    description: options.description ?? DESCRIPTION,
    inputSchema: schema,
    /** The same for version 4. */
    parameters: schema,
    async execute(input: { code: string }, call: { abortSignal?: AbortSignal | undefined } = {}): Promise<RunCodeOutput> {
      const run = await lent.run(input.code, call.abortSignal);
      return { exit: run.exit, output: report(run, options.maxChars), images: options.images === false ? [] : pictures(run) };
    },
    toModelOutput({ output }: { output: RunCodeOutput }) {
      const images = output.images.map(({ data, mediaType }) => ({ type: "file" as const, mediaType, data: { type: "data" as const, data } }));
      return { type: "content" as const, value: [{ type: "text" as const, text: output.output }, ...images] };
    },
    /** The same for version 4. */
    experimental_toToolResultContent(output: RunCodeOutput) {
      const images = output.images.map(({ data, mediaType }) => ({ type: "image" as const, data, mimeType: mediaType }));
      return [{ type: "text" as const, text: output.output }, ...images];
    },
    /** End the tool's own sandbox. */
    close: () => lent.close(),
    [Symbol.asyncDispose]: () => lent.close(),
  };
}
