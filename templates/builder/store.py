"""Templates on disk.

    STATE/templates/<64 hex>/root            the root file system, never changed again
    STATE/templates/<64 hex>/manifest.json   what it is
    STATE/templates/names/<name or alias>    symbolic link to ../<64 hex>
    STATE/templates/.building-…              a build that is going on, or was broken off; the next build removes it

A finished template appears by one rename after everything was flushed, a name by one rename of its link: whoever reads
sees the old state or the new one. A cache outside the state directory keeps roots by recipe, so that a second state
directory (a test, CI) copies instead of building.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from typing import Any, Iterator

from . import BUILDER_VERSION
from .errors import BuildError
from .recipe import Recipe

CACHE_SPARE = 4 << 30  # bytes that must stay free on the cache's disk


def recipe_hash(recipe: Recipe) -> str:
    return hashlib.sha256(f"{BUILDER_VERSION}\n{recipe.canonical()}".encode()).hexdigest()


def template_id(recipe: Recipe, packages: list[str]) -> str:
    return hashlib.sha256("\n".join([recipe_hash(recipe), *packages]).encode()).hexdigest()


class Store:
    def __init__(self, state: str):
        self.directory = os.path.join(os.path.abspath(state), "templates")
        self.names = os.path.join(self.directory, "names")

    def prepare(self) -> None:
        os.makedirs(self.names, mode=0o755, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time per state directory; others wait."""
        self.prepare()
        with open(os.path.join(self.directory, ".lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in os.listdir(self.directory):
                if name.startswith(".building-"):
                    remove_tree(os.path.join(self.directory, name))
            yield

    def manifest(self, name_or_id: str) -> dict[str, Any] | None:
        for path in (os.path.join(self.names, name_or_id), os.path.join(self.directory, name_or_id)):
            try:
                with open(os.path.join(path, "manifest.json"), encoding="utf-8") as stream:
                    found = json.load(stream)
            except (OSError, ValueError):
                continue
            if os.path.isdir(os.path.join(path, "root")):
                return found
        return None

    def workspace(self) -> str:
        path = tempfile.mkdtemp(prefix=".building-", dir=self.directory)
        os.chmod(path, 0o755)
        return path

    def check_names(self, recipe: Recipe) -> None:
        """A template may take over an alias, but never the name that another recipe goes by."""
        for alias in recipe.aliases:
            other = self.manifest(alias)
            if other and other["name"] == alias and other["name"] != recipe.name:
                raise BuildError(f"the alias \"{alias}\" is the name of another template")

    def publish(self, work: str, manifest: dict[str, Any]) -> str:
        """Move a finished build into its place. An equal template that is already there is kept, not replaced."""
        place = os.path.join(self.directory, manifest["id"])
        with open(os.path.join(work, "manifest.json"), "w", encoding="utf-8") as stream:
            json.dump(manifest, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
        os.chmod(os.path.join(work, "manifest.json"), 0o644)
        subprocess.run(["sync", "-f", work], check=True)
        if os.path.isdir(os.path.join(place, "root")):
            remove_tree(work)
        else:
            os.rename(work, place)
        fsync_directory(self.directory)
        return place

    def name(self, manifest: dict[str, Any]) -> None:
        for name in [manifest["name"], *manifest["aliases"]]:
            temporary = os.path.join(self.names, f".{name}.new")
            if os.path.lexists(temporary):
                os.unlink(temporary)
            os.symlink(f"../{manifest['id']}", temporary)
            os.rename(temporary, os.path.join(self.names, name))
        fsync_directory(self.names)


class Cache:
    """Roots by recipe hash. Losing it costs a build, so every failure here is only said, never fatal."""

    def __init__(self, directory: str):
        self.directory = directory

    def fetch(self, key: str, work: str) -> dict[str, Any] | None:
        place = os.path.join(self.directory, key)
        try:
            with open(os.path.join(place, "manifest.json"), encoding="utf-8") as stream:
                manifest = json.load(stream)
            copy_tree(os.path.join(place, "root"), os.path.join(work, "root"))
            return manifest
        except (OSError, ValueError, subprocess.CalledProcessError):
            remove_tree(os.path.join(work, "root"))
            return None

    def has(self, key: str) -> bool:
        return os.path.isfile(os.path.join(self.directory, key, "manifest.json"))

    def keep(self, key: str, template: str, size: int) -> bool:
        try:
            os.makedirs(self.directory, mode=0o755, exist_ok=True)
            if shutil.disk_usage(self.directory).free < size + CACHE_SPARE:
                return False
            temporary = tempfile.mkdtemp(prefix=".new-", dir=self.directory)
            copy_tree(os.path.join(template, "root"), os.path.join(temporary, "root"))
            shutil.copy(os.path.join(template, "manifest.json"), temporary)
            os.chmod(temporary, 0o755)
            subprocess.run(["sync", "-f", temporary], check=True)
            place = os.path.join(self.directory, key)
            remove_tree(place)
            os.rename(temporary, place)
            return True
        except (OSError, subprocess.CalledProcessError):
            return False


def copy_tree(source: str, target: str) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", "--", source, target], check=True, stderr=subprocess.DEVNULL)


def remove_tree(path: str) -> None:
    """Only ever called for a directory below templates/ or the cache; nothing is mounted there outside a private namespace."""
    shutil.rmtree(path, ignore_errors=True)


def fsync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
