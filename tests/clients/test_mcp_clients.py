"""Real MCP clients against the daemon, unmodified, over HTTP and over `cella mcp`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional

import httpx
import pytest
from support.packages import node, npm_tree, python_tree
from support.server import Server, programs
from support.wait import until

HERE = Path(__file__).resolve().parent
SDK, CLIENT, PYTHON = "MCP TypeScript SDK 1.32.2", "MCP TypeScript client 2.4.0", "MCP Python SDK 2.3.0"
TOOLS = {"run_code", "run_shell", "read_file", "write_file", "list_files", "fork", "merge", "snapshot", "create_sandbox", "list_sandboxes", "delete_sandbox"}
SECONDS = 280


def environment(url: str) -> Dict[str, str]:
    return {"CELLA_URL": url}


def finished(command: List[str], order: Dict[str, Any]) -> Dict[str, Any]:
    done = subprocess.run([*command, json.dumps(order)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    value: Dict[str, Any] = json.loads(done.stdout)
    return value


def over(transport: str, server: Server, query: str = "") -> Dict[str, Any]:
    if transport == "http":
        return {"url": f"{server.url}/mcp{query}"}
    return {"command": str(programs() / "cella"), "args": ["mcp"], "env": environment(server.url)}


def check(seen: Dict[str, Any], version: str, made: bool) -> None:
    """What every client must have seen; made: it was told about the sandbox that its first call made."""
    assert seen["version"] == version and seen["server"] == "cella"
    assert set(seen["tools"]) == TOOLS
    assert seen["first"].endswith("hello\n") and ("A new sandbox was made" in seen["first"]) == made
    assert seen["state"] == "42"
    assert seen["failed"]["isError"] is True and "ZeroDivisionError" in seen["failed"]["text"]
    assert seen["images"] == [["image/png", "iVBORw0K"]]
    assert seen["read"] == "grüße" and seen["shell"].strip() == "7"
    assert seen["parent"] == "40" and seen["merged"] == "42"
    assert seen["slow"] == "step 0\nstep 1\nstep 2\n" and any(line.startswith("step") for line in seen["progress"])
    assert seen["after"] == "42"


def ends(http: httpx.Client, before: List[str]) -> None:
    until(lambda: {cell["id"] for cell in http.get("/v1/sandboxes").json()} <= set(before), "the sandboxes of the session to end", 60)


def cells(http: httpx.Client) -> List[str]:
    return [cell["id"] for cell in http.get("/v1/sandboxes").json()]


@pytest.mark.client(SDK, "session over HTTP and stdio")
@pytest.mark.parametrize("transport", ["http", "stdio"])
def test_typescript_sdk(server: Server, http: httpx.Client, transport: str) -> None:
    before = cells(http)
    seen = finished([str(node()), str(HERE / "npm" / "mcp" / "drive.mjs")], {"tree": str(npm_tree(HERE / "npm" / "mcp")), "package": "sdk", **over(transport, server)})
    seen.setdefault("version", "2025-11-25")  # its stdio transport does not tell
    check(seen, "2025-11-25", made=transport == "stdio")
    assert seen["cancelled"] == "refused" and seen["errors"] == []
    ends(http, before)


@pytest.mark.client(CLIENT, "session over HTTP and stdio, with and without protocol sessions")
@pytest.mark.parametrize(
    "transport,mode,query,version",
    [
        ("http", "legacy", "", "2025-11-25"), ("http", "auto", "", "2026-07-28"), ("http", {"pin": "2026-07-28"}, "?session=pinned", "2026-07-28"),
        ("stdio", "legacy", "", "2025-11-25"), ("stdio", "auto", "", "2026-07-28"),
    ],
)  # fmt: skip
def test_typescript_client(server: Server, http: httpx.Client, transport: str, mode: Any, query: str, version: str) -> None:
    before = cells(http)
    handle = transport == "http" and version == "2026-07-28" and not query
    order = {"tree": str(npm_tree(HERE / "npm" / "mcp")), "package": "client", "mode": mode, "handle": handle, **over(transport, server, query)}
    seen = finished([str(node()), str(HERE / "npm" / "mcp" / "drive.mjs")], order)
    check(seen, version, made=transport == "stdio" or version == "2026-07-28")
    assert seen["cancelled"] == "refused" and seen["errors"] == []
    if query:
        http.delete(f"/mcp{query}")
    for cell in cells(http) if handle else []:  # they would end by their idle timeout
        if cell not in before:
            http.delete(f"/v1/sandboxes/{cell}")
    ends(http, before)


@pytest.mark.client(PYTHON, "session over HTTP and stdio, with and without protocol sessions")
@pytest.mark.parametrize("transport,mode,version", [("http", "legacy", "2025-11-25"), ("http", "auto", "2026-07-28"), ("stdio", "legacy", "2025-11-25"), ("stdio", "auto", "2026-07-28")])
def test_python_client(server: Server, http: httpx.Client, transport: str, mode: str, version: str) -> None:
    before = cells(http)
    python = python_tree(HERE / "requirements-mcp.txt")
    query = "?session=python" if transport == "http" and mode == "auto" else ""
    seen = finished([str(python), str(HERE / "drive_mcp.py")], {"mode": mode, **over(transport, server, query)})
    check(seen, version, made=bool(query) or transport == "stdio")
    if query:
        http.delete(f"/mcp{query}")
    ends(http, before)


# ---- `cella mcp` by hand ----


class Bridge:
    def __init__(self, url: str, *words: str, env: Optional[Dict[str, str]] = None) -> None:
        self.process = subprocess.Popen([str(programs() / "cella"), "mcp", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "CELLA_URL": url, **(env or {})})  # fmt: skip

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> Dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        value: Dict[str, Any] = json.loads(line)
        return value

    def ask(self, method: str, id: Any = 1, **params: Any) -> Dict[str, Any]:
        self.say(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        while True:
            answer = self.hear()
            if "id" in answer:  # else progress of another call
                return answer

    def greet(self) -> None:
        answer = self.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"})
        assert answer["result"]["protocolVersion"] == "2025-06-18"
        self.say('{"jsonrpc":"2.0","method":"notifications/initialized"}')

    def call(self, name: str, **arguments: Any) -> Dict[str, Any]:
        result: Dict[str, Any] = self.ask("tools/call", name=name, arguments=arguments)["result"]
        return result

    def end(self) -> str:
        """Close stdin; what it said on stderr."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0 and out == "", (self.process.returncode, out, err)
        return err


