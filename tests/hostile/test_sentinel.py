"""The stub: a page of the keeper's code in every context, where a stopped sentinel with other rights runs system calls. Nothing may change it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest
from ring import Cell, Ring, denied, held
from support import proc
from support.wait import until

STUB = """
import hashlib
CODE, DATA, SCRATCH = 0x200000000000, 0x200000001000, 0x200000004000
_libc.mmap.restype = ctypes.c_void_p
def stub():
    return hashlib.sha256(ctypes.string_at(CODE, 4096)).hexdigest()
before = stub()
"""


def intact(cell: Cell) -> None:
    """The keeper still brings contexts into the cell: a restart and a second one."""
    cell.restart_context()
    held(cell.answers(), "no answer after a restart")
    context = cell.create_code_context()
    held(cell.run_code("print(1)", context=context).stdout == "1\n", "no second context")


@pytest.mark.layer("kernel")
def test_protection_and_mapping(fresh: Callable[..., Cell]) -> None:
    """mprotect, munmap, mremap away and over, MAP_FIXED over it, remap_file_pages, pkeys, madvise that discards: the pages are sealed."""
    cell = fresh()
    code = """
    got = []
    for at, size in ((CODE, 4096), (DATA, 0x5000), (CODE, 0x6000)):
        got.append(name(call(10, at, size, 7)))                                     # mprotect
        got.append(name(call(329, at, size, 7, 0)))                                 # pkey_mprotect
        got.append(name(call(11, at, size)))                                        # munmap
        got.append(name(call(25, at, size, size, 3, 0x300000000000)))               # mremap away
        got.append(name(call(25, at, size, 0)))
        got.append(name(call(9, at, size, 7, 0x32, -1, 0)))                         # mmap MAP_FIXED over it
        got.append(name(call(216, at, size, 0, 0, 0)))                              # remap_file_pages
    page = _libc.mmap(None, 4096, 7, 0x22, -1, 0)
    got.append(name(call(25, page, 4096, 4096, 3, CODE)))                           # mremap over it
    got.append(name(call(30, call(29, 0, 4096, 0o1600), CODE, 0o40000)))            # shmat SHM_REMAP over it
    got.append(name(call(28, CODE, 4096, 9)))                                       # MADV_REMOVE: a hole in the memory file
    report([got, before == stub()])
    """
    got, same = cell.attack(code, preface=STUB)
    denied(got, "EPERM", "EINVAL", "EACCES", "ENOSYS")
    held(same, "the stub changed")
    intact(cell)


@pytest.mark.layer("landlock")
def test_writing_it(fresh: Callable[..., Cell]) -> None:
    """/proc/self/mem (which ignores protection), process_vm_writev, ptrace, map_files, read(2) into it."""
    cell = fresh()
    code = """
    iov = struct.pack('<QQ', CODE, 16)
    mine = ctypes.create_string_buffer(16)
    here = struct.pack('<QQ', ctypes.addressof(mine), 16)
    r, w = os.pipe(); os.write(w, b'evil')
    got = [refusal(os.open, '/proc/self/mem', os.O_RDWR), name(call(311, os.getpid(), here, 1, iov, 1, 0)), refusal(os.open, '/proc/self/map_files/200000000000-200000001000', os.O_RDWR),
           name(call(0, r, CODE, 4)), name(call(318, CODE, 16, 0))]
    pid = os.fork()
    if pid == 0:
        ctypes.memset(CODE, 0x90, 16)
        os._exit(0)
    got.append('EPERM' if os.waitpid(pid, 0)[1] & 127 == 11 else 'ok')
    report([got, before == stub()])
    """
    got, same = cell.attack(code, preface=STUB)
    denied(got, "EPERM", "EACCES", "EFAULT", "ENOENT")
    held(same, "the stub changed")
    intact(cell)


@pytest.mark.layer("keeper")
def test_table_and_scratch(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """The pages for tables of calls are writable: filled with calls of the attacker's choice, by a thread that never stops, they act on nobody."""
    cell = fresh()
    code = """
    table = struct.pack('<9Q', 59, DATA + 0x2000, 0, 0, 0, 0, 0, 0, 0) * 100
    stop = time.time() + 1.5
    def fill():
        while time.time() < stop:
            ctypes.memmove(DATA, table, len(table))
            ctypes.memset(SCRATCH, 0x41, 0x2000)
    threading.Thread(target=fill, daemon=True).start()
    report(before == stub())
    """
    held(cell.attack(code, preface=STUB), "the set-up did not work")
    context = cell.create_code_context()
    held(cell.run_code("print(2)", context=context).stdout == "2\n", "no second context")
    intact(cell)
    held(neighbour.answers(), "the neighbour does not answer")


