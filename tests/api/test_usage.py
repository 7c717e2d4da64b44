"""/v1/usage: what each key used, by itself, over restarts of the daemon."""

from __future__ import annotations

import sqlite3
from typing import Any, Callable, Dict, Tuple

import httpx
import pytest
from support.openapi import Contract
from support.server import ROOT, Server
from support.wait import until
from support.ws import WebSocket

pytestmark = pytest.mark.own_server

COUNTS = ("requests", "executions", "execution_seconds", "commands", "sandboxes_created", "forks", "cpu_seconds", "bytes_in", "bytes_out")


def client(server: Server, key: str = "", **headers: str) -> httpx.Client:
    if key:
        headers["X-API-Key"] = key
    return httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False)


def own(http: httpx.Client) -> Dict[str, Any]:
    """The row of the client's key, which must be the only one it sees."""
    answer = http.get("/v1/usage").json()
    row: Dict[str, Any]
    (row,) = answer["keys"]
    assert answer["total"] == {k: row[k] for k in COUNTS}
    return row


def rows(http: httpx.Client) -> Dict[Any, Dict[str, Any]]:
    return {row["name"] or row["id"]: row for row in http.get("/v1/usage").json()["keys"]}


Place = Tuple[Server, Dict[str, Dict[str, str]]]


@pytest.fixture(scope="module")
def place(new_server: Callable[..., Server]) -> Place:
    server = new_server()
    with client(server) as http:
        return server, {name: http.post("/v1/keys", json={"name": name}).json() for name in ("ann", "bob", "cleo", "dan")}


def test_the_fields_of_before_are_there(place: Place) -> None:
    with client(place[0]) as http:
        answer = http.get("/v1/usage").json()
    assert {"requests", "executions_total", "executions", "execution_ms", "since_seconds", "domain"} <= answer.keys()
    assert set(answer["executions"]) >= {"ok", "error", "timeout"} and "cells" in answer["domain"]


def test_each_key_by_itself(place: Place) -> None:
    server, keys = place
    with client(server, keys["ann"]["key"]) as ann, client(server, keys["bob"]["key"]) as bob, client(server) as operator:
        assert own(bob)["id"] == keys["bob"]["id"] and own(bob)["name"] == "bob"
        before = own(bob)
        cell = ann.post("/v1/sandboxes", json={}).json()["id"]
        for code in ("1", "1/0", "import time; time.sleep(0.3)"):
            ann.post(f"/v1/sandboxes/{cell}/execute", json={"code": code})
        ann.post(f"/v1/sandboxes/{cell}/exec", json={"cmd": "true"})
        ann.post(f"/v1/sandboxes/{cell}/exec", json={"cmd": "exit 3"})
        ann.post(f"/v1/sandboxes/{cell}/repl", json={"code": "2", "language": "python"})
        assert ann.post(f"/v1/sandboxes/{cell}/execute", json={"code": 5}).status_code == 400  # ran nothing
        seen = own(ann)
        assert (seen["sandboxes_created"], seen["executions"], seen["commands"], seen["forks"]) == (1, 4, 2, 0)
        assert 0.3 <= seen["execution_seconds"] < 30
        assert seen["requests"] >= 8 and seen["bytes_in"] > 100 and seen["bytes_out"] > 100
        after = own(bob)
        assert {k for k in COUNTS if before[k] != after[k]} <= {"requests", "bytes_out"}
        named = rows(operator)
        assert named["ann"]["executions"] == 4 and named["bob"]["executions"] == 0
        everything = operator.get("/v1/usage").json()
        for name in COUNTS:
            assert everything["total"][name] == pytest.approx(sum(row[name] for row in everything["keys"])), name
        assert everything["keys"][0]["id"] is None and everything["keys"][0]["requests"] > 0
        ann.delete(f"/v1/sandboxes/{cell}")


