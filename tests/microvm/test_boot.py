"""PVH boot, memory, processors, console, and how a machine ends."""
import os
import struct

import pytest

from vmm import N, Refused


def test_kernel_finds_what_the_loader_promised(start, guest, tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"words of the initrd\n\0" + bytes(5000))
    vmm = start().boot(guest, "hello and  more", initrd=initrd)
    said = vmm.console_has("bye").splitlines()
    assert said == ["hello version 1", "line hello and  more", "ram 639", f"ram {(64 << 10) - 1024}", "module bytes 5021", "words of the initrd", "tables", "bye"]


@pytest.mark.parametrize("vcpus", [1, 2, 8])
def test_processors(start, guest, vcpus):
    vmm = start().boot(guest, "hello", vcpus=vcpus)
    vmm.console_has("bye")
    assert vmm.ask("STATUS").arg[3] == vcpus


def test_memory_beyond_the_gap(start, guest):
    vmm = start().boot(guest, "hello", memory=4 << 30)
    assert f"ram {(3 << 20) - 1024}\nram {1 << 20}\n" in vmm.console_has("bye")


@pytest.mark.parametrize("memory,vcpus", [(0, 1), (1 << 20, 1), ((64 << 20) + 4096, 1), (1 << 60, 1), (64 << 20, 0), (64 << 20, 9), (64 << 20, 1 << 33)])
def test_impossible_machines_are_refused(start, memory, vcpus):
    vmm = start()
    with pytest.raises(Refused):
        vmm.ask("CONFIG", memory, vcpus)
    assert vmm.ask("STATUS").arg[0] == N["VMM_EMPTY"]


def elf(segments, notes=b"", machine=62):
    """A kernel file with these (address, file bytes, memory bytes) and these notes."""
    head, offset = b"", 64 + 56 * (len(segments) + 1)
    body = b""
    for address, data, size in segments:
        head += struct.pack("<IIQQQQQQ", 1, 7, offset + len(body), address, address, len(data), size, 4096)
        body += data
    head += struct.pack("<IIQQQQQQ", 4, 4, offset + len(body), 0, 0, len(notes), len(notes), 4)
    start = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(segments) + 1, 0, 0, 0)
    return start + head + body + notes


PVH = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)


@pytest.mark.parametrize("kernel", [
    b"", b"MZ" + bytes(4000), elf([(0x100000, b"\xf4", 1)]), elf([(0x100000, b"\xf4", 1)], PVH, machine=183), elf([(0x1000, b"\xf4", 1)], PVH),
    elf([(0x100000, b"\xf4", 1 << 62)], PVH), elf([((1 << 64) - 4096, b"\xf4", 8192)], PVH), elf([(0x100000, b"\xf4" * 9, 4)], PVH),
    elf([(0xbffffff0, b"\xf4", 4096)], PVH), elf([(0x100000, b"\xf4", 1)], struct.pack("<III", 0xfffffffc, 0xfffffff0, 18)),
    elf([(0x100000, b"\xf4" * 64, 64)], PVH)[:-40],
], ids=["empty", "not-elf", "no-note", "other-processor", "too-low", "too-large", "wraps", "file-beyond-memory", "into-the-gap", "note-length", "cut"])
def test_damaged_kernels_are_refused(start, tmp_path, kernel):
    (tmp_path / "kernel").write_bytes(kernel)
    vmm = start()
    with pytest.raises(Refused):
        vmm.boot(tmp_path / "kernel", "x")
    assert vmm.ask("STATUS").arg[0] == N["VMM_EMPTY"]


def test_guest_that_crashes_ends_the_machine_and_not_the_vmm(start, guest):
    vmm = start().boot(guest, "crash")
    ended = vmm.event()
    assert ended.type == N["VMM_ENDED"] and ended.arg[0] in (N["VMM_END_SHUTDOWN"], N["VMM_END_KVM_ERROR"])
    assert vmm.ask("STATUS").arg[0] == N["VMM_OVER"]
    with pytest.raises(Refused):
        vmm.ask("RESUME")
    with pytest.raises(Refused):
        vmm.fork()
    assert vmm.close() == 0


def test_console_is_copied_up_to_its_bound(start, guest):
    ours, theirs = os.pipe()
    vmm = start()
    vmm.ask("CONSOLE_TO", 10, fds=[theirs])
    os.close(theirs)
    vmm.boot(guest, "hello")
    vmm.console_has("bye")
    assert os.read(ours, 100) == b"hello vers"
    vmm.close()
    assert os.read(ours, 100) == b""
    os.close(ours)


def test_console_keeps_the_last_bytes(start, guest):
    vmm = start().boot(guest, "tick 0")
    vmm.console_has("." * 16384)
    assert vmm.console() == "." * 16384


def test_requests_out_of_order_are_refused(start, guest):
    vmm = start()
    for name in ("RESUME", "PAUSE", "BOOT", "CONNECT", "ATTACH", "SNAPSHOT", "FORK", "RESTORE", "DISK", "NET"):
        with open("/dev/null", "rb") as null, pytest.raises(Refused):
            vmm.ask(name, 1, 1, 1, fds=[null.fileno()] * 2)
    vmm.boot(guest, "hello")
    for name in ("CONFIG", "BOOT"):
        with open(guest, "rb") as kernel, pytest.raises(Refused):
            vmm.ask(name, 64 << 20, 1, fds=[kernel.fileno()])
    vmm.console_has("bye")


def test_unknown_request_and_broken_packet(start):
    vmm = start()
    N["VMM_NONSENSE"] = 999
    with pytest.raises(Refused):
        vmm.ask("NONSENSE")
    vmm.control.send(b"short")
    assert vmm.gone()


def test_vmm_ends_with_its_control_socket(start, guest):
    vmm = start().boot(guest, "tick 0")
    assert vmm.close() == 0


def test_stop(start, guest):
    vmm = start().boot(guest, "tick 0")
    vmm.ask("STOP")
    assert vmm.gone() and vmm.process.wait(10) == 0


def test_pause_stands_still(start, guest):
    vmm = start().boot(guest, "tick 0")
    vmm.console_has(".")
    vmm.ask("PAUSE")
    before = vmm.ask("STATUS").arg[1]
    assert [vmm.ask("STATUS").arg[1] for _ in range(20)] == [before] * 20
    vmm.ask("RESUME")
    while vmm.ask("STATUS").arg[1] == before:
        pass
