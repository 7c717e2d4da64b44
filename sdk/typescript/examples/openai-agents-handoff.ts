// Two agents, one cell: the coder computes in it and hands over to the writer, who has no access to it.
//
//     npm install @cella/sdk @openai/agents zod tsx
//     OPENAI_API_KEY=… npx tsx openai-agents-handoff.ts

import { codeInterpreter } from "@cella/sdk/openai-agents";
import { Agent, handoff, run } from "@openai/agents";

const model = process.env["MODEL"] ?? "gpt-5.1";

const writer = new Agent({
  name: "Writer",
  model,
  instructions: "You get the numbers that the coder found. Write two sentences about them for a newspaper.",
});

await using interpreter = codeInterpreter({ onExecution: (execution) => console.error(`(coder ran code: ${execution.exit})`) });
const coder = new Agent({
  name: "Coder",
  model,
  instructions: "Work the numbers out with Python, then hand over to the writer.",
  tools: [interpreter],
  handoffs: [handoff(writer)],
});

const result = await run(coder, process.argv[2] ?? "How did the mean of 1000 dice throws vary over 200 rounds?");
console.log(`${result.lastAgent?.name}: ${result.finalOutput}`);
