"""A stock Debian kernel under the VMM: run by ring.py, inside the emulated machine or on one with real KVM."""
import os
import socket
import time
from pathlib import Path

import pytest

from vmm import N, Vmm

LINE = "console=ttyS0 reboot=t panic=-1 pci=off i8042.noaux tsc=reliable random.trust_cpu=off"
MEMORY = 256 << 20
WAIT = int(os.environ.get("CELLA_RING_WAIT", "120"))  # seconds for a boot: emulation of an emulation; twenty times what it takes


@pytest.fixture(scope="module")
def files():
    return Path(os.environ["CELLA_RING_FILES"])


@pytest.fixture(scope="module")
def build():
    return Path(os.environ["CELLA_BUILD"]).resolve().parent


@pytest.fixture(scope="module")
def template(files, build, tmp_path_factory):
    """One boot for most tests: the template that they fork."""
    directory = tmp_path_factory.mktemp("template")
    (directory / "disk").write_bytes(b"disk-zero\n".ljust(1 << 20, b"\0"))
    (directory / "ro").write_bytes(b"disk-one\n".ljust(1 << 20, b"\0"))
    disks = [(os.open(directory / "disk", os.O_RDWR), False), (os.open(directory / "ro", os.O_RDONLY), True)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    vmm = Vmm.start(build)
    began = time.monotonic()
    vmm.boot(files / "vmlinux", LINE, memory=MEMORY, initrd=files / "l2.cpio", disks=disks, net=theirs.fileno())
    vmm.console_has("init: listening", WAIT)
    print(f"boot to the first program listening: {time.monotonic() - began:.1f} s")
    vmm.disk_fds, vmm.directory, vmm.net = disks, directory, (ours, theirs)
    yield vmm
    vmm.close()


def talk(stream, text):
    stream.settimeout(120)
    stream.send(text)
    return stream.recv(1 << 17)


@pytest.fixture
def stream(template):
    template.port = getattr(template, "port", 0) + 1
    end = template.connect(5, template.port)
    yield end
    end.close()


def copy_of(vmm, port):
    child, answer = vmm.fork()
    child.attach_disks(vmm.disk_fds[:1])  # the private disk would be a copy of its own; nobody writes it here
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    child.ask("NET", 0, fds=[theirs.fileno()])
    child.net, child.disk_fds = (ours, theirs), vmm.disk_fds
    end = child.attach(port)
    child.ask("RESUME")
    return child, end, answer


def test_kernel_and_first_program(template):
    said = template.console()
    assert "init: listening" in said and "init: module" not in said and "init: vsock" not in said
    assert "ACPI Error" not in said and "AE_" not in said and "BUG" not in said


def test_devices_are_found_and_work(template, stream):
    said = dict(part.split("=", 1) for part in talk(stream, b"d").decode().split())
    assert said["vda"] == "disk-zero" and said["ro"] == "1" and said["back"] == "same"
    assert said["mac"] == "02:22:33:44:55:66" and said["rng"] == "virtio_rng.0"
    assert (template.directory / "disk").read_bytes()[8192:8208] == b"written by linux"


@pytest.mark.parametrize("size", [1, 5000, 65536])
def test_packets(stream, size):
    text = b"e" + os.urandom(size - 1)
    assert talk(stream, text) == text


def test_fork_carries_a_process_an_open_file_memory_and_the_connection(template):
    end = template.connect(5, 500)
    assert talk(end, b"c") == b"1" and talk(end, b"l") == b"line 1" and talk(end, b"w300") == b"300"
    before = int(talk(end, b"t"))
    child, other, _ = copy_of(template, 500)
    assert talk(other, b"c") == b"2" and talk(other, b"l") == b"line 2" and talk(other, b"n") == b"300"
    assert talk(other, b"c") == b"3"
    assert talk(end, b"c") == b"2" and talk(end, b"l") == b"line 2"
    assert talk(other, b"w10") == b"310" and talk(end, b"n") == b"300"
    assert 0 <= int(talk(other, b"t")) - before < 60_000
    child.close()
    end.close()


def test_three_continuations_and_a_chain_of_ten_without_ancestors(template):
    end = template.connect(5, 600)
    start = int(talk(end, b"c"))
    copies = [copy_of(template, 600) for _ in range(3)]
    for i, (_, other, _) in enumerate(copies):
        for k in range(i + 1):
            assert int(talk(other, b"c")) == start + 1 + k
    for child, _, _ in copies[1:]:
        child.close()
    vmm, stream, count = copies[0][0], copies[0][1], start + 1
    for _ in range(10):
        child, other, _ = copy_of(vmm, 600)
        vmm.close()
        vmm, stream, count = child, other, count + 1
        assert int(talk(stream, b"c")) == count
    vmm.close()
    assert int(talk(end, b"c")) == start + 1


def test_random_bytes_of_copies_differ_in_the_device(template):
    end = template.connect(5, 650)
    child, other, _ = copy_of(template, 650)
    assert len(talk(end, b"r")) == 16 and len(talk(other, b"r")) == 16
    child.close()


def test_snapshot_and_restore_after_the_vmm_is_gone(template, build):
    end = template.connect(5, 700)
    count, pages = int(talk(end, b"c")), int(talk(end, b"w50"))
    full = template.snapshot(template.directory, "base", N["VMM_SNAPSHOT_BASE"])
    child, other, _ = copy_of(template, 700)
    assert int(talk(other, b"c")) == count + 1 and int(talk(other, b"w20")) == pages + 20
    some = child.snapshot(template.directory, "some", N["VMM_SNAPSHOT_CHANGED"])
    child.close()
    print(f"pages: full {full.arg[0]}, changed {some.arg[0]}; stood still {full.arg[1]} and {some.arg[1]} us")
    assert some.arg[0] < full.arg[0]
    back = Vmm.start(build)
    back.ask("CONFIG", MEMORY, 1, N["VMM_CONFIG_TRACK"])
    back.attach_disks(template.disk_fds)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    back.ask("NET", 0, fds=[theirs.fileno()])
    back.restore(template.directory, "some", "base")
    again = back.attach(700)
    back.ask("RESUME")
    assert int(talk(again, b"c")) == count + 2 and int(talk(again, b"n")) == pages + 20
    back.close()


def test_memory_that_the_guest_frees_comes_back(template):
    end = template.connect(5, 750)
    child, other, _ = copy_of(template, 750)

    def private():
        return int(next(line for line in open(f"/proc/{child.pid}/smaps_rollup") if line.startswith("Private_Dirty")).split()[1])

    before = private()
    talk(other, b"m40")  # 40 MiB, written and freed
    full, deadline = private(), time.monotonic() + 60
    while private() > full - (20 << 10) and time.monotonic() < deadline:
        time.sleep(0.5)  # the kernel reports free blocks every two seconds
    print(f"private: {before >> 10} MiB, {full >> 10} MiB with 40 MiB more, {private() >> 10} MiB after they were freed")
    assert full - before > 30 << 10 and private() < full - (20 << 10)
    child.close(), end.close()


def test_reboot_ends_the_machine(template):
    end = template.connect(5, 800)
    child, other, _ = copy_of(template, 800)
    other.send(b"q")
    ended = child.event(120)
    assert ended.type == N["VMM_ENDED"] and ended.arg[0] == N["VMM_END_SHUTDOWN"]
    child.close()
    assert int(talk(end, b"k")) == 1


def test_several_processors_and_a_busy_one(files, build):
    vmm = Vmm.start(build)
    vmm.boot(files / "vmlinux", LINE + " busy", memory=MEMORY, vcpus=2, initrd=files / "l2.cpio")
    vmm.console_has("init: listening", WAIT)
    end = vmm.connect(5, 1)
    assert talk(end, b"k") == b"2"
    counted = int(talk(end, b"b"))
    child, _ = vmm.fork()
    other = child.attach(1)
    child.ask("RESUME")
    assert talk(other, b"k") == b"2" and int(talk(other, b"b")) > counted
    child.close()
    vmm.close()
