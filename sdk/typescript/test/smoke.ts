/** A little of everything, for runtimes that have no `node:test`: it ends with "all is well", or throws. */

import assert from "node:assert/strict";

import { FileNotFound, Sandbox } from "@cella/sdk";

const sandbox = await Sandbox.create();
try {
  let printed = "";
  const run = await sandbox.runCode("print('hi'); 6 * 7", { onStdout: (text) => void (printed += text) });
  assert.deepEqual([run.text, printed], ["42", "hi\n"]);
  const control = new AbortController();
  await assert.rejects(sandbox.runCode("kept = 1\nprint('on')\nwhile True: pass", { signal: control.signal, onStdout: () => control.abort() }), { name: "AbortError" });
  assert.equal((await sandbox.runCode("kept")).text, "1");
  for await (const event of sandbox.runCodeStream("print('on')\nimport time\ntime.sleep(600)")) if (event.type === "stdout") break;
  assert.equal((await sandbox.runCode("'free'")).text, "'free'");
  assert.equal(await sandbox.filesystem.write("f", [new Uint8Array(300_000), new Uint8Array(5)]), 300_005);
  assert.equal((await sandbox.filesystem.read("f", { format: "bytes" })).length, 300_005);
  await assert.rejects(sandbox.filesystem.read("none"), FileNotFound);
  await using cat = await sandbox.spawn("cat");
  cat.write("typed");
  cat.end();
  assert.equal((await cat.wait()).stdout, "typed");
  const terminal = await sandbox.pty({ cmd: "exit 3" });
  assert.equal((await terminal.wait()).exitCode, 3);
} finally {
  await sandbox.delete();
}
console.log("all is well");
