"""The kernel that machines run: Debian's cloud kernel, as apt hands it out, unpacked into a cache; nothing is installed."""
from __future__ import annotations

import lzma
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Iterable

from .errors import BuildError

METAPACKAGE = "linux-image-cloud-amd64"


def _run(command: list[str], **options) -> subprocess.CompletedProcess:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    except OSError as problem:
        raise BuildError(f"cannot run {command[0]}: {problem.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BuildError(f"{' '.join(command[:2])} failed with status {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return done


def _own_apt(cache: Path) -> list[str]:
    """Options of apt for a state of its own that knows Debian's backports only (they hold a newer kernel)."""
    own = cache / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (own / name).mkdir(parents=True, exist_ok=True)
    (own / "sources.list").write_text("deb http://deb.debian.org/debian bookworm-backports main\n")
    options = ["-o", f"Dir::Etc::sourcelist={own}/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={own}/lists",
               "-o", f"Dir::Cache={own}/cache"]
    _run(["apt-get", *options, "update"])
    return options


def _download(cache: Path, there: Path, options: list[str]) -> None:
    depends = _run(["apt-cache", *options, "depends", METAPACKAGE]).stdout
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if not match:
        raise BuildError(f"apt knows no {METAPACKAGE}", "apt-get update; machines run Debian's cloud kernel, so apt needs a Debian source")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".kernel-") as scratch:
        _run(["apt-get", *options, "download", match.group(1)], cwd=scratch)
        _run(["dpkg-deb", "-x", str(next(Path(scratch).glob("*.deb"))), f"{scratch}/root"])
        os.chmod(f"{scratch}/root", 0o755)
        os.rename(f"{scratch}/root", there)


def cached(cache: Path, backports: bool = False) -> bool:
    return bool(list((cache / ("kernel-backports" if backports else "kernel")).glob("boot/vmlinuz-*")))


def fetch(cache: Path, backports: bool = False) -> Path:
    """The unpacked package of the newest cloud kernel that apt knew when the cache was filled; removing the directory fetches anew."""
    there = cache / ("kernel-backports" if backports else "kernel")
    if not cached(cache, backports):
        cache.mkdir(parents=True, exist_ok=True)
        options = _own_apt(cache) if backports else []
        try:
            _download(cache, there, options)
        except BuildError:
            if backports:
                raise
            _run(["apt-get", "update"])  # the index may be old or missing
            _download(cache, there, options)
    if not (module_directory(there) / "modules.dep").exists():
        _run(["depmod", "-b", str(there), release(there)])
    return there


def release(kernel: Path) -> str:
    return next((kernel / "lib/modules").iterdir()).name


def module_directory(kernel: Path) -> Path:
    return kernel / "lib/modules" / release(kernel)


def image(kernel: Path) -> Path:
    return next((kernel / "boot").glob("vmlinuz-*"))


def modules(kernel: Path, wanted: Iterable[str], optional: Iterable[str] = ()) -> list[Path]:
    """These modules and what they need, in the order to load them. `optional`: where this kernel has them."""
    base = module_directory(kernel)
    needs = {}
    for line in (base / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {Path(name).name.split(".ko")[0].replace("-", "_"): name for name in needs}
    ordered: list[str] = []

    def add(name: str) -> None:
        for other in needs[name]:
            add(other)
        if name not in ordered:
            ordered.append(name)

    builtin = {Path(line).name.split(".ko")[0].replace("-", "_") for line in (base / "modules.builtin").read_text().split()}
    for name in [*(n for n in optional if n.replace("-", "_") in by_name), *wanted]:
        if name.replace("-", "_") in builtin:
            continue
        if name.replace("-", "_") not in by_name:
            raise BuildError(f"the kernel {release(kernel)} has no module {name}")
        add(by_name[name.replace("-", "_")])
    return [base / name for name in ordered]


def put_modules(put: Callable[[str, bytes], None], paths: list[Path]) -> None:
    """Plain .ko files (newer packages hold them packed), and modules/order: their names in the order to load them in."""
    for path in paths:
        packed = path.suffix == ".xz"
        put(f"modules/{path.stem if packed else path.name}", lzma.decompress(path.read_bytes()) if packed else path.read_bytes())
    put("modules/order", "".join(f"{path.stem if path.suffix == '.xz' else path.name}\n" for path in paths).encode())
