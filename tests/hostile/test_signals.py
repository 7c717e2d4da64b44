"""Signals: to the guest, to the host, to neighbours, to everybody at once."""

from __future__ import annotations

import os
from typing import Callable

import pytest
from ring import Cell, Ring, denied, held
from support.wait import until


@pytest.mark.layer("namespaces")
def test_the_guest_survives(cell: Cell) -> None:
    """KILL, STOP, TERM, SEGV and real-time signals for PID 1, also from the cell's root, also by tgkill and pidfd."""
    code = """
    got = [refusal(os.kill, 1, s) for s in (9, 19, 15, 11, 6, 18, 40)] + [name(call(234, 1, 1, 9)), name(call(200, 1, 9)), name(call(424, call(434, 1, 0), 9, None, 0))]
    report(got)
    """
    denied(cell.everywhere(code), "EPERM")
    held(cell.answers(), "the cell died")


@pytest.mark.layer("namespaces")
def test_killing_everybody(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """kill(-1, SIGKILL) as the user and as root: the cell's own processes die, the guest stays, neighbours never notice."""
    cell = fresh()
    neighbour.run_code("x = 41")
    for user in (None, "root"):
        cell.exec(["python3", "-c", "import os; os.kill(-1, 9)"], user=user)
    until(cell.answers, "the cell answers again")
    held(neighbour.run_code("print(x + 1)").stdout == "42\n", "the neighbour lost its state")


@pytest.mark.layer("namespaces")
def test_group_and_session_are_the_cells_own(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Contexts are copies of one process: left in its process group, kill(0, SIGCONT) would reach the contexts of every cell (the kernel
    lets SIGCONT pass within a session whatever the user), and with it the sentinels."""
    neighbour.run_code("import signal; hits = []; signal.signal(signal.SIGCONT, lambda *x: hits.append(1))")
    cell = fresh()
    got = cell.attack("report([refusal(os.kill, 0, 18), refusal(os.killpg, 0, 18), os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid()])")
    hits = neighbour.attack("time.sleep(0.2); report(len(hits))")
    held(hits == 0, f"the neighbour got {hits} signals")
    held(got[2:] == [True, True], "the context is in a group that is not its own")


@pytest.mark.layer("namespaces")
def test_processes_of_the_host(cell: Cell, ring: Ring) -> None:
    """Signals to the numbers of the keeper, the daemon and this test, and to all others up to 5,000 beyond the cell's own."""
    host = [ring.keeper_pid, ring.daemon_pid, os.getpid()]
    code = f"""
    own = {{int(p) for p in os.listdir('/proc') if p.isdigit()}}
    found = [p for p in list(range(2, 5000)) + {host} if p not in own and refusal(os.kill, p, 0) != 'ESRCH']
    report([found, [refusal(os.kill, p, 9) for p in {host} if p not in own]])
    """
    for where, (found, kills) in cell.everywhere(code).items():
        found = [p for p in found if p > 200]  # below: tasks of this cell that end while we look
        held(not found, f"{where}: {found}")
        denied(kills, "ESRCH")


@pytest.mark.layer("namespaces")
def test_priorities_of_others(cell: Cell, neighbour: Cell) -> None:
    """setpriority for the process group, the user, everybody; real-time scheduling; a better nice value."""
    nice = neighbour.attack("report([os.getpriority(os.PRIO_PROCESS, 0), os.getpid()])")[0]
    code = """
    pid = os.fork()
    if pid == 0:
        got = [refusal(os.setpriority, os.PRIO_PROCESS, 1, 5), refusal(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
               refusal(os.sched_setscheduler, 0, os.SCHED_RR, os.sched_param(50)), refusal(os.nice, -5), refusal(os.setpriority, os.PRIO_PROCESS, 0, -1)]
        os.setpgid(0, 0)
        refusal(os.setpriority, os.PRIO_PGRP, 0, 10)
        report(got)
        os._exit(0)
    os.waitpid(pid, 0)
    """
    denied(cell.everywhere(code), "EPERM", "EACCES")
    refused = cell.attack("r = refusal(os.setpriority, os.PRIO_PGRP, 0, 1); report(r)")
    now = neighbour.attack("report(os.getpriority(os.PRIO_PROCESS, 0))")
    held(now == nice, f"the neighbour's nice value went from {nice} to {now} ({refused})")


@pytest.mark.layer("daemon")
def test_stopping_oneself(fresh: Callable[..., Cell]) -> None:
    """A context that stops itself (SIGSTOP) does not hang its client for ever: the timeout ends it, and says so."""
    cell = fresh()
    run = cell.run_code("import os; os.kill(os.getpid(), 19); print('on')", timeout_seconds=1)
    held(run.exit in ("timeout", "killed"), f"exit {run.exit}")
    held(cell.answers(), "no new context")


@pytest.mark.layer("daemon")
def test_main_thread_gone(fresh: Callable[..., Cell]) -> None:
    """exit(2) of the main thread alone leaves a zombie with living threads: no DONE will ever come."""
    cell = fresh()
    code = "import threading, time, ctypes\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\nctypes.CDLL(None).syscall(60, 0)"
    run = cell.run_code(code, timeout_seconds=1)
    held(run.exit in ("timeout", "killed", "lost"), f"exit {run.exit}")
    until(cell.answers, "a new context")


@pytest.mark.layer("daemon")
def test_interrupts_ignored(fresh: Callable[..., Cell]) -> None:
    """Code that blocks every signal it can is ended all the same."""
    cell = fresh()
    run = cell.run_code("""
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
for s in range(1, 32):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: time.sleep(1)
""", timeout_seconds=1)  # fmt: skip
    held(run.exit in ("timeout", "killed"), f"exit {run.exit}")
    held(cell.answers(), "no new context")


@pytest.mark.layer("daemon")
def test_a_context_that_becomes_another_program(fresh: Callable[..., Cell]) -> None:
    """exec replaces the interpreter: nobody speaks on the stream any more. It is ended by the timeout, and no exit 0 is invented."""
    cell = fresh()
    run = cell.run_code("import os; os.execv('/bin/sleep', ['sleep', '600'])", timeout_seconds=1)
    held(run.exit in ("timeout", "killed", "lost"), f"exit {run.exit}")
    run = cell.run_code("import os; os.execv('/bin/true', ['true'])", timeout_seconds=5)
    held(run.exit != "ok", "an exit was invented")
    until(cell.answers, "a new context")
