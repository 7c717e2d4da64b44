"""Machines that end when nobody asked: what was running is told the truth, and nobody else notices."""
from __future__ import annotations

import random
import threading
from typing import Any, Callable, Dict, List

import httpx
import pytest
from host import Host, Machine, until

WAITING = "import time\nprint('waiting', flush=True)\ntime.sleep(600)"


class Waiting:
    """Code that runs in a thread of the test until something ends it."""

    def __init__(self, cell: Machine) -> None:
        self.cell, self.got = cell, []  # type: ignore[var-annotated]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        until(self.started, "the code to run", 120)

    def started(self) -> bool:
        runs = self.cell.call("GET", "/executions").json()
        return any(run["status"] == "running" for run in runs)

    def run(self) -> None:
        self.got.append(self.cell.http.post(self.cell.path + "/execute", json={"code": WAITING, "timeout_seconds": 600}))

    def ended(self) -> Dict[str, Any]:
        self.thread.join(120)
        assert self.got, "the waiter was never told"
        answer: httpx.Response = self.got[0]
        value: Dict[str, Any] = answer.json()
        return {"status_code": answer.status_code, **value}


def gone(cell: Machine) -> Dict[str, Any]:
    """What the API says of a cell that is no more."""

    def look() -> Dict[str, Any]:
        answer = cell.http.get(cell.path)
        if answer.status_code in (404, 410):
            return {"status": answer.status_code, **answer.json()}
        about = answer.json()
        return about if about["status"] not in ("running", "paused") else {}

    return until(look, "the end to be known", 120)


def truthful(said: Dict[str, Any]) -> bool:
    return said.get("exit") in ("killed", "lost") or said.get("code") in ("gone", "lost", "killed")


@pytest.mark.core
def test_a_guest_that_reboots_is_gone(make: Callable[..., Machine], steady: Machine) -> None:
    cell = make()
    waiting = Waiting(cell)
    cell.http.post(cell.path + "/exec", json={"cmd": "echo b > /proc/sysrq-trigger; sleep 60", "user": "root", "timeout_seconds": 60})
    said = waiting.ended()
    assert truthful(said), said
    gone(cell)
    refused = cell.http.post(cell.path + "/execute", json={"code": "1"})
    assert refused.status_code in (404, 410) and refused.json()["code"] in ("gone", "not_found")
    assert steady.ok("1 + 1") == "2"


@pytest.mark.core
def test_a_guest_whose_kernel_panics_is_gone(make: Callable[..., Machine], steady: Machine) -> None:
    cell = make()
    cell.http.post(cell.path + "/exec", json={"cmd": "echo c > /proc/sysrq-trigger; sleep 60", "user": "root", "timeout_seconds": 60})
    gone(cell)
    assert steady.ok("1 + 1") == "2"


@pytest.mark.core
def test_monitors_killed_at_random(host: Host, make: Callable[..., Machine]) -> None:
    cells = [make() for _ in range(3)]
    cells += cells[0].forks(2)
    for i, cell in enumerate(cells):
        cell.ok(f"who = {i}")
    monitors = {cell.id: host.monitor_of(cell) for cell in cells}
    assert len(set(monitors.values())) == len(cells)
    order = random.sample(cells, len(cells))
    for victim in order[:3]:
        waiting = Waiting(victim)
        host.signal(monitors[victim.id])
        said = waiting.ended()
        assert truthful(said), said
        gone(victim)
    for i, cell in enumerate(cells):
        if cell in order[3:]:
            assert cell.ok("who") == str(i)
            (child,) = cell.forks()
            assert child.ok("who") == str(i)
            child.__exit__(None, None, None)
    for cell in cells[3:]:
        cell.__exit__(None, None, None)


def test_killed_while_it_forks(host: Host, make: Callable[..., Machine]) -> None:
    """Either all children are there and work, or none is left over."""
    for _ in range(3):
        cell = make()
        cell.ok("x = 'parent'")
        monitor = host.monitor_of(cell)
        answers: List[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(cell.http.post(cell.path + "/fork", json={"n": 3})))  # noqa: B023
        thread.start()
        threading.Event().wait(random.random() * 0.5)
        host.signal(monitor)
        thread.join(200)
        said = answers[0].json()
        children = said.get("children", []) if answers[0].status_code == 201 else []
        for child in children:
            one = Machine.at(cell.url, child)
            assert one.ok("x") == "'parent'"
            one.__exit__(None, None, None)
        gone(cell)


def test_garbage_to_every_device_from_root(make: Callable[..., Machine], steady: Machine) -> None:
    """Writes into the windows of the devices: the machine may end, its monitor's neighbours may not."""
    cell = make()
    code = """
import mmap, os, random
f = os.open('/dev/mem', os.O_RDWR | os.O_SYNC)
for page in range(8):
    m = mmap.mmap(f, 4096, offset=0xd0000000 + page * 4096)
    for _ in range(300):
        at = random.randrange(0, 0x200, 4); m[at:at + 4] = os.urandom(4)
"""
    cell.http.post(cell.path + "/exec", json={"cmd": ["python3", "-c", code], "user": "root", "timeout_seconds": 60})
    assert steady.ok("1 + 1") == "2"
    assert steady.forks()[0].ok("2 + 2") == "4"
