"""The outer machine: QEMU (TCG with nested SVM) running Debian's cloud kernel, an initramfs made of this host's programs and this tree's build, and an
agent (agent.py) that does what the tests ask. It is reached over QEMU's user network, on ports of 127.0.0.1."""
from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Optional

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "templates"), str(ROOT / "tests/api")]
from builder import kernel_package as kernels  # noqa: E402
from builder.cpio import Cpio  # noqa: E402
from support.agent import AGENT_PORT, Agent, Gone  # noqa: E402
PYTHON = "/usr/bin/python3"

# One processor: two threads hung in 2 % of boots. No AVX: raid6_pq uses it without looking for XSAVE. No CX16: QEMU 7.2 leaves garbage in the flags after a
# cmpxchg16b (it does not store which operation they come from), and an interrupt right behind one takes the kernel down.
MACHINE = ["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max,-xsave,-avx,-avx2,-cx16", "-smp", "1"]
MEMORY_MB = 6144
MODULES = ["irqbypass", "kvm", "kvm-amd", "virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "loop", "btrfs", "ext4", "overlay", "erofs"]
PROGRAMS = ["bash", "mount", "umount", "chroot", "cat", "ls", "mkdir", "sleep", "rm", "cp", "mv", "ln", "ps", "ip", "sysctl", "sync", "mkfs.btrfs", "btrfs", "losetup",
            "find", "grep", "df", "du", "stat", "head", "tail", "strace", "dmesg", "kill", "id", "chown", "chmod", "mkfs.ext4", "truncate", "touch", "readlink", "env", "uname", "wc", "free", "sort", "tr", "date", "nproc", "lsmod", "xargs", "sed", "cut", "uptime", "top", "awk"]
BOOT_SECONDS = 240

INIT = """#!/bin/bash
export PATH=/usr/bin:/bin:/usr/sbin:/sbin LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu HOME=/
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
if [ "$1" != moved ]; then  # the first root can be left by nobody, and the VMM's jail leaves its root
  mount --bind / /mnt; cd /mnt; mount --move . /; exec chroot . /init moved
fi
mount --make-rshared /
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/shm /dev/pts; mount -t tmpfs tmp /tmp; mount -t tmpfs tmp /var/tmp; mount -t tmpfs tmp /dev/shm; mount -t tmpfs tmp /run; mount -t devpts pts /dev/pts
for module in $(cat /modules/order); do insmod /modules/$module || echo "ring: insmod $module failed"; done
ln -sfn /proc/self/fd /dev/fd; ln -sfn /proc/self/fd/0 /dev/stdin; ln -sfn /proc/self/fd/1 /dev/stdout; ln -sfn /proc/self/fd/2 /dev/stderr
ip link set lo up
device=$(cd /sys/class/net; for one in *; do [ $one = lo ] || echo $one; done)
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet  # the daemon listens on 127.0.0.1 only; what QEMU forwards goes there
echo 0 > /proc/sys/kernel/printk_devkmsg 2>/dev/null
ip addr add 10.0.2.15/24 dev $device; ip link set $device up; ip route add default via 10.0.2.2
if [ -b /dev/vda ]; then mkdir -p /state; mount -t ext4 -o noatime,nobarrier /dev/vda /state || mount -t ext4 /dev/vda /state; fi
export PYTHONDONTWRITEBYTECODE=1
echo "ring: up"
/usr/bin/python3 -S /agent.py AGENT_PORT &
while :; do wait; sleep 1; done  # whatever loses its parent ends here, and is reaped
""".replace("AGENT_PORT", str(AGENT_PORT))


# ---- the image ----

def put_python(cpio: Cpio) -> None:
    """Debian's Python with pytest."""
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
    if (packages / "py.py").exists():
        cpio.copy(packages / "py.py")


def put_build(cpio: Cpio, build: Path) -> None:
    """What was built, at /tree as in the checkout."""
    for name in ("cella", "cellad", "cella-keeper", "cella-guest", "cella-vmm"):
        if (build / "bin" / name).exists():
            cpio.program(str(build / "bin" / name), f"tree/build/bin/{name}")
    contexts = (build / "contexts").resolve()
    for path in sorted(contexts.rglob("*")):
        if path.is_file() and (path.suffix in (".so", ".py") or os.access(path, os.X_OK)) and not path.name.endswith(".p"):
            cpio.copy(path, f"tree/build/contexts/{path.relative_to(contexts)}")
    cpio.program(str(build / "src/vmm/cella-vmm"), "tree/build/src/vmm/cella-vmm")
    for name in ("microvm-guest", "test_vmm_jail"):
        cpio.program(str(build / "tests/microvm" / name), f"tree/build/tests/microvm/{name}")
    cpio.tree(ROOT / "tests/microvm", "tree/tests/microvm")
    cpio.tree(ROOT / "tests/keeper", "tree/tests/keeper")
    cpio.tree(ROOT / "src/wire", "tree/src/wire")


def make_image(kernel: Path, build: Path, path: Path, files: Optional[Path] = None) -> Path:
    """The initial file system of the outer machine; `files`: vmlinux and l2.cpio for test_linux.py."""
    cpio = Cpio(path)
    for name in ("dev", "proc", "sys", "mnt", "tmp", "var/tmp", "run", "modules", "etc", "root"):
        cpio.directory(name)
    cpio.put("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("init", INIT.encode(), 0o755)
    cpio.copy(HERE / "agent.py", "agent.py")
    for name in PROGRAMS:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if found:
            cpio.program(found, f"bin/{name}")
    cpio.program("/usr/bin/bash", "bin/sh")
    cpio.program(shutil.which("insmod") or "/usr/sbin/insmod", "sbin/insmod")
    put_python(cpio)
    kernels.put_modules(cpio.file, kernels.modules(kernel, MODULES))
    put_build(cpio, build)
    for name in ("vmlinux", "l2.cpio") if files else ():
        cpio.copy(files / name, f"files/{name}")
    cpio.file("etc/passwd", b"root:x:0:0:root:/:/bin/bash\ncella:x:990:990::/nonexistent:/usr/sbin/nologin\n")
    cpio.file("etc/group", b"root:x:0:\ncella:x:990:\n")
    cpio.close()
    return path


# ---- the machine ----

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Outer:
    """One outer machine. `disk`: its /state; `keep`: what is written there stays."""

    def __init__(self, kernel: Path, image: Path, console: Path, disk: Optional[Path] = None, keep: bool = False, memory_mb: int = MEMORY_MB):
        self.console, self.agent_port, self.port, self.hung = console, free_port(), free_port(), False
        forward = f"hostfwd=tcp:127.0.0.1:{self.agent_port}-10.0.2.15:{AGENT_PORT},hostfwd=tcp:127.0.0.1:{self.port}-127.0.0.1:{self.port}"
        command = ["qemu-system-x86_64", *MACHINE, "-m", str(memory_mb), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", f"file:{console}",
                   "-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile=", "-kernel", str(kernels.image(kernel)),
                   "-initrd", str(image), "-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on"]
        if disk:
            command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap,snapshot={'off' if keep else 'on'}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.agent = Agent(f"127.0.0.1:{self.agent_port}")
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            self.wait_up()
        except BaseException:
            self.kill()
            raise

    def wait_up(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                if "ring: up" in self.console.read_text(errors="replace"):
                    self.agent.run("true", seconds=20)
                    return
            except (OSError, Gone):
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.hung = self.process.poll() is None
                raise Gone(f"the outer machine did not come up:\n{self.said()[-3000:]}")
            time.sleep(0.2)

    def said(self) -> str:
        return self.console.read_text(errors="replace")

    def watch(self, then: Callable[[], None]) -> None:
        """Calls then() once when the machine hangs; from a thread of its own."""
        def look() -> None:
            while self.process.poll() is None:
                try:
                    self.agent.ask("poll", name="nothing", seconds=0)
                except (OSError, Gone, RuntimeError, ValueError):
                    if self.process.poll() is None:
                        self.hung = True
                        then()
                    return
                time.sleep(10)

        threading.Thread(target=look, daemon=True).start()

    def off(self) -> None:
        """Unmount and switch off, so that a kept disk is whole."""
        try:
            self.agent.run("sync; umount -R /state; sync; (sleep 0.3; echo o > /proc/sysrq-trigger) >/dev/null 2>&1 &", check=False)
            self.process.wait(60)
        except (OSError, Gone, subprocess.TimeoutExpired):
            self.kill()
            raise

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
