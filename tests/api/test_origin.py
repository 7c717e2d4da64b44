"""A web page must not drive a daemon on loopback: Host and Origin are checked on every kind of route."""

from __future__ import annotations

from typing import Dict, Optional

import httpx
import pytest
import websockets
from cella import Sandbox
from support.raw import Connection
from support.server import Server
from support.ws import WebSocket


def status(server: Server, headers: Dict[str, str], method: str = "GET", path: str = "/v1/sandboxes") -> int:
    with Connection(server.url) as connection:
        connection.request(method, path, headers)
        return connection.answer()[0]


def test_names_of_loopback_are_fine(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", f"127.0.0.1:{server.port}", f"localhost:{server.port}", f"[::1]:{server.port}", "box.localhost"):
        assert status(server, {"Host": host}) == 200, host


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7070", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0x7f000001x", ""])
def test_other_hosts_are_refused(server: Server, host: str) -> None:
    for method, path in (("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/metrics"), ("GET", "/healthz"), ("GET", "/none")):
        assert status(server, {"Host": host}, method, path) in (400, 403), (host, path)


def test_its_own_origin_is_fine(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert status(server, {"Host": own, "Origin": f"http://{own}"}) == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "https://evil.example", "null", "http://localhost:1", "file://", "", "http://127.0.0.1@evil.example"])
def test_other_origins_are_refused(server: Server, origin: str) -> None:
    own = f"127.0.0.1:{server.port}"
    for method, path in (("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("OPTIONS", "/v1/sandboxes")):
        code = status(server, {"Host": own, "Origin": origin}, method, path)
        assert code in (400, 403), (origin, method, code)


def test_a_refused_create_creates_nothing(server: Server, http: httpx.Client) -> None:
    before = len(http.get("/v1/sandboxes").json())
    status(server, {"Host": f"127.0.0.1:{server.port}", "Origin": "http://evil.example"}, "POST")
    status(server, {"Host": "evil.example"}, "POST")
    assert len(http.get("/v1/sandboxes").json()) == before


@pytest.mark.parametrize("route", ["exec/ws", "exec/pty"])
def test_websockets_too(server: Server, box: Sandbox, route: str) -> None:
    path = f"/v1/sandboxes/{box.id}/{route}"
    for options in ({"origin": "http://evil.example"}, {"origin": "null"}):
        with pytest.raises(websockets.InvalidStatusCode) as caught:  # type: ignore[attr-defined]
            WebSocket(server.url, path, **options).close()  # type: ignore[arg-type]
        assert caught.value.status_code == 403
    with Connection(server.url) as connection:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        connection.request("GET", path, {"Host": "evil.example", **upgrade})
        assert connection.answer()[0] == 403


def test_no_header_invites_other_origins(server: Server) -> None:
    for origin in (None, "http://evil.example", f"http://127.0.0.1:{server.port}"):  # type: Optional[str]
        with Connection(server.url) as connection:
            connection.request("GET", "/v1/sandboxes", {"Origin": origin} if origin else {})
            _, headers, _ = connection.answer()
        assert headers.get("access-control-allow-origin") in (None, f"http://127.0.0.1:{server.port}"), origin
