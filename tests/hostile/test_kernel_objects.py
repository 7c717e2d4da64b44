"""Things the kernel counts per user or per host, used up in one cell while a neighbour goes on."""

from __future__ import annotations

from typing import Callable

import pytest
from ring import Cell, denied, held


@pytest.mark.layer("userlimits", decisive=True)
def test_terminals(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Pseudo-terminals are counted for the whole host (kernel.pty.max): a cell has 128 of its own."""
    cell = fresh(open_files=4096)
    code = """
    kept, why = [], ''
    try:
        while len(kept) < 400:
            kept.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
    except OSError as e:
        why = errno.errorcode[e.errno]
    report([len(kept), why])
    """
    made, why = cell.attack(code)
    free = neighbour.attack("report(refusal(lambda: os.close(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))))")
    held(made <= 128 and why == "ENOSPC", f"{made} terminals {why}")
    held(free == "ok", f"the neighbour gets {free}")


@pytest.mark.layer("userlimits", decisive=True)
def test_inotify_instances(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """inotify instances are charged to the one owner of all cells: each cell has 128."""
    cell = fresh(open_files=4096)
    code = """
    kept = []
    while len(kept) < 400:
        fd = _libc.inotify_init1(0)
        if fd < 0: break
        kept.append(fd)
    report(len(kept))
    """
    made = cell.attack(code)
    free = neighbour.attack("fd = _libc.inotify_init1(0); ok = fd >= 0 and os.close(fd) is None; report(ok)")
    held(made <= 128, f"{made} instances")
    held(free, "the neighbour gets none")


@pytest.mark.layer("userlimits", decisive=True)
def test_inotify_watches(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Watches, likewise: 16,384 per cell."""
    cell = fresh(memory_mb=256, disk_mb=128)
    code = """
    os.makedirs('/dev/shm/w', exist_ok=True)
    for i in range(400): open(f'/dev/shm/w/{i}', 'w').close()
    made, kept = 0, [_libc.inotify_init1(0) for i in range(50)]
    for fd in kept:
        for i in range(400):
            if _libc.inotify_add_watch(fd, b'/dev/shm/w/%d' % i, 0xfff) < 0:
                break
            made += 1
    report(made)
    """
    made = cell.attack(code)
    free = neighbour.attack("fd = _libc.inotify_init1(0); ok = _libc.inotify_add_watch(fd, b'/tmp', 2) >= 0; os.close(fd); report(ok)")
    held(1000 < made <= 16384, f"{made} watches")
    held(free, "the neighbour gets none")


@pytest.mark.layer("userlimits", decisive=True)
def test_pending_signals(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Queued real-time signals, likewise: at most 4,096 per user of a cell."""
    code = """
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    made = 0
    info = ctypes.create_string_buffer(struct.pack('<iii', 40, 0, -1), 128)
    while made < 6000 and _libc.syscall(129, os.getpid(), 40, info) == 0:
        made += 1
    report(made)
    """
    made = fresh().attack_process(code)
    free = neighbour.attack("signal.pthread_sigmask(signal.SIG_BLOCK, [41]); r = _libc.sigqueue(os.getpid(), 41, None); signal.sigtimedwait([41], 1); report(r)")
    held(made <= 4096, f"{made} signals")
    held(free == 0, "the neighbour cannot queue any")


@pytest.mark.layer("seccomp", decisive=True)
def test_message_queues(fresh: Callable[..., Cell]) -> None:
    """POSIX message queues are charged to the one owner of all cells, and outlive a failed mq_open: there are none."""
    code = """
    attr = struct.pack('<qqqq', 0, 10, 1024, 0) + bytes(32)
    report([name(call(240, b'q\\0', os.O_RDWR | os.O_CREAT, 0o600, None)), name(call(240, b'q2\\0', os.O_RDWR | os.O_CREAT, 0o600, attr))])
    """
    denied(fresh().everywhere(code), "ENOSYS")


@pytest.mark.layer("limits")
def test_epoll_watches_and_timers(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """epoll watches and POSIX timers, as many as there are; the neighbour has its own."""
    cell = fresh(memory_mb=128)
    code = """
    import select
    made, kept, pipes = {'epoll': 0, 'timers': 0}, [], [os.pipe() for i in range(100)]
    try:
        for i in range(300):
            kept.append(select.epoll())
            for r, w in pipes:
                kept[-1].register(r, select.EPOLLIN)
                made['epoll'] += 1
    except OSError:
        pass
    t = ctypes.c_int()
    while made['timers'] < 20000 and _libc.timer_create(1, None, ctypes.byref(t)) == 0:
        made['timers'] += 1
    report(made)
    """
    made = cell.attack(code)
    held(made["timers"] <= 4096, f"{made}")
    ok = neighbour.attack("import select\ne = select.epoll(); r, w = os.pipe(); e.register(r, 1); t = ctypes.c_int(); got = _libc.timer_create(1, None, ctypes.byref(t)); _libc.timer_delete(t); report(got)")
    held(ok == 0, "the neighbour gets no timer")
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("limits")
def test_locked_memory(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """mlock beyond the limit, secret memory, huge pages of the host's pool."""
    cell = fresh(memory_mb=128)
    code = """
    import mmap
    m = mmap.mmap(-1, 80 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    secret = call(447, 0)
    if secret >= 0:
        os.ftruncate(secret, 80 << 20)
    report([name(call(149, address, 80 << 20)), refusal(mmap.mmap, secret, 80 << 20) if secret >= 0 else 'ENOMEM',
            refusal(mmap.mmap, -1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)])
    """
    denied(cell.attack_process(code), "ENOMEM", "EPERM", "EAGAIN")
    held(neighbour.answers(), "the neighbour does not answer")
