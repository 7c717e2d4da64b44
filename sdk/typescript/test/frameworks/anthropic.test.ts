/** Anthropic's SDK runs its loop; code, shell and editor run in cells. */

import assert from "node:assert/strict";
import { test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import { Sandbox } from "@cella/sdk";
import { bashTool, codeExecutionTool, handleCodeExecutionToolUse, isCodeExecution, textEditorTool, type ServerToolResult, type ToolResult } from "@cella/sdk/anthropic";

import { FakeModels } from "./fake-models.js";
import { CHART, LIMIT, marked } from "./support.js";

const client = (models: FakeModels) => new Anthropic({ apiKey: "x", baseURL: models.url, maxRetries: 0 });
const call = (name: string, input: unknown) => ({ calls: [{ name, input }] });
const BASE = { model: "claude", max_tokens: 100 } as const;

/** The loop that a program writes around `messages.create`. Gives the answers of the tools. */
async function converse(anthropic: Anthropic, sandbox: Sandbox): Promise<ToolResult[]> {
  const messages: Anthropic.MessageParam[] = [{ role: "user", content: "go" }];
  const given: ToolResult[] = [];
  for (;;) {
    const answer = await anthropic.messages.create({ ...BASE, messages, tools: [codeExecutionTool(), bashTool(), textEditorTool()] });
    if (answer.stop_reason !== "tool_use") return given;
    const results = await Promise.all(answer.content.filter(isCodeExecution).map((block) => handleCodeExecutionToolUse(block, sandbox)));
    given.push(...results);
    messages.push({ role: "assistant", content: answer.content }, { role: "user", content: results });
  }
}

const textOf = (result: ToolResult | undefined): string => (result?.content[0]?.type === "text" ? result.content[0].text : "");

test("code, a chart, an error", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  await using models = await FakeModels.start(
    call("code_execution", { code: "x = 6" }), { calls: [{ name: "run_code", input: { code: "x * 7" } }, { name: "run_python", input: { code: CHART } }] },
    call("code_execution", { code: "1/0" }), call("code_execution", {}), { text: "done" },
  );
  const [nothing, value, chart, error, missing] = await converse(client(models), sandbox);
  assert.deepEqual([textOf(nothing), textOf(value), value?.is_error], ["(no output)", "42", false]);
  const image = chart?.content.at(-1);
  assert.ok(image?.type === "image" && image.source.media_type === "image/png" && image.source.data.startsWith("iVBOR"));
  assert.ok(error?.is_error && textOf(error).includes("ZeroDivisionError"));
  assert.ok(missing?.is_error && textOf(missing).includes("code is missing"));
  assert.equal((await sandbox.runCode("x")).text, "6");
  const sent = models.asked.at(-1)!["messages"].at(-3).content[0];
  assert.deepEqual([sent.type, sent.is_error, models.asked[0]!["tools"].map((tool: any) => tool.name)], ["tool_result", true, ["code_execution", "bash", "str_replace_based_edit_tool"]]);
  assert.deepEqual(Object.keys(models.asked[0]!["tools"][0]).sort(), ["description", "input_schema", "name", "type"]);
});

test("one shell that stays, and its restart", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  await using models = await FakeModels.start(
    call("bash", { command: "cd /tmp; v=7" }), call("bash", { command: "echo $PWD $v; exit_() { return 3; }; exit_" }), call("bash", { restart: true }),
    call("bash", { command: "echo [$v]" }), { text: "done" },
  );
  const [, kept, , fresh] = await converse(client(models), sandbox);
  assert.match(textOf(kept), /^\/tmp 7\n.*exit code 3/);
  assert.ok(kept?.is_error && textOf(fresh).startsWith("[]"));
});