@pytest.mark.layer("keeper")
def test_left_out_of_copies(fresh: Callable[..., Cell]) -> None:
    """MADV_DONTFORK and MADV_WIPEONFORK on the stub and its data, and on everything else."""
    cell = fresh()
    cell.attack("report([name(call(28, a, s, m)) for m in (10, 18) for a, s in ((CODE, 4096), (DATA, 0x5000))])", preface=STUB)
    intact(cell)
    cell.attack("""
    for line in open('/proc/self/maps'):
        a, b = (int(x, 16) for x in line.split()[0].split('-'))
        if 'stack' not in line and 'vs' not in line:
            call(28, a, b - a, 10)
    report(1)
    """)
    intact(cell)


@pytest.mark.layer("keeper")
def test_descriptors_and_limits_used_up(fresh: Callable[..., Cell]) -> None:
    """The table of descriptors that the sentinel shares is full, the address space is limited to nothing, all signals are blocked: a restart works."""
    cell = fresh()
    cell.attack("""
    import resource
    kept = []
    try:
        while True: kept.append(os.dup(0))
    except OSError:
        pass
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    for r in (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(r, (10, 10))
    report(len(kept))
    """)
    cell.restart_context()
    held(cell.answers(), "no answer after a restart")


@pytest.mark.layer("keeper")
def test_sentinels_stand_still(ring: Ring, fresh: Callable[..., Cell]) -> None:
    """Every sentinel of the keeper is traced and stopped, runs as the owner of cells without capabilities, under the filter, and has used no processor time since."""
    cell = fresh()
    cell.attack("sum(range(1000000)); report(1)")
    # the pools are refilled meanwhile: what stands wrong for a moment is being made, what stays so is wrong
    for _ in range(100):
        wrong, seen = _wrong_sentinels(ring)
        if not wrong:
            break
        time.sleep(0.05)
    held(not wrong and seen >= 2, f"{seen} sentinels were seen: {wrong}")


def _wrong_sentinels(ring: Ring) -> Tuple[List[str], int]:
    wrong, seen = [], 0
    for pid, status in children(ring).items():
        uid = int(status["Uid"].split()[0])
        if uid >= 0x40000000:  # a guest or a context
            continue
        seen += 1
        try:
            apart = all(Path(f"/proc/{pid}/ns/{n}").readlink() != Path(f"/proc/self/ns/{n}").readlink() for n in ("net", "mnt", "ipc", "uts"))
        except OSError:
            continue  # it has just ended
        still = "t (tracing stop)" in status["State"] and int(status["TracerPid"]) == ring.keeper_pid
        bare = int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0 and status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
        if uid != 0x3FFF0000 or not (apart and still and bare):
            wrong.append(f"{pid}: uid {uid}, {status['State']}, namespaces apart {apart}, without privilege {bare}")
    return wrong, seen


@pytest.mark.layer("keeper")
def test_crashing_again_and_again(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """A context that kills itself in every way, thirty times: each run has its word, the keeper keeps no corpse."""
    cell = fresh()
    ways = ("os.kill(os.getpid(), 9)", "os._exit(3)", "ctypes.string_at(0)", "os.abort()", "os.kill(os.getpid(), 11)", "sys.setrecursionlimit(1 << 30); f = lambda: f(); f()")
    for i in range(30):
        run = cell.run_code("import os, ctypes, sys\n" + ways[i % len(ways)], timeout_seconds=20)
        held(run.exit in ("killed", "error", "oom"), f"{ways[i % len(ways)]}: exit {run.exit}")
    held(cell.answers() and neighbour.answers(), "somebody does not answer")
    until(lambda: not zombies(ring), "no corpse is left")


def zombies(ring: Ring) -> List[int]:
    return [pid for pid, status in children(ring).items() if "Z (zombie)" in status["State"]]


def children(ring: Ring) -> Dict[int, Dict[str, str]]:
    """/proc/PID/status of every child of the keeper."""
    found = {}
    for pid in proc.children(ring.keeper_pid):
        try:
            found[pid] = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except OSError:
            pass  # it has just ended
    return found
