#!/usr/bin/env python3
"""Create, run, delete, many times, several at once; afterwards nothing may be left and nothing may have grown.

    soak.py [N] [--at-once 8]        N: 500 (CI) by default, 5000 for a release

Starts its own keeper and daemon (CELLA_TEST_DRIVER, CELLA_BUILD, CELLA_TEMPLATES as in the API tests). Prints what it
counted; exit code 0 when everything held, 1 when not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Callable, Dict, List, Tuple

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "api"), str(TESTS.parent / "sdk" / "python")]

from cella import Sandbox  # noqa: E402
from support import proc  # noqa: E402
from support.server import Server  # noqa: E402

#: Rounds before the first count: pools fill, arenas and caches reach their size (the database's page cache alone takes 2 MB, the
#: ring of events 1,000 entries).
WARM_UP = 500
#: The daemon's resident memory may end this much above where it was after the warm-up. Records of ended cells and
#: executions are bounded; 4 MiB is allocator noise over thousands of rounds, and a leak of 1 KB a round in 5,000 is 5 MB.
RSS_GROWTH_KB = 4096
DISK_GROWTH_BYTES = 32 << 20  # database, its log, and metadata of the layers; a leaked layer is at least its 100 kB file

CODE = "import numpy as np\nopen('out.txt', 'w').write('x' * 100_000)\nprint(np.arange({n}).sum())"


@dataclass
class Count:
    """What exists at one moment because of the server."""

    processes: int
    mounts: int
    cgroups: int
    daemon_fds: int
    keeper_fds: int
    daemon_rss_kb: int
    keeper_rss_kb: int
    disk_bytes: int
    cells: int

    def row(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())


def cgroup_count(pids: List[int]) -> int:
    """Control groups below the keeper's own ones ("cella-…", found through the processes in them), in every hierarchy."""
    names = set()
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        names.update(part for part in text.replace("\n", "/").split("/") if part.startswith("cella-"))
    walk = os.walk("/sys/fs/cgroup")
    return sum(len(below) for path, below, _ in walk if names & set(path.split("/")))


