"""Trace context in and out, and spans at a small real OTLP/HTTP receiver."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Optional

import httpx
import pytest
from support.server import Server
from support.wait import until
from support.ws import WebSocket

pytestmark = pytest.mark.own_server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


class Receiver:
    """Takes what an OTLP collector takes; `answers` are the statuses of the next posts, 200 when it is empty."""

    def __init__(self) -> None:
        self.spans: List[Dict[str, Any]] = []
        self.posts: List[Dict[str, Any]] = []
        self.answers: List[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = receiver.answers.pop(0) if receiver.answers else 200
                receiver.posts.append({"path": self.path, "headers": dict(self.headers), "body": body, "status": status})
                if status == 200:
                    for resource in body["resourceSpans"]:
                        for scope in resource["scopeSpans"]:
                            receiver.spans.extend(scope["spans"])
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def named(self, name: str, count: int = 1) -> List[Dict[str, Any]]:
        def found() -> Optional[List[Dict[str, Any]]]:
            spans = [span for span in list(self.spans) if span["name"] == name]
            return spans if len(spans) >= count else None

        return until(found, f"{count} spans named {name}", 60) or []


def attributes(span: Dict[str, Any]) -> Dict[str, Any]:
    out: Dict[str, Any] = {}
    for item in span["attributes"]:
        ((kind, value),) = item["value"].items()
        out[item["key"]] = int(value) if kind == "intValue" else value
    return out


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def traced(new_server: Callable[..., Server], receiver: Receiver) -> Iterator[httpx.Client]:
    server = new_server(arguments=["--otlp-endpoint", receiver.url + "/base/"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture
def fresh(receiver: Receiver, traced: httpx.Client) -> Receiver:
    """Without what earlier tests left: spans come in the order of their ends, so the marker's is the last of them."""
    marker = os.urandom(16).hex()
    traced.post("/v1/sandboxes", json={"template": "none"}, headers={"traceparent": f"00-{marker}-{PARENT}-01"})
    until(lambda: any(span["traceId"] == marker for span in list(receiver.spans)), "the marker's span", 60)
    receiver.spans.clear()
    receiver.posts.clear()
    return receiver


def metric(http: httpx.Client, result: str) -> int:
    found = re.search(rf'^cella_trace_spans_total{{result="{result}"}} (\d+)$', http.get("/metrics").text, re.M)
    assert found
    return int(found.group(1))


@pytest.mark.needs_isolation  # forks
def test_create_execute_exec_fork(traced: httpx.Client, fresh: Receiver) -> None:
    made = traced.post("/v1/sandboxes", json={}, headers={"traceparent": GIVEN})
    cell, back = made.json()["id"], made.headers["traceparent"]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", back) and PARENT not in back
    code = "import sys\nprint('héllo')\nprint('e', file=sys.stderr)\n[1]"
    traced.post(f"/v1/sandboxes/{cell}/execute", json={"code": code}, headers={"traceparent": GIVEN})
    traced.post(f"/v1/sandboxes/{cell}/exec", json={"cmd": "echo hi; exit 3"}, headers={"traceparent": GIVEN})
    forked = traced.post(f"/v1/sandboxes/{cell}/fork", json={"n": 2}, headers={"traceparent": GIVEN}).json()
    create, execute, ran, fork = (fresh.named(f"cella.{name}")[0] for name in ("create", "execute", "exec", "fork"))
    for span in (create, execute, ran, fork):
        assert span["traceId"] == TRACE and span["parentSpanId"] == PARENT and re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert int(span["endTimeUnixNano"]) > int(span["startTimeUnixNano"]) > 1e18 and span["kind"] == 2
        assert attributes(span)["cella.sandbox.id"] == cell and attributes(span)["http.request.method"] == "POST"
    assert create["spanId"] == back.split("-")[2]
    assert attributes(create)["cella.template"] == "default" and attributes(create)["http.response.status_code"] == 201 and create["status"] == {}
    seen = attributes(execute)
    assert seen["cella.code.sha256"] == hashlib.sha256(code.encode()).hexdigest() and seen["cella.code.bytes"] == len(code.encode())
    assert seen["cella.exit"] == "ok" and seen["cella.stdout.bytes"] == len("héllo\n".encode()) and seen["cella.stderr.bytes"] == 2 and seen["cella.results"] == 1
    assert seen["cella.duration_ms"] >= 0 and seen["cella.execution.id"] and "http.route" in seen
    seen = attributes(ran)
    assert seen["cella.exit_code"] == 3 and seen["cella.stdout.bytes"] == 3 and seen["cella.code.sha256"] == hashlib.sha256(b"echo hi; exit 3").hexdigest()
    assert attributes(fork)["cella.children"] == 2
    post = fresh.posts[0]
    assert post["path"] == "/base/v1/traces" and post["headers"]["Content-Type"] == "application/json"
    resource = {a["key"]: a["value"]["stringValue"] for a in post["body"]["resourceSpans"][0]["resource"]["attributes"]}
    assert resource["service.name"] == "cella" and resource["service.version"]
    everything = json.dumps(fresh.posts)
    assert "héllo" not in everything and "print(" not in everything and "echo hi" not in everything
    for child in [cell, *forked["children"]]:
        traced.delete(f"/v1/sandboxes/{child}")


