"""API keys: asked for beyond loopback, kept as hashes, each with cells of its own."""

from __future__ import annotations

import subprocess
from typing import Callable, Dict, Iterator, List, Tuple

import httpx
import pytest
from cella import AuthenticationError, NotFoundError, Sandbox
from support.server import Server

pytestmark = pytest.mark.own_server


Keys = Dict[str, Dict[str, str]]


def lock(server: Server, *names: str) -> Keys:
    """Make keys with these names while none is asked for, then start the daemon anew with --require-key."""
    made = {}
    for name in names:
        answer = httpx.post(server.url + "/v1/keys", json={"name": name})
        assert answer.status_code == 201, answer.text
        made[name] = answer.json()
    server.stop_daemon()
    server.arguments.append("--require-key")
    server.start_daemon()
    return made


@pytest.fixture(scope="module")
def _locked(new_server: Callable[..., Server]) -> Tuple[Server, Keys]:
    server = new_server()
    return server, lock(server, "ann", "bob")


@pytest.fixture(scope="module")
def locked(_locked: Tuple[Server, Keys]) -> Server:
    """A daemon that asks for a key even on loopback."""
    return _locked[0]


@pytest.fixture(scope="module")
def keys(_locked: Tuple[Server, Keys]) -> Keys:
    """Two keys, by name."""
    return _locked[1]


@pytest.fixture
def ann(locked: Server, keys: Keys) -> Iterator[Sandbox]:
    with Sandbox(host=locked.url, api_key=keys["ann"]["key"], metadata={"who": "ann"}) as sandbox:
        yield sandbox


