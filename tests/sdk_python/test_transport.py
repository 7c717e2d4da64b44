"""What cannot be had from a healthy daemon: broken connections, refusals, answers of tomorrow. The server is a small real one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import cella
import pytest
from both import Client
from cella import _calls

CELL = {"id": "sbx_" + "1" * 32, "status": "running"}
Answer = Tuple[int, Any]
CUT: Answer = (0, None)  # the connection ends instead of an answer


class Daemon:
    """Gives prepared answers in their order; None from `answers` is the end of the list: 200 {} from then on."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: List[Tuple[str, str, Dict[str, str], bytes]] = []
        self.connections = 0
        waiting = list(answers)
        lock = threading.Lock()
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                daemon.connections += 1
                super().setup()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    daemon.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                    status, value = waiting.pop(0) if waiting else (200, {})
                if status == 0:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def asked(self) -> List[str]:
        return [method for method, *_ in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def daemon() -> Iterator[Callable[..., Daemon]]:
    daemons: List[Daemon] = []

    def start(*answers: Answer) -> Daemon:
        daemons.append(Daemon(*answers))
        return daemons[-1]

    yield start
    for one in daemons:
        one.close()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(request.param)
    yield client
    client.close()


BUSY: Answer = (503, {"error": "the daemon is still taking over its cells", "code": "unavailable", "hint": "try again"})


def test_reading_is_repeated(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), CUT, BUSY, (200, CELL))
    sandbox = client.Sandbox(host=there.url)
    assert sandbox.info().id == CELL["id"]
    assert there.asked() == ["POST", "GET", "GET", "GET"]


def test_reading_is_given_up(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), BUSY, BUSY, BUSY, CUT, CUT, CUT)
    sandbox = client.Sandbox(host=there.url)
    with pytest.raises(cella.UnavailableError) as caught:
        sandbox.info()
    assert (caught.value.code, caught.value.hint, caught.value.status) == ("unavailable", "try again", 503)
    with pytest.raises(cella.ConnectionFailed) as broken:
        sandbox.info()
    assert broken.value.code == "lost" and len(there.requests) == 7


@pytest.mark.parametrize("answer", [CUT, BUSY])
def test_what_may_have_happened_is_not_repeated(client: Client, daemon: Any, answer: Answer) -> None:
    calls: List[Callable[[Any], Any]] = [
        lambda s: s.run_code("x += 1"),
        lambda s: s.exec("echo >> log"),
        lambda s: s.fork(),
        lambda s: s.filesystem.write("f", b"x"),
        lambda s: s.pause(),
        lambda s: s.snapshot(),
    ]
    there = daemon((201, CELL), *[answer] * len(calls))
    sandbox = client.Sandbox(host=there.url)
    for call in calls:
        with pytest.raises((cella.ConnectionFailed, cella.UnavailableError)):
            call(sandbox)
    assert len(there.requests) == 1 + len(calls)


def test_a_daemon_that_is_not_up_yet(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    pauses = patched_pauses(client, monkeypatch)
    with pytest.raises(cella.ConnectionFailed) as caught:
        client.Sandbox(host=url)
    assert caught.value.code == "no_connection" and "cella up" in (caught.value.hint or "") and url in caught.value.message
    assert pauses == [0.1, 0.5], "nothing was sent, so even a create was tried again"


def patched_pauses(client: Client, monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """The pauses between repetitions, not waited for."""
    pauses: List[float] = []
    if client.kind == "sync":
        monkeypatch.setattr("cella._sync.native.sleep", pauses.append)
    else:

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        monkeypatch.setattr("cella._async.native.sleep", sleep)
    return pauses


def test_connections_are_kept_and_shared(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), (201, CELL))
    one, two = client.Sandbox(host=there.url), client.Sandbox(host=there.url)
    for _ in range(5):
        one.info()
        two.info()
    assert len(there.requests) == 12 and there.connections == 1


def test_a_connection_that_was_closed_meanwhile(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), (200, CELL))
    sandbox = client.Sandbox(host=there.url)
    sandbox.info()
    if client.loop:
        client.loop.run(cella.close_connections_async())
    else:
        cella.close_connections()
    assert sandbox.info() is not None, "an object goes on with a new connection"


def test_errors_carry_code_hint_and_status(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), (409, {"error": "no", "code": "image_refused", "hint": "do this"}), (418, b"teapot"), (500, {"code": "tomorrow"}))
    sandbox = client.Sandbox(host=there.url)
    with pytest.raises(cella.ImageRefused) as caught:
        sandbox.wake()
    assert (caught.value.message, caught.value.code, caught.value.hint, caught.value.status) == ("no", "image_refused", "do this", 409)
    with pytest.raises(cella.CellaError, match="teapot"):
        sandbox.pause()
    with pytest.raises(cella.ServerError) as later:
        sandbox.pause()
    assert later.value.code == "tomorrow"


