"""Limits of a machine: felt inside, told outside, and no neighbour notices."""
from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, Iterator, List

import pytest
from host import Machine, until


@pytest.fixture(autouse=True)
def the_neighbour_is_well(steady: Machine) -> Iterator[None]:
    yield
    assert steady.ok("sum(range(10))") == "45"


@pytest.mark.core
def test_limits_are_shown_and_seen(make: Callable[..., Machine]) -> None:
    cell = make(limits={"memory_mb": 512, "pids": 100, "disk_mb": 300})
    limits = cell.describe()["limits"]
    assert (limits["memory_mb"], limits["pids"], limits["disk_mb"]) == (512, 100, 300)
    stats = cell.call("GET", "/stats").json()
    assert stats["memory_limit_bytes"] == 512 << 20 and 0 < stats["memory_bytes"] <= 512 << 20


@pytest.mark.core
def test_out_of_memory_in_the_guest_is_told_and_the_cell_lives(make: Callable[..., Machine]) -> None:
    cell = make(limits={"memory_mb": 400})
    cell.put("file", b"stays")
    run = cell.run("print('filling', flush=True)\nb = []\nwhile True: b.append(bytearray(10_000_000))", timeout_seconds=250)
    assert run["exit"] == "oom" and run["stdout"] == "filling\n", run
    assert cell.ok("open('/workspace/file').read()") == "'stays'"
    assert cell.call("GET", "/stats").json()["oom_kills"] >= 1


def test_a_process_out_of_memory(make: Callable[..., Machine]) -> None:
    cell = make(limits={"memory_mb": 400})
    cell.ok("x = 'unharmed'")
    run = cell.exec(["python3", "-c", "b = []\nwhile True: b.append(bytearray(10_000_000))"])
    assert run["exit"] == "oom" and run["exit_code"] is None
    assert cell.ok("x") == "'unharmed'"


@pytest.mark.core
def test_a_full_disk_says_so(make: Callable[..., Machine]) -> None:
    cell = make(limits={"disk_mb": 60})
    run = cell.run("f = open('/workspace/fill', 'wb')\nwhile True:\n    f.write(b'\\xa5' * 1_000_000)\n    f.flush()", timeout_seconds=250)
    assert run["exit"] == "error" and run["error"]["name"] == "OSError" and ("No space" in run["error"]["value"] or "quota" in run["error"]["value"].lower()), run
    answer = cell.http.put(cell.path + "/fs", params={"path": "more"}, content=b"\xa5" * 20_000_000)
    assert answer.status_code == 507, answer.text
    assert cell.http.get(cell.path + "/fs/stat", params={"path": "more"}).status_code == 404
    cell.run("f.close()")
    cell.sh("rm /workspace/fill")
    until(lambda: cell.http.put(cell.path + "/fs", params={"path": "again"}, content=b"x" * 1_000_000).status_code < 300, "room to come back", 60)


@pytest.mark.core
def test_processes_end_somewhere(make: Callable[..., Machine]) -> None:
    cell = make(limits={"pids": 60})
    run = cell.run("import threading\ne = threading.Event()\nn = 0\nwhile n < 500:\n    threading.Thread(target=e.wait, daemon=True).start(); n += 1", timeout_seconds=200)
    assert run["exit"] == "error" and "thread" in run["error"]["value"], run
    assert cell.ok("e.set(); 20 < n < 61") == "True"


@pytest.mark.core
def test_output_over_the_limit_is_cut_with_a_count(cell: Machine) -> None:
    total = 5_000_000
    run = cell.run(f"import sys\nsys.stdout.write('x' * {total})\nNone")
    assert run["exit"] == "ok" and run["truncated"], {k: v for k, v in run.items() if k != "stdout"}
    dropped = run["truncated"]["stdout"]["dropped_bytes"]
    assert len(run["stdout"]) + dropped == total


@pytest.mark.core
@pytest.mark.parametrize("code", ["import time\ntime.sleep(300)", "while True: pass", "import subprocess\nsubprocess.run(['sleep', '300'])"], ids=["sleep", "loop", "process"])
def test_a_timeout_interrupts_and_keeps_the_state(cell: Machine, code: str) -> None:
    cell.ok("kept = 'state'")
    run = cell.run(code, timeout_seconds=3)
    assert run["exit"] == "timeout", run
    assert cell.ok("kept") == "'state'"


@pytest.mark.core
def test_an_interrupt(cell: Machine) -> None:
    cell.ok("kept = 'state'")
    got: List[Dict[str, Any]] = []
    thread = threading.Thread(target=lambda: got.append(cell.run("import numpy as np, os\nopen('/workspace/up', 'w').close()\na = np.random.rand(300, 300)\nwhile True: a = a @ a / 300")))
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "up"}).status_code == 200, "the code to run", 120)
    assert cell.http.post(cell.path + "/contexts/default/interrupt").status_code in (200, 202, 204)
    thread.join(120)
    assert got[0]["exit"] == "interrupted" and cell.ok("kept") == "'state'"


@pytest.mark.core
def test_a_command_that_takes_too_long(cell: Machine) -> None:
    run = cell.exec("sleep 300", timeout_seconds=2)
    assert run["exit"] == "timeout" and run["exit_code"] is None


def test_a_pause_stops_everything(cell: Machine) -> None:
    cell.ok("import threading, time\nn = 0\ndef count():\n    global n\n    while True: n += 1; time.sleep(0.05)\nthreading.Thread(target=count, daemon=True).start()")
    first = int(cell.ok("n"))
    cell.call("POST", "/pause", 204)
    time.sleep(8)
    cell.call("POST", "/resume", 204)
    assert int(cell.ok("n")) - first < 120, "it counted while it was paused"


def test_a_fork_bomb_hurts_nobody(make: Callable[..., Machine], steady: Machine) -> None:
    cell = make(limits={"pids": 60})
    cell.call("POST", "/exec", json={"cmd": ["python3", "-c", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"], "background": True})
    until(lambda: cell.call("GET", "/stats").json()["pids"] >= 50, "the bomb to fill the cell", 120)
    assert cell.call("GET", "/stats").json()["pids"] <= 60
    assert steady.sh("echo neighbour") == "neighbour\n"
