"""Hibernate and wake, Spaces, timeouts that freeze: the same objects afterwards, also for another daemon and another keeper."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import httpx
import pytest
from support.cells import Cell
from support.server import Server
from support.wait import until

pytestmark = pytest.mark.needs_isolation

#: A program's whole state: an object graph, an open file in the middle, its directory, its environment, a thread, a generator.
STATE = """
import os, threading, time
class Node: pass
a, b = Node(), Node()
a.other, b.other = b, a
os.makedirs('/workspace/sub', exist_ok=True)
os.chdir('/workspace/sub')
f = open('lines', 'w+'); f.write('0123456789'); f.flush(); f.seek(4)
os.environ['MINE'] = 'kept'
g = (i * i for i in range(100)); [next(g) for _ in range(7)]
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
import numpy
m = numpy.arange(1_000_000)
"""
CHECK = """
before = len(ticks); time.sleep(0.2)
(a.other.other is a, f.read(), os.getcwd(), os.environ['MINE'], next(g), int(m.sum()), len(ticks) > before, threading.active_count() > 1)
"""
EXPECTED = "(True, '456789', '/workspace/sub', 'kept', 49, 499999500000, True, True)"


@pytest.fixture
def cell(server: Server) -> Iterator[Cell]:
    with Cell(server.url, persistent=True, env={"GIVEN": "yes"}, metadata={"test": "spaces"}) as cell:
        yield cell


def test_the_same_objects_come_back(cell: Cell) -> None:
    cell.run(STATE)
    cell.ok("v=shell", language="bash")
    away = cell.hibernate()
    assert away["space_id"] == cell.made["space_id"] and away["size_bytes"] > 1_000_000
    about = cell.describe()
    assert about["status"] == "hibernated" and about["hibernated_at"] and about["remaining_seconds"] is None
    assert cell.ok(CHECK) == EXPECTED  # the request woke it
    assert cell.status() == "running"
    assert cell.run("echo $v", language="bash")["stdout"] == "shell\n"
    assert {"sandbox.hibernated", "sandbox.woken"} <= set(cell.events())


def test_again_and_again(cell: Cell) -> None:
    cell.ok("n = 0")
    for i in range(1, 5):
        cell.hibernate()
        assert cell.ok("n += 1; n") == str(i)


def test_memory_goes_back_to_the_host(cell: Cell) -> None:
    cell.ok("import os; data = os.urandom(200 << 20)")
    before = cell.call("GET", "/stats").json()["memory_bytes"]
    away = cell.hibernate()
    assert before > 200 << 20 and away["memory_bytes"] > 200 << 20
    assert cell.ok("len(data)") == str(200 << 20)


@pytest.mark.parametrize("use", ["execute", "exec", "fs", "upload", "contexts", "stats"])
def test_any_request_wakes_it(cell: Cell, use: str) -> None:
    cell.ok("open('/workspace/file', 'w').write('on disk'); x = 5")
    cell.hibernate()
    if use == "execute":
        assert cell.ok("x") == "5"
    elif use == "exec":
        assert cell.call("POST", "/exec", json={"cmd": "cat /workspace/file"}).json()["stdout"] == "on disk"
    elif use == "fs":
        assert cell.call("GET", "/fs", params={"path": "/workspace/file"}).text == "on disk"
    elif use == "upload":
        body = b"y" * 3_000_000
        answer = cell.http.put(cell.path + "/fs", params={"path": "big"}, content=body)
        assert answer.status_code in (200, 201, 204), answer.text
        assert cell.ok("import os; os.path.getsize('/workspace/big')") == "3000000"
    elif use == "contexts":
        assert [c["id"] for c in cell.call("GET", "/contexts").json()] == ["default"]
    else:
        assert cell.call("GET", "/stats").json()["memory_bytes"] > 0
    assert cell.status() == "running"
    assert cell.ok("x") == "5"


def test_looking_does_not_wake_it(cell: Cell, http: httpx.Client) -> None:
    cell.ok("1")
    cell.hibernate()
    for what in ("", "/lifecycle", "/logs", "/events", "/executions", "/snapshots"):
        cell.call("GET", what)
    cell.call("PATCH", "/lifecycle", json={"metadata": {"a": "b"}})
    ids = [c["id"] for c in http.get("/v1/sandboxes", params={"state": "hibernated"}).json()]
    assert cell.id in ids
    assert cell.id not in [c["id"] for c in http.get("/v1/sandboxes", params={"state": "running"}).json()]
    assert http.get("/v1/sandboxes", params={"state": "asleep"}).status_code == 400
    assert cell.status() == "hibernated"


def test_many_requests_wake_it_once(cell: Cell) -> None:
    cell.ok("import threading; lock = threading.Lock(); n = 0")
    cell.hibernate()
    answers: List[Dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(Cell.run(cell, "n += 1; n"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(a["text"]) for a in answers) == list(range(1, 9))
    assert cell.events().count("sandbox.woken") == 1


def test_what_runs_goes_on_and_its_client_waits(cell: Cell) -> None:
    result: List[Dict[str, Any]] = []
    code = "import time, os\nprint('begun', flush=True)\nopen('/workspace/begun', 'w')\nfor i in range(20): time.sleep(0.1)\nprint('done')\n6 * 7"
    thread = threading.Thread(target=lambda: result.append(cell.run(code, timeout_seconds=4)))
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "/workspace/begun"}).status_code == 200, "the code to begin")
    cell.hibernate()
    time.sleep(3)  # with what it still has to do longer than its timeout, which stands still
    assert not result and cell.status() == "hibernated"
    assert cell.call("GET", "/executions").json()[-1]["status"] == "running"
    cell.wake()
    thread.join(60)
    assert result and result[0]["exit"] == "ok" and result[0]["text"] == "42", result
    assert result[0]["stdout"] == "begun\ndone\n"


@pytest.mark.process_only
def test_processes_are_named_and_ended(cell: Cell) -> None:
    made = cell.call("POST", "/exec", json={"cmd": "sleep 300", "background": True}).json()
    away = cell.hibernate()
    assert made["pid"] in [x.get("pid") for x in away["not_carried"]], away
    cell.wake()
    record = cell.call("GET", f"/processes/{made['id']}").json()
    assert record["status"] == "ended" and record["exit"] == "killed" and record["reason"] == "hibernated"


@pytest.mark.process_only
def test_a_socket_is_named_and_closed(cell: Cell) -> None:
    cell.ok("import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); 1")
    away = cell.hibernate()
    mine = [x for x in away["not_carried"] if x["kind"] == "socket"]
    assert mine and mine[0]["context_id"] == "default", away
    run = cell.run("try: s.settimeout(1); s.accept(); r = 'accepted'\nexcept OSError as e: r = 'closed'\nr")
    assert run["text"] == "'closed'", run


def test_an_idle_one_freezes_and_says_when(server: Server) -> None:
    with Cell(server.url, persistent=True, idle_timeout_seconds=1) as cell:
        answer = cell.call("POST", "/execute", json={"code": "x = 1"})
        assert answer.headers["x-cella-on-timeout"] == "freeze"
        assert 0 < float(answer.headers["x-cella-remaining-seconds"]) <= 1
        time.sleep(0.2)  # describing it counts as use: it is left alone first
        found = lambda: [e["type"] for e in cell.http.get("/v1/events", params={"tail": 50}).json() if e["sandbox_id"] == cell.id]  # noqa: E731
        until(lambda: "sandbox.hibernated" in found(), "the idle freeze")
        assert cell.ok("x") == "1"


def test_on_timeout_delete_ends_it(server: Server) -> None:
    with Cell(server.url, persistent=True, on_timeout="delete", ttl_seconds=2) as cell:
        assert cell.call("GET").headers["x-cella-on-timeout"] == "delete"
        cell.hibernate()
        assert 0 < float(cell.call("GET").headers["x-cella-remaining-seconds"]) <= 2
        until(lambda: cell.http.get(cell.path).status_code == 410, "its end")


def test_an_ordinary_one_can_hibernate_too(server: Server) -> None:
    with Cell(server.url) as cell:
        assert cell.made["space_id"] is None and cell.made["on_timeout"] == "delete"
        cell.ok("x = 'here'")
        cell.hibernate()
        assert cell.ok("x") == "'here'"


def test_lifecycle_makes_a_space_and_unmakes_it(server: Server, http: httpx.Client) -> None:
    with Cell(server.url) as cell:
        life = cell.call("PATCH", "/lifecycle", json={"persistent": True}).json()
        assert life["persistent"] and life["on_timeout"] == "freeze" and life["space_id"]
        assert life["space_id"] in [s["space_id"] for s in http.get("/v1/spaces").json()]
        life = cell.call("PATCH", "/lifecycle", json={"persistent": False}).json()
        assert not life["persistent"] and life["on_timeout"] == "delete" and life["space_id"] is None
        cell.call("PATCH", "/lifecycle", 400, json={"on_timeout": "explode"})


def test_spaces_are_listed_resumed_and_deleted(cell: Cell, http: httpx.Client) -> None:
    space = cell.made["space_id"]
    cell.ok("x = 3")
    assert http.get(f"/v1/spaces/{space}").json()["state"] == "live"
    away = cell.hibernate()
    about = http.get(f"/v1/spaces/{space}").json()
    assert about["state"] == "frozen" and about["sandbox_id"] == cell.id and about["frozen_at"]
    assert about["size_bytes"] == away["size_bytes"] == about["memory_bytes"] + about["disk_bytes"]
    back = http.post(f"/v1/spaces/{space}/resume")
    assert back.status_code == 200 and back.json()["id"] == cell.id and back.json()["status"] == "running"
    assert cell.ok("x") == "3"
    cell.hibernate()
    assert http.delete(f"/v1/spaces/{space}").status_code == 204
    assert http.get(f"/v1/spaces/{space}").status_code == 404
    assert cell.http.get(cell.path).status_code == 410
    assert http.post("/v1/spaces/space_" + "0" * 32 + "/resume").status_code == 404


def test_delete_of_a_frozen_one_removes_its_files(cell: Cell, server: Server) -> None:
    if server.external:
        pytest.fail("looks at the state directory")
    cell.ok("1")
    cell.hibernate()
    with_it = set((server.state / "images").iterdir())
    cell.delete()
    until(lambda: len(set((server.state / "images").iterdir())) < len(with_it), "the image's directory to go")


# ---- other daemons, other keepers ----


@pytest.fixture(scope="module")
def own(new_server: Callable[..., Server]) -> Server:
    return new_server()


def restart_daemon(server: Server) -> None:
    server.kill_daemon()
    server.start_daemon()


def restart_keeper(server: Server) -> None:
    server.kill_daemon()
    server.kill_keeper()
    server.start_keeper()
    server.start_daemon()


@pytest.mark.own_server
@pytest.mark.parametrize("restart", [restart_daemon, restart_keeper])
def test_a_frozen_one_outlives_them(own: Server, restart: Callable[[Server], None]) -> None:
    with Cell(own.url, persistent=True) as cell:
        cell.run(STATE)
        cell.hibernate()
        restart(own)
        assert cell.status() == "hibernated"
        assert cell.ok(CHECK) == EXPECTED


@pytest.mark.own_server
def test_a_lost_one_goes_back_to_its_image(own: Server) -> None:
    with Cell(own.url, persistent=True) as cell, Cell(own.url, persistent=True) as never:
        cell.ok("x = 'in the image'")
        cell.hibernate()
        cell.ok("x = 'not written'")
        own.kill_keeper()
        until(lambda: cell.http.get(cell.path).json()["status"] == "hibernated", "the roll-back")
        own.start_keeper()
        until(lambda: own.healthy(), "the daemon")
        assert "sandbox.rolled_back" in cell.events()
        until(lambda: cell.http.post(cell.path + "/wake").status_code == 200, "the keeper to be back")
        assert cell.ok("x") == "'in the image'"
        assert never.http.get(never.path).status_code == 410, "it had no image"


@pytest.mark.own_server
def test_missing_files_are_said(own: Server) -> None:
    with Cell(own.url, persistent=True) as cell:
        cell.ok("x = 1")
        cell.hibernate()
        away: Path = own.state / "elsewhere"
        (own.state / "images").rename(away)
        (own.state / "images").mkdir()
        refused = cell.call("POST", "/wake", 409).json()
        assert refused["code"] == "image_refused" and refused["hint"]
        (own.state / "images").rmdir()
        away.rename(own.state / "images")
        assert cell.ok("x") == "1"