def test_stdio_has_one_message_a_line(server: Server, http: httpx.Client) -> None:
    before = cells(http)
    bridge = Bridge(server.url)
    bridge.say("nonsense")
    assert bridge.hear()["error"]["code"] == -32700
    bridge.greet()
    bridge.say("")
    assert bridge.ask("ping", "text id") == {"jsonrpc": "2.0", "id": "text id", "result": {}}
    assert bridge.ask("none")["error"]["code"] == -32601
    assert bridge.call("run_code", code="print('a\\nb')")["content"][-1]["text"] == "a\nb\n"
    bridge.say('{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"run_code","arguments":{"code":"' + "#" * (9 << 20) + '"}}}')
    assert bridge.hear()["error"]["code"] in (-32600, -32000)  # refused here, or by the daemon
    assert bridge.ask("ping")["result"] == {}
    bridge.end()
    ends(http, before)


def test_stdio_answers_while_code_runs_and_cancels(server: Server) -> None:
    bridge = Bridge(server.url)
    bridge.greet()
    bridge.call("run_code", code="1")
    bridge.say(json.dumps({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": {"name": "run_code", "_meta": {"progressToken": "p"}, "arguments": {"code": "print('up', flush=True)\nimport time; time.sleep(600)"}}}))
    assert bridge.hear()["params"]["message"] == "up"
    assert bridge.ask("ping", 2)["result"] == {}
    bridge.say('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"long"}}')
    said = bridge.call("run_code", code="'free again'")  # waits for the context
    assert said["content"][0]["text"] == "'free again'"
    bridge.end()


@pytest.mark.parametrize("how", ["eof", "signal"])
def test_stdio_ends_its_session(server: Server, http: httpx.Client, how: str) -> None:
    before = cells(http)
    bridge = Bridge(server.url)
    bridge.greet()
    cell = bridge.call("run_code", code="1")["_meta"]["cella/sandbox"]
    assert cell in cells(http)
    if how == "signal":
        bridge.process.send_signal(signal.SIGTERM)
    bridge.end()
    ends(http, before)


def test_stdio_in_a_given_cell_and_with_one_that_is_kept(server: Server, http: httpx.Client) -> None:
    cell = http.post("/v1/sandboxes", json={}).json()["id"]
    bridge = Bridge(server.url, "--sandbox", cell)
    bridge.greet()
    assert bridge.call("run_code", code="q = 1")["_meta"]["cella/sandbox"] == cell
    bridge.end()
    assert http.get(f"/v1/sandboxes/{cell}").status_code == 200
    http.delete(f"/v1/sandboxes/{cell}")
    bridge = Bridge(server.url, "--keep")
    bridge.greet()
    kept = bridge.call("run_code", code="q = 1")["_meta"]["cella/sandbox"]
    bridge.end()
    assert http.get(f"/v1/sandboxes/{kept}").json()["persistent"] is True
    http.delete(f"/v1/sandboxes/{kept}")


def test_stdio_without_a_daemon_says_what_to_do() -> None:
    done = subprocess.run([str(programs() / "cella"), "mcp"], input="", capture_output=True, text=True, timeout=60, env={**os.environ, "CELLA_URL": "http://127.0.0.1:9"})
    assert done.returncode == 3 and done.stdout == ""
    assert "no daemon answers" in done.stderr and "cella up" in done.stderr


@pytest.mark.own_server
def test_stdio_outlives_the_daemon_and_tells(new_server: Any) -> None:
    server: Server = new_server()
    bridge = Bridge(server.url)
    bridge.greet()
    bridge.call("run_code", code="w = 1")
    server.stop_daemon()
    lost = bridge.ask("ping")
    assert lost["error"]["code"] == -32000 and "no daemon answers" in lost["error"]["message"]
    server.start_daemon()
    again = bridge.call("run_code", code="'w' in globals()")
    assert "A new sandbox was made" in again["content"][0]["text"] and again["content"][1]["text"] == "False"
    bridge.process.communicate(timeout=60)


@pytest.mark.own_server
def test_stdio_with_a_key(new_server: Any) -> None:
    server: Server = new_server(arguments=["--require-key"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        key = http.post("/v1/keys", json={"name": "one"}).json()["key"]
    bridge = Bridge(server.url)
    refused = bridge.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"})
    assert refused["error"]["code"] == -32000 and "key" in refused["error"]["message"]
    bridge.process.communicate(timeout=60)
    bridge = Bridge(server.url, env={"CELLA_API_KEY": key})
    bridge.greet()
    assert bridge.call("run_code", code="5")["content"][-1]["text"] == "5"
    bridge.end()
