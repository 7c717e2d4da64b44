"""What /proc says about the daemon's processes."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Dict, List, Optional


def status_kb(pid: int, field: str) -> int:
    """A "kB" field of /proc/PID/status, e.g. VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def reset_peak(pid: int) -> None:
    """Forget the peak resident set (VmHWM) seen so far."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def pss_kb(pid: int) -> int:
    """Proportional set size: shared pages counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def one_per_memory(pids: List[int]) -> List[int]:
    """One process of each set that shares one memory (kcmp(2), KCMP_VM): the others show the same pages again."""
    libc = ctypes.CDLL(None, use_errno=True)

    def order(a: int, b: int) -> int:
        result = libc.syscall(312, a, b, 1, 0, 0)  # x86-64: kcmp; 0 same, 1 less, 2 greater, 3 different without order
        return {0: 0, 1: -1, 2: 1}.get(result, -1 if a < b else 1)

    chosen: List[int] = []
    for pid in sorted(pids, key=functools.cmp_to_key(order)):
        if not chosen or order(chosen[-1], pid) != 0:
            chosen.append(pid)
    return chosen


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> List[int]:
    """Direct children, of every thread."""
    found: List[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(p) for p in (task / "children").read_text().split()]
        except OSError:
            pass
    return found


def descendants(pid: int) -> List[int]:
    found: List[int] = []
    for child in children(pid):
        found.append(child)
        try:
            found += descendants(child)
        except OSError:
            pass
    return found


def command(pid: int) -> Optional[str]:
    """The command line, None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None


def with_environment(marker: str) -> Dict[int, str]:
    """Processes whose environment contains `marker`, by pid."""
    found: Dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if marker.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found[int(entry)] = command(int(entry)) or ""
            except OSError:
                pass
    return found


def mounts_below(path: str) -> List[str]:
    """Mount points at or below `path` in this mount namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [p for p in points if p == path or p.startswith(path.rstrip("/") + "/")]
