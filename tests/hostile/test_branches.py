"""Copies of a live cell: what runs inside plays with its own memory, threads and descriptors while it is captured, and tries to reach its copies."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from cella import CellaError, ConflictError, LimitError, Sandbox
from ring import PRELUDE, Cell, Ring, denied, held, reported, upload_program
from support import proc

#: What a copy may be refused with. Anything else (internal, permission_denied, a timeout) is no answer to a client.
REFUSALS = {"conflict", "limit_reached", "unsupported"}

MAPPINGS = """
import mmap
_libc.mmap.restype = ctypes.c_void_p
def area(size, prot=3, flags=0x22, fd=-1):
    return _libc.mmap(None, ctypes.c_size_t(size), prot, flags, fd, ctypes.c_long(0))
def peek(address, n=6):
    return ctypes.string_at(address, n).decode('latin1')
def poke(address, data):
    ctypes.memmove(address, data, len(data))
def protect(address, size, prot):
    return _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), prot)
def advise(address, size, advice):
    return _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice)
"""


def attack(sandbox: Sandbox, code: str, timeout: float = 60.0) -> Any:
    """Cell.attack() in a copy, whose context has the prelude already."""
    run = sandbox.run_code(PRELUDE + MAPPINGS + textwrap.dedent(code), timeout_seconds=timeout)
    return reported(run.stdout, f"exit {run.exit}, error {run.error}")


def prepared(cell: Sandbox, code: str) -> Sandbox:
    held(attack(cell, code) is not None, "the set-up did not work")
    return cell


@pytest.fixture
def family(ring: Ring) -> Iterator[Callable[..., List[Sandbox]]]:
    """A parent prepared with code and n children: [parent, child, …]. All are deleted in the end."""
    made: List[Sandbox] = []

    def make(code: str, n: int = 1, **limits: float) -> List[Sandbox]:
        parent = ring.cell(**limits)
        made.append(parent)
        prepared(parent, code)
        children = list(parent.fork(n))
        made.extend(children)
        return [parent, *children]

    yield make
    for one in made:
        one.close()


def library(cell: Cell, source: str) -> str:
    """Compile a shared library on this host and put it into the cell."""
    with tempfile.TemporaryDirectory() as directory:
        c, out = Path(directory, "attack.c"), Path(directory, "attack.so")
        c.write_text(textwrap.dedent(source))
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-Wl,-Bsymbolic", "-o", str(out), str(c)], check=True)
        cell.filesystem.write("/workspace/attack.so", out.read_bytes(), mode=0o755)
    return "L = ctypes.CDLL('/workspace/attack.so')\nlong = lambda name: ctypes.c_long.in_dll(L, name).value\n"


def try_fork(cell: Sandbox) -> Optional[Sandbox]:
    """A child that answers, or a refusal with a sentence."""
    try:
        (child,) = cell.fork()
    except CellaError as refused:
        held(refused.code in REFUSALS and str(refused), f"{refused.code}: {refused}")
        return None
    run = child.run_code("print(6 * 7)", timeout_seconds=60)
    held(run.stdout == "42\n", f"a child that does not answer: {run}")
    return child


# ---- nothing is shared ----

#: Ways to share memory; each leaves the address of it in `m`.
SHARED = {
    "anonymous": "m = area(4096, 3, 0x21)",
    "memfd": "fd = os.memfd_create('m'); os.ftruncate(fd, 4096); m = area(4096, 3, 1, fd)",
    "memfd closed": "fd = os.memfd_create('m'); os.ftruncate(fd, 4096); m = area(4096, 3, 1, fd); os.close(fd)",
    "read only now": "fd = os.memfd_create('m'); os.ftruncate(fd, 4096); w = area(4096, 3, 1, fd); m = area(4096, 1, 1, fd); protect(w, 4096, 3); poke(w, b'before')",
    "no access now": "m = area(4096, 3, 0x21); poke(m, b'before'); protect(m, 4096, 0)",
    "dev shm": "fd = os.open('/dev/shm/m', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096); m = area(4096, 3, 1, fd)",
    "file": "fd = os.open('/workspace/m', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096); m = area(4096, 3, 1, fd)",
    "deleted file": "fd = os.open('/workspace/m', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096); m = area(4096, 3, 1, fd); os.unlink('/workspace/m')",
    "system v": "i = call(29, 0x4711, 4096, 0o1600); _libc.shmat.restype = ctypes.c_void_p; m = _libc.shmat(i, None, 0)",
    "dev zero": "fd = os.open('/dev/zero', os.O_RDWR); m = area(4096, 3, 1, fd)",
    "huge": "m = area(4 << 20, 3, 0x21); advise(m, 4 << 20, 14)",
}


@pytest.mark.layer("copies")
@pytest.mark.parametrize("way", SHARED)
def test_no_memory_is_shared(family: Callable[..., List[Sandbox]], way: str) -> None:
    """Contents of the fork's instant in all; afterwards a write is seen by its writer alone, in every direction."""
    parent, one, two = family(f"{SHARED[way]}\nif protect(m, 4096, 3) == 0: poke(m, b'before')\nreport(m)", n=2)
    for name, cell in (("parent", parent), ("one", one), ("two", two)):
        seen = attack(cell, f"protect(m, 4096, 3); seen = peek(m); poke(m, b'{name[:3]}   '); report(seen)")
        held(seen == "before", f"{name} sees {seen!r}")
    for name, cell in (("parent", parent), ("one", one), ("two", two)):
        held(attack(cell, "report(peek(m))") == f"{name[:3]}   ", f"{name} was overwritten")


