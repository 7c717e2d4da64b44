"""A guest that writes garbage into every register, queue, port and address (guest/hostile.c). Whatever it does to itself, the VMM answers, does not
grow, and its descriptors are what they were."""
import os
import socket

import pytest

from vmm import N


def memory_kb(pid):
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()[1])


@pytest.fixture
def victims(tmp_path):
    (tmp_path / "disk").write_bytes(os.urandom(4096).ljust(1 << 20, b"\0"))
    (tmp_path / "ro").write_bytes(b"read only".ljust(8192, b"\0"))
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    files = [os.open(tmp_path / "disk", os.O_RDWR), os.open(tmp_path / "ro", os.O_RDONLY)]
    yield [(files[0], False), (files[1], True)], pair[1].fileno(), tmp_path
    for end in pair:
        end.close()
    for fd in files:
        os.close(fd)


@pytest.mark.parametrize("seed", range(1, 13))
def test_garbage(start, guest, victims, seed):
    disks, net, directory = victims
    vmm = start().boot(guest, f"hostile {seed} 250", disks=disks, net=net)
    streams = [vmm.connect(5, 1 + i) for i in range(3)]
    for stream in streams:
        stream.send(b"c" * 1000)
    ended = None
    while ended is None and b"hostile done" not in vmm.ask("CONSOLE").text:
        ended = vmm.events.pop() if vmm.events else None
    assert ended is None or ended.type == N["VMM_ENDED"]
    status = vmm.ask("STATUS")
    assert status.arg[0] == (N["VMM_OVER"] if ended else N["VMM_RUNNING"]) and status.arg[1] > 100
    assert memory_kb(vmm.pid) < 90 << 10  # the guest's own 64 MiB, the VMM, its streams' buffers
    assert (directory / "disk").stat().st_size == 1 << 20 and (directory / "ro").read_bytes().startswith(b"read only")
    if not ended:  # a fork and a snapshot of that, too
        child, _ = vmm.fork()
        child.attach_disks(disks[:1])
        child.ask("RESUME")
        child.ask("STATUS")
        vmm.snapshot(directory, "a")
    assert vmm.close() == 0
