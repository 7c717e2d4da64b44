"""System calls that have no business in a cell. Each is made so that an ordinary user would succeed with it on an open kernel."""

from __future__ import annotations

import pytest
from ring import Cell, denied, held


@pytest.mark.layer("seccomp", decisive=True)
def test_io_uring(cell: Cell) -> None:
    """io_uring runs operations beside the filter, in kernel threads."""
    denied(cell.everywhere("report(name(call(425, 4, ctypes.create_string_buffer(256))))"), "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_kernel_aio(cell: Cell) -> None:
    """io_setup takes from a pool of requests that is counted for the whole host (aio-max-nr)."""
    denied(cell.everywhere("ring = ctypes.c_ulong(0)\nreport(name(_libc.syscall(206, 64, ctypes.byref(ring)) and -ctypes.get_errno()))"), "ENOSYS", "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_userfaultfd(cell: Cell) -> None:
    """userfaultfd holds the kernel in the middle of a copy: the tool of many exploits."""
    denied(cell.everywhere("report(name(call(323, 1 | os.O_CLOEXEC)))"), "EPERM")


@pytest.mark.layer("seccomp")
def test_bpf(cell: Cell) -> None:
    """bpf(2): a program or a map in the kernel."""
    denied(cell.everywhere("report(name(call(321, 0, struct.pack('<IIIII', 2, 4, 4, 1, 0) + bytes(100), 120)))"), "EPERM")


@pytest.mark.layer("seccomp")
def test_perf_event_open(cell: Cell) -> None:
    """perf_event_open: counters of the host's processors."""
    code = "a = struct.pack('<IIQ', 1, 112, 0) + bytes(96)\nreport(name(call(298, a, 0, -1, -1, 0)))"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_keyrings(cell: Cell) -> None:
    """Keys are counted per user and live in rings that several cells could reach."""
    code = """
    made = name(call(248, b'user\\0', b'hostile\\0', b'x', 1, -5))
    report([made, name(call(250, 0, -5, 1)), name(call(250, 1, b'ring\\0')), name(call(249, b'user\\0', b'hostile\\0', None, -5))])
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_modules_and_kexec(cell: Cell) -> None:
    """Loading a module or another kernel."""
    code = "report([name(call(n, 0, 0, 0, 0, 0)) for n in (175, 313, 176, 246, 320)])"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_host_wide_switches(cell: Cell) -> None:
    """swapon, swapoff, reboot, acct, quotactl, vhangup, sethostname, setdomainname: state of the whole host."""
    code = """
    report([name(call(*a)) for a in ((167, b'/x\\0', 0), (168, b'/x\\0'), (169, 0xfee1dead, 672274793, 0, 0), (163, None), (179, 0x800001, None, 0, None),
                                     (153,), (170, b'evil', 4), (171, b'evil', 4))])
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_clock(cell: Cell) -> None:
    """settimeofday, clock_settime, adjtimex, clock_adjtime: the clock is the host's."""
    code = "t = struct.pack('<qq', 1, 1) + bytes(200)\nreport([name(call(164, t, None)), name(call(227, 0, t)), name(call(159, t)), name(call(305, 0, t))])"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_segments_and_ports(cell: Cell) -> None:
    """modify_ldt has a history of holes; iopl and ioperm give the hardware's ports."""
    code = "report([name(call(154, 0, ctypes.create_string_buffer(64), 64)), name(call(172, 3)), name(call(173, 0x80, 1, 1))])"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_personality(cell: Cell) -> None:
    """READ_IMPLIES_EXEC makes every page executable, PER_LINUX32 changes what uname says; only asking is allowed."""
    code = """
    now = call(135, 0xffffffff)
    report([name(call(135, 0x0400000)), name(call(135, 8)), name(call(135, 0x4000000)), 'ENOSYS' if now >= 0 else 'the question failed'])
    """
    denied(cell.everywhere(code), "ENOSYS", "EPERM")


INT80 = """
import mmap
def run(code):
    m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    m.write(code)
    f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
    return f()
"""


@pytest.mark.layer("seccomp", decisive=True)
def test_32_bit_calls(cell: Cell) -> None:
    """int 0x80 reaches the 32-bit table, where the same numbers mean other calls: 20 is getpid there."""
    # mov eax,20; int 0x80; movsxd rax,eax; ret
    code = "report(name(run(bytes.fromhex('b814000000cd804863c0c3'))))"
    denied(cell.everywhere(code, preface=INT80), "ENOSYS", "EPERM")


@pytest.mark.layer("seccomp")
def test_x32_calls(cell: Cell) -> None:
    """The x32 ABI marks its numbers with bit 30: a filter that compares numbers only would let 39|bit through or miss others."""
    code = "report([name(call(0x40000000 | n)) for n in (39, 57, 101, 165, 520)])"
    denied(cell.everywhere(code), "ENOSYS", "EPERM")


@pytest.mark.layer("seccomp")
def test_numbers_nobody_knows(cell: Cell) -> None:
    """Calls of the future, negative numbers, numbers with high bits set: the list is of what is allowed, not of what is refused.
    (335 is not asked for: kernels let uretprobe pass every filter, and kill whoever calls it without a probe.)"""
    code = "report([name(call(n)) for n in (457, 458, 467, 468, 469, 470, 511, 512, 547, 600, 5000, -2, 2**31 + 39, 2**32 - 1)])"
    denied(cell.everywhere(code), "ENOSYS", "EPERM")


@pytest.mark.layer("seccomp")
def test_file_handles(cell: Cell) -> None:
    """open_by_handle_at opens any inode of the file system by number: the classic way out of a container."""
    code = "h = ctypes.create_string_buffer(struct.pack('<Ii', 8, 1) + struct.pack('<Q', 2), 136)\nreport([name(call(304, -100, h, 0)), name(call(303, -100, b'/\\0', h, ctypes.create_string_buffer(8), 0))])"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_watching_the_whole_file_system(cell: Cell) -> None:
    """fanotify sees every opening on a mount and hands descriptors out."""
    denied(cell.everywhere("report([name(call(300, 0, 0)), name(call(300, 0x200, 0)), name(call(301, 0, 1, 1, -100, b'/\\0'))])"), "EPERM")


@pytest.mark.layer("seccomp")
def test_kernel_log(cell: Cell) -> None:
    """syslog(2) reads and clears the host's kernel messages."""
    denied(cell.everywhere("b = ctypes.create_string_buffer(4096)\nreport([name(call(103, n, b, 4096)) for n in (2, 3, 4, 5, 10)])"), "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_typing_into_a_terminal(cell: Cell) -> None:
    """TIOCSTI pushes input into a terminal as if it had been typed; the request is compared in 32 bits, as the kernel does."""
    code = """
    master, slave = os.openpty()
    if os.fork() == 0:
        os.setsid()
        got = []
        import fcntl
        fcntl.ioctl(slave, 0x540e, 0)
        for request in (0x5412, 0x100005412, 0xffffffff00005412):
            got.append(name(call(16, slave, request, b'x')))
        os.write(master, json.dumps(got).encode())
        os._exit(0)
    os.wait()
    os.set_blocking(slave, False)
    os.write(master, b'\\n')
    time.sleep(0.05)
    report(json.loads(os.read(slave, 4096).split(b'\\n')[0].decode().lstrip('x')))
    """
    got = cell.attack_process(code)
    held(set(got) <= {"EPERM", "ENOSYS"}, f"TIOCSTI answered {got}")


@pytest.mark.layer("seccomp", decisive=True)
def test_core_handler_of_the_host(cell: Cell) -> None:
    """A core_pattern that starts with | runs a program as the host's root on the memory of whoever crashes; only RLIMIT_CORE = 1
    stops that, so nothing in a cell may change the limit, lower it included."""
    code = """
    import resource
    def set32(limits): # straight, and with rubbish above the 32 bits of the resource that the kernel reads
        raw = struct.pack('<QQ', *limits)
        return [name(call(160, 4, raw)), name(call(160, 2**32 + 4, raw)), name(call(302, 0, 4, raw, None)), name(call(302, 0, 2**33 + 4, raw, None))]
    report({'now': list(resource.getrlimit(resource.RLIMIT_CORE)), 'set': set32((0, 0)) + set32((0, 1)) + set32((2**63, 2**63))})
    """
    for where, got in cell.everywhere(code).items():
        held(got["now"] == [1, 1], f"{where}: RLIMIT_CORE is {got['now']}")
        denied(got["set"], "EPERM")


@pytest.mark.layer("seccomp")
def test_crash_leaves_no_core(cell: Cell) -> None:
    """A process that dies of SIGSEGV: the kernel must not have dumped it, anywhere."""
    code = """
    pid = os.fork()
    if pid == 0:
        os.chdir('/tmp')
        os.kill(os.getpid(), signal.SIGSEGV)
    status = os.waitpid(pid, 0)[1]
    report([os.WTERMSIG(status), os.WCOREDUMP(status), [f for f in os.listdir('/tmp') if 'core' in f]])
    """
    for where, got in cell.everywhere(code).items():
        held(got == [11, False, []], f"{where}: {got}")


@pytest.mark.layer("seccomp")
def test_own_filter_cannot_widen(cell: Cell) -> None:
    """A filter of one's own that allows everything is added to the cell's, it does not replace it."""
    code = """
    allow = ctypes.create_string_buffer(struct.pack('<HBBI', 0x06, 0, 0, 0x7fff0000))
    program = struct.pack('<HxxxxxxQ', 1, ctypes.addressof(allow))
    report([name(call(317, 1, 0, program)), name(call(101, 0, 0, 0, 0)), name(call(272, 0x10000000))])
    """
    got = cell.attack_process(code)
    held(got[0] == "ok" and got[1:] == ["EPERM", "EPERM"], f"{got}")
