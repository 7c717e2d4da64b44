"""Snapshots of running sandboxes, and sandboxes made from them."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterator, List

import httpx
import pytest
from support.cells import Cell
from support.server import Server
from support.wait import until

pytestmark = pytest.mark.needs_isolation


@pytest.fixture
def cell(server: Server) -> Iterator[Cell]:
    with Cell(server.url, metadata={"who": "original"}, limits={"memory_mb": 700}) as cell:
        yield cell


@pytest.fixture(autouse=True)
def clean(http: httpx.Client) -> Iterator[None]:
    yield
    for snapshot in http.get("/v1/snapshots").json():
        http.delete("/v1/snapshots/" + snapshot["id"])


def test_made_listed_described_deleted(cell: Cell, http: httpx.Client) -> None:
    cell.ok("x = list(range(10))")
    made = cell.snapshot("ten")
    assert made["id"] == made["snapshot_id"] and made["sandbox_id"] == cell.id
    assert made["name"] == "ten" and made["names"] == ["ten"] and made["state"] == "ready"
    assert made["size_bytes"] == made["memory_bytes"] + made["disk_bytes"] > 0
    assert made["paused_ms"] > 0 and [c["id"] for c in made["contexts"]] == ["default"]
    other = cell.snapshot()
    assert other["name"] is None
    assert [s["id"] for s in http.get("/v1/snapshots", params={"sandbox_id": cell.id}).json()] == [made["id"], other["id"]]
    assert [s["id"] for s in http.get("/v1/snapshots", params={"name": "ten"}).json()] == [made["id"]]
    assert [s["id"] for s in cell.call("GET", "/snapshots").json()] == [made["id"], other["id"]]
    assert http.get("/v1/snapshots/ten").json() == http.get("/v1/snapshots/" + made["id"]).json() == made
    assert http.delete("/v1/snapshots/" + made["id"]).status_code == 204
    assert http.get("/v1/snapshots/" + made["id"]).status_code == 404
    assert http.delete("/v1/snapshots/ten").status_code == 404
    assert cell.ok("len(x)") == "10"


def test_names_are_given_once(cell: Cell) -> None:
    cell.snapshot("mine")
    assert cell.call("POST", "/snapshots", 409, json={"name": "mine"}).json()["code"] == "already_exists"
    for bad in ("", "a/b", "x" * 101, "line\nbreak", 5):
        assert cell.call("POST", "/snapshots", 400, json={"name": bad}).json()["code"] == "invalid_request"


def test_three_from_one_at_once(cell: Cell, server: Server) -> None:
    cell.ok("import os\nx = {'a': [1, 2]}\nf = open('/workspace/f', 'w+'); f.write('hello'); f.flush(); f.seek(1)\nos.environ['E'] = 'env'\nos.chdir('/tmp')")
    cell.ok("v=shell", language="bash")
    cell.snapshot("three")
    cell.ok("x['a'].append('later')")
    cells: List[Cell] = []
    threads = [threading.Thread(target=lambda: cells.append(Cell(server.url, from_snapshot="three", metadata={"n": "1"}))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({c.id for c in cells} | {cell.id}) == 4
        for i, copy in enumerate(cells):
            assert copy.made["boot_mode"] == "snapshot"
            assert copy.made["metadata"] == {"who": "original", "n": "1"}
            assert copy.made["limits"]["memory_mb"] == 700
            assert copy.ok("(x, f.read(), os.environ['E'], os.getcwd())") == "({'a': [1, 2]}, 'ello', 'env', '/tmp')"
            assert copy.run("echo $v", language="bash")["stdout"] == "shell\n"
            copy.ok(f"x['a'] = {i}; open('/workspace/only', 'w').write('{i}')")
        for i, copy in enumerate(cells):  # each its own
            assert copy.ok("(x, open('/workspace/only').read())") == f"({{'a': {i}}}, '{i}')"
        names = {c.ok("import socket; socket.gethostname()") for c in cells}
        assert len(names) == 3
        draws = {c.ok("import random, uuid; (random.random(), uuid.uuid4().hex)") for c in cells}
        assert len(draws) == 3, "copies have entropy of their own"
    finally:
        for copy in cells:
            with copy:
                pass
    assert cell.ok("x") == "{'a': [1, 2, 'later']}"


def test_after_the_original_ended(server: Server, http: httpx.Client) -> None:
    with Cell(server.url) as cell:
        cell.ok("x = 'survives'")
        snapshot = cell.snapshot()
    assert http.get("/v1/snapshots/" + snapshot["id"]).json()["sandbox_id"] == cell.id
    with Cell(server.url, from_snapshot=snapshot["id"], persistent=True, env={"NEW": "1"}) as copy:
        assert copy.made["space_id"]
        assert copy.ok("import os; (x, os.environ['NEW'])") == "('survives', '1')"
        copy.hibernate()
        assert copy.ok("x") == "'survives'"


def test_limits_can_be_changed_and_the_template_cannot(cell: Cell, server: Server, http: httpx.Client) -> None:
    cell.ok("x = 1")
    cell.snapshot("limits")
    with Cell(server.url, from_snapshot="limits", limits={"memory_mb": 300}) as copy:
        assert copy.made["limits"]["memory_mb"] == 300
        assert copy.ok("x") == "1"
    refused = http.post("/v1/sandboxes", json={"from_snapshot": "limits", "template": "nothing"})
    assert refused.status_code in (400, 404)
    assert http.post("/v1/sandboxes", json={"from_snapshot": "snap_" + "0" * 32}).status_code == 404
    assert http.post("/v1/sandboxes", json={"from_snapshot": 5}).status_code == 400


def test_of_one_that_computes(cell: Cell, server: Server) -> None:
    result: List[Dict[str, Any]] = []
    code = "import time\nopen('/workspace/begun', 'w')\nfor i in range(15): time.sleep(0.1)\nprint('end')\n'result'"
    thread = threading.Thread(target=lambda: result.append(cell.run(code)))
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "/workspace/begun"}).status_code == 200, "the code to begin")
    cell.snapshot("busy")
    thread.join(60)
    assert result[0]["text"] == "'result'"
    with Cell(server.url, from_snapshot="busy") as copy:
        runs = copy.call("GET", "/executions").json()
        assert [r["forked_from"] for r in runs] == [result[0]["id"]] and runs[0]["id"] != result[0]["id"]
        ended = until(lambda: (lambda r: r if r.get("exit") else None)(copy.call("GET", "/executions/" + runs[0]["id"]).json()), "its copy's end")
        assert ended["exit"] == "ok" and ended["text"] == "'result'" and "end" in ended["stdout"]
        assert copy.ok("i") == "14"


@pytest.mark.own_server
def test_snapshots_belong_to_their_key(new_server: Callable[..., Server]) -> None:
    server = new_server()
    local = httpx.Client(base_url=server.url, trust_env=False, timeout=60)
    mine, other = (local.post("/v1/keys", json={"name": n}).json()["key"] for n in ("mine", "other"))
    me, they = ({"Authorization": "Bearer " + k} for k in (mine, other))
    cell = local.post("/v1/sandboxes", json={"persistent": True}, headers=me).json()
    snapshot = local.post(f"/v1/sandboxes/{cell['id']}/snapshots", json={"name": "n"}, headers=me).json()
    assert [s["id"] for s in local.get("/v1/snapshots", headers=me).json()] == [snapshot["id"]]
    assert local.get("/v1/snapshots", headers=they).json() == []
    assert local.get("/v1/spaces", headers=they).json() == []
    for path in (f"/v1/snapshots/{snapshot['id']}", "/v1/snapshots/n", f"/v1/spaces/{cell['space_id']}"):
        assert local.get(path, headers=they).status_code == 404, path
        assert local.delete(path, headers=they).status_code == 404, path
    assert local.post("/v1/sandboxes", json={"from_snapshot": "n"}, headers=they).status_code == 404
    assert local.post(f"/v1/spaces/{cell['space_id']}/resume", headers=they).status_code == 404
    theirs = local.post("/v1/sandboxes", json={}, headers=they).json()["id"]
    assert local.post(f"/v1/sandboxes/{theirs}/snapshots", json={"name": "n"}, headers=they).status_code == 201, "a name is one key's matter"
    server.kill_daemon()
    server.start_daemon()
    assert [s["name"] for s in local.get("/v1/snapshots", headers=me).json()] == ["n"]
    made = local.post("/v1/sandboxes", json={"from_snapshot": "n"}, headers=me)
    assert made.status_code == 201