@pytest.mark.layer("copies")
def test_secret_memory_is_refused(fresh: Callable[..., Cell]) -> None:
    """memfd_secret(2) cannot be read by anybody, so it cannot be copied. A read-only mapping of it once passed for a file of the template, stayed shared
    with the child, and could be made writable there."""
    cell = prepared(fresh(), "fd = call(447, 0); ok = fd >= 0 and not os.ftruncate(fd, 4096); w = area(4096, 3, 1, fd); m = area(4096, 1, 1, fd); report(ok)")
    if not attack(cell, "report(ok)"):
        denied([attack(cell, "report(name(fd))")], "ENOSYS", "EPERM")
        return
    child = try_fork(cell)
    if child:
        attack(cell, "poke(w, b'parent'); report(0)")
        held(attack(child, "report(peek(m))") != "parent", "the child reads the parent's memory")
        child.close()
    attack(cell, "os.close(fd); _libc.munmap(ctypes.c_void_p(m), 4096); _libc.munmap(ctypes.c_void_p(w), 4096); report(0)")
    held(try_fork(cell), "without it the cell is copied")


@pytest.mark.layer("copies")
def test_no_descriptor_is_shared(family: Callable[..., List[Sandbox]]) -> None:
    """Offsets, locks, pipes, socket pairs, eventfds and timers are each one's own: what one reads or locks is there for the other."""
    code = """
    open('/workspace/f', 'w').write('0123456789')
    f = os.open('/workspace/f', os.O_RDWR); os.read(f, 2)
    g = os.memfd_create('g'); os.write(g, b'0123456789'); os.lseek(g, 2, 0)
    r, w = os.pipe(); os.write(w, b'in the pipe')
    a, b = socket.socketpair(); a.send(b'in the socket')
    e = os.eventfd(7, os.EFD_NONBLOCK)
    report(0)
    """
    cells = family(code, n=2)
    take = "import fcntl; fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); report([os.read(f, 3).decode(), os.read(g, 3).decode(), os.read(r, 99).decode(), b.recv(99).decode(), os.eventfd_read(e)])"
    for cell in cells:
        held(attack(cell, take) == ["234", "234", "in the pipe", "in the socket", 7], "somebody else has taken it")
    attack(cells[0], "os.ftruncate(f, 0); os.ftruncate(g, 0); report(0)")
    held(attack(cells[1], "report([os.fstat(f).st_size, os.fstat(g).st_size])") == [10, 10], "a file is shared")


@pytest.mark.layer("copies")
def test_files_are_private_both_ways(family: Callable[..., List[Sandbox]]) -> None:
    parent, child = family("open('/workspace/both', 'w').write('fork'); report(0)")
    attack(parent, "open('/workspace/both', 'w').write('parent'); open('/workspace/late', 'w').write('p'); os.mkdir('/tmp/late'); report(0)")
    held(attack(child, "report([open('/workspace/both').read(), os.path.exists('/workspace/late'), os.path.exists('/tmp/late')])") == ["fork", False, False], "the child sees it")
    attack(child, "os.unlink('/workspace/both'); open('/workspace/childs', 'w').write('c'); report(0)")
    held(attack(parent, "report([open('/workspace/both').read(), os.path.exists('/workspace/childs')])") == ["parent", False], "the parent sees it")


