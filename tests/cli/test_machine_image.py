"""What `cella template build` makes for the microVM driver: from a small root and a made-up kernel package."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
sys.path.insert(0, str(TEMPLATES))

from builder import kernel_package, machine_image  # noqa: E402
from builder.errors import BuildError  # noqa: E402
from builder.kernel_elf import has_pvh_note, kernel_elf  # noqa: E402
from builder.machine_image import DISK_BYTES, MODULES, OPTIONAL_MODULES, Machine  # noqa: E402
from builder.progress import Progress  # noqa: E402

ID = "ab" * 32


def elf_with_note() -> bytes:
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x1000000)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4) + note


@pytest.fixture
def package(tmp_path):
    """A kernel package with every module that is asked for; ext4 needs mbcache, and one is built in."""
    there = tmp_path / "cache/kernel"
    base = there / "lib/modules/6.1.0-test"
    (there / "boot").mkdir(parents=True)
    base.mkdir(parents=True)
    (there / "boot/vmlinuz-6.1.0-test").write_bytes(elf_with_note())
    names = [name for name in MODULES + OPTIONAL_MODULES if name != "virtio_mmio"] + ["mbcache"]
    for name in names:
        (base / f"{name}.ko").write_bytes(f"module {name}".encode())
    (base / "modules.dep").write_text("".join(f"{name}.ko:{' mbcache.ko' if name == 'ext4' else ''}\n" for name in names))
    (base / "modules.builtin").write_text("kernel/drivers/virtio/virtio_mmio.ko\n")
    return there


@pytest.fixture
def machine(tmp_path, package):
    root = tmp_path / "template/root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_text("root")
    os.chmod(root / "etc/name", 0o640)
    (tmp_path / "cella-guest").write_bytes(b"#!guest")
    (tmp_path / "contexts/python").mkdir(parents=True)
    (tmp_path / "contexts/python/kernel.py").write_text("pass")
    return Machine(tmp_path / "machines" / ID, tmp_path / "template", ID, tmp_path / "cella-guest", tmp_path / "contexts", tmp_path / "cache")


def entries(cpio: Path) -> dict[str, bytes]:
    data, at, found = cpio.read_bytes(), 0, {}
    while True:
        assert data[at:at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110:at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = data[at:at + fields[6]]
        at = (at + fields[6] + 3) & ~3


def make(machine) -> list[str]:
    return machine.make(Progress(0, io.StringIO()))


def test_files_of_a_machine(machine):
    assert make(machine) == ["kernel", "initrd", "root.erofs", "disk.img"]
    there = machine.directory
    assert has_pvh_note((there / "kernel").read_bytes())
    first = entries(there / "initrd")
    assert first["init"] == b"#!guest" and first["contexts/python/kernel.py"] == b"pass" and "dev/console" in first
    order = first["modules/order"].decode().split()
    assert order[0] == "crc32c_generic.ko" and order.index("mbcache.ko") < order.index("ext4.ko") and "virtio_mmio.ko" not in order
    assert all(first[f"modules/{name}"] == f"module {name[:-3]}".encode() for name in order)
    disk = (there / "disk.img").stat()
    assert disk.st_size == DISK_BYTES and disk.st_blocks * 512 < 1 << 20
    subprocess.run(["e2fsck", "-fn", str(there / "disk.img")], check=True, capture_output=True)
    assert subprocess.run(["dump.erofs", "--path=/etc/name", str(there / "root.erofs")], check=True, capture_output=True, text=True).stdout.count("0640") == 1
    assert json.loads((there / "machine.json").read_text())["template"] == ID


def test_only_what_changed_is_made_again(machine, package):
    make(machine)
    before = {path.name: path.stat().st_ino for path in machine.directory.iterdir()}
    (machine.directory / "newest").symlink_to("bas_1")
    assert make(machine) == [] and (machine.directory / "newest").is_symlink()
    machine.guest.write_bytes(b"#!another guest")
    assert make(machine) == ["initrd"]
    after = {path.name: path.stat().st_ino for path in machine.directory.iterdir()}
    assert after["root.erofs"] == before["root.erofs"] and after["initrd"] != before["initrd"]
    assert not (machine.directory / "newest").is_symlink()  # baked from what is there no longer
    (machine.contexts / "python/kernel.py").write_text("new")
    assert make(machine) == ["initrd"]
    (machine.contexts / "python/__pycache__").mkdir()
    (machine.contexts / "python/__pycache__/kernel.pyc").write_bytes(b"x")
    assert make(machine) == []
    (package / "boot/vmlinuz-6.1.0-test").write_bytes(elf_with_note() + b"newer")
    assert make(machine) == ["kernel", "initrd"]
    (machine.directory / "disk.img").unlink()
    assert make(machine) == ["disk.img"]
    (machine.directory / "machine.json").write_text("{ damaged")
    assert make(machine) == ["kernel", "initrd", "root.erofs", "disk.img"]


def test_a_broken_build_is_taken_up_again(machine, monkeypatch):
    make(machine)
    machine.guest.write_bytes(b"#!another guest")

    def fail(self, out):
        out.write_bytes(b"half")
        raise BuildError("no")

    with monkeypatch.context() as m:
        m.setattr(Machine, "_initrd", fail)
        with pytest.raises(BuildError):
            make(machine)
    assert entries(machine.directory / "initrd")["init"] == b"#!guest"  # whole, and known to be old
    assert make(machine) == ["initrd"]


def test_the_same_root_is_the_same_image_id(machine, tmp_path):
    make(machine)
    said = subprocess.run(["dump.erofs", "-s", str(machine.directory / "root.erofs")], check=True, capture_output=True, text=True).stdout
    (machine.directory / "root.erofs").unlink()
    make(machine)
    again = subprocess.run(["dump.erofs", "-s", str(machine.directory / "root.erofs")], check=True, capture_output=True, text=True).stdout
    uuid = [line for line in said.splitlines() if "UUID" in line]
    assert uuid and uuid == [line for line in again.splitlines() if "UUID" in line]


def test_a_kernel_without_a_module_is_refused(machine, package):
    base = kernel_package.module_directory(package)
    (base / "modules.dep").write_text("\n".join(line for line in (base / "modules.dep").read_text().splitlines() if not line.startswith("erofs")) + "\n")
    with pytest.raises(BuildError, match="no module erofs"):
        make(machine)


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(600), b"\x7fELF\1" + bytes(100)])
def test_images_that_are_no_kernel(machine, package, image):
    (package / "boot/vmlinuz-6.1.0-test").write_bytes(image)
    with pytest.raises(BuildError):
        make(machine)


def test_elf_is_taken_as_it_is():
    assert kernel_elf(elf_with_note()) == elf_with_note() and not has_pvh_note(elf_with_note().replace(b"Xen\0", b"GNU\0"))


@pytest.mark.parametrize("flags, kvm, usable", [("fpu svm", True, True), ("vmx", True, True), ("fpu", True, False), ("svm", False, False)])
def test_where_machines_run(monkeypatch, tmp_path, flags, kvm, usable):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    opened = open
    monkeypatch.setattr(machine_image.os.path, "exists", lambda path: kvm)
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: opened(tmp_path / "cpuinfo" if path == "/proc/cpuinfo" else path, *a, **k))
    assert (machine_image.usable_here() is None) == usable
