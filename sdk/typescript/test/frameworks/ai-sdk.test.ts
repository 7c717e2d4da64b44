/** The Vercel AI SDK runs its loop; the tool runs in cells. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { Sandbox } from "@cella/sdk";
import { runCode, type RunCodeOutput } from "@cella/sdk/ai-sdk";
import { asSchema, generateText, isStepCount, streamText } from "ai";

import { FakeModels } from "./fake-models.js";
import { CHART, LIMIT, marked } from "./support.js";

const code = (text: string) => ({ calls: [{ name: "run_python", input: { code: text } }] });
const provider = (models: FakeModels) => createOpenAI({ apiKey: "x", baseURL: `${models.url}/v1` });
const outputs = (models: FakeModels): any[] => models.asked.at(-1)!["input"].filter((item: any) => item.type === "function_call_output").map((item: any) => item.output);

test("generateText: state stays from step to step; close ends the sandbox", LIMIT, async () => {
  const mark = marked();
  await using models = await FakeModels.start(code("x = 6"), code("x * 7"), { text: "42" });
  {
    await using tool = runCode({ create: mark.create });
    const { text, steps } = await generateText({ model: provider(models)("gpt"), tools: { run_python: tool }, stopWhen: isStepCount(5), prompt: "6 * 7?" });
    assert.deepEqual([text, steps.length], ["42", 3]);
    const result = steps[1]!.toolResults[0]!.output as RunCodeOutput;
    assert.deepEqual([result.exit, result.output, result.images], ["ok", "42", []]);
    assert.equal((await (await mark.one()).runCode("x")).text, "6");
    assert.deepEqual(models.asked[0]!["tools"][0].parameters.required, ["code"]);
  }
  assert.deepEqual(await mark.alive(), []);
});

test("streamText over chat completions; errors of the code are the answer", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  await using models = await FakeModels.start(code("y = 1\n1/0"), code("y"), { text: "it is one" });
  const tool = runCode({ sandbox });
  const stream = streamText({ model: provider(models).chat("gpt"), tools: { run_python: tool }, stopWhen: isStepCount(5), prompt: "go" });
  assert.equal((await stream.text), "it is one");
  const told = models.asked.at(-1)!["messages"].filter((message: any) => message.role === "tool").map((message: any) => JSON.stringify(message.content));
  assert.match(told[0], /ZeroDivisionError/);
  assert.match(told[1], /\b1\b/);
  await tool.close();
  assert.equal((await sandbox.runCode("y")).text, "1", "a given sandbox stays");
});

test("charts go to the model as images", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  await using models = await FakeModels.start(code(CHART), { text: "a line" });
  await generateText({ model: provider(models)("gpt"), tools: { run_python: runCode({ sandbox }) }, stopWhen: isStepCount(3), prompt: "draw" });
  const [parts] = outputs(models);
  assert.deepEqual(parts.map((part: any) => part.type), ["input_text", "input_image"]);
  assert.match(parts[1].image_url, /^data:image\/png;base64,iVBOR/);
});

test("aborting the generation interrupts the code", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  const control = new AbortController();
  await using models = await FakeModels.start(code("kept = 'kept'\nprint('on')\nwhile True: pass"), { text: "never" });
  const going = generateText({ model: provider(models)("gpt"), tools: { run_python: runCode({ sandbox }) }, stopWhen: isStepCount(3), prompt: "go", abortSignal: control.signal });
  going.catch(() => {});
  while (!(await sandbox.logs("stdout")).includes("on")) await new Promise((done) => setTimeout(done, 20));
  control.abort();
  await assert.rejects(going);
  assert.equal((await sandbox.runCode("kept")).text, "'kept'");
});

test("what older versions look at", async () => {
  const tool = runCode();
  assert.equal(tool.parameters, tool.inputSchema);
  const schema = asSchema(tool.inputSchema);
  assert.equal((await schema.jsonSchema).type, "object");
  assert.deepEqual(await schema.validate!({ code: "1" }), { success: true, value: { code: "1" } });
  assert.equal((await schema.validate!({})).success, false);
  assert.deepEqual(tool.inputSchema["~standard"].validate({ code: "1" }), { value: { code: "1" } });
  const content = tool.experimental_toToolResultContent({ exit: "ok", output: "o", images: [{ mediaType: "image/png", data: "aGk=" }] });
  assert.deepEqual(content, [{ type: "text", text: "o" }, { type: "image", data: "aGk=", mimeType: "image/png" }]);
  await tool.close();
});
