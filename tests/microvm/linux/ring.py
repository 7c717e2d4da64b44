#!/usr/bin/env python3
"""The emulated ring: a machine with a working KVM, made by QEMU (TCG with nested SVM), in which a stock Debian kernel runs under cella-vmm.

    ring.py [--cache DIR] [--build BUILD] [--backports] [--native] [PYTEST ARGUMENT...]        last line: N passed, N failed

The outer machine boots the Debian cloud kernel with an initramfs that holds this tree's VMM, its tests, Python and pytest from this host; nothing is
installed anywhere. --native runs the Linux tests on this machine's own KVM instead. The kernel is fetched once by apt into the cache."""
from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import List

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "templates"))
from builder.cpio import Cpio  # noqa: E402
from builder.kernel_elf import kernel_elf  # noqa: E402
from builder.kernel_package import fetch, modules, put_modules  # noqa: E402

PYTHON = "/usr/bin/python3"
MACHINE = ["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max,-xsave", "-smp", "1", "-m", "4096"]  # two threads hung in 2 % of boots
OUTER_SECONDS = 1500
LEAST_TESTS = 15
L1_MODULES = ["irqbypass", "kvm", "kvm-amd"]
L2_MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon", "vmw_vsock_virtio_transport", "erofs", "overlay"]


def inner_files(kernel: Path, cache: Path) -> Path:
    """vmlinux and l2.cpio: what cella-vmm boots."""
    out = cache / f"files-{kernel.name}"
    out.mkdir(exist_ok=True)
    if not (out / "vmlinux").exists():
        (out / "vmlinux").write_bytes(kernel_elf(next((kernel / "boot").glob("vmlinuz-*")).read_bytes()))
    init = out / "init"
    subprocess.run(["cc", "-O1", "-static", "-D_GNU_SOURCE", "-o", str(init), str(HERE / "init.c"), "-lpthread"], check=True)
    cpio = Cpio(out / "l2.cpio")
    cpio.copy(init, "init")
    for name in ("dev", "proc", "sys", "modules"):
        cpio.directory(name)
    cpio.put("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    put_modules(cpio.file, modules(kernel, L2_MODULES))
    cpio.file("lines", "".join(f"line {i}\n" for i in range(1, 500)).encode())
    cpio.close()
    return out


# ---- the outer machine ----

INIT = """#!/bin/bash
export PATH=/usr/bin:/bin:/usr/sbin:/sbin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu HOME=/
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
if [ "$1" != moved ]; then  # the first root can be left by nobody, and the VMM's jail leaves its root
  mount --bind / /mnt; cd /mnt; mount --move . /; exec chroot . /init moved
fi
mount -t tmpfs tmp /tmp; mount -t tmpfs tmp /var/tmp; mkdir -p /dev/shm
for module in $(cat /modules/order); do insmod /modules/$module || echo "ring: insmod $module failed"; done
ls -l /dev/kvm
mapfile -t arguments < /arguments
cd /tree
export CELLA_BUILD=/tree/build/bin CELLA_RING_FILES=/files PYTHONDONTWRITEBYTECODE=1
/usr/bin/python3 -m pytest -v -s -p no:cacheprovider --tb=short --color=no --confcutdir=/tree/tests/microvm --junit-xml=/tmp/junit.xml "${arguments[@]}"
echo "ring: pytest ended with $?"
cat /tmp/junit.xml > /dev/ttyS1
echo o > /proc/sysrq-trigger; sleep 20
"""


def outer_image(kernel: Path, files: Path, build: Path, arguments: List[str], path: Path) -> None:
    cpio = Cpio(path)
    for name in ("dev", "proc", "sys", "mnt", "tmp", "var/tmp", "run", "modules"):
        cpio.directory(name)
    cpio.put("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("init", INIT.encode(), 0o755)
    for name in ("bash", "mount", "umount", "chroot", "cat", "ls", "mkdir", "sleep", "rm"):
        cpio.program(shutil.which(name) or f"/usr/sbin/{name}", f"bin/{name}")
    cpio.program("/usr/bin/bash", "bin/sh")
    cpio.program(shutil.which("insmod") or "/usr/sbin/insmod", "sbin/insmod")
    cpio.program(PYTHON)
    standard = Path(subprocess.run([PYTHON, "-c", "import os; print(os.path.dirname(os.__file__))"], capture_output=True, text=True).stdout.strip())
    cpio.tree(standard, str(standard), skip=("__pycache__", "test", "idlelib", "ensurepip", "config-3.11-x86_64-linux-gnu", "tkinter", "lib2to3"))
    for library in (standard / "lib-dynload").glob("*.so"):
        for needed in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", str(library)], capture_output=True, text=True).stdout):
            cpio.copy(Path(needed).resolve(), needed)
    packages = Path("/usr/lib/python3/dist-packages")
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "attr", "attrs"):
        cpio.tree(packages / name, str(packages / name))
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "attrs"):
        for info in packages.glob(f"{name}-*info"):
            cpio.tree(info, str(info)) if info.is_dir() else cpio.copy(info)
    for one in ("py.py",):
        if (packages / one).exists():
            cpio.copy(packages / one)
    put_modules(cpio.file, modules(kernel, L1_MODULES))
    cpio.program(str(build / "src/vmm/cella-vmm"), "tree/build/src/vmm/cella-vmm")
    for name in ("microvm-guest", "test_vmm_jail"):
        cpio.program(str(build / "tests/microvm" / name), f"tree/build/tests/microvm/{name}")
    cpio.tree(ROOT / "tests/microvm", "tree/tests/microvm")
    cpio.copy(ROOT / "src/wire/vmm_proto.h", "tree/src/wire/vmm_proto.h")
    cpio.copy(files / "vmlinux", "files/vmlinux")
    cpio.copy(files / "l2.cpio", "files/l2.cpio")
    cpio.file("arguments", "".join(f"{one}\n" for one in arguments).encode())
    cpio.file("etc/passwd", b"root:x:0:0:root:/:/bin/bash\n")
    cpio.close()


