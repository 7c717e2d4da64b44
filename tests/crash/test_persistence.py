"""kill -9, a failure and a full disk at every step of hibernate, wake and snapshot: afterwards a cell is whole, what was acknowledged is there, and
nothing is left over. Needs programs built with -Dfaults=true; a point that does not act fails its test."""

from __future__ import annotations

import sqlite3
import subprocess
from typing import Any, Dict, Iterator, List, Optional, Set

import httpx
import pytest
from harness import CrashServer, can_fail, points
from support.cells import Cell
from support.wait import until

pytestmark = [pytest.mark.own_server, pytest.mark.needs_isolation]


FREEZE = points(".", "domain.freeze.", "domain.image.", "freeze.")
SNAPSHOT = [p for p in points(".", "domain.snapshot.", "domain.image.", "freeze.") if not p.startswith("domain.snapshot.delete")]
THAW = points(".", "domain.thaw.", "thaw.")
ACTIONS = ("kill", "error", "nospace")


def cases(names: List[str]) -> List[Any]:
    return [pytest.param(p, a, id=f"{p}:{a}") for p in names for a in ACTIONS if a == "kill" or can_fail(p)]


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    server = CrashServer()
    try:
        server.start()
        with Cell(server.url, persistent=True) as first:  # what is made once is there: bases, caches
            first.ok("1")
            first.hibernate()
            first.ok("1")
        server.baseline = server.settle()
        yield server
        server.nothing_is_left()
    finally:
        server.stop()


@pytest.fixture
def cell(server: CrashServer) -> Iterator[Cell]:
    """One that has an image ("one") and lives on ("two")."""
    cell = Cell(server.url, persistent=True)
    cell.ok("x = 'one'; f = open('/workspace/f', 'w+'); f.write('one'); f.flush()")
    cell.hibernate()
    cell.ok("x = 'two'; f.seek(0); f.write('two'); f.flush()")
    yield cell
    if not server.healthy():
        server.stop_daemon()
        server.start_daemon()
    cell.delete()
    for snapshot in cell.http.get("/v1/snapshots").json():
        cell.http.delete("/v1/snapshots/" + snapshot["id"])
    until(lambda: images(server) == set(), "everything to be removed")


def ask(cell: Cell, method: str, path: str, **options: Any) -> Optional[httpx.Response]:
    """The answer, or None when the daemon died over it."""
    try:
        return cell.http.request(method, path, **options)
    except httpx.TransportError:
        return None


def died(server: CrashServer) -> bool:
    assert server.daemon is not None
    try:
        server.daemon.wait(10)
    except Exception:  # noqa: BLE001
        return False
    return server.daemon.returncode == -9


def images(server: CrashServer) -> Set[str]:
    return {p.name for p in (server.state / "images").iterdir()}


def rows(server: CrashServer) -> Set[str]:
    with sqlite3.connect(f"file:{server.state}/db/cella.db?mode=ro", uri=True) as db:
        return {str(r[0]) for r in db.execute("SELECT id FROM image")}


def nothing_is_left_over(server: CrashServer) -> None:
    until(lambda: images(server) == rows(server), f"directories {images(server)} to be those of the rows {rows(server)}")
    kept = server.state / "layers"
    names = {p.name for p in kept.rglob("img_*")} if kept.is_dir() else set()
    assert names <= rows(server), "layers of images that nobody knows"


def whole(server: CrashServer, cell: Cell, value: str) -> None:
    """It answers, memory and files agree, and it goes away and comes back once more."""
    assert cell.ok("f.seek(0); (x, f.read(), open('/workspace/f').read())") == f"('{value}', '{value}', '{value}')"
    cell.hibernate()
    assert cell.ok("x") == f"'{value}'"
    nothing_is_left_over(server)


def happened(server: CrashServer, answer: Optional[httpx.Response], action: str) -> None:
    """The fault acted; a daemon that died is started again."""
    if action == "kill":
        assert answer is None and died(server), f"the point did not act: {answer and answer.text}"
        server.daemon = None
        server.start_daemon()
        return
    assert answer is not None and answer.status_code >= 400, f"the point did not act: {answer and answer.text}"
    assert answer.json()["code"] in ("internal", "no_space", "image_refused", "unavailable"), answer.text
    if action == "nospace":
        assert answer.json()["code"] == "no_space", answer.text