def test_what_went_wrong_is_said(traced: httpx.Client, fresh: Receiver) -> None:
    cell = traced.post("/v1/sandboxes", json={}).json()["id"]
    traced.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1/0"})
    traced.post(f"/v1/sandboxes/{cell}/execute", json={"code": 5})
    traced.post("/v1/sandboxes", json={"template": "none-of-that-name"})
    failed, refused = fresh.named("cella.execute", 2)
    assert failed["status"] == {"code": 2, "message": "error"} and attributes(failed)["cella.error"] == "ZeroDivisionError"
    assert refused["status"]["code"] == 2 and attributes(refused)["http.response.status_code"] == 400
    assert fresh.named("cella.create", 2)[1]["status"]["code"] == 2
    roots = {span["traceId"] for span in fresh.spans}
    assert len(roots) == len(fresh.spans) and not any("parentSpanId" in span for span in fresh.spans)
    traced.delete(f"/v1/sandboxes/{cell}")


def test_streams_carry_the_trace(traced: httpx.Client, fresh: Receiver) -> None:
    cell = traced.post("/v1/sandboxes", json={}).json()["id"]
    answer = traced.post(f"/v1/sandboxes/{cell}/execute", json={"code": "print('x' * 1000)", "stream": True}, headers={"traceparent": GIVEN})
    start = json.loads(answer.text.splitlines()[0])
    assert start["type"] == "start" and start["traceparent"] == answer.headers["traceparent"] and TRACE in start["traceparent"]
    span = fresh.named("cella.execute")[0]
    assert span["spanId"] in start["traceparent"] and attributes(span)["cella.stdout.bytes"] == 1001 and attributes(span)["cella.exit"] == "ok"
    answer = traced.post(f"/v1/sandboxes/{cell}/exec/stream", json={"cmd": "echo four"}, headers={"traceparent": GIVEN})
    start = json.loads(next(line for line in answer.text.splitlines() if line.startswith("data: "))[6:])
    assert start["type"] == "start" and TRACE in start["traceparent"]
    seen = attributes(fresh.named("cella.exec")[0])
    assert seen["cella.stdout.bytes"] == 5 and seen["cella.exit_code"] == 0 and seen["cella.process.id"] == start["id"]
    traced.delete(f"/v1/sandboxes/{cell}")


def test_each_command_of_a_websocket_is_a_span(traced: httpx.Client, fresh: Receiver) -> None:
    cell = traced.post("/v1/sandboxes", json={}).json()["id"]
    with WebSocket(str(traced.base_url).rstrip("/"), f"/v1/sandboxes/{cell}/exec/ws", extra_headers={"traceparent": GIVEN}) as ws:
        ws.send({"id": 1, "cmd": "echo first; exit 4"})
        while '"exit"' not in str(ws.receive()):
            pass
        first = fresh.named("cella.exec")[0]  # while the connection is open
        ws.send({"id": 2, "cmd": "sleep 60"})
        ws.send({"id": 3, "cmd": 5})
        assert '"error"' in str(ws.receive())
    seen = attributes(first)
    assert first["traceId"] == TRACE and first["parentSpanId"] == PARENT and seen["cella.sandbox.id"] == cell
    assert seen["cella.exit_code"] == 4 and seen["cella.stdout.bytes"] == 6 and seen["cella.process.id"]
    assert seen["cella.code.sha256"] == hashlib.sha256(b"echo first; exit 4").hexdigest() and "http.route" in seen
    others = {span["status"].get("message"): span for span in fresh.named("cella.exec", 3)[1:]}
    assert set(others) == {"the client hung up", "invalid_request"} and len({s["spanId"] for s in others.values()}) == 2
    traced.delete(f"/v1/sandboxes/{cell}")


def test_a_terminal_is_a_span(traced: httpx.Client, fresh: Receiver) -> None:
    cell = traced.post("/v1/sandboxes", json={}).json()["id"]
    with WebSocket(str(traced.base_url).rstrip("/"), f"/v1/sandboxes/{cell}/exec/pty", {"cmd": "echo on the screen; exit 2"}, extra_headers={"traceparent": GIVEN}) as ws:
        while '"exit"' not in str(ws.receive()):
            pass
    span = fresh.named("cella.exec")[0]
    seen = attributes(span)
    assert span["traceId"] == TRACE and span["parentSpanId"] == PARENT and span["status"] == {"code": 2, "message": "error"}
    assert seen["cella.exit_code"] == 2 and seen["cella.stdout.bytes"] >= len("on the screen") and seen["http.response.status_code"] == 101
    assert seen["cella.code.sha256"] == hashlib.sha256(b"echo on the screen; exit 2").hexdigest()
    traced.delete(f"/v1/sandboxes/{cell}")


