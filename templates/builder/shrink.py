"""Takes out what a cell never needs, and what would weaken it: documentation, indexes, logs, setuid bits, devices."""
from __future__ import annotations

import os
import shutil
import stat

from .errors import BuildError

# Never unpacked at all (dpkg path-exclude). Copyright files stay: licences ask for them.
EXCLUDE = ["/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*", "/usr/share/doc-base/*",
           "/usr/share/doc/*", "/usr/share/help/*", "/usr/share/gtk-doc/*", "/usr/share/bug/*", "/usr/share/icons/*"]
INCLUDE = ["/usr/share/doc/*/copyright"]

_EMPTIED = ["var/lib/apt/lists", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/log", "var/tmp",
            "var/backups", "tmp", "run", "root", "dev", "proc", "sys", "boot", "media", "mnt", "opt", "srv", "home"]
# dpkg's own description of how it was called; the options above are this build's, not the template's.
_REMOVED = ["etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "var/lib/dpkg/status-old",
            "var/lib/dpkg/available-old", "var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old", "etc/.pwd.lock",
            "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "var/cache/ldconfig/aux-cache", "usr/lib/udev/hwdb.bin"]


# Test suites of these packages are a fifth of the root (Debian's py3compile wants them present while it installs).
_TESTS_OF = ["numpy", "scipy", "pandas", "matplotlib", "mpl_toolkits", "sympy", "mpmath", "fontTools", "IPython", "jedi", "pythran"]


def drop_test_suites(root: str) -> None:
    for package in _TESTS_OF:
        top = f"{root}/usr/lib/python3/dist-packages/{package}"
        for directory, subdirectories, _files in os.walk(top):
            if "tests" in subdirectories:
                subdirectories.remove("tests")
                shutil.rmtree(f"{directory}/tests")


def shrink(root: str, keep_paths: list[str]) -> None:
    """keep_paths: files that the recipe itself put in; they survive in the emptied directories."""
    for name in _EMPTIED:
        directory = f"{root}/{name}"
        mode = 0o1777 if name in ("tmp", "var/tmp") else 0o700 if name == "root" else 0o755
        if not any(path.startswith(f"/{name}/") for path in keep_paths):
            if os.path.islink(directory):
                continue
            shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, mode)
    for name in ("run/lock", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    for name in _REMOVED:
        if os.path.lexists(f"{root}/{name}"):
            os.unlink(f"{root}/{name}")


def harden(root: str) -> int:
    """Strip setuid and setgid bits and file capabilities; refuse device nodes and owners outside 0…65535. → bytes on disk."""
    size, seen = 0, set()
    for directory, subdirectories, names in os.walk(root):
        for name in [*subdirectories, *names]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode) or stat.S_ISSOCK(info.st_mode) or stat.S_ISFIFO(info.st_mode):
                raise BuildError(f"{path[len(root):]} is a device, socket or pipe: a template holds files, directories and links")
            if info.st_uid > 65535 or info.st_gid > 65535:
                raise BuildError(f"{path[len(root):]} belongs to {info.st_uid}:{info.st_gid}, outside 0…65535")
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                size += info.st_blocks * 512
            if stat.S_ISLNK(info.st_mode):
                continue
            if info.st_mode & (stat.S_ISUID | stat.S_ISGID):
                os.chmod(path, stat.S_IMODE(info.st_mode) & ~(stat.S_ISUID | stat.S_ISGID))
            if "security.capability" in os.listxattr(path, follow_symlinks=False):
                os.removexattr(path, "security.capability", follow_symlinks=False)
    return size
