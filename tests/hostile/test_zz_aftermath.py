"""Runs last: after all of the attacks the daemon and its keeper are as they were."""

from __future__ import annotations

import time
from pathlib import Path
from typing import List, Optional, Set

import pytest
from cella import Sandbox
from ring import Ring, held
from support import proc
from support.wait import until


def _groups(ring: Ring) -> Set[str]:
    """Names of the instance's control groups of cells, in every hierarchy: found by what the keeper's own children are in."""
    found: Set[str] = set()
    for child in proc.children(ring.keeper_pid):
        try:
            lines = Path(f"/proc/{child}/cgroup").read_text().splitlines()
        except FileNotFoundError:
            continue
        for path in (line.split(":", 2)[2] for line in lines):
            found |= {str(Path(path).parents[i]) for i in range(len(Path(path).parents)) if Path(path).parents[i].name.startswith("cella-")}
    names: Set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup" not in line:
            continue
        root, point = line.split()[3:5]
        for instance in found:
            below = instance[len(root) :] if root != "/" and instance.startswith(root) else instance
            names |= {g.name for g in Path(point + below).glob("cel_*")}
    return names


@pytest.mark.layer("keeper")
def test_nothing_is_left(ring: Ring) -> None:
    """No process, control group, layer or descriptor of a cell that is gone; healthy programs that never died; a log without a word of failure."""
    for info in Sandbox.list(host=ring.url):
        Sandbox.connect(info.id, host=ring.url).close()
    until(lambda: not Sandbox.list(host=ring.url), "every cell is gone")
    assert ring.keeper and ring.daemon
    held(ring.keeper.poll() is None and ring.daemon.poll() is None and ring.healthy(), "a program died")

    # what stays: the pools (two filled cells: guest, sentinel, context; two empty ones: guest), five cells that wait for a name, and per language a warm
    # interpreter and two copies of it
    def strangers() -> List[Optional[str]]:
        found = [proc.command(p) for p in proc.children(ring.keeper_pid)]
        return found if len(found) > 2 * 3 + 2 + 5 + 2 * 3 else []

    for _ in range(100):
        if not strangers():
            break
        time.sleep(0.1)
    held(not strangers(), f"{strangers()}")
    states = [Path(f"/proc/{p}/status").read_text() for p in proc.children(ring.keeper_pid) if Path(f"/proc/{p}").exists()]
    held(not [s for s in states if "Z (zombie)" in s], "a corpse is left")

    # four cells of the pools, and up to five that wait for a name: groups, but no layer yet
    layers = Path(f"/proc/{ring.keeper_pid}/root") / str(ring.state / "layers").lstrip("/")
    until(lambda: len(list(layers.glob("cel_*"))) == 4, "one layer for each cell of the pools", 20)
    until(lambda: 4 <= len(_groups(ring)) <= 9, "their groups, and those of the cells made ahead", 20)
    held(not [p for p in layers.iterdir() if not p.name.startswith("cel_")], f"{list(layers.iterdir())}: copies or kept layers are left")
    held(not list((ring.state / "images").iterdir()), "images are left")
    held(proc.fd_count(ring.keeper_pid) < 120, f"the keeper has {proc.fd_count(ring.keeper_pid)} descriptors")
    held(proc.fd_count(ring.daemon_pid) < 120, f"the daemon has {proc.fd_count(ring.daemon_pid)} descriptors")
    held(proc.status_kb(ring.keeper_pid, "VmRSS") < 32 << 10, f"the keeper has {proc.status_kb(ring.keeper_pid, 'VmRSS')} kB")


@pytest.mark.layer("keeper")
def test_creates_still_work(ring: Ring) -> None:
    """Ten cells, one after the other and at once."""
    cells = [ring.cell() for _ in range(5)]
    held(all(c.answers() for c in cells), "a new cell does not answer")
    for c in cells:
        c.close()
    for _ in range(5):
        with ring.cell() as c:
            held(c.answers(), "a new cell does not answer")