def test_other_peoples_clients_are_traced(traced: httpx.Client, fresh: Receiver) -> None:
    given = {"traceparent": GIVEN}
    made = traced.post("/sandboxes", json={"templateID": "base", "timeout": 60, "secure": False}, headers=given)
    assert made.status_code == 201 and TRACE in made.headers["traceparent"], made.text
    cell = made.json()["sandboxID"]
    inside = {**given, "E2b-Sandbox-Id": cell}

    code = "print('héllo')\nimport sys; print('e', file=sys.stderr)\n1/0"
    answer = traced.post("/execute", json={"code": code}, headers={**inside, "E2b-Sandbox-Port": "49999"})
    assert answer.status_code == 200 and "ZeroDivisionError" in answer.text
    message = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", "echo four; exit 3"]}}).encode()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    headers = {**inside, "E2b-Sandbox-Port": "49983", "Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
    answer = traced.post("/process.Process/Start", content=frame, headers=headers)
    assert answer.status_code == 200 and b'"end"' in answer.content, answer.content

    create, execute, ran = (fresh.named(f"cella.{name}")[0] for name in ("create", "execute", "exec"))
    ours = cell if cell.startswith("sbx_") else attributes(execute)["cella.sandbox.id"]
    for span in (create, execute, ran):
        assert span["traceId"] == TRACE and span["parentSpanId"] == PARENT and attributes(span)["cella.sandbox.id"] == ours
    assert attributes(create)["http.route"] == "/sandboxes" and attributes(create)["http.response.status_code"] == 201 and attributes(create)["cella.boot_mode"]
    seen = attributes(execute)
    assert seen["cella.code.sha256"] == hashlib.sha256(code.encode()).hexdigest() and seen["cella.error"] == "ZeroDivisionError" and seen["cella.exit"] == "error"
    assert seen["cella.stdout.bytes"] == len("héllo\n".encode()) and seen["cella.stderr.bytes"] == 2
    seen = attributes(ran)
    assert seen["cella.exit_code"] == 3 and seen["cella.stdout.bytes"] == 5 and seen["cella.process.id"] and seen["cella.code.bytes"] > 20
    everything = json.dumps(fresh.posts)
    assert "héllo" not in everything and "echo four" not in everything

    refused = traced.post("/execute", json={"code": "1", "language": "cobol"}, headers={**inside, "E2b-Sandbox-Port": "49999"})
    assert refused.status_code >= 400 and fresh.named("cella.execute", 2)[1]["status"]["code"] == 2
    traced.delete(f"/sandboxes/{cell}")

    made = traced.post("/v1/containers", json={"name": "traced"}, headers=given)
    assert made.status_code == 200, made.text
    span = fresh.named("cella.create", 2)[1]
    assert attributes(span)["http.route"] == "/v1/containers" and attributes(span)["cella.sandbox.id"][4:] == made.json()["id"][5:] and span["traceId"] == TRACE
    traced.delete(f"/v1/containers/{made.json()['id']}")


@pytest.mark.needs_isolation
def test_a_fork_in_the_words_of_e2b_is_a_span(traced: httpx.Client, fresh: Receiver) -> None:
    cell = traced.post("/sandboxes", json={"templateID": "base", "timeout": 60}).json()["sandboxID"]
    children = traced.post(f"/sandboxes/{cell}/fork", json={"count": 2}, headers={"traceparent": GIVEN}).json()
    span = fresh.named("cella.fork")[0]
    assert attributes(span)["cella.children"] == 2 and attributes(span)["cella.failures"] == 0 and span["traceId"] == TRACE
    for one in [cell, *(child["sandbox"]["sandboxID"] for child in children)]:
        traced.delete(f"/sandboxes/{one}")


def test_mcp_calls_are_spans(traced: httpx.Client, fresh: Receiver) -> None:
    headers = {"Accept": "application/json", "traceparent": GIVEN}
    ask: Dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}
    headers["Mcp-Session-Id"] = traced.post("/mcp", json=ask, headers=headers).headers["mcp-session-id"]
    ask = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "run_code", "arguments": {"code": "7"}}}
    result = traced.post("/mcp", json=ask, headers=headers).json()["result"]
    span = fresh.named("cella.execute")[0]
    assert span["parentSpanId"] == PARENT and span["spanId"] in result["_meta"]["traceparent"] and attributes(span)["mcp.tool"] == "run_code"
    assert attributes(span)["cella.code.sha256"] == hashlib.sha256(b"7").hexdigest()
    other = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    ask["params"]["_meta"] = {"traceparent": other}
    traced.post("/mcp", json=ask, headers=headers)
    assert fresh.named("cella.execute", 2)[1]["parentSpanId"] == "b" * 16
    traced.delete("/mcp", headers=headers)