def test_bytes_in_and_out(place: Place) -> None:
    server, keys = place
    with client(server, keys["bob"]["key"]) as bob:
        cell = bob.post("/v1/sandboxes", json={}).json()["id"]
        size = 3 << 20
        before = own(bob)
        assert bob.put(f"/v1/sandboxes/{cell}/fs", params={"path": "/tmp/a"}, content=b"x" * size).is_success
        between = own(bob)
        assert size <= between["bytes_in"] - before["bytes_in"] < size + 4096
        assert between["bytes_out"] - before["bytes_out"] < 8192
        assert len(bob.get(f"/v1/sandboxes/{cell}/fs", params={"path": "/tmp/a"}).content) == size
        after = own(bob)
        assert size <= after["bytes_out"] - between["bytes_out"] < size + 8192 and after["bytes_in"] - between["bytes_in"] < 4096
        with WebSocket(server.url, f"/v1/sandboxes/{cell}/exec/ws", {"token": keys["bob"]["key"]}) as ws:
            ws.send({"id": 1, "cmd": "cat | wc -c", "stdin": True})
            ws.send({"id": 1, "stdin": "y" * 100_000})
            ws.send({"id": 1, "stdin_eof": True})
            while "exit" not in str(ws.receive()):
                pass
        last = until(lambda: own(bob) if own(bob)["bytes_in"] > after["bytes_in"] + 100_000 else None, "the messages to be counted", 30)
        assert last
        assert last["bytes_in"] - after["bytes_in"] < 110_000 and last["commands"] == after["commands"] + 1
        bob.delete(f"/v1/sandboxes/{cell}")


def test_other_peoples_clients_count_the_same(place: Place) -> None:
    server, keys = place
    with client(server, keys["dan"]["key"]) as dan:
        made = dan.post("/sandboxes", json={"templateID": "base", "timeout": 60})
        assert made.status_code == 201, made.text
        seen = own(dan)
        assert seen["sandboxes_created"] == 1 and seen["commands"] == 0  # what Cella does inside by itself is none
        dan.delete(f"/sandboxes/{made.json()['sandboxID']}")
        headers = {"Accept": "application/json"}
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}
        headers["Mcp-Session-Id"] = dan.post("/mcp", json=hello, headers=headers).headers["mcp-session-id"]
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "run_code", "arguments": {"code": "7"}}}
        assert "7" in dan.post("/mcp", json=call, headers=headers).text
        after = own(dan)
        assert after["sandboxes_created"] == 2 and after["executions"] == seen["executions"] + 1
        dan.delete("/mcp", headers=headers)


def test_cpu_time_while_it_lives_and_after(place: Place) -> None:
    server, keys = place
    burn = "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass"
    with client(server, keys["cleo"]["key"]) as cleo, client(server, keys["bob"]["key"]) as bob:
        bobs = own(bob)["cpu_seconds"]
        cell = cleo.post("/v1/sandboxes", json={}).json()["id"]
        cleo.post(f"/v1/sandboxes/{cell}/execute", json={"code": burn})
        living = own(cleo)["cpu_seconds"]
        assert 0.6 <= living < 10
        cleo.delete(f"/v1/sandboxes/{cell}")
        ended = own(cleo)["cpu_seconds"]
        assert living <= ended < living + 1
        assert own(cleo)["cpu_seconds"] == ended and own(bob)["cpu_seconds"] - bobs < 0.2