def test_a_key_is_needed(locked: Server, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLA_API_KEY", raising=False)
    with pytest.raises(AuthenticationError) as caught:
        Sandbox(host=locked.url)
    assert caught.value.code == "unauthorized" and caught.value.hint
    answer = httpx.get(locked.url + "/v1/sandboxes")
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")


def test_health_needs_none(locked: Server) -> None:
    assert httpx.get(locked.url + "/healthz").status_code == 200


def test_wrong_keys(locked: Server, keys: Keys) -> None:
    right = keys["ann"]["key"]
    for key in ("x", "cella_", "cella_" + "A" * 43, right[:-1], right + "A", right.upper(), right.swapcase(), "'" * 49):
        answer = httpx.get(locked.url + "/v1/sandboxes", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401, key
    for scheme in ("Basic", "bearerX", "Token"):
        assert httpx.get(locked.url + "/v1/sandboxes", headers={"Authorization": f"{scheme} {right}"}).status_code == 401


def test_ways_to_send_it(locked: Server, keys: Keys) -> None:
    key = keys["ann"]["key"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"X-API-Key": key}):
        assert httpx.get(locked.url + "/v1/sandboxes", headers=headers).status_code == 200
    assert httpx.get(locked.url + f"/v1/sandboxes?token={key}").status_code == 401  # in a URL only for WebSockets


def test_the_environment_names_the_key(locked: Server, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLA_URL", locked.url)
    monkeypatch.setenv("CELLA_API_KEY", keys["bob"]["key"])
    with Sandbox() as sandbox:
        assert sandbox.run_code("1 + 1").text == "2"


def test_the_cells_of_another_key_do_not_exist(locked: Server, keys: Keys, ann: Sandbox) -> None:
    bob = {"host": locked.url, "api_key": keys["bob"]["key"]}
    assert ann.id not in [c.id for c in Sandbox.list(**bob)]
    assert ann.id not in [c.id for c in Sandbox.list(metadata={"who": "ann"}, **bob)]
    with pytest.raises(NotFoundError):
        Sandbox.connect(ann.id, **bob)
    with httpx.Client(base_url=locked.url, headers={"Authorization": f"Bearer {keys['bob']['key']}"}) as client:
        unknown = client.get("/v1/sandboxes/sbx_" + "0" * 32)
        calls = [
            client.get(f"/v1/sandboxes/{ann.id}"), client.delete(f"/v1/sandboxes/{ann.id}"),
            client.post(f"/v1/sandboxes/{ann.id}/execute", json={"code": "1"}), client.post(f"/v1/sandboxes/{ann.id}/exec", json={"cmd": "id"}),
            client.get(f"/v1/sandboxes/{ann.id}/fs", params={"path": "/etc/passwd"}), client.get(f"/v1/sandboxes/{ann.id}/events"),
            client.get(f"/v1/sandboxes/{ann.id}/logs"), client.post(f"/v1/sandboxes/{ann.id}/pause"),
        ]  # fmt: skip
        for answer in calls:
            assert answer.status_code == 404, answer.request.url
            assert answer.json()["code"] == unknown.json()["code"] and answer.json()["error"] == unknown.json()["error"]
        events = client.get("/v1/events").json()
        assert ann.id not in [e["sandbox_id"] for e in events]
    assert ann.run_code("'mine'").text == "'mine'"


def test_a_deleted_cell_of_another_key_does_not_exist_either(locked: Server, keys: Keys) -> None:
    sandbox = Sandbox(host=locked.url, api_key=keys["ann"]["key"])
    sandbox.close()
    answer = httpx.get(f"{locked.url}/v1/sandboxes/{sandbox.id}", headers={"X-API-Key": keys["bob"]["key"]})
    assert answer.status_code == 404


def test_keys_are_hashed_at_rest(locked: Server, keys: Keys) -> None:
    secrets: List[bytes] = [k["key"].encode() for k in keys.values()]
    seen = 0
    for path in locked.state.rglob("*"):
        if path.is_file() and "templates" not in path.relative_to(locked.state).parts and path.stat().st_size < 100 << 20:
            data = path.read_bytes()
            seen += len(data)
            assert not any(s in data or s.removeprefix(b"cella_") in data for s in secrets), path
    assert seen > 0
    assert not any(s.decode() in locked.log("daemon") for s in secrets)


def test_the_list_never_shows_a_key(locked: Server, keys: Keys) -> None:
    answer = httpx.get(locked.url + "/v1/keys", headers={"X-API-Key": keys["ann"]["key"]})
    assert answer.status_code == 200 and keys["ann"]["key"] not in answer.text
    assert {k["name"] for k in answer.json()} >= {"ann", "bob"}


def test_a_deleted_key_opens_nothing(locked: Server, keys: Keys) -> None:
    headers = {"X-API-Key": keys["ann"]["key"]}
    extra = httpx.post(locked.url + "/v1/keys", json={"name": "short"}, headers=headers).json()
    assert httpx.get(locked.url + "/v1/sandboxes", headers={"X-API-Key": extra["key"]}).status_code == 200
    assert httpx.delete(f"{locked.url}/v1/keys/{extra['id']}", headers=headers).status_code == 204
    assert httpx.get(locked.url + "/v1/sandboxes", headers={"X-API-Key": extra["key"]}).status_code == 401
    assert httpx.delete(f"{locked.url}/v1/keys/{extra['id']}", headers=headers).status_code == 404


def test_keys_are_managed_locally_only(locked: Server, keys: Keys) -> None:
    for proxied in ({"X-Forwarded-For": "10.1.2.3"}, {"Forwarded": "for=10.1.2.3"}, {"Via": "1.1 proxy"}):
        headers = {"X-API-Key": keys["ann"]["key"], **proxied}
        assert httpx.post(locked.url + "/v1/keys", json={"name": "no"}, headers=headers).status_code == 403
        assert httpx.get(locked.url + "/v1/keys", headers=headers).status_code == 403


def test_the_first_key_can_be_made_on_the_machine_itself(new_server: Callable[..., Server]) -> None:
    """A daemon that asks for keys and has none would otherwise be shut for ever; later keys need one."""
    server = new_server(arguments=["--require-key"])
    first = httpx.post(server.url + "/v1/keys", json={"name": "first"})
    assert first.status_code == 201, first.text
    assert httpx.post(server.url + "/v1/keys", json={"name": "second"}).status_code == 401


def test_keys_survive_a_crash(new_server: Callable[..., Server]) -> None:
    server = new_server()
    key = lock(server, "kept")["kept"]["key"]
    server.kill_daemon()
    server.start_daemon()
    assert httpx.get(server.url + "/v1/sandboxes", headers={"X-API-Key": key}).status_code == 200
    assert httpx.get(server.url + "/v1/sandboxes").status_code == 401


def test_beyond_loopback_without_a_key_is_refused() -> None:
    """The daemon refuses to start; nothing ever listens."""
    server = Server(listen="0.0.0.0")
    try:
        server.prepare()
        server.start_keeper()
        run = subprocess.run(server.daemon_command(), capture_output=True, timeout=60, cwd="/")
        assert run.returncode != 0
        assert b"key" in run.stderr.lower()
    finally:
        server.stop()