def emulate(kernel: Path, image: Path, scratch: Path) -> Path:
    junit = scratch / "junit.xml"
    command = ["qemu-system-x86_64", *MACHINE, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio", "-serial", f"file:{junit}",
               "-kernel", str(next((kernel / "boot").glob("vmlinuz-*"))), "-initrd", str(image), "-append", "console=ttyS0 panic=-1 quiet mitigations=off"]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stdout, stderr=sys.stderr)
    try:
        machine.wait(OUTER_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"ring: the outer machine hangs: no end after {OUTER_SECONDS} s", flush=True)
    finally:
        machine.kill()
        machine.wait()
    return junit


def count(junit: Path) -> int:
    """Print the sum; 0 when all is well."""
    try:
        cases = list(xml.parse(junit).getroot().iter("testcase"))
    except (OSError, xml.ParseError):
        cases = []
    bad = sum(case.find("failure") is not None or case.find("error") is not None or case.find("skipped") is not None for case in cases)
    if len(cases) < LEAST_TESTS:
        print(f"ring: only {len(cases)} tests ran")
        bad += 1
    print(f"{len(cases) - min(bad, len(cases))} passed, {bad} failed")
    return 1 if bad else 0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cache", type=Path, default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cella/ring")
    options.add_argument("--build", type=Path, default=ROOT / "build")
    options.add_argument("--native", action="store_true")
    options.add_argument("--backports", action="store_true", help="Debian's backported kernel (6.12) as the guest under cella-vmm, instead of 6.1")
    chosen, arguments = options.parse_known_args()
    kernel = fetch(chosen.cache)
    files = inner_files(fetch(chosen.cache, True) if chosen.backports else kernel, chosen.cache)
    with tempfile.TemporaryDirectory(prefix="cella-ring-") as name:
        scratch = Path(name)
        if chosen.native:
            junit = scratch / "junit.xml"
            subprocess.run([PYTHON, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--confcutdir=" + str(ROOT / "tests/microvm"), f"--junit-xml={junit}",
                            *(arguments or ["tests/microvm/linux"])], cwd=ROOT, env=os.environ | {"CELLA_BUILD": str(chosen.build / "bin"), "CELLA_RING_FILES": str(files)})
            return count(junit)
        began = time.monotonic()
        outer_image(kernel, files, chosen.build, arguments or ["tests/microvm/linux", "tests/microvm/test_fork.py"], scratch / "outer.cpio")
        print(f"ring: image of {(scratch / 'outer.cpio').stat().st_size >> 20} MiB in {time.monotonic() - began:.1f} s", flush=True)
        return count(emulate(kernel, scratch / "outer.cpio", scratch))


if __name__ == "__main__":
    sys.exit(main())
