"""A daemon that others can reach: it asks them for a key, on every kind of route, and answers to its own names only."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Optional

import httpx
import pytest
from support.elsewhere import Elsewhere
from support.raw import Connection
from support.server import Server

pytestmark = [pytest.mark.own_server, pytest.mark.needs_isolation]

Keys = Dict[str, Dict[str, str]]
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
NAME = "cells.example"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    elsewhere = Elsewhere()
    yield elsewhere
    elsewhere.close()


class Listening:
    """A daemon with two keys that listens on an address; requests come from the other end of a cable."""

    def __init__(self, server: Server, elsewhere: Elsewhere, address: str) -> None:
        self.server, self.elsewhere = server, elsewhere
        self.keys: Keys = {}
        for name in ("ann", "bob"):
            answer = httpx.post(f"{server.url}/v1/keys", json={"name": name}, trust_env=False)
            assert answer.status_code == 201, answer.text
            self.keys[name] = answer.json()
        server.stop_daemon()
        server.listen = f"{address}:{server.port}"
        server.arguments += ["--allowed-host", NAME]
        server.url = f"http://{elsewhere.here if address != '0.0.0.0' else '127.0.0.1'}:{server.port}"
        server.start_daemon()
        self.url = f"http://{elsewhere.here}:{server.port}"

    def ask(self, method: str, path: str, who: Optional[str] = None, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {})
        if who:
            headers = {"Authorization": f"Bearer {self.keys[who]['key']}", **headers}
        return self.elsewhere.at(httpx.request, method, self.url + path, headers=headers, timeout=120, trust_env=False, **options)

    def status(self, method: str, path: str, headers: Dict[str, str]) -> int:
        def ask() -> int:
            with Connection(self.url) as connection:
                connection.request(method, path, headers)
                return connection.read_head()[0]  # what follows may have no end: a WebSocket

        return self.elsewhere.at(ask)

    def bearer(self, who: str) -> Dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[who]['key']}"}


@pytest.fixture(scope="module", params=["its address", "every address"])
def listening(request: pytest.FixtureRequest, new_server: Callable[..., Server], elsewhere: Elsewhere) -> Listening:
    return Listening(new_server(), elsewhere, elsewhere.here if request.param == "its address" else "0.0.0.0")


ROUTES = [
    ("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/v1/events"), ("GET", "/v1/usage"), ("GET", "/metrics"), ("GET", "/v1/templates"),
    ("GET", "/v1/doctor"), ("POST", "/mcp"), ("GET", "/v1/containers"), ("POST", "/v2/sandboxes"), ("GET", "/sandboxes"), ("GET", "/v1/me"),
]  # fmt: skip


@pytest.mark.parametrize("method, path", ROUTES)
def test_a_key_is_asked_for(listening: Listening, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer cella_" + 43 * "A"}, {"X-API-Key": "wrong"}):
        answer = listening.ask(method, path, headers=headers)
        assert answer.status_code == 401, (path, headers, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert listening.ask("GET", "/v1/sandboxes", "ann").json() == []  # and nothing was made


def test_health_and_version_need_none(listening: Listening) -> None:
    for path in ("/healthz", "/v1/healthz", "/version"):
        assert listening.ask("GET", path).status_code == 200


def test_a_key_opens_everything(listening: Listening) -> None:
    made = listening.ask("POST", "/v1/sandboxes", "ann", json={})
    assert made.status_code == 201, made.text
    path = f"/v1/sandboxes/{made.json()['id']}"
    assert listening.ask("POST", f"{path}/execute", "ann", json={"code": "6 * 7"}).json()["text"] == "42"
    assert listening.ask("PUT", f"{path}/fs?path=f", "ann", content=b"x" * 100_000).status_code == 200
    assert listening.ask("GET", f"{path}/fs?path=f", headers={"X-API-Key": listening.keys["ann"]["key"]}).content == b"x" * 100_000
    assert listening.ask("POST", f"{path}/execute", json={"code": "1"}).status_code == 401
    assert listening.ask("DELETE", path, "bob").status_code == 404  # another key's does not exist
    assert [cell["id"] for cell in listening.ask("GET", "/v1/sandboxes", "bob").json()] == []
    assert listening.ask("DELETE", path, "ann").status_code == 204


@pytest.mark.parametrize("route", ["exec/ws", "exec/pty"])
def test_websockets(listening: Listening, route: str) -> None:
    made = listening.ask("POST", "/v1/sandboxes", "ann", json={}).json()
    path = f"/v1/sandboxes/{made['id']}/{route}"
    host = {"Host": f"{listening.elsewhere.here}:{listening.server.port}", **UPGRADE}
    assert listening.status("GET", path, host) == 401
    assert listening.status("GET", f"{path}?token=wrong", host) == 401
    assert listening.status("GET", f"{path}?token={listening.keys['bob']['key']}", host) == 404
    assert listening.status("GET", f"{path}?token={listening.keys['ann']['key']}", host) == 101
    assert listening.status("GET", path, {**host, **listening.bearer("ann")}) == 101
    listening.ask("DELETE", f"/v1/sandboxes/{made['id']}", "ann")


def test_a_token_in_the_url_is_for_websockets_only(listening: Listening) -> None:
    assert listening.ask("GET", f"/v1/sandboxes?token={listening.keys['ann']['key']}").status_code == 401


def test_keys_are_managed_on_the_machine_itself(listening: Listening) -> None:
    for who in (None, "ann"):
        assert listening.ask("POST", "/v1/keys", who, json={"name": "mine"}).status_code in (401, 403)
        assert listening.ask("GET", "/v1/keys", who).status_code in (401, 403)
        assert listening.ask("DELETE", f"/v1/keys/{listening.keys['bob']['id']}", who).status_code in (401, 403)
    assert listening.ask("GET", "/v1/sandboxes", "bob").status_code == 200


def test_a_header_makes_nobody_local(listening: Listening) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert listening.ask("GET", "/v1/sandboxes", headers={name: "127.0.0.1"}).status_code == 401
        assert listening.ask("POST", "/v1/keys", json={"name": "x"}, headers={name: "127.0.0.1"}).status_code in (401, 403)


@pytest.mark.parametrize("host, status", [("own", 200), (NAME, 200), (NAME.upper() + ":80", 200), ("localhost", 200), ("evil.example", 403), (f"x.{NAME}", 403), ("198.51.100.1", 403)])
def test_names_it_answers_to(listening: Listening, host: str, status: int) -> None:
    """A right key does not help a name that is not its own: a browser may hold both."""
    name = f"{listening.elsewhere.here}:{listening.server.port}" if host == "own" else host
    assert listening.status("GET", "/v1/sandboxes", {"Host": name, **listening.bearer("ann")}) == status
    assert listening.status("GET", "/v1/sandboxes", {"Host": name}) == (401 if status == 200 else 403)


def test_pages_of_others_are_refused(listening: Listening) -> None:
    own = f"{listening.elsewhere.here}:{listening.server.port}"
    for origin, status in ((f"http://{own}", 200), ("http://evil.example", 403), ("null", 403), (f"http://{NAME}", 403)):
        assert listening.status("GET", "/v1/sandboxes", {"Host": own, "Origin": origin, **listening.bearer("ann")}) == status, origin


def test_errors_have_the_shape_of_their_client(listening: Listening) -> None:
    assert listening.ask("GET", "/v1/containers").json()["error"]["type"] == "authentication_error"
    assert listening.ask("GET", "/sandboxes").json()["code"] == 401
    assert listening.ask("GET", "/v1/sandboxes").json()["code"] == "unauthorized"


def test_loopback_beside_it(new_server: Callable[..., Server], elsewhere: Elsewhere) -> None:
    """On every address: who sits at the machine needs no key, who comes through a proxy of it does, and a deleted key opens nothing."""
    listening = Listening(new_server(), elsewhere, "0.0.0.0")
    with httpx.Client(base_url=listening.server.url, trust_env=False, timeout=60) as here:
        assert here.get("/v1/sandboxes").status_code == 200
        assert here.get("/v1/sandboxes", headers={"X-Forwarded-For": "203.0.113.5"}).status_code == 401
        assert here.get("/v1/sandboxes", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert listening.ask("GET", "/v1/sandboxes", "bob").status_code == 200
        assert here.delete(f"/v1/keys/{listening.keys['bob']['id']}").status_code == 204
        assert listening.ask("GET", "/v1/sandboxes", "bob").status_code == 401
        assert listening.ask("GET", "/v1/sandboxes", "ann").status_code == 200
        assert here.delete(f"/v1/keys/{listening.keys['ann']['id']}").status_code == 204
        # Without any key left nobody else comes in at all.
        assert listening.ask("GET", "/v1/sandboxes", "ann").status_code == 401
        assert listening.ask("GET", "/v1/sandboxes").status_code == 401


def test_without_a_key_it_does_not_start_there(new_server: Callable[..., Server], elsewhere: Elsewhere) -> None:
    server = new_server()
    server.stop_daemon()
    server.listen, server.url = f"{elsewhere.here}:{server.port}", f"http://{elsewhere.here}:{server.port}"
    with pytest.raises(RuntimeError, match="key"):
        server.start_daemon()
