"""Reading, writing and steering other processes."""

from __future__ import annotations

from typing import Callable

import pytest
from ring import Cell, denied, held


@pytest.mark.layer("seccomp", decisive=True)
def test_tracing_a_child(cell: Cell) -> None:
    """PTRACE_TRACEME and PTRACE_SEIZE of one's own child: a tracer could change system calls after the filter has seen them."""
    code = """
    pid = os.fork()
    if pid == 0:
        time.sleep(20)
        os._exit(0)
    got = [name(call(101, 0x4206, pid, 0, 0)), name(call(101, 16, pid, 0, 0))]
    os.kill(pid, 9); os.waitpid(pid, 0)
    pid = os.fork()
    if pid == 0:
        os._exit(1 if call(101, 0, 0, 0, 0) == -1 else 0)
    got.append('EPERM' if os.waitpid(pid, 0)[1] == 256 else 'ok')
    report(got)
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_tracing_the_guest(cell: Cell) -> None:
    """ATTACH, SEIZE, PEEKDATA, KILL on PID 1."""
    denied(cell.everywhere("report([name(call(101, r, 1, 0x400000, 0)) for r in (16, 0x4206, 1, 2, 4, 5, 8, 12, 13)])"), "EPERM")


@pytest.mark.layer("seccomp")
def test_tracing_the_context(cell: Cell) -> None:
    """A process of the same user attaches to the interpreter."""
    pid = cell.attack("report(os.getpid())")
    code = f"report([name(call(101, r, {pid}, 0, 0)) for r in (16, 0x4206)])"
    denied({"process": cell.attack_process(code), "root": cell.attack_process(code, "root")}, "EPERM")
    held(cell.answers(), "the context was stopped")


@pytest.mark.layer("seccomp", decisive=True)
def test_memory_of_other_processes(cell: Cell) -> None:
    """process_vm_readv and process_vm_writev: of a child, of the guest."""
    code = """
    pid = os.fork()
    if pid == 0:
        time.sleep(20)
        os._exit(0)
    buffer = ctypes.create_string_buffer(8)
    address = ctypes.addressof(buffer)
    iov = struct.pack('<QQ', address, 8)
    got = [name(call(n, p, iov, 1, iov, 1, 0)) for n in (310, 311) for p in (pid, 1, os.getpid())] + [name(call(312, os.getpid(), pid, 1, 0, 0))]
    os.kill(pid, 9); os.waitpid(pid, 0)
    report(got)
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("landlock", decisive=True)
def test_context_read_by_a_process(cell: Cell) -> None:
    """A process of the same user reads the interpreter's memory, environment and descriptors through /proc."""
    pid = cell.attack("secret = 'x' * 10\nreport(os.getpid())")
    code = f"""
    got = [refusal(lambda: open('/proc/{pid}/' + f, 'rb').read(1)) for f in ('environ', 'auxv', 'pagemap', 'io')]
    got += [refusal(os.open, '/proc/{pid}/mem', os.O_RDONLY), refusal(os.open, '/proc/{pid}/mem', os.O_RDWR)]
    got += [refusal(os.readlink, '/proc/{pid}/' + f) for f in ('fd/60', 'cwd', 'root', 'exe')]
    report(got)
    """
    denied({"process": cell.attack_process(code)}, "EACCES", "EPERM")


@pytest.mark.layer("landlock", decisive=True)
def test_process_read_by_a_context(fresh: Callable[..., Cell]) -> None:
    """The other way: code in a context reads the environment of a process that another request started (a token in it)."""
    cell = fresh()
    process = cell.start(["sleep", "60"], env={"TOKEN": "hunter2"})
    code = f"report([refusal(lambda: open('/proc/{process.pid}/environ').read()), refusal(os.open, '/proc/{process.pid}/mem', os.O_RDONLY), refusal(os.readlink, '/proc/{process.pid}/fd/1')])"
    denied(cell.attack(code), "EACCES", "EPERM")


@pytest.mark.layer("namespaces")
def test_workers_of_the_guest(fresh: Callable[..., Cell]) -> None:
    """While a long file transfer runs, its worker is a process of the cell: code cannot read, trace or kill it."""
    cell = fresh()
    cell.run_code("open('/workspace/big', 'wb').write(b'x' * (8 << 20))")
    stream = cell.filesystem.read("/workspace/big", "stream")
    first = next(stream)
    code = """
    mine = {os.getpid(), 1}
    workers = [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in mine and open(f'/proc/{p}/stat').read().split()[3] == '1'
               and os.stat(f'/proc/{p}/task').st_uid != os.getuid()]
    got = {}
    for p in workers:
        got[p] = [refusal(os.kill, p, 9), refusal(os.listdir, f'/proc/{p}/fd'), refusal(os.open, f'/proc/{p}/mem', os.O_RDONLY), name(call(101, 16, p, 0, 0)),
                  refusal(os.readlink, f'/proc/{p}/root'), refusal(lambda: open(f'/proc/{p}/environ').read())]
    report(got)
    """
    got = cell.attack(code)
    if not got:
        raise RuntimeError("no worker was seen")
    denied(got, "EPERM", "EACCES")
    held(len(first) + sum(len(piece) for piece in stream) == 8 << 20, "the transfer broke")