@pytest.mark.needs_isolation
def test_forks_merges_and_sleep(place: Place) -> None:
    server, keys = place
    burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    with client(server, keys["cleo"]["key"]) as cleo:
        before = own(cleo)
        cell = cleo.post("/v1/sandboxes", json={"persistent": True}).json()["id"]
        children = cleo.post(f"/v1/sandboxes/{cell}/fork", json={"n": 3}).json()["children"]
        seen = own(cleo)
        assert seen["forks"] == before["forks"] + 3 and seen["sandboxes_created"] == before["sandboxes_created"] + 1
        cleo.post(f"/v1/sandboxes/{cell}/execute", json={"code": burn})
        cleo.post(f"/v1/sandboxes/{children[0]}/execute", json={"code": burn})
        used = own(cleo)["cpu_seconds"] - seen["cpu_seconds"]
        assert 0.9 <= used < 6
        assert cleo.post(f"/v1/sandboxes/{cell}/merge_into/{children[0]}").is_success  # ends the one whose place it takes
        merged = own(cleo)["cpu_seconds"] - seen["cpu_seconds"]
        assert used <= merged < used + 1
        assert cleo.post(f"/v1/sandboxes/{cell}/hibernate").is_success
        asleep = own(cleo)["cpu_seconds"] - seen["cpu_seconds"]
        assert merged <= asleep < merged + 1
        cleo.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1"})  # wakes it
        assert asleep <= own(cleo)["cpu_seconds"] - seen["cpu_seconds"] < asleep + 1
        for one in [cell, *children[1:]]:
            cleo.delete(f"/v1/sandboxes/{one}")


def test_a_deleted_key_leaves_its_sums(place: Place) -> None:
    server, _ = place
    with client(server) as operator:
        made = operator.post("/v1/keys", json={"name": "short"}).json()
        with client(server, made["key"]) as short:
            own(short)
        assert rows(operator)["short"]["requests"] >= 1
        operator.delete(f"/v1/keys/{made['id']}")
        left = rows(operator)[made["id"]]
        assert left["name"] is None and left["requests"] >= 1


@pytest.mark.needs_isolation  # sandboxes that outlive their daemon
def test_the_sums_go_on_after_a_restart(place: Place) -> None:
    server, keys = place
    with client(server, keys["ann"]["key"]) as ann:
        cell = ann.post("/v1/sandboxes", json={}).json()["id"]
        ann.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1"})
        before = own(ann)
    server.stop_daemon()
    server.start_daemon()
    with client(server, keys["ann"]["key"]) as ann:
        after = own(ann)
        assert {k: after[k] for k in ("executions", "commands", "sandboxes_created", "forks", "execution_seconds")} == {
            k: before[k] for k in ("executions", "commands", "sandboxes_created", "forks", "execution_seconds")
        }
        assert after["requests"] > before["requests"] and after["cpu_seconds"] >= before["cpu_seconds"] - 0.001
        ann.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1"})
        assert own(ann)["executions"] == before["executions"] + 1
        ann.delete(f"/v1/sandboxes/{cell}")


def test_a_killed_daemon_loses_the_last_seconds_only(place: Place) -> None:
    """It is written seldom: not with the request, but soon after, without a word from anybody."""
    server, keys = place
    with client(server, keys["ann"]["key"]) as ann:
        cell = ann.post("/v1/sandboxes", json={}).json()["id"]
        ann.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1"})
        executions = own(ann)["executions"]

    def stored() -> bool:
        db = sqlite3.connect(server.state / "db" / "cella.db")
        try:
            found = db.execute("SELECT n FROM usage WHERE key_id=? AND what='executions'", (keys["ann"]["id"],)).fetchone()
        finally:
            db.close()
        return bool(found) and found[0] == executions

    until(stored, "the sums to be written", 30)
    server.kill_daemon()
    server.start_daemon()
    with client(server, keys["ann"]["key"]) as ann:
        assert own(ann)["executions"] == executions
        ann.delete(f"/v1/sandboxes/{cell}")


def test_a_proxy_does_not_make_an_operator(place: Place) -> None:
    """Requests from elsewhere need a key, and a key hears of itself only."""
    server, keys = place
    with client(server, **{"X-Forwarded-For": "10.0.0.1"}) as other:
        assert other.get("/v1/usage").status_code == 401
    with client(server, keys["bob"]["key"], **{"X-Forwarded-For": "10.0.0.1"}) as other:
        assert own(other)["name"] == "bob"


def test_the_answer_is_what_the_contract_says(place: Place) -> None:
    contract = Contract(ROOT / "docs" / "openapi.yaml")
    server, keys = place
    for key in ("", keys["ann"]["key"]):
        with client(server, key) as http:
            contract.check("GET", "/v1/usage", http.get("/v1/usage"))
