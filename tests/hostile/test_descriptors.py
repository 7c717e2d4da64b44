"""Descriptors that code finds open, and what lies at their other end."""

from __future__ import annotations

import errno

import pytest
from ring import Cell, Ring, denied, held
from support import proc


@pytest.mark.layer("namespaces")
def test_inherited_by_a_context(cell: Cell) -> None:
    """A context has null, two pipes and its own stream: nothing of the keeper, the guest or the warm interpreter."""
    code = """
    got = {}
    for n in os.listdir('/proc/self/fd'):
        try:
            got[n] = os.readlink('/proc/self/fd/' + n).split(':')[0]
        except OSError:
            pass
    report(got)
    """
    got = cell.attack(code)
    held(got == {"0": "/dev/null", "1": "pipe", "2": "pipe", "60": "socket"}, f"{got}")


@pytest.mark.layer("namespaces")
def test_inherited_by_a_process(cell: Cell) -> None:
    """A process has its three: not the guest's stream (3), not the keeper's socket (200), not the rule set (201)."""
    code = """
    got = {}
    for n in range(1024):
        try:
            got[n] = os.readlink(f'/proc/self/fd/{n}').split(':')[0]
        except OSError:
            pass
    report(got)
    """
    for user in (None, "root"):
        got = cell.attack_process(code, user)
        held(set(got) == {"0", "1", "2"} and set(got.values()) <= {"/dev/null", "pipe"}, f"{user}: {got}")


@pytest.mark.layer("namespaces")
def test_inherited_by_children_of_a_context(cell: Cell) -> None:
    """The context's stream closes at exec."""
    got = cell.attack("report(sorted(os.listdir('/proc/self/fd')) and subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True).stdout.split())")
    held(got == ["0", "1", "2", "3"], f"{got}")  # 3: ls itself


@pytest.mark.layer("seccomp", decisive=True)
def test_taking_descriptors_of_others(cell: Cell) -> None:
    """pidfd_getfd copies a descriptor out of another process: of the guest, of the context, of oneself."""
    code = """
    me = call(434, os.getpid(), 0)
    guest = call(434, 1, 0)
    report([name(call(438, me, 0, 0))] + [name(call(438, guest, n, 0)) for n in (0, 1, 2, 3, 200, 201)])
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("namespaces")
def test_the_peer_of_the_stream(cell: Cell) -> None:
    """SO_PEERPIDFD on the stream gives a handle on the keeper itself, a root process of the host: nothing can be done with it."""
    code = """
    s = socket.socket(fileno=os.dup(60))
    pid, uid, gid = struct.unpack('<iII', s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        fd = struct.unpack('<i', s.getsockopt(socket.SOL_SOCKET, 77, 4))[0]
    except OSError as e:
        fd = -1
    got = [name(call(424, fd, n, None, 0)) for n in (0, 9, 15, 19)] + [name(call(438, fd, n, 0)) for n in (0, 3)] + [name(call(308, fd, 0x20000))]
    got += [name(call(16, fd, 0xff00 | n, 0)) for n in range(1, 12)] + [name(call(440, fd, None, 0, 4, 0)), name(call(448, fd, 0))]
    lines = [l for l in open(f'/proc/self/fdinfo/{fd}')] if fd >= 0 else []
    report([pid, uid, got, [l.split()[1] for l in lines if l.startswith('Pid')]])
    """
    pid, uid, got, shown = cell.attack(code)
    held(pid == 0 and uid == 65534 and set(shown) <= {"0", "-1"}, f"the peer is pid {pid} uid {uid} {shown}")
    held("ok" not in got, f"something worked: {got}")


@pytest.mark.layer("daemon")
def test_descriptors_thrown_at_the_daemon(cell: Cell, ring: Ring, neighbour: Cell) -> None:
    """250 descriptors in each packet on the stream: the daemon must neither keep them nor stumble."""
    before = proc.fd_count(ring.daemon_pid)
    code = """
    import array
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(60))
    fds = array.array('i', [0] * 250)
    frame = struct.pack('<IHHI', 2, 33, 0, 999) + b'{}'
    sent = 0
    for i in range(200):
        try:
            s.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as e: # ETOOMANYREFS: the kernel's own bound on what is under way
            time.sleep(0.002 if e.errno == errno.ETOOMANYREFS else 60)
            continue
        sent += 1
    report(sent)
    """
    held(cell.attack(code) > 20, "the packets were not sent")
    held(neighbour.answers() and cell.answers(), "somebody does not answer")
    held(proc.fd_count(ring.daemon_pid) < before + 60, f"descriptors of the daemon: {before} -> {proc.fd_count(ring.daemon_pid)}")


@pytest.mark.layer("namespaces")
def test_stealing_the_output_of_another_context(fresh) -> None:
    """Opening /proc/PID/fd/1 of another context for reading would take its output away; processes cannot reach it (Landlock), other contexts neither."""
    cell = fresh()
    other = cell.create_code_context()
    pid = int(cell.run_code("import os; print(os.getpid())", context=other).stdout)
    code = f"report([refusal(os.open, '/proc/{pid}/fd/' + n, os.O_RDONLY | os.O_NONBLOCK) for n in ('1', '2')] + [refusal(os.readlink, '/proc/{pid}/fd/1')])"
    denied({"context": cell.attack(code), "process": cell.attack_process(code), "root": cell.attack_process(code, "root")}, "EACCES", "EPERM")


@pytest.mark.layer("namespaces")
def test_the_guests_directories_are_out_of_reach(cell: Cell) -> None:
    """The guest holds the cell's layer (202) and the template (203) for looking at what changed. No way leads from the cell's code to them."""
    code = """
    def tried(what):
        try:
            return str(what())
        except OSError as e:
            return e.errno
    got = []
    for n in (202, 203):
        got += [tried(lambda: os.readlink(f'/proc/1/fd/{n}')), tried(lambda: os.listdir(f'/proc/1/fd/{n}/')), tried(lambda: os.open(f'/proc/1/fd/{n}', os.O_PATH)),
                tried(lambda: open(f'/proc/1/fdinfo/{n}').read())]
    report(got)
    """
    results = [cell.attack(code)] + [cell.attack_process(code, user) for user in (None, "root")]
    for got in results:
        held(all(n in (errno.EACCES, errno.EPERM, errno.ENOENT) for n in got), f"{got}")