def test_no_answer_in_time(client: Client, monkeypatch: pytest.MonkeyPatch, daemon: Any) -> None:
    there = daemon((201, CELL))
    sandbox = client.Sandbox(host=there.url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        original = _calls.pause
        monkeypatch.setattr(_calls, "pause", lambda i: dataclasses.replace(original(i), wait_seconds=0.05))
        transport = sandbox._transport if client.kind == "sync" else sandbox.target._transport
        transport.config = dataclasses.replace(transport.config, url=url)
        with pytest.raises(cella.RequestTimeout) as caught:
            sandbox.pause()
    assert caught.value.code == "request_timeout"


TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
OTHER = "00-" + "c" * 32 + "-" + "d" * 16 + "-00"


def traces(there: Daemon) -> List[Optional[str]]:
    return [headers.get("traceparent") for _, _, headers, _ in there.requests]


def test_traceparent_of_the_environment_and_of_arguments(client: Client, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = (201, {"children": ["sbx_" + "2" * 32]})
    run = (200, {"exit": "ok"})
    monkeypatch.setenv("TRACEPARENT", TRACE)
    there = daemon((201, CELL), run, run, fork, (200, CELL), (201, CELL))
    sandbox = client.Sandbox(host=there.url)
    sandbox.run_code("1")
    sandbox.run_code("1", traceparent=OTHER)
    [child] = sandbox.fork()
    child.info()
    client.Sandbox(host=there.url, traceparent=OTHER)
    assert traces(there) == [TRACE, TRACE, OTHER, TRACE, TRACE, OTHER]


def test_traceparent_that_is_not_one(client: Client, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = daemon((201, CELL), (200, CELL), (200, CELL))
    monkeypatch.setenv("TRACEPARENT", "nonsense\r\nX: y")
    sandbox = client.Sandbox(host=there.url)
    bare = sandbox if client.kind == "sync" else sandbox.target
    for bad in ("nonsense", "00-x", TRACE + "\r\nX: y"):
        with pytest.raises(cella.InvalidRequest):
            client.Sandbox(host=there.url, traceparent=bad)
        with pytest.raises(cella.InvalidRequest):
            sandbox.run_code("1", traceparent=bad)
        with pytest.raises(cella.InvalidRequest):
            bare.traceparent = bad
    bare.traceparent = TRACE
    sandbox.info()
    bare.traceparent = None
    sandbox.info()
    assert traces(there) == [None, TRACE, None]


@pytest.mark.usefixtures("websockets")
def test_websockets_carry_key_and_trace_and_say_what_is_wrong(client: Client, daemon: Any) -> None:
    there = daemon((201, CELL), (401, {"error": "no such key", "code": "unauthorized", "hint": "make one"}), (200, b"no websocket"))
    sandbox = client.Sandbox(host=there.url, api_key="cella_k", traceparent=TRACE)
    with pytest.raises(cella.AuthenticationError) as caught:
        sandbox.pty(rows=10, cols=20, cmd="x y")
    assert caught.value.hint == "make one"
    _, path, headers, _ = there.requests[1]
    assert path == f"/v1/sandboxes/{CELL['id']}/exec/pty?rows=10&cols=20&cmd=x+y"
    assert headers["authorization"] == "Bearer cella_k" and headers["traceparent"] == TRACE
    with pytest.raises(cella.CellaError):
        sandbox.spawn("cat")


def test_terminals_without_their_package(client: Client, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = daemon((201, CELL))
    sandbox = client.Sandbox(host=there.url)
    for name in ("websockets", "websockets.sync.client", "websockets.asyncio.client"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(cella.UnsupportedError) as caught:
        sandbox.pty()
    assert "cella[terminal]" in (caught.value.hint or "")


def test_a_forked_process_opens_connections_of_its_own(daemon: Any) -> None:
    there = daemon((201, CELL), (200, CELL), (200, CELL))
    cella.Sandbox(host=there.url)
    child = os.fork()
    if child == 0:
        try:
            cella.Sandbox.connect("x", host=there.url)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    cella.Sandbox.connect("x", host=there.url)
    assert len(there.requests) == 3 and there.connections == 2


def test_two_event_loops_do_not_share_connections(daemon: Any) -> None:
    there = daemon((201, CELL), (201, CELL))

    async def main() -> None:
        await cella.AsyncSandbox(host=there.url)
        await cella.close_connections_async()

    asyncio.run(main())
    asyncio.run(main())
    assert there.connections == 2
