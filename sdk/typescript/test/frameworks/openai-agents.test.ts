/** @openai/agents runs its loop; the tool runs in cells. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Sandbox } from "@cella/sdk";
import { codeInterpreter } from "@cella/sdk/openai-agents";
import { Agent, OpenAIProvider, Runner } from "@openai/agents";

import { FakeModels } from "./fake-models.js";
import { CHART, LIMIT, marked } from "./support.js";

const code = (text: string) => ({ calls: [{ name: "run_python", input: { code: text } }] });
const runner = (models: FakeModels, useResponses = true) =>
  new Runner({ tracingDisabled: true, modelProvider: new OpenAIProvider({ apiKey: "x", baseURL: `${models.url}/v1`, useResponses }) });
/** What the model was told about the calls, in the last request. */
const outputs = (models: FakeModels): unknown[] => models.asked.at(-1)!["input"].filter((item: any) => item.type === "function_call_output").map((item: any) => item.output);

test("a run has a sandbox of its own, which keeps state and ends with it", LIMIT, async () => {
  const mark = marked();
  await using models = await FakeModels.start(code("x = 6"), code("print(x * 7)"), code("seen = 'seen'\nseen if x == 6 else None"), { text: "42" });
  await using tool = codeInterpreter({ create: mark.create });
  const result = await runner(models).run(new Agent({ name: "A", instructions: "compute", tools: [tool] }), "6 * 7?");
  assert.equal(result.finalOutput, "42");
  assert.deepEqual(outputs(models), ["(no output)", "42", "'seen'"]);
  assert.deepEqual(models.asked[0]!["tools"].map((one: any) => [one.type, one.name, one.strict]), [["function", "run_python", true]]);
  await mark.gone();
});


test("two runs at once share nothing; streamed, over chat completions", LIMIT, async () => {
  const mark = marked();
  await using tool = codeInterpreter({ create: mark.create, images: false });
  const agent = new Agent({ name: "A", instructions: "compute", tools: [tool] });
  const one = async (n: number) => {
    await using models = await FakeModels.start(code(`mine = ${n}`), code(`print('mine' in dir() and mine, '\\n' * 2)\n${CHART}`), { text: "done" });
    const streamed = await runner(models, false).run(agent, "go", { stream: true });
    for await (const _ of streamed);
    await streamed.completed;
    assert.equal(streamed.finalOutput, "done");
    return models.asked.at(-1)!["messages"].filter((message: any) => message.role === "tool").map((message: any) => message.content);
  };
  const [a, b] = await Promise.all([one(1), one(2)]);
  assert.match(a[1], /^1\n<Figure/);
  assert.match(b[1], /^2\n<Figure/);
  await mark.gone();
});

test("a given sandbox stays; charts are images; errors of the code are the answer", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  await using models = await FakeModels.start(code(`kept = 'yes'\n${CHART}`), code("1/0"), { calls: [{ name: "run_python", input: { cod: 1 } }] }, { text: "done" });
  const tool = codeInterpreter({ sandbox });
  await runner(models).run(new Agent({ name: "A", instructions: "draw", tools: [tool] }), "go");
  const [chart, error, wrong] = outputs(models) as any[];
  assert.deepEqual(chart.map((part: any) => part.type), ["input_text", "input_image"]);
  const png = Buffer.from(chart[1].image_url.split("base64,")[1], "base64");
  assert.deepEqual([...png.subarray(1, 4)], [...Buffer.from("PNG")]);
  assert.match(error, /ZeroDivisionError/);
  assert.match(wrong, /"code"/);
  await tool.close();
  assert.equal((await sandbox.runCode("kept")).text, "'yes'");
});

test("a run that throws leaves its sandbox to close(); aborting a run interrupts the code", LIMIT, async () => {
  const mark = marked();
  const control = new AbortController();
  await using models = await FakeModels.start(code("state = 1"), code("state = 2\nprint('on')\nwhile True: pass"), { text: "never" });
  {
    await using tool = codeInterpreter({ create: mark.create });
    const agent = new Agent({ name: "A", instructions: "compute", tools: [tool] });
    await assert.rejects(runner(models).run(agent, "go", { maxTurns: 1 }), /turns/);
    const sandbox = await mark.one();
    const running = runner(models).run(agent, "go", { signal: control.signal });
    running.catch(() => {});
    const second = async () => (await mark.alive()).find((one) => one.id !== sandbox.id);
    while (!/on/.test((await (await second())?.logs("stdout").catch(() => "")) ?? "")) await new Promise((done) => setTimeout(done, 20));
    control.abort();
    await assert.rejects(running);
    const interrupted = await second();
    if (interrupted) assert.equal((await interrupted.runCode("state")).text, "2", "it is free again");
    assert.equal((await sandbox.runCode("state")).text, "1");
  }
  await mark.gone();
});

test("agents of one run share its sandbox, which ends with the last of them", LIMIT, async () => {
  const mark = marked();
  const tool = codeInterpreter({ create: mark.create });
  const writer = new Agent({ name: "Writer", instructions: "write" });
  const checker = new Agent({ name: "Checker", instructions: "check", tools: [tool], handoffs: [writer] });
  const coder = new Agent({ name: "Coder", instructions: "compute", tools: [tool], handoffs: [checker] });
  const hand = (name: string) => ({ calls: [{ name: `transfer_to_${name}`, input: {} }] });
  await using models = await FakeModels.start(code("x = 6"), hand("Checker"), code("x * 7"), hand("Writer"), { text: "42" });
  const result = await runner(models).run(coder, "go");
  assert.equal(result.finalOutput, "42");
  assert.deepEqual(outputs(models).filter((output) => !String(output).includes("assistant")), ["(no output)", "42"]);
  await mark.gone();
});