@pytest.mark.layer("copies")
def test_processes_cannot_reach_each_other(family: Callable[..., List[Sandbox]]) -> None:
    """Same process ids inside, other namespaces and other users outside: a signal, a wait on a shared word, an abstract socket never cross."""
    code = """
    hits = []
    signal.signal(signal.SIGUSR1, lambda *a: hits.append(1))
    s = socket.socket(socket.AF_UNIX); s.bind('\\0known'); s.listen()
    report(0)
    """
    parent, child = family(code)
    ids = [attack(c, "report([os.getpid(), open('/proc/self/uid_map').read().split()] + [os.readlink('/proc/self/ns/' + n) for n in ('user', 'pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup')])") for c in (parent, child)]
    held(ids[0][0] == ids[1][0] and not [a for a, b in zip(ids[0][1:], ids[1][1:]) if a == b], f"{ids}")
    attack(child, "os.kill(os.getpid(), signal.SIGUSR1); time.sleep(.1); os.killpg(0, signal.SIGUSR1); refusal(os.kill, -1, signal.SIGUSR1); time.sleep(.1); report(0)")
    held([attack(c, "report(len(hits) > 0)") for c in (parent, child)] == [False, True], "a signal crossed")
    held(attack(child, "report(refusal(socket.socket(socket.AF_UNIX).connect, '\\0known'))") == "ECONNREFUSED", "the child reaches the parent's socket")
    label = "tell" + secrets.token_hex(4)
    process = parent.start(["bash", "-c", f"exec -a {label} sleep 60"])
    held(not any(label in str(p.get("command")) for p in child.list_processes()), "the child sees the parent's process")
    process.kill()


@pytest.mark.layer("copies")
def test_a_snapshot_does_not_follow_its_source(ring: Ring, fresh: Callable[..., Cell]) -> None:
    cell = prepared(fresh(), "v = 'then'; m = area(4096, 3, 0x21); poke(m, b'then  '); open('/workspace/v', 'w').write('then'); report(0)")
    snapshot = cell.snapshot()
    attack(cell, "v = 'later'; poke(m, b'later '); open('/workspace/v', 'w').write('later'); report(0)")
    again = Sandbox(host=ring.url, from_snapshot=snapshot.id)
    try:
        held(attack(again, "report([v, peek(m, 4), open('/workspace/v').read()])") == ["then", "then", "then"], "the snapshot has changed")
    finally:
        again.close()
        snapshot.delete()


# ---- the capture must not be led astray ----


@pytest.mark.layer("capture")
def test_the_filter_holds_while_a_thread_is_stopped(fresh: Callable[..., Cell]) -> None:
    """Threads that try a forbidden call all the time, while the keeper stops them again and again: not one gets through. (A seizure with seccomp suspended let
    thousands through, between the seizure and the stop.)"""
    cell = fresh(pids=200, memory_mb=400, cpus=2)
    load = library(cell, """
    #include <pthread.h>
    volatile long tries, through;
    static void *run(void *a) {
        for (;;) {
            long r;
            asm volatile("syscall" : "=a"(r) : "a"(250), "D"(0), "S"(-3L), "d"(0) : "rcx", "r11", "memory"); /* keyctl: which session keyring */
            tries++;
            if (r != -1) through++;
        }
    }
    void start(int n) { pthread_t t; while (n--) pthread_create(&t, 0, run, 0); }
    """)  # fmt: skip
    attack(cell, load + "L.start(2); time.sleep(.2); report(long('tries'))")
    for _ in range(30):
        for child in cell.fork():
            child.close()
    tries, through = attack(cell, "report([long('tries'), long('through')])")
    held(tries > 1000 and through == 0, f"{through} of {tries} forbidden calls were made")


