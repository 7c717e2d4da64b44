"""Requests that are too big, malformed, half sent or slow: the right 4xx, and nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Dict, Iterator, List, Tuple

import httpx
import pytest
from cella import Sandbox, TooLargeError
from support.raw import Connection, exchange
from support.server import Server


@pytest.fixture(autouse=True)
def the_rest_still_works(server: Server, shared: Sandbox) -> Iterator[None]:
    """After every test of this module an ordinary client is served."""
    yield
    assert shared.run_code("'served'").text == "'served'"


def head(server: Server, method: str, path: str, headers: Dict[str, str]) -> bytes:
    merged = {"Host": f"127.0.0.1:{server.port}", **headers}
    return (f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in merged.items()) + "\r\n").encode("latin-1")


# ---- routes ----


def test_unknown_paths(http: httpx.Client) -> None:
    for path in ("/", "/nothing", "/v1", "/v1/", "/v1/sandboxes/x/y/z", "/v9/sandboxes", "/v1//sandboxes", "/v1/../etc/passwd"):
        answer = http.get(path)
        if path == "/" and answer.status_code == 200:
            continue  # the page of the daemon
        assert answer.status_code == 404 and answer.json()["code"] == "not_found", path


def test_wrong_methods(http: httpx.Client, shared: Sandbox) -> None:
    for method, path in (
        ("PUT", "/v1/sandboxes"), ("POST", "/healthz"), ("PATCH", f"/v1/sandboxes/{shared.id}"),
        ("GET", f"/v1/sandboxes/{shared.id}/execute"), ("DELETE", "/v1/templates"), ("BREW", "/v1/sandboxes"),
    ):  # fmt: skip
        answer = http.request(method, path)
        assert answer.status_code == 405 and answer.json()["code"] == "method_not_allowed", (method, path, answer.text)
        assert answer.headers["allow"], (method, path)


def test_head_has_no_body(server: Server) -> None:
    with Connection(server.url) as connection:
        connection.request("HEAD", "/healthz")
        status, _ = connection.read_head()
        assert status == 200
        connection.request("GET", "/healthz")
        assert connection.answer()[0] == 200  # a body of the HEAD would be in the way


# ---- bodies ----

BODIES: List[Tuple[str, bytes]] = [
    ("no json", b"hello"),
    ("cut", b'{"code": "1'),
    ("array", b"[1, 2]"),
    ("number", b"5"),
    ("trailing", b'{"code": "1"} x'),
    ("two documents", b'{"code": "1"}{"code": "2"}'),
    ("trailing comma", b'{"code": "1",}'),
    ("comment", b'{"code": "1" /* c */}'),
    ("single quotes", b"{'code': '1'}"),
    ("not utf-8", b'{"code": "\xff\xfe"}'),
    ("lone surrogate", b'{"code": "\\ud800"}'),
    ("deep", b'{"code": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("nul in a name", b'{"co\\u0000de": "1"}'),
    ("no code", b"{}"),
    ("code of wrong type", b'{"code": 5}'),
    ("code is null", b'{"code": null}'),
    ("env of wrong type", b'{"code": "1", "env": [1]}'),
    ("stream of wrong type", b'{"code": "1", "stream": "yes"}'),
]


@pytest.mark.parametrize("body", [b for _, b in BODIES], ids=[n for n, _ in BODIES])
def test_malformed_bodies(shared: Sandbox, http: httpx.Client, body: bytes) -> None:
    answer = http.post(f"/v1/sandboxes/{shared.id}/execute", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request", answer.text[:300]
    assert answer.json()["error"]


def test_nul_in_code_is_the_interpreters_business(shared: Sandbox) -> None:
    run = shared.run_code("x = 1\0")
    assert run.exit == "error" and run.error is not None


def test_too_large_body_by_length(server: Server, shared: Sandbox) -> None:
    path = f"/v1/sandboxes/{shared.id}/execute"
    with Connection(server.url) as connection:
        connection.send(head(server, "POST", path, {"Content-Length": str(1 << 40), "Content-Type": "application/json"}))
        status, _, answer = connection.answer()
    assert status == 413 and answer["code"] == "too_large"  # type: ignore[index]


SEVENTY_MB = 70_000_000


def test_too_large_body_by_chunks(server: Server, shared: Sandbox) -> None:
    path = f"/v1/sandboxes/{shared.id}/execute"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with Connection(server.url) as connection:
        connection.send(head(server, "POST", path, {"Transfer-Encoding": "chunked"}))
        for _ in range(72):
            connection.send(chunk)
        connection.send(b"0\r\n\r\n")
        status, _, answer = connection.answer()
    assert status == 413 and answer["code"] == "too_large"  # type: ignore[index]


def test_too_large_body_is_answered_though_it_is_sent_to_its_end(server: Server, shared: Sandbox) -> None:
    """A client that sends everything before it reads finds the answer, not a reset, and then the end of the connection."""
    path = f"/v1/sandboxes/{shared.id}/execute"
    for _ in range(3):
        with Connection(server.url) as connection:
            connection.send(head(server, "POST", path, {"Content-Length": str(SEVENTY_MB), "Content-Type": "application/json"}))
            for _ in range(SEVENTY_MB // 1_000_000):
                connection.send(b" " * 1_000_000)
            time.sleep(0.3)
            status, _, answer = connection.answer()
            assert status == 413 and answer["code"] == "too_large"  # type: ignore[index]
            assert connection.closed()


def test_too_large_body_is_answered_at_once(server: Server, shared: Sandbox) -> None:
    """And the daemon goes on reading for a while, whoever else it serves meanwhile."""
    with Connection(server.url) as connection:
        connection.send(head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", {"Content-Length": str(SEVENTY_MB)}) + b"{")
        assert connection.answer()[0] == 413
        assert connection.closed()  # its half: ours is open
        connection.send(b" " * 20_000_000)
        assert shared.run_code("6 * 7").text == "42"
        connection.send(b" " * 20_000_000)


def test_who_lingers_is_let_go(server: Server, shared: Sandbox) -> None:
    """A client that neither sends nor closes after its answer is waited for a few seconds, not for ever."""
    with Connection(server.url) as connection:
        connection.send(head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", {"Content-Length": str(SEVENTY_MB)}))
        assert connection.answer()[0] == 413 and connection.closed()
        connection.send(b" ")  # read and dropped
        time.sleep(7)
        with pytest.raises(OSError):  # the first byte after the end brings a reset, the next one meets it
            for _ in range(20):
                connection.send(b" ")
                time.sleep(0.1)


def test_many_lingering_connections(server: Server, shared: Sandbox) -> None:
    """More than the daemon waits for: the others are closed at once, and nobody else notices."""
    request = head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", {"Content-Length": str(SEVENTY_MB)}) + b"{" * 10_000
    connections = [Connection(server.url) for _ in range(100)]
    try:
        for connection in connections:
            connection.send(request)
        assert shared.run_code("6 * 7").text == "42"
        for connection in connections[:10]:
            assert connection.answer()[0] == 413
    finally:
        for connection in connections:
            connection.socket.close()


@pytest.mark.parametrize("megabytes", [9, 70])
def test_too_large_code_in_the_sdk(shared: Sandbox, megabytes: int) -> None:
    with pytest.raises(TooLargeError):
        shared.run_code("#" + "x" * (megabytes * 1_000_000))
    assert shared.run_code("6 * 7").text == "42"


def test_eight_megabytes_are_fine(shared: Sandbox) -> None:
    assert shared.run_code("#" + "x" * 7_000_000 + "\n'big'").text == "'big'"


def test_expect_continue(server: Server, shared: Sandbox) -> None:
    body = json.dumps({"code": "6 * 7"}).encode()
    headers = {"Content-Length": str(len(body)), "Expect": "100-continue", "Content-Type": "application/json"}
    with Connection(server.url) as connection:
        connection.send(head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", headers))
        assert connection.read_head()[0] == 100
        connection.send(body)
        status, _, answer = connection.answer()
    assert status == 200 and answer["text"] == "42"  # type: ignore[index]


# ---- the protocol itself ----

RAW = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "bad version": b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
    "bad length": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: abc\r\n\r\n",
    "negative length": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "length and chunks": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "bad chunk size": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "unknown coding": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "huge chunk size": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "header without colon": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nnocolon\r\n\r\n",
    "space before colon": b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length : 0\r\n\r\n",
    "bad escape": b"GET /v1/sandboxes/%zz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "nul in path": b"GET /v1/sandboxes/a%00b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("kind", RAW)
def test_malformed_requests(server: Server, kind: str) -> None:
    """A 4xx or a closed connection; never a success, never a hang, never a 5xx of the daemon's own making."""
    with Connection(server.url) as connection:
        connection.send(RAW[kind])
        connection.socket.shutdown(socket.SHUT_WR)
        try:
            status, _, _ = connection.answer()
        except (ConnectionError, ValueError, IndexError):
            return
    assert 400 <= status < 500 or status in (501, 505), status


