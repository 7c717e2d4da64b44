"""Daemon and keeper stop, crash and come back under living machines; and what the daemon says about drivers."""
from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List

import httpx
import pytest
from host import Host, Machine, until
from support.server import Server

STATE = "import subprocess\nx = 'in memory'\nchild = subprocess.Popen(['sleep', '1000'])\nf = open('/workspace/f', 'w+'); f.write('abc'); f.flush(); f.seek(1)\nchild.pid"


def check(cell: Machine, child: str) -> None:
    assert cell.ok("(x, child.poll(), f.read())") == "('in memory', None, 'bc')"
    assert cell.ok("f.seek(1)") == "1"
    assert cell.sh(f"cat /proc/{child}/comm") == "sleep\n"
    assert cell.run("echo $v", language="bash")["stdout"] == "shell\n"


@pytest.mark.core
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_daemon_ends_and_finds_its_machines_again(server: Server, make: Callable[..., Machine], how: str) -> None:
    cell = make(metadata={"kept": "yes"}, env={"E": "env"})
    child = cell.ok(STATE)
    cell.run("v=shell", language="bash")
    (fork,) = cell.forks()
    before = cell.describe()
    server.stop_daemon() if how == "stop" else server.kill_daemon()
    server.start_daemon()
    after = cell.describe()
    for field in ("id", "template", "metadata", "created_at", "driver", "isolation", "limits"):
        assert after.get(field) == before.get(field), field
    check(cell, child)
    check(fork, child)
    assert cell.ok("import os\nos.environ['E']") == "'env'"
    (grandchild,) = fork.forks()
    check(grandchild, child)
    for one in (fork, grandchild):
        one.__exit__(None, None, None)
    new = make()
    assert new.ok("1 + 1") == "2"


@pytest.mark.core
def test_a_daemon_killed_while_code_runs(server: Server, make: Callable[..., Machine]) -> None:
    cell = make()
    errors: List[Exception] = []

    def run() -> None:
        try:
            cell.run("import time\nopen('/workspace/up', 'w').close()\ntime.sleep(5)\nopen('/workspace/done', 'w').write('done')\n'result'")
        except (httpx.HTTPError, AssertionError) as problem:
            errors.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "up"}).status_code == 200, "the code to run", 120)
    server.kill_daemon()
    thread.join(60)
    assert errors, "a cut answer must not look whole"
    server.start_daemon()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "done"}).status_code == 200, "the code to go on", 120)
    assert cell.ok("open('/workspace/done').read()") == "'done'"


@pytest.mark.core
def test_a_request_may_name_its_driver(http: httpx.Client) -> None:
    made = http.post("/v1/sandboxes", json={"driver": "microvm"}, timeout=300)
    assert made.status_code == 201 and made.json()["driver"] == "microvm", made.text
    http.delete("/v1/sandboxes/" + made.json()["id"])
    wrong = http.post("/v1/sandboxes", json={"driver": "chroot"})
    assert wrong.status_code == 400 and wrong.json()["code"] == "invalid_request" and "driver" in wrong.json()["error"]
    for value in (7, [], {}):
        assert http.post("/v1/sandboxes", json={"driver": value}).status_code == 400


def test_another_driver_is_used_or_refused_but_never_replaced(server: Server, http: httpx.Client) -> None:
    made = http.post("/v1/sandboxes", json={"driver": "process"}, timeout=300)
    if made.status_code == 201:
        assert made.json()["driver"] == "process"
        http.delete("/v1/sandboxes/" + made.json()["id"])
    else:  # an emulated processor without XSAVE, a kernel before 6.11
        assert made.status_code >= 400 and made.json()["error"] and made.json()["code"], made.text


@pytest.mark.core
def test_the_keeper_killed_ends_machines_and_says_so(server: Server, host: Host, make: Callable[..., Machine]) -> None:
    """Last of this file: everything ends with it."""
    cell = make()
    cell.ok("x = 1")
    got: List[httpx.Response] = []
    thread = threading.Thread(target=lambda: got.append(cell.http.post(cell.path + "/execute", json={"code": "import time\ntime.sleep(600)", "timeout_seconds": 600})))
    thread.start()
    until(lambda: any(run["status"] == "running" for run in cell.call("GET", "/executions").json()), "the code to run", 120)
    old = set(host.monitors())
    assert old
    server.kill_keeper()
    thread.join(120)
    assert got
    said: Dict[str, Any] = got[0].json()
    assert said.get("exit") in ("killed", "lost") or said.get("code") in ("gone", "lost", "unavailable"), said
    until(lambda: not old & set(host.monitors()), "the monitors' end", 60)
    server.start_keeper()
    if server.daemon is None or server.daemon.poll() is not None:
        server.start_daemon()
    until(server.healthy, "the daemon to be well again", 240)
    answer = cell.http.post(cell.path + "/execute", json={"code": "x"})
    assert answer.status_code in (404, 410), answer.text

    def again() -> bool:
        made = cell.http.post("/v1/sandboxes", json={})
        if made.status_code == 201:
            with Machine.at(cell.url, made.json()["id"]) as new:
                assert new.ok("1 + 1") == "2"
        return made.status_code == 201

    until(again, "a new machine", 240, 1.0)
