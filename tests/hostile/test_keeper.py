"""The keeper seen from other users of the host, and from a cell that makes it work hard."""

from __future__ import annotations

import subprocess
from typing import Callable

import pytest
from ring import Cell, Ring, held
from support import proc
from support.wait import until


@pytest.mark.layer("keeper")
def test_its_socket(ring: Ring) -> None:
    """Another user of the host cannot even connect."""
    code = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect({str(ring.keeper_socket)!r})"
    run = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code], capture_output=True, text=True)
    held(run.returncode != 0 and "PermissionError" in run.stderr, f"{run.returncode} {run.stderr[-200:]}")


@pytest.mark.layer("keeper")
def test_its_memory_and_descriptors(ring: Ring) -> None:
    """The daemon's user cannot look into the keeper, nor into the guests and sentinels: it is an ordinary user for them."""
    pids = [ring.keeper_pid] + proc.children(ring.keeper_pid)[:6]
    code = f"""
import os
for p in {pids}:
    for f in ('mem', 'environ', 'fd/0', 'root/etc', 'cwd/x', 'ns/user'):
        try:
            os.open(f'/proc/{{p}}/{{f}}', os.O_RDONLY); print('open', p, f)
        except OSError: pass
    try: os.kill(p, 0); print('signal', p)
    except OSError: pass
"""
    run = subprocess.run(["setpriv", "--reuid=cella", "--regid=cella", "--clear-groups", "--no-new-privs", "/usr/bin/python3", "-c", code], capture_output=True, text=True)
    held(run.returncode == 0 and run.stdout == "", f"{run.stdout} {run.stderr[-300:]}")


@pytest.mark.layer("keeper")
def test_deleting_cells_that_resist(ring: Ring, fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Cells full of stopped processes, vforked parents, ignored signals and deep trees of processes are gone when delete says so."""
    cell = fresh(pids=64)
    cell.start(["python3", "-c", """
import os, signal, time
for s in range(1, 32):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
for i in range(20):
    if os.fork() == 0:
        if i % 3 == 0: os.kill(os.getpid(), signal.SIGSTOP)
        if i % 3 == 1: os.setsid()
        while True: time.sleep(100)
os.posix_spawn('/bin/sh', ['sh', '-c', 'kill -STOP $$'], {})
while True: time.sleep(100)
"""])  # fmt: skip
    cell.run_code("import os; [os.fork() or os.kill(os.getpid(), 19) for i in range(1)]", timeout_seconds=1)
    until(lambda: cell.stats()["pids"] >= 20, "the processes are there")
    cell.close()
    held(neighbour.answers() and ring.healthy(), "somebody does not answer")


@pytest.mark.layer("keeper")
def test_pausing_a_cell_that_resists(ring: Ring, fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """A frozen cell is frozen: busy loops stand, deletion of a paused cell works, and code cannot thaw it."""
    cell = fresh()
    cell.start("while :; do :; done")
    cell.pause()
    used = cell.stats()["cpu_us"]
    held(neighbour.attack("time.sleep(0.3); report(1)") == 1, "the neighbour does not answer")
    held(cell.stats()["cpu_us"] == used, "a paused cell ran")
    cell.close()
    held(neighbour.answers() and ring.healthy(), "somebody does not answer")