@pytest.mark.layer("capture")
def test_injected_code_is_nobodys_sequence(fresh: Callable[..., Cell]) -> None:
    """A thread that names the keeper's page as its restartable sequence: when the kernel finds it there it must not jump to the program's handler, in the
    parent (it ran without the filter, for ever) or in the child."""
    cell = fresh(pids=200, memory_mb=400, cpus=2)
    load = library(cell, """
    #define _GNU_SOURCE
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/rseq.h>
    volatile long aborts;
    struct sequence { uint32_t version, flags; uint64_t start, length, abort; } __attribute__((aligned(32))) section;
    char evil_stack[65536] __attribute__((aligned(16)));
    void evil(void) { for (;;) aborts++; }
    extern char landing[];
    asm(".text\\n .long 0x53053053\\n.globl landing\\nlanding: lea evil_stack+65000(%rip), %rsp\\n and $-16, %rsp\\n call evil\\n");
    static void *run(void *a) {
        struct rseq *r = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
        for (;;) *(volatile uint64_t *)&r->rseq_cs = (uint64_t)&section;
    }
    void start(void) { pthread_t t; section.start = 0x200000000000ul; section.length = 0x6000; section.abort = (uint64_t)landing; pthread_create(&t, 0, run, 0); }
    """)  # fmt: skip
    attack(cell, load + "L.start(); time.sleep(.2); report(0)")
    for _ in range(3):
        child = try_fork(cell)
        held(child, "an ordinary fork")
        assert child
        held(attack(child, "report(long('aborts'))") == 0 == attack(cell, "report(long('aborts'))"), "the program's code ran in the keeper's place")
        child.close()


@pytest.mark.layer("capture")
def test_a_fork_changes_nothing_of_its_parent(family: Callable[..., List[Sandbox]]) -> None:
    """Handlers of all signals, masks, the alternate stack and the break are as before. (The breakpoint behind an injected call reset SIGTRAP's handler.)"""
    look = "report([str(signal.getsignal(s)) and open('/proc/self/status').read().split(k)[1].split()[0] for s, k in ((5, 'SigCgt:'), (5, 'SigIgn:'), (5, 'SigBlk:'))])"
    code = "hits = []\nfor s in set(range(1, 32)) - {9, 19, 2, 11, 17, 23, 7, 8, 4, 6}: signal.signal(s, lambda *a: hits.append(a[0]))\nbefore = [open('/proc/self/status').read().split(k)[1].split()[0] for k in ('SigCgt:', 'SigIgn:', 'SigBlk:')]\nreport(before)"
    cells = family(code)
    for cell in cells:
        held(attack(cell, look) == attack(cell, "report(before)"), "signal actions have changed")
        held(attack(cell, "os.kill(os.getpid(), signal.SIGTRAP); time.sleep(.1); report(hits)") == [5], "its handler is lost")