@pytest.mark.parametrize("text", ["", "00", GIVEN[:-1], GIVEN + "-x", GIVEN.upper(), "ff" + GIVEN[2:], "00-" + "0" * 32 + GIVEN[35:], GIVEN[:36] + "0" * 16 + "-01", GIVEN.replace("-", "_"), "zz" + GIVEN[2:]])
def test_malformed_context_begins_a_new_trace(traced: httpx.Client, text: str) -> None:
    back = traced.post("/v1/sandboxes", json={"template": "none"}, headers={"traceparent": text}).headers["traceparent"]
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", back) and TRACE not in back


def test_a_later_version_is_read(traced: httpx.Client) -> None:
    back = traced.post("/v1/sandboxes", json={"template": "none"}, headers={"traceparent": f"01-{TRACE}-{PARENT}-01-more"}).headers["traceparent"]
    assert back.startswith(f"00-{TRACE}-") and PARENT not in back


def test_a_trace_that_is_not_sampled_makes_no_span(traced: httpx.Client, fresh: Receiver) -> None:
    quiet = GIVEN[:-2] + "00"
    assert traced.post("/v1/sandboxes", json={"template": "none"}, headers={"traceparent": quiet}).headers["traceparent"] == quiet
    traced.post("/v1/sandboxes", json={"template": "none"})
    assert len(fresh.named("cella.create")) == 1


def test_a_collector_that_stumbles(traced: httpx.Client, fresh: Receiver) -> None:
    before = metric(traced, "sent"), metric(traced, "failed")
    fresh.answers = [503, 200, 400]
    traced.post("/v1/sandboxes", json={"template": "none"})
    fresh.named("cella.create")  # tried again
    traced.post("/v1/sandboxes", json={"template": "none"})  # refused for good
    until(lambda: metric(traced, "failed") == before[1] + 1, "the refused span to be counted", 60)
    assert metric(traced, "sent") == before[0] + 1


def test_without_a_collector_nothing_waits_and_drops_are_counted(new_server: Callable[..., Server]) -> None:
    server = new_server(arguments=["--otlp-endpoint", "http://127.0.0.1:9"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        def one() -> bool:
            for _ in range(200):
                assert http.post("/v1/sandboxes", json={"template": "none"}).status_code == 404
            return metric(http, "dropped") > 0 or metric(http, "failed") > 0

        until(one, "spans to be given up", 120)
        assert metric(http, "sent") == 0
    assert "tracing: http://127.0.0.1:9/v1/traces" in server.log()


def test_the_environment_names_the_collector(new_server: Callable[..., Server], receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.posts.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-one=1,authorization=Bearer abc")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my \"cells\"")
    server = new_server()
    httpx.post(server.url + "/v1/sandboxes", json={"template": "none"}, trust_env=False, timeout=120)
    until(lambda: receiver.posts, "a post", 60)
    post = receiver.posts[0]
    assert post["path"] == "/v1/traces" and post["headers"]["x-one"] == "1" and post["headers"]["authorization"] == "Bearer abc"
    assert 'my \\"cells\\"' in json.dumps(post["body"])


def test_what_waits_is_sent_at_the_end(new_server: Callable[..., Server], receiver: Receiver) -> None:
    receiver.posts.clear()
    receiver.spans.clear()
    server = new_server(arguments=["--otlp-endpoint", receiver.url])
    httpx.post(server.url + "/v1/sandboxes", json={"template": "none"}, trust_env=False, timeout=120)
    server.stop_daemon()
    assert [span["name"] for span in receiver.spans] == ["cella.create"]
    server.start_daemon()


def test_off_by_default(server: Server, http: httpx.Client) -> None:
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ
    answer = http.post("/v1/sandboxes", json={"template": "none"}, headers={"traceparent": GIVEN})
    assert answer.headers["traceparent"] == GIVEN  # passed on as it came
    assert "traceparent" not in http.post("/v1/sandboxes", json={"template": "none"}).headers
    assert "cella_trace_spans_total" not in http.get("/metrics").text


def test_a_wrong_address_is_refused_at_the_start(new_server: Callable[..., Server]) -> None:
    for wrong in ("ftp://x", "127.0.0.1:4318", "http://a b"):
        with pytest.raises(RuntimeError, match="trace collector"):
            new_server(arguments=["--otlp-endpoint", wrong])
