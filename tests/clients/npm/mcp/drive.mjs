// Drives one of the two real clients through a session; prints what it saw as one JSON object.
//   node drive.mjs '{"tree": DIR, "package": "sdk"|"client", "mode": …, "url": URL} | {…, "command": PATH, "args": […], "env": {…}}'
import { createRequire } from "node:module";

const order = JSON.parse(process.argv[2]);
const need = createRequire(order.tree + "/package.json");

function parts() {
  if (order.package === "sdk") {
    const { Client } = need("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = need("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const { StdioClientTransport } = need("@modelcontextprotocol/sdk/client/stdio.js");
    return { Client, StreamableHTTPClientTransport, StdioClientTransport };
  }
  return { ...need("@modelcontextprotocol/client"), ...need("@modelcontextprotocol/client/stdio") };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport } = parts();
const options = order.mode ? { versionNegotiation: { mode: order.mode } } : {};
const client = new Client({ name: "test", version: "1" }, options);
const seen = { errors: [] };
client.onerror = (error) => seen.errors.push(String(error));
const transport = order.url
  ? new StreamableHTTPClientTransport(new URL(order.url), order.headers ? { requestInit: { headers: order.headers } } : {})
  : new StdioClientTransport({ command: order.command, args: order.args, env: { ...process.env, ...order.env }, stderr: "inherit" });
await client.connect(transport);
seen.server = client.getServerVersion()?.name;
seen.version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;

let sandbox;
const patient = { timeout: 240000 };
async function call(name, args = {}, how = {}) {
  const given = sandbox ? { sandbox, ...args } : args;
  const params = { name, arguments: given };
  return order.package === "sdk" ? client.callTool(params, undefined, { ...patient, ...how }) : client.callTool(params, { ...patient, ...how });
}
const text = (result) => result.content.filter((block) => block.type === "text").map((block) => block.text).join("");

seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
const first = await call("run_code", { code: "x = 40\nprint('hello')" });
seen.first = text(first);
seen.sandbox = first._meta["cella/sandbox"];
if (order.handle) sandbox = seen.sandbox;
seen.state = text(await call("run_code", { code: "x + 2" }));
const failed = await call("run_code", { code: "1 / 0" });
seen.failed = { isError: failed.isError, text: text(failed) };
const drawn = await call("run_code", { code: "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()" });
seen.images = drawn.content.filter((block) => block.type === "image").map((block) => [block.mimeType, block.data.slice(0, 8)]);
await call("write_file", { path: "note.txt", content: "grüße" });
seen.read = text(await call("read_file", { path: "note.txt" }));
seen.shell = text(await call("run_shell", { command: "cat note.txt | wc -c" }));

const children = (await call("fork", { count: 2 })).structuredContent.children;
await Promise.all(children.map((child, i) => call("run_code", { code: `x += ${i + 1}`, sandbox: child })));
seen.parent = text(await call("run_code", { code: "x" }));
await call("merge", { winner: children[1] });
seen.merged = text(await call("run_code", { code: "x" }));

seen.progress = [];
const slow = "import time\nfor i in range(3):\n    print('step', i, flush=True)\n    time.sleep(0.7)";
seen.slow = text(await call("run_code", { code: slow }, { onprogress: (note) => seen.progress.push(note.message ?? "") }));

// Cancelled while it runs: the code is interrupted and says so in a file.
const stop = new AbortController();
const endless = "import pathlib, time\npathlib.Path('started').touch()\nprint('running', flush=True)\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    pathlib.Path('stopped').touch()";
const cancelled = call("run_code", { code: endless }, { signal: stop.signal });
cancelled.catch(() => {});
const until = async (file) => {
  for (;;) {
    if (text(await call("list_files")).includes(file)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
await until("started");
stop.abort("enough");
seen.cancelled = await cancelled.then(() => "answered", () => "refused");
await until("stopped");
seen.after = text(await call("run_code", { code: "x" }));

if (transport.terminateSession && transport.sessionId) await transport.terminateSession();
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
