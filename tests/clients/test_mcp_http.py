"""POST /mcp as it stands on the wire: every protocol version, every way to get it wrong, sessions, keys, cancellation, progress."""

from __future__ import annotations

import base64
import json
import socket
import threading
from typing import Any, Dict, Iterator, List, Optional

import httpx
import pytest
from support.server import Server
from support.wait import until

VERSIONS = ["2025-03-26", "2025-06-18", "2025-11-25"]
STATELESS = "2026-07-28"
BOTH = "application/json, text/event-stream"
TOOLS = {"run_code", "run_shell", "read_file", "write_file", "list_files", "fork", "merge", "snapshot", "create_sandbox", "list_sandboxes", "delete_sandbox"}
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def message(method: str, params: Optional[Dict[str, Any]] = None, id: Any = 1) -> Dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, **({"params": params} if params is not None else {})}


def notification(method: str, params: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})}


class Mcp:
    """One session of a version that has them."""

    def __init__(self, http: httpx.Client, version: str = "2025-11-25", query: str = "", headers: Optional[Dict[str, str]] = None) -> None:
        self.http, self.url, self.headers, self.last = http, "/mcp" + query, {"Accept": BOTH, **(headers or {})}, 0
        answer = self.post(message("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}))
        assert answer.status_code == 200, answer.text
        self.hello = answer.json()["result"]
        self.id = answer.headers["mcp-session-id"]
        self.headers.update({"Mcp-Session-Id": self.id, "MCP-Protocol-Version": self.hello["protocolVersion"]})
        assert self.post(notification("notifications/initialized")).status_code == 202

    def post(self, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(self.url, json=body, headers={**self.headers, **headers})

    def ask(self, method: str, params: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        self.last += 1
        answer = self.post(message(method, params, self.last))
        assert answer.status_code == 200, answer.text
        value: Dict[str, Any] = answer.json()
        assert value["id"] == self.last and value["jsonrpc"] == "2.0"
        return value

    def call(self, name: str, **arguments: Any) -> Dict[str, Any]:
        value = self.ask("tools/call", {"name": name, "arguments": arguments})
        assert "result" in value, value
        return value["result"]  # type: ignore[no-any-return]

    def text(self, name: str, **arguments: Any) -> str:
        result = self.call(name, **arguments)
        assert not result.get("isError"), result
        return "".join(block["text"] for block in result["content"] if block["type"] == "text")

    def end(self) -> httpx.Response:
        return self.http.delete(self.url, headers=self.headers)


@pytest.fixture
def mcp(http: httpx.Client) -> Iterator[Mcp]:
    session = Mcp(http)
    yield session
    session.end()


def texts(result: Dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in result["content"])


def events(text: str) -> List[Dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def living(http: httpx.Client, session: str) -> List[str]:
    return [cell["id"] for cell in http.get("/v1/sandboxes", params={"metadata": f"mcp_session={session}"}).json()]


# ---- versions ----


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_agreed_on(http: httpx.Client, version: str) -> None:
    session = Mcp(http, version)
    assert session.hello["protocolVersion"] == version
    assert session.hello["serverInfo"]["name"] == "cella" and session.hello["serverInfo"]["version"]
    assert "tools" in session.hello["capabilities"] and session.hello["instructions"]
    assert session.ask("ping")["result"] == {}
    assert {tool["name"] for tool in session.ask("tools/list")["result"]["tools"]} == TOOLS
    assert session.text("run_code", code="6 * 7") == "42"
    assert session.end().status_code == 204


@pytest.mark.parametrize("asked", ["2024-11-05", "1999-01-01", STATELESS, "nonsense"])
def test_an_unknown_version_is_answered_with_the_newest(http: httpx.Client, asked: str) -> None:
    session = Mcp(http, asked)
    assert session.hello["protocolVersion"] == VERSIONS[-1]
    session.end()


def test_lists_of_messages_belong_to_the_first_version(http: httpx.Client) -> None:
    many = [message("ping", id="a"), notification("notifications/initialized"), message("tools/list", id=7), message("none", id=8), {"jsonrpc": "1.0", "id": 9, "method": "x"}]
    session = Mcp(http, "2025-03-26")
    answers = {value["id"]: value for value in session.post(many).json()}
    assert set(answers) == {"a", 7, 8, 9}
    assert answers["a"]["result"] == {} and answers[7]["result"]["tools"]
    assert answers[8]["error"]["code"] == -32601 and answers[9]["error"]["code"] == -32600
    assert session.post([notification("notifications/initialized")]).status_code == 202
    assert session.post([]).json()["error"]["code"] == -32600
    assert session.post([message("ping", id=i) for i in range(65)]).json()["error"]["code"] == -32600
    refused = session.post([message("initialize", {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {}})]).json()
    assert refused[0]["error"]["code"] == -32601
    session.end()
    for version in VERSIONS[1:]:
        session = Mcp(http, version)
        answer = session.post(many)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == -32600
        session.end()


# ---- the version without sessions ----


def bare(http: httpx.Client, method: str, params: Optional[Dict[str, Any]] = None, query: str = "", meta: Optional[Dict[str, Any]] = None, drop: str = "", **headers: str) -> httpx.Response:
    about = {"io.modelcontextprotocol/protocolVersion": STATELESS, "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}}
    body = message(method, {**(params or {}), "_meta": {**about, **(meta or {})}})
    usual = {"Accept": BOTH, "MCP-Protocol-Version": STATELESS, "Mcp-Method": method}
    if method == "tools/call":
        usual["Mcp-Name"] = str((params or {}).get("name"))
    usual.update(headers)
    return http.post("/mcp" + query, json=body, headers={k: v for k, v in usual.items() if k != drop})


def test_discovery(http: httpx.Client) -> None:
    answer = bare(http, "server/discover")
    assert answer.status_code == 200 and "mcp-session-id" not in answer.headers
    result = answer.json()["result"]
    assert result["supportedVersions"] == [STATELESS] and result["resultType"] == "complete"
    assert result["ttlMs"] == 0 and result["cacheScope"] == "private" and "tools" in result["capabilities"]
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "cella"
    listed = bare(http, "tools/list").json()["result"]
    assert {tool["name"] for tool in listed["tools"]} == TOOLS and listed["resultType"] == "complete"


def test_without_a_session_the_sandbox_is_named(http: httpx.Client) -> None:
    first = bare(http, "tools/call", {"name": "run_code", "arguments": {"code": "x = 20"}}).json()["result"]
    sandbox = first["_meta"]["cella/sandbox"]
    assert sandbox in first["content"][0]["text"] and first["resultType"] == "complete"
    second = bare(http, "tools/call", {"name": "run_code", "arguments": {"code": "x + 1", "sandbox": sandbox}}).json()["result"]
    assert texts(second) == "21" and second["_meta"]["cella/sandbox"] == sandbox
    given = bare(http, "tools/call", {"name": "run_code", "arguments": {"code": "x + 2"}}, query=f"?sandbox={sandbox}").json()["result"]
    assert texts(given) == "22"
    assert http.get(f"/v1/sandboxes/{sandbox}").json()["idle_timeout_seconds"] > 0
    ended = bare(http, "tools/call", {"name": "delete_sandbox", "arguments": {"sandbox": sandbox}}).json()["result"]
    assert not ended.get("isError") and http.get(f"/v1/sandboxes/{sandbox}").status_code == 410
    late = bare(http, "tools/call", {"name": "snapshot", "arguments": {}}).json()["result"]
    assert late["isError"] and "which sandbox" in texts(late)


def test_a_name_in_the_url_is_a_session(http: httpx.Client) -> None:
    def run(code: str) -> str:
        return texts(bare(http, "tools/call", {"name": "run_code", "arguments": {"code": code}}, query="?session=notebook-1").json()["result"])

    assert "A new sandbox was made" in run("y = 5")
    assert run("y * 2") == "10"
    assert http.delete("/mcp?session=notebook-1").status_code == 204
    assert http.delete("/mcp?session=notebook-1").status_code == 404
    assert "NameError" in run("y")
    http.delete("/mcp?session=notebook-1")
    for wrong in ("", "a%20b", "x" * 65):
        assert bare(http, "tools/list", query=f"?session={wrong}").status_code == 400


@pytest.mark.parametrize(
    "change,status,code",
    [
        ({"drop": "MCP-Protocol-Version"}, 400, -32020),
        ({"MCP-Protocol-Version": "2025-11-25"}, 400, -32020),
        ({"drop": "Mcp-Method"}, 400, -32020),
        ({"Mcp-Method": "tools/list"}, 400, -32020),
        ({"drop": "Mcp-Name"}, 400, -32020),
        ({"Mcp-Name": "run_shell"}, 400, -32020),
        ({"meta": {"io.modelcontextprotocol/protocolVersion": 5}}, 400, -32602),
        ({"meta": {"io.modelcontextprotocol/clientCapabilities": None}}, 400, -32602),
        ({"meta": {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}, "MCP-Protocol-Version": "2031-01-01"}, 400, -32022),
    ],
)
def test_what_every_request_must_carry(http: httpx.Client, change: Dict[str, Any], status: int, code: int) -> None:
    answer = bare(http, "tools/call", {"name": "run_code", "arguments": {"code": "1"}}, **change)
    assert answer.status_code == status and answer.json()["error"]["code"] == code, answer.text
    assert answer.json()["id"] == 1
    if code == -32022:
        assert answer.json()["error"]["data"] == {"supported": [STATELESS], "requested": "2031-01-01"}


def test_its_other_errors(http: httpx.Client) -> None:
    for method in ("none", "ping", "initialize", "resources/list"):
        answer = bare(http, method)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == -32601, method
    answer = bare(http, "tools/call", {"name": "none", "arguments": {}})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == -32602
    answer = bare(http, "tools/call", {"name": "run_code", "arguments": {"code": 5}}, query="?session=wrong-arguments")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == -32602
    http.delete("/mcp?session=wrong-arguments")


def test_an_encoded_name_is_understood(http: httpx.Client) -> None:
    encoded = "=?base64?" + base64.b64encode(b"list_sandboxes").decode() + "?="
    assert bare(http, "tools/call", {"name": "list_sandboxes"}, **{"Mcp-Name": encoded}).status_code == 200
    assert bare(http, "tools/call", {"name": "list_sandboxes"}, **{"Mcp-Name": "=?base64?bm8=?="}).json()["error"]["code"] == -32020


# ---- malformed ----


@pytest.mark.parametrize(
    "body,code",
    [
        (b"", -32700), (b"{", -32700), (b"nonsense", -32700), (b'{"jsonrpc":"2.0"', -32700), (b"\xff\xfe", -32700), (b"5", -32700), (b'"text"', -32700), (b"[" * 200, -32700),
        (b"{}", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":1}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602), (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":5}}', -32602),
    ],
)  # fmt: skip
def test_malformed_messages(mcp: Mcp, body: bytes, code: int) -> None:
    answer = mcp.http.post("/mcp", content=body, headers={**mcp.headers, "Content-Type": "application/json"})
    assert answer.status_code == 400
    value = answer.json()
    assert value["jsonrpc"] == "2.0" and value["error"]["code"] == code and value["error"]["message"] and "id" in value


def test_wrong_headers(http: httpx.Client, mcp: Mcp) -> None:
    ping = message("ping")
    assert mcp.post(ping, Accept="text/html").status_code == 406
    assert http.post("/mcp", content=json.dumps(ping), headers={**mcp.headers, "Content-Type": "text/plain"}).status_code == 415
    assert http.post("/mcp", content=json.dumps(ping), headers={**mcp.headers, "Content-Type": "application/json; charset=utf-8"}).status_code == 200
    assert mcp.post(ping, **{"MCP-Protocol-Version": "2019-01-01"}).status_code == 400
    unknown = mcp.post(ping, **{"Mcp-Session-Id": "mcp_" + "0" * 32})
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == -32001
    missing = http.post("/mcp", json=ping, headers={"Accept": BOTH})
    assert missing.status_code == 400 and missing.json()["error"]["code"] == -32000
    for accept in ("*/*", "application/json", "application/*"):
        assert mcp.post(ping, Accept=accept).headers["content-type"] == "application/json"
    only = mcp.post(ping, Accept="text/event-stream")
    assert only.headers["content-type"] == "text/event-stream" and events(only.text) == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


def test_other_methods_of_http(http: httpx.Client, mcp: Mcp) -> None:
    refused = http.get("/mcp", headers=mcp.headers)
    assert refused.status_code == 405 and {m.strip() for m in refused.headers["allow"].split(",")} >= {"POST", "DELETE"}
    assert http.put("/mcp", headers=mcp.headers).status_code == 405
    assert http.delete("/mcp").status_code == 400
    assert http.delete("/mcp", headers={"Mcp-Session-Id": "nothing"}).status_code == 404


def test_host_and_origin(http: httpx.Client, mcp: Mcp) -> None:
    assert mcp.post(message("ping"), Host="evil.example.org").status_code == 403
    assert mcp.post(message("ping"), Origin="http://evil.example.org").status_code == 403
    assert mcp.post(message("ping"), Origin=str(http.base_url).rstrip("/")).status_code == 200


def test_a_large_body_is_refused(mcp: Mcp) -> None:
    assert mcp.post(message("tools/call", {"name": "run_code", "arguments": {"code": "#" * (9 << 20)}})).status_code == 413


def test_notifications_and_answers_are_taken_in(mcp: Mcp) -> None:
    for body in (notification("notifications/cancelled", {"requestId": 99}), notification("notifications/cancelled"), notification("notifications/none"), {"jsonrpc": "2.0", "id": 1, "result": {}},
                 {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}):  # fmt: skip
        answer = mcp.post(body)
        assert answer.status_code == 202 and not answer.content


def test_unknown_methods_and_tools(mcp: Mcp) -> None:
    assert mcp.ask("none")["error"]["code"] == -32601
    assert mcp.ask("tools/call", {"name": "none"})["error"]["code"] == -32602
    assert mcp.ask("tools/call", {"arguments": {}})["error"]["code"] == -32602
    assert mcp.ask("tools/call")["error"]["code"] == -32602
    assert mcp.ask("tools/call", {"name": "run_code", "arguments": []})["error"]["code"] == -32602
    for name, arguments in (("run_code", {}), ("run_code", {"code": 1}), ("run_code", {"code": "1", "language": 5}), ("run_shell", {}), ("read_file", {"path": "x", "offset": -1}), ("write_file", {"path": "x"}),
                            ("write_file", {"path": "x", "content": "?", "encoding": "base64"}), ("write_file", {"path": "x", "content": "?", "encoding": "rot13"}), ("list_files", {"depth": "1"}),
                            ("fork", {"count": 0}), ("fork", {"count": 17}), ("run_code", {"code": "1", "sandbox": 5})):  # fmt: skip
        assert mcp.ask("tools/call", {"name": name, "arguments": arguments})["error"]["code"] == -32602, (name, arguments)


# ---- tools ----


def test_schemas_and_annotations(mcp: Mcp) -> None:
    for tool in mcp.ask("tools/list")["result"]["tools"]:
        schema, hints = tool["inputSchema"], tool["annotations"]
        assert schema["type"] == "object" and set(schema["required"]) <= set(schema["properties"])
        assert tool["description"] and tool["title"] and hints["title"]
        assert {type(hints[k]) for k in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")} == {bool}
        assert ("sandbox" in schema["properties"]) == (tool["name"] not in ("create_sandbox", "list_sandboxes"))


def test_code_its_state_and_its_errors(mcp: Mcp) -> None:
    result = mcp.call("run_code", code="import sys\nn = 3\nprint('out')\nprint('err', file=sys.stderr)\nn + 1")
    assert [block["text"] for block in result["content"]] == ["out\n", "stderr:\nerr\n", "4"]
    assert result["_meta"]["cella/exit"] == "ok"
    failed = mcp.call("run_code", code="def f():\n    return n / 0\nf()")
    assert failed["isError"] and "ZeroDivisionError" in texts(failed) and "return n / 0" in texts(failed) and "\x1b" not in texts(failed)
    assert mcp.text("run_code", code="pass") == "(no output)"
    assert mcp.text("run_code", code="echo $((n + 1))", language="shell").strip() == "1"
    limited = mcp.call("run_code", code="m = 1\nimport time; time.sleep(600)", timeout_seconds=1)
    assert limited["isError"] and "time limit" in texts(limited) and limited["_meta"]["cella/exit"] == "timeout"
    assert mcp.text("run_code", code="m, n") == "(1, 3)"
    assert "\"timeout_seconds\"" in texts(mcp.call("run_code", code="1", timeout_seconds=-1)) or mcp.call("run_code", code="1", timeout_seconds=-1)["isError"]


def test_figures_are_images(mcp: Mcp) -> None:
    result = mcp.call("run_code", code="import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    images = [block for block in result["content"] if block["type"] == "image"]
    assert len(images) == 1 and images[0]["mimeType"] == "image/png"
    assert base64.b64decode(images[0]["data"]).startswith(b"\x89PNG")
    assert "Name" in mcp.text("run_code", code="import pandas\npandas.DataFrame({'Name': ['a']})")


def test_the_shell_keeps_its_place(mcp: Mcp) -> None:
    assert mcp.text("run_shell", command="mkdir -p deep && cd deep && here=1; pwd") == "/workspace/deep\n"
    assert mcp.text("run_shell", command="pwd; echo $here") == "/workspace/deep\n1\n"
    failed = mcp.call("run_shell", command="(exit 7)")
    assert failed["isError"] and "exit code 7" in texts(failed)


def test_files(mcp: Mcp) -> None:
    assert "7 bytes" in mcp.text("write_file", path="d/text.txt", content="héllo\n")
    assert mcp.text("read_file", path="/workspace/d/text.txt") == "héllo\n"
    mcp.call("write_file", path="d/text.txt", content="more", append=True)
    assert mcp.text("read_file", path="d/text.txt") == "héllo\nmore"
    assert mcp.text("read_file", path="d/text.txt", offset=7) == "more"
    part = mcp.call("read_file", path="d/text.txt", max_bytes=2)  # cuts the é
    assert part["content"][0]["text"] == "h" and "offset 1]" in part["content"][1]["text"]
    mcp.call("write_file", path="d/p.png", content=base64.b64encode(PIXEL).decode(), encoding="base64")
    image = mcp.call("read_file", path="d/p.png")["content"][0]
    assert image["type"] == "image" and base64.b64decode(image["data"]) == PIXEL
    for size in (0, 1, 2, 3, 4):
        raw = bytes([0, 255, 1, 2])[:size]
        mcp.call("write_file", path="d/raw", content=base64.b64encode(raw).decode(), encoding="base64")
        block = mcp.call("read_file", path="d/raw")["content"][0]
        assert (block["text"] == "(empty)") if size == 0 else base64.b64decode(block["resource"]["blob"]) == raw
    assert mcp.text("list_files", path="d").splitlines() == ["/workspace/d/p.png  70 bytes", "/workspace/d/raw  4 bytes", "/workspace/d/text.txt  11 bytes"]
    assert "/workspace/d/" in mcp.text("list_files")
    missing = mcp.call("read_file", path="none")
    assert missing["isError"] and "none" in texts(missing)
    assert mcp.call("write_file", path="/proc/none/x", content="x")["isError"]


def test_a_large_file(mcp: Mcp) -> None:
    text = "0123456789abcdef" * (1 << 16)  # 1 MiB
    assert "1048576 bytes" in mcp.text("write_file", path="large", content=text)
    assert mcp.text("read_file", path="large") == text
    assert mcp.text("run_code", code="import hashlib; hashlib.sha256(open('large','rb').read()).hexdigest()").strip("'") == __import__("hashlib").sha256(text.encode()).hexdigest()


def test_fork_merge_snapshot(http: httpx.Client, mcp: Mcp) -> None:
    mcp.call("run_code", code="x = [1]")
    made = mcp.call("fork", count=3)["structuredContent"]
    children = made["children"]
    assert len(set(children)) == 3 and made["parent"] not in children
    for number, child in enumerate(children):
        mcp.call("run_code", code=f"x.append({number})", sandbox=child)
    assert mcp.text("run_code", code="x") == "[1]"
    assert mcp.text("run_code", code="x", sandbox=children[2]) == "[1, 2]"
    listed = mcp.call("list_sandboxes")["structuredContent"]["sandboxes"]
    assert [s["id"] for s in listed if s.get("own")] == [made["parent"]] and {s["id"] for s in listed} == {made["parent"], *children}
    assert {s.get("parent_id") for s in listed if s["id"] in children} == {made["parent"]}
    merged = mcp.call("merge", winner=children[1])["structuredContent"]
    assert merged == {"sandbox": made["parent"], "merged": children[1]}
    assert mcp.text("run_code", code="x") == "[1, 1]"
    assert mcp.call("run_code", code="x", sandbox=children[1])["isError"]
    again = mcp.call("merge", winner=children[1])
    assert again["isError"]
    snapshot = mcp.call("snapshot")["structuredContent"]["snapshot_id"]
    mcp.call("run_code", code="x = 'changed'")
    other = mcp.call("create_sandbox", from_snapshot=snapshot)["structuredContent"]["sandbox"]
    assert mcp.text("run_code", code="x", sandbox=other) == "[1, 1]"
    assert mcp.text("delete_sandbox", sandbox=other) == "deleted"
    assert mcp.call("create_sandbox", from_snapshot="none")["isError"]
    session = mcp.id
    assert len(living(http, session)) == 3
    assert mcp.end().status_code == 204
    until(lambda: not living(http, session), "the sandboxes of the session to end", 60)
    assert mcp.post(message("ping")).status_code == 404
    http.delete(f"/v1/snapshots/{snapshot}")


# ---- sessions ----


def test_a_given_sandbox_outlives_the_session(http: httpx.Client) -> None:
    cell = http.post("/v1/sandboxes", json={}).json()["id"]
    session = Mcp(http, query=f"?sandbox={cell}")
    session.call("run_code", code="z = 1")
    assert session.call("run_code", code="z")["_meta"]["cella/sandbox"] == cell
    assert not living(http, session.id)
    session.end()
    assert http.get(f"/v1/sandboxes/{cell}").json()["status"] == "running"
    http.post(f"/v1/sandboxes/{cell}/hibernate")
    session = Mcp(http, query=f"?sandbox={cell}")
    assert session.text("run_code", code="z") == "1"  # woken
    session.end()
    http.delete(f"/v1/sandboxes/{cell}")
    gone = Mcp(http, query=f"?sandbox={cell}")
    assert gone.call("run_code", code="z")["isError"]
    gone.end()


def test_keep(http: httpx.Client) -> None:
    session = Mcp(http, query="?keep=1")
    cell = session.call("run_code", code="k = 9")["_meta"]["cella/sandbox"]
    session.end()
    about = http.get(f"/v1/sandboxes/{cell}").json()
    assert about["status"] == "running" and about["persistent"] and about["space_id"]
    again = Mcp(http, query=f"?sandbox={cell}")
    assert again.text("run_code", code="k") == "9"
    again.end()
    http.delete(f"/v1/sandboxes/{cell}")
    assert http.post("/mcp?keep=perhaps", json=message("initialize", {"protocolVersion": "2025-06-18"}), headers={"Accept": BOTH}).status_code == 400


def test_a_sandbox_that_ended_is_told(http: httpx.Client, mcp: Mcp) -> None:
    cell = mcp.call("run_code", code="1")["_meta"]["cella/sandbox"]
    http.delete(f"/v1/sandboxes/{cell}")
    told = mcp.call("run_code", code="2")
    assert told["isError"] and "is gone" in texts(told)
    fresh = mcp.call("run_code", code="3")
    assert texts(fresh) == "3" and fresh["_meta"]["cella/sandbox"] != cell


def test_calls_at_once_share_one_sandbox(http: httpx.Client, mcp: Mcp) -> None:
    found: List[str] = []

    def call(number: int) -> None:
        with httpx.Client(base_url=http.base_url, timeout=120, trust_env=False) as own:
            body = message("tools/call", {"name": "run_code", "arguments": {"code": str(number)}}, number)
            found.append(own.post("/mcp", json=body, headers=mcp.headers).json()["result"]["_meta"]["cella/sandbox"])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(living(http, mcp.id)) == 1


@pytest.mark.own_server
def test_an_idle_session_ends_with_its_sandbox(new_server: Any) -> None:
    server: Server = new_server(arguments=["--mcp-idle", "6"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        session = Mcp(http)
        session.call("run_code", code="1")
        until(lambda: not living(http, session.id), "the end of its sandbox", 120)
        until(lambda: session.post(message("ping")).status_code == 404, "the end of the session", 120, pause=9)  # every look keeps it alive


@pytest.mark.own_server
def test_keys_have_sessions_of_their_own(new_server: Any) -> None:
    server: Server = new_server(arguments=["--require-key"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        keys = []
        for name in ("one", "two"):
            made = http.post("/v1/keys", json={"name": name}, headers={"Authorization": f"Bearer {keys[0]}"} if keys else {})
            keys.append(made.json()["key"])
        one, two = ({"Authorization": f"Bearer {key}"} for key in keys)
        assert http.post("/mcp", json=message("ping"), headers={"Accept": BOTH}).status_code == 401
        mine, other = Mcp(http, headers=one), Mcp(http, headers=two)
        cell = mine.call("run_code", code="secret = 1")["_meta"]["cella/sandbox"]
        stolen = {**one, "Accept": BOTH, "Mcp-Session-Id": mine.id}
        assert http.post("/mcp", json=message("ping"), headers=stolen).status_code == 200
        assert http.post("/mcp", json=message("ping"), headers={**stolen, **two}).status_code == 404
        assert http.delete("/mcp", headers={**stolen, **two}).status_code == 404
        assert other.call("run_code", code="secret", sandbox=cell)["isError"]
        assert other.call("list_sandboxes")["structuredContent"]["sandboxes"] == []
        named = [bare(http, "tools/call", {"name": "run_code", "arguments": {"code": "1"}}, query="?session=same", **key).json()["result"]["_meta"]["cella/sandbox"] for key in (one, two)]
        assert len(set(named)) == 2


@pytest.mark.own_server
def test_a_daemon_that_starts_again_says_that_it_knows_no_session(new_server: Any) -> None:
    server: Server = new_server()
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        session = Mcp(http)
        cell = session.call("run_code", code="v = 1")["_meta"]["cella/sandbox"]
        server.stop_daemon()
        server.start_daemon()
        assert session.post(message("ping")).status_code == 404
        again = Mcp(http)
        assert again.text("run_code", code="v", sandbox=cell) == "1"


# ---- long calls ----


def test_progress_comes_as_events(mcp: Mcp) -> None:
    params = {"name": "run_code", "arguments": {"code": "import time\nfor i in range(3):\n    print('step', i, flush=True)\n    time.sleep(0.7)\n'end'"}, "_meta": {"progressToken": "t1"}}
    answer = mcp.post(message("tools/call", params, 5))
    assert answer.headers["content-type"] == "text/event-stream"
    *notes, last = events(answer.text)
    assert last["id"] == 5 and "end" in texts(last["result"])
    assert notes and all(note["method"] == "notifications/progress" and note["params"]["progressToken"] == "t1" for note in notes)
    assert notes[0]["params"]["message"].startswith("step")
    values = [note["params"]["progress"] for note in notes]
    assert values == sorted(set(values))
    params["_meta"] = {"progressToken": 7}
    assert mcp.post(message("tools/call", params, 6), Accept="application/json").headers["content-type"] == "application/json"


STARTED = "import pathlib, time\npathlib.Path('started').touch()\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    pathlib.Path('stopped').touch()\n    raise"


def in_background(http: httpx.Client, work: Any) -> "tuple[threading.Thread, List[Any]]":
    out: List[Any] = []

    def go() -> None:
        with httpx.Client(base_url=http.base_url, timeout=120, trust_env=False) as own:
            try:
                out.append(work(own))
            except httpx.HTTPError as e:
                out.append(e)

    thread = threading.Thread(target=go)
    thread.start()
    return thread, out


@pytest.mark.parametrize("progress", [False, True])
def test_cancellation_interrupts_the_code(http: httpx.Client, mcp: Mcp, progress: bool) -> None:
    mcp.call("run_code", code="state = 'kept'")
    params: Dict[str, Any] = {"name": "run_code", "arguments": {"code": STARTED}}
    if progress:
        params["_meta"] = {"progressToken": "c"}
    thread, out = in_background(http, lambda own: own.post("/mcp", json=message("tools/call", params, "long"), headers=mcp.headers))
    until(lambda: "started" in mcp.text("list_files"), "the code to start", 60)
    assert mcp.post(notification("notifications/cancelled", {"requestId": "long", "reason": "test"})).status_code == 202
    thread.join(60)
    assert not thread.is_alive()
    if progress:
        assert out[0].status_code == 200 and all("id" not in event for event in events(out[0].text))
    else:
        assert out[0].status_code == 202 and not out[0].content
    assert "stopped" in mcp.text("list_files")
    assert mcp.text("run_code", code="state") == "'kept'"


def sent(http: httpx.Client, body: Dict[str, Any], headers: Dict[str, str]) -> socket.socket:
    """A connection with one request on it, to hang up at will."""
    connection = socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=60)
    data = json.dumps(body).encode()
    lines = {"Host": f"127.0.0.1:{http.base_url.port}", "Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    connection.sendall(b"POST /mcp HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode() + b"\r\n" + data)
    return connection


def has(http: httpx.Client, cell: str, path: str) -> bool:
    return http.get(f"/v1/sandboxes/{cell}/fs/stat", params={"path": path}).status_code == 200


@pytest.mark.parametrize("progress", [False, True])
def test_without_sessions_hanging_up_is_cancellation(http: httpx.Client, progress: bool) -> None:
    cell = http.post("/v1/sandboxes", json={}).json()["id"]
    meta: Dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": STATELESS, "io.modelcontextprotocol/clientCapabilities": {}}
    if progress:
        meta["progressToken"] = 1
    body = message("tools/call", {"name": "run_code", "arguments": {"code": STARTED, "sandbox": cell}, "_meta": meta})
    connection = sent(http, body, {"Accept": BOTH, "MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": "run_code"})
    until(lambda: has(http, cell, "started"), "the code to start", 60)
    connection.close()
    until(lambda: has(http, cell, "stopped"), "the interrupt", 60)
    http.delete(f"/v1/sandboxes/{cell}")


def test_with_a_session_hanging_up_is_not(http: httpx.Client, mcp: Mcp) -> None:
    cell = mcp.call("run_code", code="1")["_meta"]["cella/sandbox"]
    code = "import pathlib, time\npathlib.Path('go').touch()\nwhile not pathlib.Path('on').exists():\n    time.sleep(0.05)\npathlib.Path('done').touch()"
    connection = sent(http, message("tools/call", {"name": "run_code", "arguments": {"code": code}}, 50), mcp.headers)
    until(lambda: has(http, cell, "go"), "the code to start", 60)
    connection.close()
    mcp.call("write_file", path="on", content="")
    until(lambda: has(http, cell, "done"), "the code to go on", 60)


def test_the_end_of_a_session_ends_what_runs(http: httpx.Client) -> None:
    session = Mcp(http)
    thread, out = in_background(http, lambda own: own.post("/mcp", json=message("tools/call", {"name": "run_code", "arguments": {"code": STARTED}}, 3), headers=session.headers))
    until(lambda: "started" in texts(session.call("list_files")), "the code to start", 60)
    assert session.end().status_code == 204
    thread.join(60)
    assert not thread.is_alive() and not isinstance(out[0], Exception)
