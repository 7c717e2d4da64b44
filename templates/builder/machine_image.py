"""What the microVM driver boots for a template.

    STATE/machines/<template id>/kernel        ELF with PVH note, from Debian's cloud kernel
                                 initrd        cpio: cella-guest as /init, the virtio modules, the kernels of the contexts
                                 root.erofs    the template's root, not compressed, read-only; every cell of the template shares it
                                 disk.img      empty ext4, sparse: the private disk of a new machine
                                 machine.json  what these were made from

Each file is made anew only when something it was made from changed, under a name beside it, then renamed. Memory of a machine that
was booted from older files (`newest` names it) is forgotten then: the next start of the daemon bakes it again.
"""
from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import uuid
from pathlib import Path
from typing import Any, Callable

from . import kernel_package
from .cpio import Cpio
from .errors import BuildError
from .kernel_elf import has_pvh_note, kernel_elf
from .progress import Progress
from .store import fsync_directory

FORMAT = 1
MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon", "vmw_vsock_virtio_transport", "erofs", "ext4", "overlay"]
OPTIONAL_MODULES = ["crc32c_generic"]  # erofs and ext4 name it only as a soft dependency

# As large as a disk limit may be (disk-mb-max); the guest holds each cell's own limit. Costs 160 KiB on the host until something is written. Beyond the limit a
# guest can write 260 MiB of the file system's own: tables of a million inodes (256 MiB), bitmaps of 512 groups (4 MiB).
DISK_BYTES = 64 << 30
# No journal: the disk is only ever used together with the memory that mounted it, so nothing has to be recovered, and each write is written once. No
# checksums: one write to a file less touches several blocks. Metadata lies together at the start, so that few pieces of a shared disk are unshared.
# The file is a hole: inode tables need no zeroing, neither here nor by the guest.
DISK_OPTIONS = ["-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg,sparse_super2", "-m", "0", "-i", "65536",
                "-E", "lazy_itable_init=1,nodiscard,packed_meta_blocks=1,num_backup_sb=0,assume_storage_prezeroed=1"]


def usable_here() -> str | None:
    """Why machines would not run on this host; None: they probably do (`cella doctor` tries it)."""
    if not os.path.exists("/dev/kvm"):
        return "there is no /dev/kvm"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith("flags"):
                return None if {"vmx", "svm"} & set(line.split()) else "/dev/kvm has no hardware virtualization behind it (neither vmx nor svm)"
    return "/proc/cpuinfo does not say what the processor can do"


def _hash_file(path: Path, digest=None):
    digest = digest or hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest


def _hash_tree(top: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(top)}\0{path.stat().st_size}\0".encode())
            _hash_file(path, digest)
    return digest.hexdigest()


def _tool(command: list[str], package: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as problem:
        raise BuildError(f"cannot run {command[0]}: {problem.strerror}", f"apt-get install {package}") from None
    if done.returncode:
        raise BuildError(f"{command[0]} failed with status {done.returncode}: {' '.join(done.stderr.split())[-400:]}")


class Machine:
    def __init__(self, directory: Path, template: Path, template_id: str, guest: Path, contexts: Path, kernel_cache: Path):
        self.directory, self.template, self.template_id = directory, template, template_id
        self.guest, self.contexts, self.kernel_cache = guest, contexts, kernel_cache

    # ---- the files, each made at the path it is given ----

    def _kernel(self, out: Path) -> None:
        try:
            elf = kernel_elf(kernel_package.image(self.package).read_bytes())
        except (ValueError, OSError, subprocess.CalledProcessError) as problem:
            raise BuildError(f"the kernel cannot be unpacked: {problem}", "apt-get install lz4 zstd") from None
        if not has_pvh_note(elf):
            raise BuildError("the kernel has no PVH entry")
        out.write_bytes(elf)

    def _initrd(self, out: Path) -> None:
        cpio = Cpio(out)
        cpio.file("init", self.guest.read_bytes(), 0o755)
        for name in ("dev", "proc", "sys", "modules", "contexts", "cell", "disk", "root"):
            cpio.directory(name)
        cpio.put("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        kernel_package.put_modules(cpio.file, kernel_package.modules(self.package, MODULES, OPTIONAL_MODULES))
        cpio.tree(self.contexts, "contexts")
        cpio.close()

    def _root(self, out: Path) -> None:
        # The same id for the same template: an image that is made again is the same file.
        _tool(["mkfs.erofs", "--quiet", "-U", str(uuid.uuid5(uuid.NAMESPACE_OID, self.template_id)), str(out), str(self.template / "root")], "erofs-utils")

    def _disk(self, out: Path) -> None:
        with open(out, "wb") as stream:
            stream.truncate(DISK_BYTES)
        _tool(["mkfs.ext4", "-q", "-F", *DISK_OPTIONS, str(out)], "e2fsprogs")

    # ----

    def _plan(self) -> dict[str, dict[str, Any]]:
        """What each file is made from."""
        kernel = {"package": kernel_package.release(self.package), "sha256": _hash_file(kernel_package.image(self.package)).hexdigest()}
        return {
            "kernel": kernel,
            "initrd": {"kernel": kernel, "modules": OPTIONAL_MODULES + MODULES, "cella-guest": _hash_file(self.guest).hexdigest(), "contexts": _hash_tree(self.contexts)},
            "root.erofs": {"template": self.template_id},
            "disk.img": {"bytes": DISK_BYTES, "options": DISK_OPTIONS},
        }

    def _present(self) -> dict[str, Any]:
        try:
            found = json.loads((self.directory / "machine.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("format") == FORMAT else {}

    def make(self, progress: Progress) -> list[str]:
        """→ the files that were made."""
        makers: dict[str, tuple[str, Callable[[Path], None]]] = {
            "kernel": ("machine: unpack the kernel", self._kernel),
            "initrd": ("machine: first root of the guest", self._initrd),
            "root.erofs": ("machine: image of the root", self._root),
            "disk.img": ("machine: empty disk", self._disk),
        }
        if not kernel_package.cached(self.kernel_cache):
            progress.steps += 1
            progress.step("machine: fetch Debian's cloud kernel")
        self.package = kernel_package.fetch(self.kernel_cache)
        plan, before = self._plan(), self._present().get("files", {})
        due = [name for name in makers if before.get(name) != plan[name] or not (self.directory / name).is_file()]
        if not due:
            return []
        self.directory.mkdir(parents=True, exist_ok=True)
        # From here until the end the old description holds for nothing that is made anew.
        self._write({name: before[name] for name in before if name not in due})
        newest = self.directory / "newest"
        if newest.is_symlink():
            newest.unlink()
        progress.steps += len(due)
        for name in due:
            title, function = makers[name]
            progress.step(title)
            fresh = self.directory / f".{name}.new"
            fresh.unlink(missing_ok=True)
            function(fresh)
            os.chmod(fresh, 0o644)
            os.rename(fresh, self.directory / name)
        subprocess.run(["sync", "-f", str(self.directory)], check=True)
        self._write(plan)
        progress.done()
        return due

    def _write(self, files: dict[str, Any]) -> None:
        fresh = self.directory / ".machine.json.new"
        fresh.write_text(json.dumps({"format": FORMAT, "template": self.template_id, "files": files}, indent=1) + "\n")
        with open(fresh, "rb") as stream:
            os.fsync(stream.fileno())
        os.rename(fresh, self.directory / "machine.json")
        fsync_directory(str(self.directory))