@pytest.mark.parametrize("point,action", cases(FREEZE))
def test_hibernate(server: CrashServer, cell: Cell, point: str, action: str) -> None:
    server.rearm_daemon(f"{point}:{action}")
    answer = ask(cell, "POST", cell.path + "/hibernate")
    happened(server, answer, action)
    if answer is not None:
        assert cell.status() == "running", "it goes on"
    whole(server, cell, "two")
    assert "sandbox.rolled_back" not in cell.events()


@pytest.mark.parametrize("point,action", cases(THAW))
def test_wake(server: CrashServer, cell: Cell, point: str, action: str) -> None:
    cell.hibernate()
    server.rearm_daemon(f"{point}:{action}")
    answer = ask(cell, "POST", cell.path + "/wake")
    happened(server, answer, action)
    whole(server, cell, "two")


@pytest.mark.parametrize("point,action", cases(SNAPSHOT))
def test_snapshot(server: CrashServer, cell: Cell, point: str, action: str) -> None:
    server.rearm_daemon(f"{point}:{action}")
    answer = ask(cell, "POST", cell.path + "/snapshots", json={"name": "s"})
    happened(server, answer, action)
    listed: List[Dict[str, Any]] = cell.http.get("/v1/snapshots").json()
    assert len(listed) <= 1 and (answer is None or not listed), "a failure was answered: there is none"
    for snapshot in listed:
        with Cell(server.url, from_snapshot=snapshot["id"]) as copy:
            assert copy.ok("(x, open('/workspace/f').read())") == "('two', 'two')"
        assert cell.http.delete("/v1/snapshots/" + snapshot["id"]).status_code == 204
    assert cell.snapshot("s")["name"] == "s"
    whole(server, cell, "two")


@pytest.mark.parametrize("point", points(".", "domain.snapshot.delete"))
def test_delete_of_a_snapshot(server: CrashServer, cell: Cell, point: str) -> None:
    snapshot = cell.snapshot()
    server.rearm_daemon(f"{point}:kill")
    happened(server, ask(cell, "DELETE", "/v1/snapshots/" + snapshot["id"]), "kill")
    if cell.http.get("/v1/snapshots/" + snapshot["id"]).status_code == 200:
        with Cell(server.url, from_snapshot=snapshot["id"]) as copy:
            assert copy.ok("x") == "'two'"
    nothing_is_left_over(server)
    whole(server, cell, "two")


@pytest.mark.parametrize("point", ["domain.freeze.written", "domain.image.renamed", "domain.freeze.committed"])
def test_both_die(server: CrashServer, cell: Cell, point: str) -> None:
    server.rearm_daemon(f"{point}:kill")
    assert ask(cell, "POST", cell.path + "/hibernate") is None and died(server)
    server.daemon = None
    server.kill_keeper()
    server.start_keeper()
    server.start_daemon()
    committed = point == "domain.freeze.committed"
    assert cell.status() == "hibernated"
    assert ("sandbox.rolled_back" in cell.events()) == (not committed)
    whole(server, cell, "two" if committed else "one")


def keeper_died(server: CrashServer) -> bool:
    """Some steps run in a helper process of the keeper: then that one died, and the keeper said that the step failed."""
    assert server.keeper is not None
    try:
        return server.keeper.wait(5) == -9
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.parametrize("point", points("keeper", "keeper.capture.", "keeper.keep.", "keeper.thaw."))
def test_the_keeper_dies(server: CrashServer, point: str) -> None:
    with Cell(server.url, persistent=True) as cell:
        cell.ok("x = 'one'; f = open('/workspace/f', 'w+'); f.write('one'); f.flush()")
        cell.hibernate()
        server.rearm_keeper(point + ":kill")
        try:
            woken = cell.http.post(cell.path + "/wake")
            away = None
            if woken.status_code == 200:
                cell.http.post(cell.path + "/execute", json={"code": "x = 'two'; f.seek(0); f.write('two'); f.flush()"})
                away = cell.http.post(cell.path + "/hibernate")
            written = away is not None and away.status_code == 200
            if not keeper_died(server):
                assert woken.status_code != 200 or not written, "the point did not act"
                if woken.status_code == 200:
                    assert cell.status() == "running" and cell.ok("x") == "'two'", "it goes on"
        finally:
            server.kill_keeper()
            server.start_keeper()
        until(lambda: cell.http.post(cell.path + "/wake").status_code == 200, "the new keeper to be known", 60)
        value = "two" if written else "one"
        assert cell.ok("f.seek(0); (x, f.read())") == f"('{value}', '{value}')"
        if woken.status_code == 200 and not written:
            assert "sandbox.rolled_back" in cell.events()
        nothing_is_left_over(server)