#: Code that makes a capture hard. The fork may be refused; whatever it is, it is soon, and everybody lives.
MISCHIEF: Dict[str, str] = {
    "threads come and go": """
        def spin():
            while True:
                t = threading.Thread(target=int); t.start(); t.join()
        for _ in range(6): threading.Thread(target=spin, daemon=True).start()
        """,
    "processes come and go": """
        def spin():
            while True: subprocess.run(['true'])
        for _ in range(3): threading.Thread(target=spin, daemon=True).start()
        """,
    "mappings come and go": """
        def spin():
            while True:
                a = area(1 << 20); poke(a, b'x'); protect(a, 4096, 0); advise(a, 1 << 20, 4); _libc.munmap(ctypes.c_void_p(a), 1 << 20)
        for _ in range(4): threading.Thread(target=spin, daemon=True).start()
        """,
    "shared mappings come and go": """
        def spin():
            while True:
                a = area(1 << 16, 3, 0x21); poke(a, b'x'); _libc.munmap(ctypes.c_void_p(a), 1 << 16)
        for _ in range(4): threading.Thread(target=spin, daemon=True).start()
        """,
    "nothing is to be copied": """
        for line in open('/proc/self/maps'):
            low, high = (int(x, 16) for x in line.split()[0].split('-'))
            if 0x200000000000 <= low < 0x200000010000: advise(low, high - low, 10); advise(low, high - low, 18)
        """,
    "a full table": """
        kept = []
        try:
            while True: kept.append(os.open('/dev/null', os.O_RDONLY))
        except OSError: pass
        for f in kept[-20:]: os.close(f)
        """,
    "a table full of files without a name": """
        kept = [os.memfd_create('x')]
        try:
            while True: kept.append(os.open(f'/proc/self/fd/{kept[0]}', os.O_RDWR))
        except OSError: pass
        for f in kept[-20:]: os.close(f)
        """,
    "sparse files without a name": """
        kept = []
        for i in range(40):
            fd = os.memfd_create('x') if i % 2 else os.open('/workspace/x', os.O_RDWR | os.O_CREAT)
            if not i % 2: os.unlink('/workspace/x')
            os.ftruncate(fd, 15 << 20); os.pwrite(fd, b'x', 14 << 20); kept.append(fd)
        """,
    "its stream is replaced": "os.dup2(os.open('/workspace/s', os.O_RDWR | os.O_CREAT), 99); a, b = socket.socketpair(); kept = [os.dup(60) for _ in range(3)]",
    "a stopped child": "p = subprocess.Popen(['sleep', '100']); p.send_signal(signal.SIGSTOP)",
    "terabytes that it shares and never touched": "a = area(20 << 40, 3, 0x4021); poke(a + (10 << 40), b'x')",
    "terabytes of its own": "a = area(60 << 40, 3, 0x4022); poke(a + (50 << 40), b'x')",
    "many mappings": """
        a = area(4096 * 60000, 0, 0x4022)
        for i in range(0, 60000, 2):
            if protect(a + 4096 * i, 4096, 3): break
        """,
    "too many shared pieces": "kept = [area(4096, 3, 0x21) for _ in range(1500)]",
    "more shared memory than fits twice": "m = area(110 << 20, 3, 0x21)\nfor i in range(110): ctypes.memset(m + (i << 20), 1, 1 << 20)",
    "a hundred threads": "e = threading.Event(); kept = [threading.Thread(target=e.wait, daemon=True) for _ in range(40)]; [t.start() for t in kept]",
    "a filter of its own": """
        # seccomp: everything is allowed but getitimer
        rules = struct.pack('HBBI', 0x20, 0, 0, 0) + struct.pack('HBBI', 0x15, 0, 1, 36) + struct.pack('HBBI', 6, 0, 0, 0x80000000) + struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
        held = ctypes.create_string_buffer(rules, len(rules))
        program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(held)), 16)
        assert _libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
        """,
    "dispatch of its system calls": "selector = ctypes.create_string_buffer(1); _libc.prctl(59, 1, ctypes.c_long(0), ctypes.c_long(0x7fffffffffff), selector)",
    "undumpable": "_libc.prctl(4, 0, 0, 0, 0)",
    "odd limits": "import resource\nfor r in (resource.RLIMIT_FSIZE, resource.RLIMIT_STACK, resource.RLIMIT_DATA): resource.setrlimit(r, (1 << 28, resource.getrlimit(r)[1]))",
    "names": """
        os.makedirs('/workspace/new\\nline (deleted)'); os.chdir('/workspace/new\\nline (deleted)')
        kept = [open(n, 'w') for n in ('x (deleted)', 'a\\nb', 'c' * 250)] + [open(os.fsencode('\\udcff\\udcfe'), 'w')]
        for _ in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)
        kept.append(open('deep', 'w'))
        maps = [area(4096, 1, 2, os.open('/workspace/new\\nline (deleted)/a\\nb', os.O_RDONLY | os.O_CREAT))]
        _libc.prctl(15, b'\\xff\\xfe\\n(x)', 0, 0, 0)
        p = subprocess.Popen(['sleep', '100'])
        """,
    "a machine of watches": """
        import select
        p = select.epoll(); kept = [os.eventfd(0) for _ in range(500)]
        for f in kept: p.register(f, select.EPOLLIN)
        """,
}


@pytest.mark.layer("capture")
@pytest.mark.parametrize("what", MISCHIEF)
def test_mischief(fresh: Callable[..., Cell], neighbour: Cell, what: str) -> None:
    """Three forks and a snapshot: each succeeds, or is refused with a sentence. The cell and its neighbour answer, before and after."""
    cell = fresh(pids=200)
    prepared(cell, textwrap.dedent(MISCHIEF[what]) + "\nreport('done')")
    for _ in range(3):
        child = try_fork(cell)
        held(neighbour.answers(), "the neighbour suffers")
        if child:
            child.close()
    try:
        cell.snapshot().delete()
    except CellaError as refused:
        held(refused.code in REFUSALS, f"{refused.code}: {refused}")
    held(cell.run_code("print(6 * 7)", timeout_seconds=60).stdout == "42\n" and neighbour.answers(), "somebody suffers")
    held(attack(cell, "report('call' in globals())") is True, "the interpreter is another one")


