"""kill -9, a failure and a full disk at every step of hibernate, wake and snapshot: afterwards a cell is whole, what was acknowledged is there, and
nothing is left over. Needs programs built with -Dfaults=true; a point that does not act fails its test."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

import httpx
import pytest
from support.cells import Cell
from support.server import ROOT, Server
from support.wait import until

pytestmark = [pytest.mark.own_server, pytest.mark.needs_isolation]


def points(*prefixes: str) -> List[str]:
    """The fault points of the sources, so that a new one is a new test."""
    found: Set[str] = set()
    for source in (ROOT / "src").rglob("*.c"):
        found |= set(re.findall(r'fault_(?:point|error)\("([a-z0-9_.]+)"', source.read_text()))
    return sorted(p for p in found if p.startswith(prefixes))


def can_fail(point: str) -> bool:
    """Some are passages only: nothing can fail there any more."""
    return any(f'fault_error("{point}"' in s.read_text() for s in (ROOT / "src").rglob("*.c"))


FREEZE = points("domain.freeze.", "domain.image.", "freeze.")
SNAPSHOT = [p for p in points("domain.snapshot.", "domain.image.", "freeze.") if not p.startswith("domain.snapshot.delete")]
THAW = points("domain.thaw.", "thaw.")
ACTIONS = ("kill", "error", "nospace")


def cases(names: List[str]) -> List[Any]:
    return [pytest.param(p, a, id=f"{p}:{a}") for p in names for a in ACTIONS if a == "kill" or can_fail(p)]


@contextmanager
def armed(what: str) -> Iterator[None]:
    """Programs started inside get the fault."""
    os.environ["CELLA_FAULT"] = what
    try:
        yield
    finally:
        del os.environ["CELLA_FAULT"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(arguments=["--pool-filled", "1", "--pool-empty", "1"])
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def cell(server: Server) -> Iterator[Cell]:
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


def rearm(server: Server, what: Optional[str]) -> None:
    server.stop_daemon()
    if what is None:
        server.start_daemon()
    else:
        with armed(what):
            server.start_daemon()


def ask(cell: Cell, method: str, path: str, **options: Any) -> Optional[httpx.Response]:
    """The answer, or None when the daemon died over it."""
    try:
        return cell.http.request(method, path, **options)
    except httpx.TransportError:
        return None


def died(server: Server) -> bool:
    assert server.daemon is not None
    try:
        server.daemon.wait(10)
    except Exception:  # noqa: BLE001
        return False
    return server.daemon.returncode == -9


def images(server: Server) -> Set[str]:
    return {p.name for p in (server.state / "images").iterdir()}


def rows(server: Server) -> Set[str]:
    with sqlite3.connect(f"file:{server.state}/db/cella.db?mode=ro", uri=True) as db:
        return {str(r[0]) for r in db.execute("SELECT id FROM image")}


def nothing_is_left_over(server: Server) -> None:
    until(lambda: images(server) == rows(server), f"directories {images(server)} to be those of the rows {rows(server)}")
    kept = server.state / "layers"
    names = {p.name for p in kept.rglob("img_*")} if kept.is_dir() else set()
    assert names <= rows(server), "layers of images that nobody knows"


def whole(server: Server, cell: Cell, value: str) -> None:
    """It answers, memory and files agree, and it goes away and comes back once more."""
    assert cell.ok("f.seek(0); (x, f.read(), open('/workspace/f').read())") == f"('{value}', '{value}', '{value}')"
    cell.hibernate()
    assert cell.ok("x") == f"'{value}'"
    nothing_is_left_over(server)


def happened(server: Server, answer: Optional[httpx.Response], action: str) -> None:
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
def test_hibernate(server: Server, cell: Cell, point: str, action: str) -> None:
    rearm(server, f"{point}:{action}")
    answer = ask(cell, "POST", cell.path + "/hibernate")
    happened(server, answer, action)
    if answer is not None:
        assert cell.status() == "running", "it goes on"
    whole(server, cell, "two")
    assert "sandbox.rolled_back" not in cell.events()


@pytest.mark.parametrize("point,action", cases(THAW))
def test_wake(server: Server, cell: Cell, point: str, action: str) -> None:
    cell.hibernate()
    rearm(server, f"{point}:{action}")
    answer = ask(cell, "POST", cell.path + "/wake")
    happened(server, answer, action)
    whole(server, cell, "two")


@pytest.mark.parametrize("point,action", cases(SNAPSHOT))
def test_snapshot(server: Server, cell: Cell, point: str, action: str) -> None:
    rearm(server, f"{point}:{action}")
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


@pytest.mark.parametrize("point", points("domain.snapshot.delete"))
def test_delete_of_a_snapshot(server: Server, cell: Cell, point: str) -> None:
    snapshot = cell.snapshot()
    rearm(server, f"{point}:kill")
    happened(server, ask(cell, "DELETE", "/v1/snapshots/" + snapshot["id"]), "kill")
    if cell.http.get("/v1/snapshots/" + snapshot["id"]).status_code == 200:
        with Cell(server.url, from_snapshot=snapshot["id"]) as copy:
            assert copy.ok("x") == "'two'"
    nothing_is_left_over(server)
    whole(server, cell, "two")


@pytest.mark.parametrize("point", ["domain.freeze.written", "domain.image.renamed", "domain.freeze.committed"])
def test_both_die(server: Server, cell: Cell, point: str) -> None:
    rearm(server, f"{point}:kill")
    assert ask(cell, "POST", cell.path + "/hibernate") is None and died(server)
    server.daemon = None
    server.kill_keeper()
    server.start_keeper()
    server.start_daemon()
    committed = point == "domain.freeze.committed"
    assert cell.status() == "hibernated"
    assert ("sandbox.rolled_back" in cell.events()) == (not committed)
    whole(server, cell, "two" if committed else "one")


KEEPER = [p for p in points("keeper.capture.", "keeper.keep.", "keeper.thaw.")]


@pytest.mark.parametrize("point", KEEPER)
def test_the_keeper_dies(server: Server, point: str) -> None:
    with Cell(server.url, persistent=True) as cell:
        cell.ok("x = 'one'; f = open('/workspace/f', 'w+'); f.write('one'); f.flush()")
        cell.hibernate()
        server.stop_daemon()
        server.stop_keeper()
        with armed(point + ":kill"):
            server.start_keeper()
        server.start_daemon()
        woken = ask(cell, "POST", cell.path + "/wake")
        assert woken is not None
        value, away = "one", None
        if woken.status_code == 200:
            cell.http.post(cell.path + "/execute", json={"code": "x = 'two'; f.seek(0); f.write('two'); f.flush()"})
            away = ask(cell, "POST", cell.path + "/hibernate")
            assert away is not None
            if away.status_code == 200:
                value = "two"
        assert server.keeper is not None
        server.keeper.wait(10)  # the point acted
        assert server.keeper.returncode == -9
        server.start_keeper()
        until(lambda: cell.http.post(cell.path + "/wake").status_code == 200, "the new keeper to be known", 60)
        assert cell.ok("f.seek(0); (x, f.read())") == f"('{value}', '{value}')"
        if woken.status_code == 200 and value == "one":
            assert "sandbox.rolled_back" in cell.events()
        nothing_is_left_over(server)
