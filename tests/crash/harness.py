"""Programs that get a fault, and what must be true of a host after it acted."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import httpx
from support import proc
from support.server import ROOT, Server
from support.wait import until


def points(source: str, *prefixes: str) -> List[str]:
    """The fault points of a source folder or file with one of these prefixes, so that a new point is a new test."""
    found: Set[str] = set()
    place = ROOT / "src" / source
    for file in [place] if place.is_file() else place.rglob("*.c"):
        found |= set(re.findall(r'fault_(?:point|error)\("([a-z0-9_.]+)"', file.read_text()))
    return sorted(p for p in found if p.startswith(prefixes))


def can_fail(point: str) -> bool:
    """Some are passages only: nothing can fail there."""
    return any(f'fault_error("{point}"' in s.read_text() for s in (ROOT / "src").rglob("*.c"))


@contextmanager
def armed(what: Optional[str]) -> Iterator[None]:
    """Programs started inside have the fault ("point:kill|error|nospace"); None: no fault."""
    if what:
        os.environ["CELLA_FAULT"] = what
    try:
        yield
    finally:
        os.environ.pop("CELLA_FAULT", None)


class CrashServer(Server):
    """Small pools, and its two programs can be started anew with a fault each."""

    def __init__(self) -> None:
        super().__init__(arguments=["--pool-filled", "1", "--pool-empty", "1"])
        self.baseline: Dict[str, int] = {}

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def rearm_daemon(self, fault: Optional[str]) -> None:
        """A new daemon, with the cells of the old one."""
        self.stop_daemon()
        with armed(fault):
            self.start_daemon()

    def rearm_keeper(self, fault: Optional[str]) -> None:
        """A new keeper and daemon: no cell lives through it."""
        self.stop_daemon()
        self.stop_keeper()
        with armed(fault):
            self.start_keeper()
        self.start_daemon()

    def ask(self, method: str, path: str, **options: Any) -> Optional[httpx.Response]:
        """The answer; None: the connection broke."""
        with self.http as client:
            try:
                return client.request(method, path, **options)
            except httpx.TransportError:
                return None

    def died_of_its_fault(self, program: str) -> None:
        """The point acted: the program killed itself. It counts as stopped from here on."""
        process = self.daemon if program == "daemon" else self.keeper
        assert process is not None
        until(lambda: process.poll() is not None, f"the fault to kill the {program}")
        assert process.returncode == -signal.SIGKILL, f"the {program} ended with {process.returncode}:\n{self.log(program)[-2000:]}"
        if program == "daemon":
            self.daemon = None
        else:
            self.keeper = None

    def recover(self) -> None:
        """Start what is not running, without a fault."""
        if self.keeper is None:
            self.start_keeper()
        if self.daemon is None or self.daemon.poll() is not None:
            self.start_daemon()

    # ---- what is left over ----

    def footprint(self) -> Dict[str, int]:
        layers = self.state / "layers"
        mounted = [p for p in layers.rglob("*") if p.is_dir() and re.match(r"^[a-z]+_[0-9a-f]{32}$", p.name)] if layers.is_dir() else []
        return {
            "processes below the keeper": len(proc.descendants(self.keeper_pid)),
            "descriptors of the keeper": proc.fd_count(self.keeper_pid),
            "descriptors of the daemon": proc.fd_count(self.daemon_pid),
            "layers": len(mounted),
        }

    def settle(self) -> Dict[str, int]:
        """The footprint once it has been the same for a second: pools are full, what was removed is gone."""
        seen: Tuple[Dict[str, int], float] = ({}, 0.0)

        def stable() -> bool:
            nonlocal seen
            now = self.footprint()
            if now != seen[0]:
                seen = (now, time.monotonic())
            return time.monotonic() - seen[1] > 1

        until(stable, "the host to settle", 60, 0.1)
        return seen[0]

    def nothing_is_left(self) -> None:
        """Delete every sandbox: then the host holds what it held at first."""
        with self.http as client:
            for cell in client.get("/v1/sandboxes").json():
                client.delete(f"/v1/sandboxes/{cell['id']}")
        over: Dict[str, Any] = {}

        def gone() -> bool:
            nonlocal over
            now = self.footprint()
            over = {k: (v, self.baseline[k]) for k, v in now.items() if v > self.baseline[k]}
            return not over

        try:
            until(gone, "everything to be given back", 30, 0.1)
        except AssertionError:
            raise AssertionError(f"left over (now, at first): {over}") from None