@pytest.mark.layer("capture")
def test_a_thread_that_waits_in_vfork(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """It cannot be stopped before its child ends: refused, more than once, and possible again afterwards."""
    cell = fresh()
    load = library(cell, """
    #include <pthread.h>
    #include <unistd.h>
    volatile long over;
    static void *run(void *a) { if (!vfork()) { sleep(4); _exit(0); } over = 1; for (;;) pause(); }
    void start(void) { pthread_t t; pthread_create(&t, 0, run, 0); }
    """)  # fmt: skip
    attack(cell, load + "L.start(); time.sleep(.3); report(0)")
    for _ in range(2):
        with pytest.raises((ConflictError, CellaError)):
            cell.fork()
        held(neighbour.answers(), "the neighbour suffers")
    held(attack(cell, "\nwhile not long('over'): time.sleep(.1)\nreport(1)"), "the thread goes on")
    child = try_fork(cell)
    held(child, "nothing is in the way any more")
    assert child
    child.close()


@pytest.mark.layer("capture")
def test_a_context_without_its_main_thread(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """pthread_exit() of the leader: refused, and the keeper is not disturbed."""
    cell = fresh()
    run = cell.run_code("import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start()\nctypes.CDLL(None).syscall(60, 0)", timeout_seconds=5)
    held(run.exit != "ok", f"{run}")
    child = try_fork(cell)
    if child:
        child.close()
    held(neighbour.answers(), "the neighbour suffers")


@pytest.mark.layer("capture")
def test_a_replaced_program_is_refused(fresh: Callable[..., Cell]) -> None:
    """After exec(2) the sentinel has another memory than the context: nothing may be copied from it."""
    cell = fresh()
    cell.run_code("import os; os.execv('/bin/sleep', ['sleep', '30'])", timeout_seconds=2)
    child = try_fork(cell)
    if child:  # the daemon has started the context anew before it copied
        held(child.run_code("print(1)").stdout == "1\n", "a fresh context")
        child.close()


@pytest.mark.layer("capture")
def test_a_process_that_shares_the_memory(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """A process beside the context's threads (CLONE_VM without CLONE_THREAD) is not stopped: it writes over the keeper's data page, takes the stub out of copies,
    and exchanges descriptors, while the context is captured. The child is whole or there is none; the keeper never runs what it is given."""
    cell = fresh(cpus=2, memory_mb=400)
    load = library(cell, """
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    static char stack[65536];
    volatile long rounds;
    static int beside(void *a) {
        int pty = open("/dev/ptmx", O_RDWR | O_NOCTTY), file = memfd_create("x", 0);
        for (;;) {
            memset((char *)0x200000001000ul, 0x41, 0x5000);
            madvise((void *)0x200000000000ul, 0x6000, MADV_DONTFORK);
            mprotect((void *)0x200000000000ul, 0x1000, PROT_READ | PROT_WRITE);
            munmap((void *)0x200000000000ul, 0x1000);
            dup2(pty, 200);
            dup2(file, 200);
            rounds++;
        }
    }
    void start(void) { clone(beside, stack + sizeof stack - 64, CLONE_VM | CLONE_FILES | 17, 0); }
    """)  # fmt: skip
    attack(cell, load + "L.start(); time.sleep(.2); report(long('rounds'))")
    for _ in range(10):
        child = try_fork(cell)
        if child:
            child.close()
    held(neighbour.answers() and cell.answers(), "somebody suffers")


# ---- limits are limits, with copies too ----


@pytest.mark.layer("limits")
def test_a_line_of_copies_does_not_add_up(fresh: Callable[..., Cell]) -> None:
    """Each copy has its parent's pages without paying for them. Merged into the parent again and again, a cell would grow without end: a copy of a cell that has
    more than its limit is refused."""
    cell = fresh(memory_mb=200)
    cell.run_code("kept = []")
    with pytest.raises(LimitError):
        for _ in range(8):
            run = cell.run_code("b = bytearray(90 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nkept.append(b)", timeout_seconds=60)
            if run.exit == "oom":
                pytest.fail("the limit struck before the copy was refused: this test sees nothing")
            (child,) = cell.fork()
            cell.merge_into(child)
    kib = int(cell.run_code("print([l for l in open('/proc/self/status') if 'RssAnon' in l][0].split()[1])").stdout)
    held(kib < 3 * 200 << 10, f"one cell of 200 MB has {kib >> 10} MB")


@pytest.mark.layer("limits")
def test_a_fork_does_not_kill_its_parent(fresh: Callable[..., Cell]) -> None:
    """What a copy takes of shared memory is charged to the cell: where that is too much the copy dies of it, with a sentence, and not the context."""
    cell = prepared(fresh(memory_mb=192), "m = area(110 << 20, 3, 0x21)\nfor i in range(110): ctypes.memset(m + (i << 20), 7, 1 << 20)\nreport(0)")
    with pytest.raises(LimitError):
        cell.fork()
    held(attack(cell, "report(peek(m, 1))") == "\x07", "the context was killed")


@pytest.mark.layer("limits")
def test_holes_stay_holes(family: Callable[..., List[Sandbox]]) -> None:
    """A sparse memory file larger than the limit costs nothing, in the child neither."""
    cells = family("fd = os.memfd_create('x'); os.ftruncate(fd, (900 << 20) + 5); os.pwrite(fd, b'abc', 700 << 20); report(0)")
    for cell in cells:
        size, data, blocks = attack(cell, "s = os.fstat(fd); report([s.st_size, os.pread(fd, 3, 700 << 20).decode(), s.st_blocks])")
        held([size, data] == [(900 << 20) + 5, "abc"] and blocks < 100, f"{size} {data} {blocks}")


@pytest.mark.layer("limits")
def test_a_deleted_file_of_terabytes_is_not_read(fresh: Callable[..., Cell]) -> None:
    """Its mapping must be part of an image as a whole: refused, instead of days of reading zeros in a thread of the daemon."""
    cell = prepared(fresh(memory_mb=400), "fd = os.open('/workspace/d', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4 << 40); a = area(4 << 40, 1, 2, fd); os.unlink('/workspace/d'); report(a)")
    with pytest.raises(LimitError):
        cell.snapshot()
    held(cell.answers(), "the cell suffers")


# ---- clients ----


@pytest.mark.layer("daemon")
def test_storms(ring: Ring, fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Forks, merges, deletes, hibernation and snapshots of one family by six clients at once: only answers that a client can understand, and in the end nothing is
    left of it."""
    import random
    import time

    import httpx

    root = fresh()
    root.run_code("x = 1")
    before = (proc.fd_count(ring.keeper_pid), proc.fd_count(ring.daemon_pid))
    pool, lock, odd = [root.id], threading.Lock(), []
    stop = time.monotonic() + 8

    def client(seed: int) -> None:
        dice = random.Random(seed)
        with httpx.Client(base_url=ring.url, timeout=60) as http:
            while time.monotonic() < stop:
                with lock:
                    a, b = dice.choice(pool), dice.choice(pool)
                    what = "delete" if len(pool) > 20 else dice.choice(["fork", "fork", "fork", "delete", "merge_into", "hibernate", "wake", "execute", "snapshots", "pause", "resume"])
                    if what == "delete" and len(pool) > 1:
                        pool.remove(a)
                if what == "delete":
                    answer = http.delete(f"/v1/sandboxes/{a}") if a not in pool else http.get(f"/v1/sandboxes/{a}/tree")
                else:
                    path, body = (f"{what}/{b}" if what == "merge_into" else what), {"code": "x += 1"} if what == "execute" else {}
                    answer = http.post(f"/v1/sandboxes/{a}/{path}", json=body)
                if answer.status_code >= 500 or answer.status_code in (400, 403, 404) and what != "merge_into":
                    if answer.json().get("code") != "lost":
                        odd.append((what, answer.status_code, answer.text))
                with lock:
                    if what == "fork" and answer.status_code == 201:
                        pool.extend(answer.json()["children"])
                    if what == "merge_into" and answer.status_code == 204 and b in pool:
                        pool.remove(b)
                if what == "snapshots" and answer.status_code == 201:
                    http.delete(f"/v1/snapshots/{answer.json()['id']}")

    clients = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    held(not odd, f"{odd[:3]}")
    held(neighbour.answers(), "the neighbour suffers")
    family = {root.id, *pool}
    for info in Sandbox.list(host=ring.url):
        if info.id in family or info.parent_id:
            Sandbox.connect(info.id, host=ring.url).close()
    from support.wait import until

    until(lambda: proc.fd_count(ring.keeper_pid) <= before[0] + 20, f"the keeper's descriptors to come back to {before[0]}", 20)
    until(lambda: not list((ring.state / "images").glob("*")), "the images to go", 20)
