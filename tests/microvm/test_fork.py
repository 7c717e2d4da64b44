"""fork: the whole machine goes on twice."""
import os
import random
import signal
import time

import pytest

from vmm import N, Refused


def running_copy(vmm, host_port=1):
    child, answer = vmm.fork()
    stream = child.attach(host_port)
    child.ask("RESUME")
    return child, stream, answer


def test_both_go_on_from_the_same_instant(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    assert [talk(stream, b"c") for _ in range(3)] == [b"1", b"2", b"3"]
    child, other, answer = running_copy(vmm)
    assert answer.arg[0] == child.pid
    assert talk(other, b"c") == b"4" and talk(other, b"c") == b"5"
    assert talk(stream, b"c") == b"4"


def test_memory_is_copied_and_not_shared(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    talk(stream, b"w50")
    child, other, _ = running_copy(vmm)
    assert talk(other, b"n") == b"50"
    talk(other, b"w30")
    assert talk(other, b"n") == b"80" and talk(stream, b"n") == b"50"
    talk(stream, b"w7")
    assert talk(other, b"n") == b"80" and talk(stream, b"n") == b"57"


def test_devices_work_in_the_copy_and_random_bytes_differ(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    child, other, _ = running_copy(vmm)
    assert len({talk(stream, b"r"), talk(other, b"r"), talk(stream, b"r"), talk(other, b"r")}) == 4


def test_chain_of_ten_without_ancestors(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    for i in range(10):
        assert talk(stream, b"c") == str(i + 1).encode()
        child, other, _ = running_copy(vmm)
        stream.close()
        vmm.close()
        vmm, stream = child, other
    assert talk(stream, b"c") == b"11"
    vmm.close()


def test_three_children_of_one_pause(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    talk(stream, b"c")
    vmm.ask("PAUSE")
    copies = [running_copy(vmm) for _ in range(3)]
    assert vmm.ask("STATUS").arg[0] == N["VMM_PAUSED"]
    for i, (_, other, _) in enumerate(copies):
        for k in range(i + 1):
            assert talk(other, b"c") == str(k + 2).encode()
    vmm.ask("RESUME")
    assert talk(stream, b"c") == b"2"


def test_a_packet_on_its_way_arrives_once_on_each_side(serving):
    vmm = serving()
    stream = vmm.connect(5, 1)
    vmm.ask("PAUSE")
    stream.send(b"e" * 65536)  # the VMM may have taken it already, or not
    child, other, _ = running_copy(vmm)
    vmm.ask("RESUME")
    assert stream.recv(1 << 17) == b"e" * 65536
    other.send(b"c")
    first = other.recv(1 << 17)
    assert first in (b"1", b"e" * 65536)
    if first != b"1":
        assert other.recv(1 << 17) == b"1"


def test_what_is_not_attached_is_reset(serving):
    vmm = serving()
    stream = vmm.connect(5, 1)
    stream.send(b"c"), stream.recv(10)
    child, _ = vmm.fork()
    with pytest.raises(Refused):
        child.attach(2)
    child.ask("RESUME")
    deadline = time.monotonic() + 10
    while child.ask("STATUS").arg[5] and time.monotonic() < deadline:
        pass
    assert child.ask("STATUS").arg[5] == 0
    fresh = child.connect(5, 1)
    assert fresh.send(b"c") and fresh.recv(10) == b"2"


def test_descriptors_of_the_parent_are_not_in_the_child(serving, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(4096))
    (tmp_path / "ro").write_bytes(bytes(4096))
    private, shared = os.open(tmp_path / "disk", os.O_RDWR), os.open(tmp_path / "ro", os.O_RDONLY)
    vmm = serving(disks=[(private, False), (shared, True)], vcpus=2)
    streams = [vmm.connect(5, 1 + i) for i in range(3)]
    assert len(streams) == 3
    child, _ = vmm.fork()

    def names(pid):
        return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))

    there = names(child.pid)
    assert str(tmp_path / "disk") in names(vmm.pid) and str(tmp_path / "disk") not in there
    assert str(tmp_path / "ro") in there
    sockets = {name for name in there if name.startswith("socket:")}
    assert len(sockets) == 1 and not sockets & set(names(vmm.pid))
    assert there.count("anon_inode:kvm-vm") == 1 and sum("kvm-vcpu" in name for name in there) == 2
    os.close(private), os.close(shared)


def test_eight_processors(serving, talk):
    vmm = serving(vcpus=8)
    stream = vmm.connect(5, 1)
    talk(stream, b"c")
    child, other, _ = running_copy(vmm)
    assert talk(other, b"c") == b"2" and talk(stream, b"c") == b"2"
    names = [open(f"/proc/{child.pid}/task/{task}/comm").read() for task in os.listdir(f"/proc/{child.pid}/task")]
    assert len([name for name in names if not name.startswith("kvm-")]) == 9  # newer kernels put a worker of their own into the process


def test_children_of_another_user(serving, talk):
    vmm = serving("--children-change-user")
    stream = vmm.connect(5, 1)
    talk(stream, b"c")
    child, answer = vmm.fork(N["VMM_FORK_UID"], 64999)
    other = child.attach(1)
    child.ask("RESUME")
    assert talk(other, b"c") == b"2"
    status = dict(line.split(":", 1) for line in open(f"/proc/{child.pid}/status"))
    assert status["Uid"].split() == ["64999"] * 4 and status["Gid"].split() == ["64999"] * 4
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    with pytest.raises(Refused):
        child.fork(N["VMM_FORK_UID"], 64998)
    assert talk(other, b"c") == b"3"


def test_user_changes_only_where_the_vmm_was_started_for_it(serving):
    vmm = serving()
    with pytest.raises(Refused):
        vmm.fork(N["VMM_FORK_UID"], 64999)
    assert vmm.ask("STATUS").arg[0] == N["VMM_RUNNING"]


def test_a_machine_that_never_ran(start, guest):
    vmm = start().boot(guest, "hello", vcpus=2, resume=False)
    child, _ = vmm.fork()
    child.ask("RESUME")
    assert "bye" in child.console_has("bye")
    assert vmm.console() == ""
    vmm.ask("RESUME")
    assert vmm.console_has("bye") == child.console()


def test_no_process_left_for_a_fork(start, guest):
    """The limit of processes is reached: the fork is refused, the machine goes on."""
    vmm = start(uid=64322, tasks=3).boot(guest, "tick 10")  # the loop, a vCPU, and the worker that newer kernels put into the process
    vmm.console_has(".")
    children = []
    with pytest.raises(Refused):
        for _ in range(3):  # the first one, where there is that worker
            children.append(vmm.fork()[0])
    assert len(children) < 2
    exits = vmm.ask("STATUS").arg[1]
    while vmm.ask("STATUS").arg[1] == exits:
        pass
    assert vmm.ask("STATUS").arg[0] == N["VMM_RUNNING"]


def test_no_task_left_for_the_kernel(start, guest):
    """A kernel that needs a worker for a machine and gets none cannot run it: that is said, and nothing spins."""
    vmm = start(uid=64323, tasks=2).boot(guest, "tick 10")
    deadline = time.monotonic() + 20
    while not vmm.console() and vmm.ask("STATUS").arg[0] == N["VMM_RUNNING"] and time.monotonic() < deadline:
        time.sleep(0.01)
    if not vmm.console():  # kernels before 6.13 have no such worker, and run
        ended = vmm.event()
        assert ended.type == N["VMM_ENDED"] and ended.arg[0] == N["VMM_END_KVM_ERROR"] and ended.text.startswith(b"KVM_RUN: ")


def test_forks_of_a_busy_guest(start, guest):
    vmm = start().boot(guest, "tick 100", vcpus=2)
    vmm.console_has(".")
    for _ in range(20):
        child, _ = vmm.fork()
        child.ask("RESUME")
        exits = child.ask("STATUS").arg[1]
        while child.ask("STATUS").arg[1] < exits + 10:
            pass
        child.close()
    assert vmm.ask("STATUS").arg[0] == N["VMM_RUNNING"]


def test_killed_at_random(serving, talk):
    """A tree of machines loses members by SIGKILL, in the middle of forks too: the others neither stop nor notice."""
    dice = random.Random(7)
    root = serving()
    alive = [(root, root.connect(5, 1), 0)]
    for round_ in range(40):
        index = dice.randrange(len(alive))
        vmm, stream, count = alive[index]
        assert talk(stream, b"c") == str(count + 1).encode()
        alive[index] = (vmm, stream, count + 1)
        try:
            child, other, _ = running_copy(vmm)
            alive.append((child, other, count + 1))
        except (EOFError, ConnectionError):
            raise AssertionError("a fork of a living machine failed")
        if len(alive) > 4:
            victim = alive.pop(dice.randrange(len(alive)))
            if dice.random() < 0.5:
                victim[0].send("STATUS")
            os.kill(victim[0].pid, signal.SIGKILL)
            assert victim[0].gone()
    for vmm, stream, count in alive:
        assert talk(stream, b"c") == str(count + 1).encode()