def disk_bytes(server: Server) -> int:
    """Blocks used below the state directory, templates apart; of the layers' own filesystem what it says is in use (its
    image grows ahead of that, and keeps what it once had)."""
    layers = Path(f"/proc/{server.keeper.pid}/root{server.state}/layers") if server.keeper else server.state / "layers"
    total, apart = 0, {"templates"}
    if layers.is_dir() and os.stat(layers).st_dev != os.stat(server.state).st_dev:
        # deleted layers are given back in the background: wait for that, what is left then is left for good
        subprocess.run(["btrfs", "filesystem", "sync", str(layers)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["btrfs", "subvolume", "sync", str(layers)], check=True, stdout=subprocess.DEVNULL)
        used = os.statvfs(layers)
        total, apart = (used.f_blocks - used.f_bfree) * used.f_frsize, {"templates", "layers"}
    for directory, names, files in os.walk(server.state):
        if Path(directory) == server.state:
            names[:] = [n for n in names if n not in apart]
            files = [n for n in files if not n.startswith("layers.")]
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                pass
    return total


def count(server: Server) -> Count:
    daemon = server.daemon_pid
    keeper = server.keeper.pid if server.keeper else 0
    pids = proc.descendants(keeper or daemon)
    mounts = Path(f"/proc/{keeper or daemon}/mountinfo").read_text().splitlines()
    return Count(
        processes=len(pids),
        mounts=sum(server.state.name in line for line in mounts),
        cgroups=cgroup_count(pids),
        daemon_fds=proc.fd_count(daemon),
        keeper_fds=proc.fd_count(keeper) if keeper else 0,
        daemon_rss_kb=proc.status_kb(daemon, "VmRSS"),
        keeper_rss_kb=proc.status_kb(keeper, "VmRSS") if keeper else 0,
        disk_bytes=disk_bytes(server),
        cells=len(Sandbox.list(host=server.url)),
    )


def settled(server: Server) -> Count:
    """The counts once they stand still: pools are full again, ended cells are gone."""
    last, quiet = count(server), 0
    for _ in range(120):
        time.sleep(0.5)
        now = count(server)
        still = all(getattr(now, k) == getattr(last, k) for k in ("processes", "mounts", "cgroups", "daemon_fds", "disk_bytes"))
        quiet = quiet + 1 if still else 0
        last = now
        if quiet >= 6:
            break
    return last


def one_round(server: Server, n: int) -> None:
    """A life: create, code, a file, a process, delete. Raises on any wrong answer."""
    with Sandbox(host=server.url, metadata={"n": str(n)}) as box:
        run = box.run_code(CODE.format(n=n))
        if run.exit != "ok" or run.stdout.strip() != str(n * (n - 1) // 2):
            raise AssertionError(f"round {n}: {run.exit} {run.stdout!r} {run.stderr[-500:]!r} {run.error}")
        if box.filesystem.stat("out.txt").size != 100_000:
            raise AssertionError(f"round {n}: the file has another size")
        if n % 5 == 0:
            box.start(["sleep", "1000"])  # deleted with the cell
        if n % 7 == 0 and box.exec("echo $((1 + 1))").stdout != "2\n":
            raise AssertionError(f"round {n}: exec")
        if n % 11 == 0:
            box.create_code_context("bash").run_code("echo", check=True)


def rounds(server: Server, total: int, at_once: int, one: Callable[[Server, int], None]) -> List[str]:
    """Run them; the failures as text."""
    todo: "Queue[int]" = Queue()
    for n in range(total):
        todo.put(n)
    failures: List[str] = []
    Sandbox.list(host=server.url)  # a connection of this program, before anything is counted

    def work() -> None:
        while len(failures) < 20:
            try:
                n = todo.get_nowait()
            except Empty:
                return
            try:
                one(server, n)
            except Exception as e:  # noqa: BLE001 - every failure is counted and shown
                where = next(f.line for f in traceback.extract_tb(e.__traceback__) if f.name == one.__name__)
                failures.append(f"round {n}: {type(e).__name__}: {e} [{where}]")
                print("FAILED", failures[-1], flush=True)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return failures


def judge(before: Count, after: Count) -> List[Tuple[str, bool, str]]:
    """(what, held, explanation) for each count."""
    exact = {k: getattr(after, k) <= getattr(before, k) for k in ("processes", "mounts", "cgroups", "cells")}
    # One descriptor more may be a kept connection of this very program.
    exact["daemon_fds"] = after.daemon_fds <= before.daemon_fds + 2
    exact["keeper_fds"] = after.keeper_fds <= before.keeper_fds
    grown: Dict[str, bool] = {
        "daemon_rss_kb": after.daemon_rss_kb - before.daemon_rss_kb <= RSS_GROWTH_KB,
        "keeper_rss_kb": after.keeper_rss_kb - before.keeper_rss_kb <= RSS_GROWTH_KB,
        "disk_bytes": after.disk_bytes - before.disk_bytes <= DISK_GROWTH_BYTES,
    }
    return [(k, held, f"{getattr(before, k)} -> {getattr(after, k)}") for k, held in {**exact, **grown}.items()]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("rounds", nargs="?", type=int, default=500)
    options.add_argument("--at-once", type=int, default=8)
    args = options.parse_args()

    server = Server()
    try:
        server.start()
        print(f"driver {server.driver}, state {server.state}, {args.rounds} rounds, {args.at_once} at once", flush=True)
        failures = rounds(server, WARM_UP, args.at_once, one_round)
        before = settled(server)
        print("after warm-up:", before.row(), flush=True)
        started = time.monotonic()
        failures += rounds(server, args.rounds, args.at_once, one_round)
        elapsed = time.monotonic() - started
        after = settled(server)
        print("at the end:   ", after.row())
        print(f"{args.rounds} rounds in {elapsed:.1f} s: {args.rounds / elapsed:.1f} per second")
        verdicts = judge(before, after)
    finally:
        server.stop()
    for name, held, text in verdicts:
        print(f"{'ok    ' if held else 'LEAKED'} {name}: {text}")
    bad = len(failures) + sum(not held for _, held, _ in verdicts)
    print("soak: ok" if not bad else f"soak: {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
