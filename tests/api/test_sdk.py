"""The Python client by itself: no daemon needed, except a small one made of a socket."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from typing import List

import cella
import pytest
from cella import (
    CellaError,
    CommandResult,
    ConnectionFailed,
    Execution,
    FileNotFound,
    GoneError,
    InvalidRequest,
    NotFoundError,
    Result,
    Sandbox,
    SandboxInfo,
)
from cella import _config, events
from cella.errors import error_for


def read_request(connection: socket.socket) -> bytes:
    """One whole request with a Content-Length or no body; what came when the client closed."""
    request = b""
    while True:
        head, end, body = request.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if end and len(body) >= length:
            return request
        data = connection.recv(65536)
        if not data:
            return request
        request += data


class FakeDaemon:
    """Answers each request on a connection with the next prepared bytes, then closes."""

    def __init__(self, *answers: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answers = list(answers)
        self.requests: List[bytes] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                while self._answers:
                    request = read_request(connection)
                    if not request:
                        break
                    self.requests.append(request)
                    answer = self._answers.pop(0)
                    connection.sendall(answer)
                    if b'"cut"' in answer:
                        break


def answer(status: int, body: object = None, kind: str = "application/json") -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


CELL = {"id": "sbx_" + "1" * 32, "status": "running"}


def test_address_comes_from_argument_environment_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLA_URL", raising=False)
    monkeypatch.delenv("CELLA_API_KEY", raising=False)
    assert _config.resolve() == _config.Config("http://127.0.0.1:7070", None)
    monkeypatch.setenv("CELLA_URL", "http://h:1/")
    monkeypatch.setenv("CELLA_API_KEY", "cella_k")
    assert _config.resolve() == _config.Config("http://h:1", "cella_k")
    assert _config.resolve("other:2", "mine") == _config.Config("http://other:2", "mine")
    for bad in ("ftp://x", "http://", "://"):
        with pytest.raises(InvalidRequest):
            _config.resolve(bad)


def test_no_daemon_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(ConnectionFailed) as caught:
        Sandbox(host=url)
    assert url in str(caught.value) and "cella up" in str(caught.value)


def test_key_is_sent() -> None:
    daemon = FakeDaemon(answer(201, CELL))
    Sandbox(host=daemon.url, api_key="cella_secret")
    assert b"authorization: bearer cella_secret" in daemon.requests[0].lower()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"error": "e", "code": "not_found"}, NotFoundError),
        (410, {"error": "e", "code": "gone"}, GoneError),
        (400, {"error": "e", "code": "invalid_request"}, InvalidRequest),
        (401, {"error": "e", "code": "unauthorized"}, cella.AuthenticationError),
        (403, {"error": "e", "code": "permission_denied"}, cella.PermissionDenied),
        (429, {"error": "e", "code": "limit_reached"}, cella.LimitError),
        (503, {"error": "e", "code": "unavailable"}, cella.UnavailableError),
        (507, {"error": "e", "code": "no_space"}, cella.NoSpaceError),
        (500, {"error": "e", "code": "a_word_of_tomorrow"}, cella.ServerError),
        (418, b"teapot", CellaError),
        (502, b"<html>", cella.ServerError),
        (404, {}, NotFoundError),
    ],
)
def test_errors_by_code_and_status(status: int, body: object, kind: type) -> None:
    daemon = FakeDaemon(answer(status, body))
    with pytest.raises(kind) as caught:
        Sandbox(host=daemon.url)
    assert isinstance(caught.value, CellaError) and caught.value.status == status and caught.value.message


def test_hint_code_and_pickling() -> None:
    error = error_for(404, {"error": "no file", "code": "not_found", "hint": "look"}, files=True)
    assert isinstance(error, FileNotFound) and isinstance(error, NotFoundError)
    assert (error.code, error.hint, str(error)) == ("not_found", "look", "no file (look)")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is FileNotFound and copy.hint == "look" and copy.status == 404


def test_an_answer_that_is_no_json() -> None:
    daemon = FakeDaemon(answer(200, b"hello", "text/plain"))
    with pytest.raises(CellaError):
        Sandbox(host=daemon.url)


def test_a_cut_answer_is_never_taken_for_whole() -> None:
    cut = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"exit": "ok", "cut": '
    daemon = FakeDaemon(answer(201, CELL), cut)
    with pytest.raises(ConnectionFailed):
        Sandbox(host=daemon.url).run_code("1")


def test_a_stream_without_its_end_is_lost() -> None:
    lines = b'{"type":"start","execution_id":"e"}\n{"type":"stdout","text":"x"}\n'
    daemon = FakeDaemon(answer(201, CELL), answer(200, lines, "application/x-ndjson"))
    seen: List[str] = []
    with pytest.raises(ConnectionFailed) as caught:
        Sandbox(host=daemon.url).run_code("1", on_stdout=seen.append)
    assert caught.value.code == "lost" and seen == ["x"]


def test_connections_are_reused() -> None:
    daemon = FakeDaemon(*[answer(201, CELL)] * 3)
    for _ in range(3):
        Sandbox(host=daemon.url)
    assert len(daemon.requests) == 3


def test_close_twice_asks_once() -> None:
    daemon = FakeDaemon(answer(201, CELL), answer(204))
    sandbox = Sandbox(host=daemon.url)
    sandbox.close()
    sandbox.close()
    assert len(daemon.requests) == 2


def test_with_block_closes_on_errors_too() -> None:
    daemon = FakeDaemon(answer(201, CELL), answer(410, {"error": "gone", "code": "gone"}))
    with pytest.raises(ZeroDivisionError):
        with Sandbox(host=daemon.url):
            raise ZeroDivisionError
    assert daemon.requests[1].startswith(b"DELETE ")


def test_lines_are_cut_at_newlines_only() -> None:
    lines = events.Lines()
    got = [lines.feed(piece) for piece in (b"a", b"b\nc", b"\n\n", b"d\xe2\x80", b"\xa8e\n", b"unfinished")]
    assert got == [[], [b"ab"], [b"c", b""], [], ["d\u2028e".encode()], []]


def test_objects_leave_out_keepalives() -> None:
    objects = events.Objects()
    assert objects.feed(b'{"type":"keepalive"}\n\n{"type":"a"}\n{"ty') == [{"type": "a"}]
    assert objects.feed(b'pe":"b"}\n') == [{"type": "b"}]
    with pytest.raises(CellaError):
        objects.feed(b"no json\n")


def test_execution_views() -> None:
    run = Execution.from_json(
        {
            "id": "exec_1", "exit": "ok", "stdout": "o", "stderr": "e", "duration_ms": 1.5,
            "results": [
                {"data": {"text/plain": "shown", "text/html": "<b>", "image/png": "aGk="}, "metadata": {}},
                {"data": {"text/plain": "main", "application/json": {"a": 1}}, "is_main_result": True},
                {"data": {"text/plain": "after", "image/jpeg": "aGo="}},
            ],
        }
    )  # fmt: skip
    assert (run.text, run.html, run.png, run.jpeg, run.json, run.svg) == ("main", "<b>", b"hi", b"hj", {"a": 1}, None)
    assert run.ok and run.logs.stdout == run.stdout == "o" and run.logs.stderr == "e"
    assert run._repr_mimebundle_()[0]["text/plain"] == "main"
    assert run.results[0].formats() == ["text/plain", "text/html", "image/png"]


def test_missing_fields_are_never_success() -> None:
    assert Execution.from_json({}).exit == "lost" and not Execution.from_json({}).ok
    assert CommandResult.from_json({}).exit == "lost" and CommandResult.from_json({}).exit_code is None
    assert SandboxInfo.from_json({"id": "x", "new_field": 1}).raw["new_field"] == 1
    assert Result.from_json({}).text is None


def test_wrong_format_name() -> None:
    daemon = FakeDaemon(answer(201, CELL))
    with pytest.raises(ValueError):
        Sandbox(host=daemon.url).filesystem.read("x", "base64")  # type: ignore[call-overload]
