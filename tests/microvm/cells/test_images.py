"""Machines in files: snapshots, Spaces, hibernation. The same live objects come back."""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List

import httpx
import pytest
from host import Host, Machine, until

STATE = """
import os, subprocess, threading, time
class Node: pass
a, b = Node(), Node()
a.other, b.other = b, a
f = open('/workspace/lines', 'w+'); f.write('0123456789'); f.flush(); f.seek(4)
g = (i * i for i in range(100)); [next(g) for _ in range(7)]
ticks = []
def tick():
    while True: ticks.append(time.monotonic()); time.sleep(0.05)
threading.Thread(target=tick, daemon=True).start()
child = subprocess.Popen(['/bin/sh', '-c', 'i=0; while read line; do i=$((i + 1)); echo $i $line; done'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def said(word):
    child.stdin.write(word + '\\n'); child.stdin.flush(); return child.stdout.readline().strip()
said('first')
import numpy
m = numpy.arange(1_000_000)
"""
CHECK = "before = len(ticks); time.sleep(1)\n(a.other.other is a, f.read(), next(g), int(m.sum()), len(ticks) > before, said('second'))"
EXPECTED = "(True, '456789', 49, 499999500000, True, '2 second')"


@pytest.fixture(autouse=True)
def clean(http: httpx.Client) -> Iterator[None]:
    yield
    for snapshot in http.get("/v1/snapshots").json():
        http.delete("/v1/snapshots/" + snapshot["id"])


@pytest.mark.core
def test_a_snapshot_outlives_its_machine(host: Host, http: httpx.Client, make: Callable[..., Machine]) -> None:
    cell = make()
    cell.ok(STATE)
    cell.run("v=shell", language="bash")
    shot = cell.snapshot("kept")
    assert shot["memory_bytes"] > 0 and shot["size_bytes"] < 600 << 20
    monitor = host.monitor_of(cell)
    cell.ok("f.read(); m[:] = 0")
    cell.delete()
    until(lambda: monitor not in host.monitors(), "the monitor's end", 60)
    back = [make(from_snapshot=shot["id"]) for _ in range(2)]
    for one in back:
        assert one.describe()["driver"] == "microvm"
        assert one.ok(CHECK) == EXPECTED
        assert one.run("echo $v", language="bash")["stdout"] == "shell\n"
        assert one.ok("import socket\nsocket.gethostname()") == repr(one.id[4:16])
    assert back[0].ok("import random, os\nx = (os.urandom(8), random.random()); x") != back[1].ok("import random, os\nx = (os.urandom(8), random.random()); x")


@pytest.mark.core
def test_a_space_freezes_and_comes_back(host: Host, http: httpx.Client, make: Callable[..., Machine]) -> None:
    cell = make(persistent=True, env={"GIVEN": "yes"})
    cell.ok(STATE)
    monitor = host.monitor_of(cell)
    away = cell.hibernate()
    assert away["space_id"] == cell.made["space_id"] and away["size_bytes"] > 1_000_000
    until(lambda: monitor not in host.monitors(), "the monitor's end", 60)
    resumed = http.post(f"/v1/spaces/{cell.made['space_id']}/resume", timeout=300)
    assert resumed.status_code == 200, resumed.text
    assert cell.ok(CHECK) == EXPECTED
    assert cell.ok("os.environ['GIVEN']") == "'yes'"
    assert cell.describe()["driver"] == "microvm"


@pytest.mark.core
def test_a_request_wakes_it_again_and_again(make: Callable[..., Machine]) -> None:
    cell = make(persistent=True)
    cell.ok("n = 0")
    for i in range(1, 4):
        cell.hibernate()
        assert cell.ok("n += 1; n") == str(i)
    assert {"sandbox.hibernated", "sandbox.woken"} <= set(cell.events())


def test_a_fork_of_what_came_back(make: Callable[..., Machine]) -> None:
    cell = make(persistent=True)
    cell.ok(STATE)
    cell.hibernate()
    (child,) = cell.forks()
    assert child.ok(CHECK) == EXPECTED and cell.ok(CHECK) == EXPECTED
    child.snapshot("grandchild")
    child.__exit__(None, None, None)
    again = make(from_snapshot="grandchild")
    assert again.ok("(int(m.sum()), said('third'))") == "(499999500000, '3 third')"


def test_what_runs_goes_on(make: Callable[..., Machine]) -> None:
    import threading

    cell = make(persistent=True)
    got: List[Dict[str, Any]] = []
    code = "import os, time\nopen('/workspace/up', 'w').close()\nwhile not os.path.exists('/workspace/go'): time.sleep(0.1)\n'went on'"
    thread = threading.Thread(target=lambda: got.append(cell.run(code)))
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "up"}).status_code == 200, "the code to run", 120)
    cell.hibernate()
    cell.wake()
    cell.put("go", b"")
    thread.join(120)
    assert got[0]["exit"] == "ok" and got[0]["text"] == "'went on'"


def test_files_written_before_are_there_and_those_after_are_not(make: Callable[..., Machine]) -> None:
    cell = make()
    cell.put("before", b"b" * 3_000_000)
    cell.snapshot("files")
    cell.put("after", b"a")
    back = make(from_snapshot="files")
    assert back.get("before") == b"b" * 3_000_000
    assert back.sh("ls /workspace").split() == ["before"]
