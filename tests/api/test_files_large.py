"""A gigabyte up and down: exact, and without the daemon or the guest growing with it."""

from __future__ import annotations

import hashlib
from typing import Iterator, List

import pytest
from cella import Sandbox
from support import proc
from support.server import Server

GIB = 1 << 30
PIECE = hashlib.sha256(b"seed").digest() * 8192  # 256 KiB that no compression or hole would shrink to zero
GROWTH_KB = 32 << 10  # windows, buffers and heap arenas: generous against 1 GiB


def pieces(total: int) -> Iterator[bytes]:
    for i in range(total // len(PIECE)):
        yield i.to_bytes(8, "big") + PIECE[8:]


def watched(server: Server) -> List[int]:
    """The daemon, the keeper and the guests: whatever carries the bytes."""
    if server.external:
        return []
    pids = [server.daemon_pid] + ([server.keeper_pid] if server.keeper else [])
    everything = pids + [p for pid in pids for p in proc.descendants(pid)]
    return [p for p in everything if p in pids or "cella-guest" in (proc.command(p) or "")]


@pytest.mark.slow
def test_one_gibibyte_both_ways(server: Server) -> None:
    with Sandbox(host=server.url, limits={"disk_mb": 3000}) as box:
        box.filesystem.write("warm", pieces(64 << 20))
        before = {pid: proc.status_kb(pid, "VmRSS") for pid in watched(server)}
        for pid in before:
            proc.reset_peak(pid)

        digest = hashlib.sha256()

        def counted() -> Iterator[bytes]:
            for piece in pieces(GIB):
                digest.update(piece)
                yield piece

        assert box.filesystem.write("big", counted()) == GIB
        assert box.exec(["sha256sum", "big"]).stdout.split()[0] == digest.hexdigest()
        back = hashlib.sha256()
        total = 0
        for piece in box.filesystem.read("big", "stream"):
            back.update(piece)
            total += len(piece)
        assert total == GIB and back.hexdigest() == digest.hexdigest()

        alive = {pid: rss for pid, rss in before.items() if proc.command(pid)}  # guests of other cells may have ended
        names = [proc.command(pid) or "" for pid in alive]
        assert server.external or (any("cellad" in n for n in names) and any("cella-guest" in n for n in names)), names
        for pid, rss in alive.items():
            peak = proc.status_kb(pid, "VmHWM")
            assert peak - rss < GROWTH_KB, f"{proc.command(pid)}: {rss} kB before, {peak} kB at the most"
