// Compiled, never run: what a program may write against the declarations, and what it may not. As a module of either kind.

import {
  Cella, CellaError, ExecutionError, Sandbox, Snapshot, type CommandEvent, type CommandResult, type Execution, type ExecutionEvent, type Exit,
} from "@cella/sdk";
import { runCode } from "@cella/sdk/ai-sdk";
import { codeExecutionTool, handleCodeExecutionToolUse, type ServerToolResult, type ToolResult } from "@cella/sdk/anthropic";
import { codeInterpreter } from "@cella/sdk/openai-agents";
import { CellaSandboxClient } from "@cella/sdk/openai-agents-sandbox";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(..._proof: Same<A, B> extends true ? [] : ["the types differ", A, B]): void {}

export async function program(signal: AbortSignal): Promise<void> {
  const cella = new Cella({ host: "http://127.0.0.1:7070", apiKey: "cella_x", maxRetries: 0, fetch });
  await using sandbox = await cella.sandboxes.create({ template: "python", ttlSeconds: null, limits: { memoryMb: 512 }, signal });
  const other: Sandbox = await Sandbox.create("python", { host: "h:1" });
  using third = await Sandbox.connect(other.id);

  const run = await sandbox.runCode("1", { language: "python", timeoutSeconds: 1, onStdout: (text) => text.length, onResult: (r) => r.png, signal });
  same<typeof run, Execution>();
  same<typeof run.png, Uint8Array | null>();
  same<typeof run.exit, Exit>();
  same<typeof run.text, string | null>();
  const exit: "ok" | "error" | "timeout" | "interrupted" | "oom" | "killed" | "lost" = run.exit;

  for await (const event of sandbox.runCodeStream("1")) {
    same<typeof event, ExecutionEvent>();
    if (event.type === "stdout") event.text.trim();
    if (event.type === "end") same<typeof event.execution, Execution>();
    // @ts-expect-error a start has no text
    if (event.type === "start") event.text;
  }
  for await (const event of sandbox.execStream(["ls", "-l"] as const)) {
    same<typeof event, CommandEvent>();
    if (event.type === "end") same<typeof event.command, CommandResult>();
  }

  same<Awaited<ReturnType<typeof text>>, string>();
  async function text() {
    return sandbox.filesystem.read("f");
  }
  same<Uint8Array, Awaited<ReturnType<typeof bytes>>>();
  async function bytes() {
    return sandbox.filesystem.read("f", { format: "bytes" });
  }
  const stream: ReadableStream<Uint8Array> = await sandbox.filesystem.read("f", { format: "stream" });
  await sandbox.filesystem.write("f", stream, { mode: 0o644 });
  await sandbox.filesystem.write("f", [new Uint8Array(1)]);

  await using branches = await sandbox.fork(2);
  const ids: string[] = branches.map((branch) => branch.id);
  await sandbox.mergeInto(branches[0] ?? ids[0] ?? "");
  const snapshot: Snapshot = await sandbox.snapshot("name");
  await (await snapshot.start({ persistent: true })).kill();
  await using context = await sandbox.createCodeContext({ language: "bash" });
  await context.runCode("1", { check: true });

  try {
    await third.runCode("1/0", { check: true });
  } catch (error) {
    if (error instanceof ExecutionError) same<typeof error.execution, Execution>();
    if (error instanceof CellaError) same<typeof error.hint, string | null>();
  }
  void exit;

  // @ts-expect-error made by create, not by new
  new Sandbox();
  // @ts-expect-error an option that is not there
  await sandbox.runCode("1", { timeout: 5 });
  // @ts-expect-error a format that is not there
  await sandbox.filesystem.read("f", { format: "base64" });
  // @ts-expect-error read only
  sandbox.id = "x";
  // @ts-expect-error what is internal is not declared
  sandbox.mergedAway("x");
}

/** The adapters' declarations need no framework. */
export async function adapters(sandbox: Sandbox): Promise<void> {
  await using tool = runCode({ sandbox, timeoutSeconds: 5 });
  same<Awaited<ReturnType<typeof tool.execute>>["output"], string>();
  await codeInterpreter({ create: { ttlSeconds: 60, host: "h:1" } }).close();
  await codeExecutionTool({ name: "python" }).close();
  const answer = await handleCodeExecutionToolUse({ type: "tool_use", id: "i", name: "bash", input: {} }, sandbox);
  same<typeof answer, ToolResult>();
  const other = await handleCodeExecutionToolUse({ type: "server_tool_use", id: "i", name: "bash_code_execution", input: {} }, sandbox);
  same<typeof other, ServerToolResult>();
  const session = await new CellaSandboxClient({ persistent: true }).create();
  same<typeof session.sandbox, Sandbox>();
  // @ts-expect-error made by the client
  new codeInterpreter();
}
