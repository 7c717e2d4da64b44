// A model that computes before it answers, with the Vercel AI SDK.
//
//     npm install @cella/sdk ai @ai-sdk/openai tsx
//     OPENAI_API_KEY=… npx tsx ai-sdk-loop.ts "How many primes are there below 10 million?"

import { openai } from "@ai-sdk/openai";
import { runCode } from "@cella/sdk/ai-sdk";
import { generateText, isStepCount } from "ai";

await using tool = runCode({ onExecution: (run) => console.error(`(ran in ${Math.round(run.durationMs)} ms: ${run.exit})`) });

const { text } = await generateText({
  model: openai(process.env["MODEL"] ?? "gpt-5.1"),
  system: "Compute with the tool; never guess numbers.",
  prompt: process.argv[2] ?? "How many primes are there below 10 million?",
  tools: { run_python: tool },
  stopWhen: isStepCount(8),
});
console.log(text);