def test_long_urls_and_headers(server: Server) -> None:
    for data in (
        head(server, "GET", "/v1/sandboxes?x=" + "a" * 100_000, {}),
        head(server, "GET", "/healthz", {"X-Long": "b" * 100_000}),
        head(server, "GET", "/healthz", {f"X-{i}": "c" * 20 for i in range(5000)}),
    ):
        with Connection(server.url) as connection:
            try:
                connection.send(data)
                status = connection.answer()[0]
            except ConnectionError:
                continue  # it closed before it had read all: as good as a status
        assert status in (400, 413, 414, 431), status


def test_query_of_many_fields(http: httpx.Client) -> None:
    answer = http.get("/v1/sandboxes?" + "&".join(f"a{i}=1" for i in range(200)))
    assert answer.status_code == 400


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = head(server, "GET", "/v1/sandboxes/sbx_" + "0" * 32, {})
    two = head(server, "GET", "/healthz", {})
    with Connection(server.url) as connection:
        connection.send(one + two + one)
        assert [connection.answer()[0] for _ in range(3)] == [404, 200, 404]


def test_connection_close_is_obeyed(server: Server) -> None:
    with Connection(server.url) as connection:
        connection.request("GET", "/healthz", {"Connection": "close"})
        assert connection.answer()[0] == 200 and connection.closed()
    status, _, _ = exchange(server.url, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert status == 200


# ---- slow and half ----


def test_half_sent_requests_hold_nobody_up(server: Server, shared: Sandbox) -> None:
    path = f"/v1/sandboxes/{shared.id}/execute"
    halves = [
        b"GET /heal", head(server, "GET", "/healthz", {})[:-2],
        head(server, "POST", path, {"Content-Length": "100"}) + b'{"code"', head(server, "POST", path, {"Transfer-Encoding": "chunked"}) + b"5\r\n{",
    ]  # fmt: skip
    connections = [Connection(server.url) for _ in range(40)]
    try:
        for i, connection in enumerate(connections):
            connection.send(halves[i % len(halves)])
        for _ in range(5):
            assert shared.run_code("'not held up'").text == "'not held up'"
    finally:
        for connection in connections:
            connection.socket.close()


@pytest.mark.slow
def test_slow_headers_are_ended(server: Server) -> None:
    """Dripping one byte at a time does not keep a connection for ever."""
    ended = threading.Event()

    def drip() -> None:
        with Connection(server.url, seconds=120) as connection:
            connection.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            try:
                while not ended.is_set():
                    connection.send(b"X-A: b\r\n")
                    connection.socket.settimeout(0.5)
                    try:
                        data = connection.socket.recv(4096)
                        assert not data or b" 408 " in data or b" 431 " in data or b" 400 " in data, data
                        ended.set()
                    except socket.timeout:
                        pass
            except OSError:
                ended.set()

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    assert ended.wait(180), "a dripping client was never ended"


@pytest.mark.slow
def test_a_slow_body_is_ended(server: Server, shared: Sandbox) -> None:
    with Connection(server.url, seconds=180) as connection:
        connection.send(head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", {"Content-Length": "100"}) + b'{"co')
        try:
            status, _, answer = connection.answer()
            assert status == 408 and answer["code"] == "request_timeout"  # type: ignore[index]
        except ConnectionError:
            pass


def test_many_connections(server: Server, shared: Sandbox) -> None:
    connections = [Connection(server.url) for _ in range(200)]
    try:
        for connection in connections[::20]:
            connection.request("GET", "/healthz")
            assert connection.answer()[0] == 200
        assert shared.run_code("1").text == "1"
    finally:
        for connection in connections:
            connection.socket.close()


def test_hanging_up_at_any_moment(server: Server, shared: Sandbox) -> None:
    body = json.dumps({"code": "print('x' * 100000)", "stream": True}).encode()
    whole = head(server, "POST", f"/v1/sandboxes/{shared.id}/execute", {"Content-Length": str(len(body))}) + body
    for cut in list(range(0, len(whole), 23)) + [len(whole)]:
        with Connection(server.url) as connection:
            connection.send(whole[:cut])
