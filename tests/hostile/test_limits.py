"""Bombs. Each goes off in a small cell; the neighbour keeps working, and what happened is said in the right word."""

from __future__ import annotations

import textwrap
import threading
import time
from typing import Callable, Optional

import pytest
from cella.errors import CellaError, ConflictError, LimitError, ServerError, UnavailableError
from ring import PRELUDE, Cell, Ring, held
from support.wait import until


def calm(neighbour: Cell) -> None:
    held(neighbour.answers(), "the neighbour does not answer")


@pytest.mark.layer("limits", decisive=True)
def test_processes(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """A fork bomb, bounded for the case that nothing stops it: pids is 48, it tries 120."""
    cell = fresh(pids=48)
    code = """
    made, why = [], ''
    try:
        for i in range(120):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            made.append(pid)
    except OSError as e:
        why = errno.errorcode[e.errno]
    report([len(made), why])
    """
    made, why = cell.attack(code)
    calm(neighbour)
    held(why == "EAGAIN" and made < 48, f"{made} processes, {why or 'no refusal'}")
    cell.attack("for p in made: os.kill(p, 9), os.waitpid(p, 0)\nreport(1)")
    held(cell.answers(), "the cell does not recover")


@pytest.mark.layer("limits")
def test_fork_bomb_of_the_shell(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """:(){ :|:& };: until the request's timeout; the cell is deleted in the middle of a second one."""
    cell = fresh(pids=48)
    run = cell.exec("bomb() { bomb | bomb & }; bomb; sleep 30", timeout_seconds=1)
    held(run.exit != "ok", f"exit {run.exit}")
    calm(neighbour)
    cell.start("bomb() { bomb | bomb & }; bomb; sleep 30")
    cell.close()
    calm(neighbour)


@pytest.mark.layer("limits", decisive=True)
def test_threads(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Threads count as processes do."""
    cell = fresh(pids=48)
    code = """
    made, why = 0, ''
    try:
        for i in range(120):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
            made += 1
    except RuntimeError as e:
        why = str(e)
    report([made, why])
    """
    made, why = cell.attack(code)
    held(made < 48 and "thread" in why, f"{made} threads, {why or 'no refusal'}")
    calm(neighbour)


@pytest.mark.layer("limits", decisive=True)
def test_heap(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """320 MB of heap in a cell of 128: "oom", a fresh interpreter, and the neighbour's state is where it was."""
    cell = fresh(memory_mb=128)
    neighbour.run_code("kept = 7")
    run = cell.run_code("x = [bytearray(1 << 20) for i in range(320)]\nprint(len(x))", timeout_seconds=60)
    held(run.exit == "oom", f"exit {run.exit} {run.stdout}")
    held(run.context_restarted and cell.answers(), "no new context")
    held(neighbour.run_code("print(kept)").stdout == "7\n", "the neighbour lost its state")


@pytest.mark.layer("limits", decisive=True)
def test_heap_of_a_process(fresh: Callable[..., Cell]) -> None:
    """The same in a process: it says "oom", the context lives on."""
    cell = fresh(memory_mb=128)
    cell.run_code("kept = 7")
    run = cell.exec(["python3", "-c", "x = [bytearray(1 << 20) for i in range(320)]; print(len(x))"], timeout_seconds=60)
    held(run.exit == "oom", f"exit {run.exit}")
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("limits", decisive=True)
def test_shared_memory(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """/dev/shm is memory of the cell: files there, System V segments and memory files count."""
    cell = fresh(memory_mb=128)
    code = """
    total = 0
    def fill(fd):
        global total
        for i in range(110):
            os.write(fd, b'x' * (1 << 20))
            total += 1
    try:
        fill(os.open('/dev/shm/a', os.O_RDWR | os.O_CREAT))
    except OSError as e:
        print(e)
    for i in range(3):
        fill(call(319, b'm\\0', 0))
    report(total)
    """
    run = cell.exec(["python3", "-c", PRELUDE + textwrap.dedent(code)], timeout_seconds=60)
    held(run.exit in ("oom", "killed", "error") and "@@" not in run.stdout, f"{run.exit} {run.stdout[-100:]}")
    calm(neighbour)
    cell.exec(["rm", "-f", "/dev/shm/a"])
    until(cell.answers, "the cell recovers")


@pytest.mark.layer("limits")
def test_page_cache(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Pages of files are charged to the cell and given back: writing and reading more than the memory works, and a context can be started meanwhile."""
    cell = fresh(memory_mb=128, disk_mb=400)
    run = cell.exec("for i in 1 2 3; do dd if=/dev/zero of=/workspace/f$i bs=1M count=90 2>/dev/null; done; cat /workspace/f* | wc -c", timeout_seconds=90)
    held(run.stdout.strip() == str(270 << 20), f"{run.exit} {run.stdout} {run.stderr}")
    cell.restart_context()
    calm(neighbour)
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("limits")
def test_pipes(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Buffers of pipes, each blown up to the maximum and filled."""
    cell = fresh(memory_mb=128)
    code = """
    import fcntl
    kept, total, why = [], 0, ''
    try:
        for i in range(600):
            r, w = os.pipe()
            kept += [r, w]
            try:
                fcntl.fcntl(w, 1031, 1 << 20)
            except OSError as e:
                why = errno.errorcode[e.errno]
            os.set_blocking(w, False)
            try:
                while True:
                    total += os.write(w, b'x' * 65536)
            except BlockingIOError:
                pass
    except OSError as e:
        why = errno.errorcode[e.errno]
    report([total >> 20, why])
    """
    run = cell.exec(["python3", "-c", PRELUDE + textwrap.dedent(code)], timeout_seconds=60)
    if "@@" in run.stdout:
        parked = int(run.stdout.split("@@[")[1].split(",")[0])
        held(parked < 128, f"{parked} MB in pipes")
    else:
        held(run.exit == "oom", f"exit {run.exit} {run.stderr}")
    calm(neighbour)
    until(cell.answers, "the cell recovers")


@pytest.mark.layer("limits")
def test_mappings(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """As many mappings as the kernel gives, page tables spread over the whole address space: all of it kernel memory of the cell."""
    cell = fresh(memory_mb=96)
    code = """
    import mmap
    made = 0
    _libc.mmap.restype = ctypes.c_void_p
    try:
        for i in range(60000): # every second page has another protection, so that none can be joined
            if _libc.mmap(ctypes.c_void_p(0x100000000000 + i * 0x200000), 4096, 3 if i & 1 else 1, 0x22, -1, 0) == ctypes.c_void_p(-1).value:
                break
            made += 1
            if i & 1:
                ctypes.c_char.from_address(0x100000000000 + i * 0x200000).value = b'x'
    except MemoryError:
        pass
    report(made)
    """
    run = cell.exec(["python3", "-c", PRELUDE + textwrap.dedent(code)], timeout_seconds=60)
    held(run.exit == "oom" or "@@" in run.stdout, f"{run.exit} {run.stderr[-300:]}")
    held(cell.stats()["memory_peak_bytes"] <= 97 << 20, f"{cell.stats()}")
    calm(neighbour)
    until(cell.answers, "the cell recovers")


@pytest.mark.layer("limits", decisive=True)
def test_disk(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """A file that grows until the disk is full; sparse tricks and preallocation; the neighbour writes on."""
    cell = fresh(disk_mb=32)
    code = """
    written, why = 0, ''
    try:
        with open('/workspace/full', 'wb', buffering=0) as f:
            for i in range(80):
                written += f.write(os.urandom(1 << 20))
                os.fsync(f.fileno())
    except OSError as e:
        why = errno.errorcode[e.errno]
    report([written >> 20, why, refusal(lambda: os.posix_fallocate(os.open('/workspace/pre', os.O_RDWR | os.O_CREAT), 0, 1 << 30))])
    """
    written, why, allocated = cell.attack(code)
    held(written <= 33 and why in ("EDQUOT", "ENOSPC") and allocated in ("EDQUOT", "ENOSPC"), f"{written} MB, {why}, {allocated}")
    held(neighbour.attack("report(len(open('/workspace/free', 'wb').write(b'x' * (8 << 20)) and 'ok'))") == 2, "the neighbour cannot write")
    cell.run_code("import os; os.unlink('/workspace/full')")
    held(cell.filesystem.write("/workspace/small", b"x") == 1, "the disk stays full")


@pytest.mark.layer("limits", decisive=True)
def test_small_files(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Files without content take metadata, which must count too: names of 200 bytes, attributes, directories."""
    cell = fresh(disk_mb=4, memory_mb=256)
    code = """
    made, why = 0, ''
    try:
        for i in range(30000):
            p = f'/workspace/{i:0200}'
            fd = os.open(p, os.O_CREAT | os.O_WRONLY)
            os.write(fd, b'y' * 500)
            os.close(fd)
            made += 1
    except OSError as e:
        why = errno.errorcode[e.errno]
    report([made, why])
    """
    made, why = cell.attack(code, timeout=120)
    held(why in ("EDQUOT", "ENOSPC"), f"{made} files, {why or 'no refusal'}")
    calm(neighbour)


@pytest.mark.layer("limits")
def test_open_files(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Descriptors end at the limit, in contexts and processes, and the limit cannot be raised."""
    cell = fresh(open_files=1024)
    code = """
    import resource
    kept = []
    why = ''
    try:
        while len(kept) < 5000:
            kept.append(os.dup(0))
    except OSError as e:
        why = errno.errorcode[e.errno]
    n = len(kept)
    for fd in kept: os.close(fd)
    report([n, why, refusal(resource.setrlimit, resource.RLIMIT_NOFILE, (65536, 65536)), refusal(resource.prlimit, 1, resource.RLIMIT_NOFILE, (10, 10))])
    """
    for where, (n, why, raised, guest) in cell.everywhere(code).items():
        held(n < 1024 and why == "EMFILE", f"{where}: {n} descriptors {why}")
        held(raised in ("EPERM", "ValueError") and guest in ("EPERM", "EACCES"), f"{where}: {raised} {guest}")
    calm(neighbour)


@pytest.mark.layer("limits")
def test_processor(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Forty busy loops in a cell of a tenth of a processor: the neighbour answers, the cell can still be asked and ended."""
    cell = fresh(cpus=0.1)
    before = cell.stats()["cpu_us"]
    cell.start("for i in $(seq 40); do while :; do :; done & done; wait")
    neighbour.attack("t = time.time(); sum(range(2000000)); time.sleep(1); report(1)")
    used = (cell.stats()["cpu_us"] - before) / 1e6
    calm(neighbour)
    held(used < 1.0, f"it took {used:.2f} s of processor in about one second")


@pytest.mark.layer("keeper")
def test_starting_a_context_in_a_busy_cell(ring: Ring, fresh: Callable[..., Cell]) -> None:
    """The keeper waits for the tasks it brings into a cell. In a cell that burns all of its processor time they must not wait with the rest, or
    every other create waits with them (seen: 10 s)."""
    cell = fresh(cpus=0.1, pids=200)
    cell.start("for i in $(seq 100); do while :; do :; done & done; wait")
    for _ in range(2):
        restart = threading.Thread(target=lambda: cell.restart_context())
        restart.start()
        slowest = 0.0
        while restart.is_alive():
            begun = time.monotonic()
            with ring.cell(memory_mb=200):  # other limits than the pool's: made by the keeper on the spot
                slowest = max(slowest, time.monotonic() - begun)
        held(slowest < 3, f"another cell waited {slowest:.1f} s for its create")


@pytest.mark.layer("daemon")
def test_more_contexts_than_there_are(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Contexts until refused: a limit with its word, and the cell goes on."""
    cell = fresh(pids=100, memory_mb=512)
    made = 0
    refused: Optional[CellaError] = None
    for _ in range(40):
        try:
            cell.create_code_context()
            made += 1
        except (LimitError, ConflictError) as e:
            refused = e
            break
    held(refused is not None, f"{made} contexts, and no refusal")
    held(cell.answers(), "the cell does not answer")
    calm(neighbour)


@pytest.mark.layer("daemon")
def test_restart_when_no_process_is_left(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """All of pids taken: a restart of the context cannot work, says so, and does after the processes are gone."""
    cell = fresh(pids=32)
    cell.start("for i in $(seq 200); do sleep 100 & done 2>/dev/null; wait")
    until(lambda: cell.stats()["pids"] >= 31, "the cell is full")
    try:
        cell.restart_context()
    except (ServerError, LimitError, UnavailableError, ConflictError) as e:
        held(e.message, "no reason is given")
    calm(neighbour)
    cell.exec("kill -9 -1")  # the shell forks nothing for this
    until(lambda: _restarts(cell) and cell.answers(), "the cell recovers")


def _restarts(cell: Cell) -> bool:
    try:
        cell.restart_context()
    except CellaError:
        return False
    return True
