"""The outer machine's disk: a state directory (docs/architecture.md) with templates and what their machines start from, as one sparse ext4 image.

Images are kept in the cache under a hash of what they were made from; a run writes into an overlay of its own that QEMU throws away, so
an image never changes. "baked": the same after the daemon has baked the template's machine in it once, for this very build."""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Iterable, List

SIZE = "24G"  # sparse
KEPT = 2      # images of each kind that stay in the cache
USER = 990    # "cella" in the outer machine


def digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:24]


def of_files(paths: Iterable[Path]) -> str:
    return digest(part for path in sorted(paths) for part in (path.name.encode(), path.read_bytes()))


def machine_files(state: Path) -> List[Path]:
    """What a template's machines start from; bases are left out, they are the outer machine's own."""
    return sorted(path for path in (state / "machines").glob("*/*") if path.is_file() and not path.is_symlink())


def identity(state: Path) -> str:
    """Changes with every template and every rebuilt machine file (machine.json says what each was made from)."""
    parts = [SIZE.encode()]
    for link in sorted((state / "templates/names").iterdir()):
        parts += [link.name.encode(), os.readlink(link).encode()]
    for path in sorted([*(state / "templates").glob("*/manifest.json"), *(state / "machines").glob("*/machine.json")]):
        parts += [path.parent.name.encode(), path.read_bytes()]
    return digest(parts)


def copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--sparse=always", "--reflink=auto", str(source), str(to)], check=True)


def link_or_copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, to)
    except OSError:
        copy(source, to)


def tidy(cache: Path, kind: str) -> None:
    for old in sorted(cache.glob(f"{kind}-*.img"), key=lambda path: path.stat().st_atime)[:-KEPT]:
        old.unlink()


def fresh(state: Path, cache: Path) -> Path:
    """The image of this state directory's templates and machines."""
    image = cache / f"state-{identity(state)}.img"
    if image.exists():
        os.utime(image)
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as name:
        root = Path(name) / "root"
        for wanted, owner in (("db", USER), ("images", USER), ("bases", USER), ("run", 0), ("templates/names", 0), ("machines", 0)):
            (root / wanted).mkdir(parents=True, mode=0o755)
            os.chown(root / wanted, owner, owner)
        for link in (state / "templates/names").iterdir():
            os.symlink(os.readlink(link), root / "templates/names" / link.name)
        for manifest in (state / "templates").glob("*/manifest.json"):
            copy(manifest, root / "templates" / manifest.parent.name / manifest.name)
            (root / "templates" / manifest.parent.name / "root").mkdir()
        for path in machine_files(state):
            link_or_copy(path, root / path.relative_to(state))
        made = Path(name) / "image"
        subprocess.run(["truncate", "-s", SIZE, str(made)], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-d", str(root), str(made)], check=True)
        made.rename(image)
    tidy(cache, "state")
    return image


def baked(image: Path, build_id: str, cache: Path, bake: Callable[[Path], None]) -> Path:
    """The image after bake(copy of it); kept for this image and this build."""
    there = cache / f"baked-{digest([image.name.encode(), build_id.encode()])}.img"
    if there.exists():
        os.utime(there)
        return there
    scratch = cache / f"baking-{os.getpid()}.img"
    try:
        copy(image, scratch)
        bake(scratch)
        scratch.rename(there)
    finally:
        scratch.unlink(missing_ok=True)
    tidy(cache, "baked")
    return there


def room(path: Path) -> int:
    return shutil.disk_usage(path).free