test("the text editor edits the sandbox's files", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  const path = "/workspace/a/b.txt";
  const tool = (input: object) => call("str_replace_based_edit_tool", input);
  await using models = await FakeModels.start(
    tool({ command: "create", path, file_text: "one\ntwo\nthree\n" }), tool({ command: "str_replace", path, old_str: "two", new_str: "2$&" }),
    tool({ command: "insert", path, insert_line: 0, insert_text: "zero\n" }), tool({ command: "view", path, view_range: [2, 3] }),
    tool({ command: "str_replace", path, old_str: "e", new_str: "" }), tool({ command: "view", path: "/workspace/none" }), tool({ command: "view", path: "/workspace" }),
    tool({ command: "undo_edit", path }), { text: "done" },
  );
  const results = await converse(client(models), sandbox);
  assert.deepEqual(results.map((result) => result.is_error), [false, false, false, false, true, true, false, true]);
  assert.equal(await sandbox.filesystem.read(path), "zero\none\n2$&\nthree\n");
  assert.equal(textOf(results[3]), "     2\tone\n     3\t2$&");
  assert.match(textOf(results[4]), /exactly once/);
  assert.match(textOf(results[6]), /\/workspace\/a\/b\.txt/);
});

test("toolRunner runs the tool by itself, streamed; its own sandbox ends with close", LIMIT, async () => {
  const mark = marked();
  await using models = await FakeModels.start(call("code_execution", { code: "x = 6" }), call("code_execution", { code: "print(x * 7)" }), { text: "42" });
  {
    await using tool = codeExecutionTool({ create: mark.create });
    const runner = client(models).beta.messages.toolRunner({ ...BASE, messages: [{ role: "user", content: "go" }], tools: [tool], stream: true });
    for await (const stream of runner) await stream.finalMessage();
    assert.deepEqual(models.asked.at(-1)!["messages"].at(-1).content[0].content, [{ type: "text", text: "42" }]);
    assert.equal((await (await mark.one()).runCode("x")).text, "6");
  }
  assert.deepEqual(await mark.alive(), []);
});

test("the shapes of the server's own tools", LIMIT, async () => {
  await using sandbox = await Sandbox.create();
  const ask = (name: string, input: unknown): Promise<ServerToolResult> => handleCodeExecutionToolUse({ type: "server_tool_use", id: "srvtoolu_1", name, input }, sandbox, { timeoutSeconds: 20 });
  assert.deepEqual(await ask("code_execution", { code: "import sys\nprint('o')\nprint('e', file=sys.stderr)" }), {
    type: "code_execution_tool_result", tool_use_id: "srvtoolu_1", content: { type: "code_execution_result", stdout: "o\n", stderr: "e\n", return_code: 0, content: [] },
  });
  assert.deepEqual((await ask("bash_code_execution", { command: "echo hi; (exit 4)" })).content, { type: "bash_code_execution_result", stdout: "hi\n", stderr: "", return_code: 4, content: [] });
  const failed = await ask("code_execution", { code: "1/0" });
  assert.ok(failed.content["return_code"] === 1 && String(failed.content["stderr"]).includes("ZeroDivisionError"));
  const late = await handleCodeExecutionToolUse({ type: "server_tool_use", id: "i", name: "code_execution", input: { code: "while True: pass" } }, sandbox, { timeoutSeconds: 0.3 });
  assert.deepEqual(late.content, { type: "code_execution_tool_result_error", error_code: "execution_time_exceeded" });
  const edit = (input: object) => ask("text_editor_code_execution", input);
  const path = "/workspace/f";
  assert.deepEqual((await edit({ command: "create", path, file_text: "a\nb\n" })).content, { type: "text_editor_code_execution_create_result", is_file_update: false });
  assert.deepEqual((await edit({ command: "str_replace", path, old_str: "b", new_str: "c" })).content, {
    type: "text_editor_code_execution_str_replace_result", lines: ["-b", "+c"], old_start: 2, old_lines: 1, new_start: 2, new_lines: 1,
  });
  assert.deepEqual((await edit({ command: "view", path })).content, {
    type: "text_editor_code_execution_view_result", content: "a\nc", file_type: "text", num_lines: 2, start_line: 1, total_lines: 2,
  });
  assert.deepEqual((await edit({ command: "view", path: "/none" })).content, { type: "text_editor_code_execution_tool_result_error", error_code: "invalid_tool_input" });
  assert.equal((await ask("web_search", {})).content["error_code"], "unavailable");
});
