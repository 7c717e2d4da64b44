"""cella-guest serves the daemon while the cell's code does its worst around it."""

from __future__ import annotations

import threading
import time
from typing import Callable, List

import pytest
from cella.errors import CellaError
from ring import Cell, Ring, held
from support.wait import until


@pytest.mark.layer("guest")
def test_names_of_processes(cell: Cell, ring: Ring) -> None:
    """Names and command lines with newlines, JSON, invalid UTF-8, parentheses and escapes: the list stays a list."""
    code = """
    for i, label in enumerate((b'a) S 1 (b', b'\\xff\\xfe\\xc3', b'", "pid": 1}', b'x\\ny', b'\\x1b[2J', b'')):
        if os.fork() == 0:
            _libc.prctl(15, label + b'\\0')
            os.execv(b'/bin/sleep', [label + b'\\n\\x1b]0;x\\x07', b'5'])
    time.sleep(0.2)
    report(1)
    """
    cell.attack(code)
    processes = cell.list_processes()
    held(len(processes) >= 7 and all(isinstance(p["pid"], int) and 0 <= p["ppid"] < p["pid"] for p in processes), f"{processes}")
    held([p["pid"] for p in processes if p["pid"] == 1] == [1], "PID 1 twice")
    held(ring.healthy(), "the daemon does not answer")


@pytest.mark.layer("guest")
def test_very_many_requests_at_once(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """More operations at a time than the guest has channels or the cell has processes: each is carried out or refused with a word."""
    cell = fresh(pids=64)
    answers: List[str] = []

    def ask(i: int) -> None:
        try:
            run = cell.exec(["sleep", "0.3"], timeout_seconds=30)
            answers.append(run.exit)
        except CellaError as e:
            answers.append(e.code or type(e).__name__)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(90)]
    for t in threads:
        t.start()
    held(neighbour.answers(), "the neighbour does not answer")
    for t in threads:
        t.join()
    held(len(answers) == 90 and set(answers) <= {"ok", "limit_reached", "unavailable", "error", "conflict"}, f"{sorted(set(answers))}")
    held("ok" in answers and cell.answers() and ring.healthy(), f"{sorted(set(answers))}")


@pytest.mark.layer("guest")
def test_processes_that_keep_their_pipes(fresh: Callable[..., Cell]) -> None:
    """Daemons that outlive their request and hold its pipes, again and again: requests end, the guest runs out of nothing."""
    cell = fresh(pids=64)
    for i in range(12):
        run = cell.exec("(trap '' HUP TERM; exec sleep 3) & echo started", timeout_seconds=10)
        held(run.exit == "ok" and run.stdout == "started\n", f"{i}: {run.exit} {run.stdout!r}")
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("guest")
def test_process_that_escapes_its_session(fresh: Callable[..., Cell]) -> None:
    """A timeout kills the process and its group; a grandchild in a session of its own lives on inside the cell, and dies with it."""
    cell = fresh()
    run = cell.exec("setsid sleep 50 & setsid sh -c 'setsid sleep 51 &' & sleep 50", timeout_seconds=1)
    held(run.exit == "timeout", f"{run.exit}")
    held(cell.answers(), "the cell does not answer")
    cell.close()


@pytest.mark.layer("guest")
def test_orphans(fresh: Callable[..., Cell]) -> None:
    """Thousands of orphans that die: PID 1 reaps them all."""
    cell = fresh(pids=64)
    run = cell.exec(["python3", "-c", """
import os
for i in range(1500):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
"""], timeout_seconds=60)  # fmt: skip
    held(run.exit == "ok", f"{run.exit} {run.stderr[-300:]}")
    until(lambda: not [p for p in cell.list_processes() if p.get("state") == "Z"], "no zombie is left")


@pytest.mark.layer("guest")
def test_huge_arguments_and_environment(cell: Cell, ring: Ring) -> None:
    """Arguments and environment of a megabyte and more, NUL and "=" in names, LD_PRELOAD for what the guest starts."""
    for env in ({"A": "x" * (2 << 20)}, {"A=B": "c"}, {"": "x"}, {"N\0UL": "x"}, {f"V{i}": "y" * 1000 for i in range(900)}):
        try:
            cell.exec(["true"], env=env, timeout_seconds=20)
        except CellaError as e:
            held(e.message, "no reason")
    for cmd in ([""], ["x" * 300000], ["true"] * 100000, ["\0"], []):
        try:
            cell.exec(cmd, timeout_seconds=20)
        except CellaError as e:
            held(e.message, "no reason")
    run = cell.exec(["cat", "/proc/1/status"], env={"LD_PRELOAD": "/workspace/evil.so", "BASH_ENV": "/workspace/evil", "PYTHONPATH": "/workspace"})
    held("65533" in run.stdout, "the guest changed its identity")
    held(cell.answers() and ring.healthy(), "somebody does not answer")


@pytest.mark.layer("guest")
def test_programs_of_the_template_replaced(fresh: Callable[..., Cell]) -> None:
    """The cell's root replaces /bin/bash, the C library, passwd, nsswitch, ld.so.preload and the environment file: its own processes run them, the guest and its
    workers (static, with other rights) load none of it."""
    cell = fresh()
    cell.exec("echo evil > /tmp/evil", user="root")
    code = """
    for p in ('/etc/ld.so.preload', '/etc/nsswitch.conf', '/etc/passwd', '/etc/group', '/etc/cella/environment', '/etc/locale.conf', '/etc/localtime'):
        refusal(lambda: open(p, 'w').write('/tmp/evil.so\\nevil\\n'))
    report(1)
    """
    cell.attack_process(code, "root")
    held(cell.filesystem.write("/workspace/x", b"12345") == 5 and cell.filesystem.read("/workspace/x") == "12345", "the file API broke")
    held(len(cell.filesystem.list("/workspace")) >= 1, "no listing")
    cell.attack_process("report(refusal(os.unlink, '/etc/ld.so.preload'))", "root")
    held(cell.exec(["/bin/echo", "alive"]).stdout == "alive\n", "no process starts")
    cell.exec(["python3", "-c", "import os; os.unlink('/usr/bin/bash'); os.unlink('/usr/bin/dash')"], user="root")
    try:
        run = cell.exec("echo gone", timeout_seconds=10)
        held(run.exit != "ok", "a shell that is gone ran")
    except CellaError as e:
        held(e.message, "no reason")
    held(cell.exec(["/bin/echo", "alive"]).stdout == "alive\n", "no process starts")


@pytest.mark.layer("guest")
def test_watching_a_busy_tree(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """A client watches a directory in which twenty thousand things happen, and does not read: the daemon and the guest stay small and answer."""
    import httpx

    cell = fresh()
    with httpx.stream("GET", f"{ring.url}/v1/sandboxes/{cell.id}/fs/watch", params={"path": "/workspace", "recursive": "true"}, timeout=30, trust_env=False) as stream:
        held(stream.status_code == 200, f"{stream.status_code}")
        run = cell.run_code("import os\nfor i in range(10000):\n    os.close(os.open('/workspace/w', os.O_CREAT | os.O_WRONLY)); os.unlink('/workspace/w')", timeout_seconds=60)
        held(run.exit == "ok", f"{run.exit}")
        held(neighbour.answers() and cell.answers(), "somebody does not answer")
        time.sleep(0.1)
    held(ring.healthy(), "the daemon does not answer")
