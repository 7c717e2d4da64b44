#!/usr/bin/env python3
"""What create, fork and resume of a machine cost, counted instead of timed: microvm_counts.py [--rounds N] [--build BUILD]

In the emulated machine of the ring (tests/microvm/linux), so that the same numbers come out on any machine. Per operation, p50 and the extremes of N rounds:
  exits        of the new machine to its monitor or KVM until its first answer (kvm's own count)
  calls        system calls of the new monitor, of the one it comes from, of keeper and daemon (raw_syscalls)
  faults       pages that the new monitor touched (minflt), and how many of its pages are its own then
Prints a table, writes raw JSON into bench/results."""
from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, List

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/microvm/cells"), str(HERE.parent / "tests/microvm/linux"), str(HERE.parent / "sdk/python")]
import ring as emulated  # noqa: E402
from report import RESULTS, percentile  # noqa: E402
from outer import Outer  # noqa: E402
from support.outer import OuterServer  # noqa: E402
from host import Host, Machine  # noqa: E402

EVENT = "/sys/kernel/tracing/events/raw_syscalls/sys_enter"


class Counter:
    """System calls of every process, counted by the kernel."""

    def __init__(self, host: Host) -> None:
        self.host = host
        host.run("mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing; mount -t debugfs d /sys/kernel/debug 2>/dev/null; true")

    def __enter__(self) -> "Counter":
        self.host.run(f"echo 'hist:keys=common_pid:size=8192' > {EVENT}/trigger")
        return self

    def __exit__(self, *what: object) -> None:
        said = self.host.run(f"cat {EVENT}/hist; echo '!hist:keys=common_pid:size=8192' > {EVENT}/trigger")
        threads = {int(pid): int(count) for pid, count in re.findall(r"common_pid:\s+(\d+) \} hitcount:\s+(\d+)", said)}
        self.calls = threads

    def of(self, pid: int) -> int:
        """Of all its threads, as long as it lives."""
        tasks = self.host.run(f"ls /proc/{pid}/task").split()
        return sum(self.calls.get(int(task), 0) for task in tasks)


def exits(host: Host, pid: int) -> int:
    return sum(int(n) for n in host.run(f"cat /sys/kernel/debug/kvm/{pid}-*/*/exits /sys/kernel/debug/kvm/{pid}-*/exits 2>/dev/null; true").split())


def faults(host: Host, pid: int) -> int:
    return int(host.run(f"cat /proc/{pid}/stat").rpartition(")")[2].split()[7])


def own_pages(host: Host, pid: int) -> int:
    """Written by this monitor alone: pages of the base's file that nobody else happens to have mapped cost nothing."""
    said = host.run(f"cat /proc/{pid}/smaps_rollup")
    return sum(int(n) for n in re.findall(r"^Private_Dirty:\s+(\d+) kB", said, re.M)) // 4


def measure(host: Host, server: OuterServer, source: Callable[[], int], operation: Callable[[], Machine]) -> Dict[str, int]:
    """One round. source: pid of the monitor that is copied (0: none)."""
    before, old = set(host.monitors()), source()
    with Counter(host) as counter:
        cell = operation()
    made = set(host.monitors()) - before
    assert len(made) == 1, f"one monitor should be new: {made}"
    pid = made.pop()
    found = {"exits": exits(host, pid), "faults": faults(host, pid), "own pages": own_pages(host, pid), "calls of the new monitor": counter.of(pid),
             "calls of its origin": counter.of(old) if old else 0, "calls of the keeper": counter.of(server.keeper.pid), "calls of the daemon": counter.of(server.daemon.pid)}  # type: ignore[union-attr]
    assert cell.ok("1 + 1") == "2"
    found["exits with a first line of code"] = exits(host, pid)
    found["faults with a first line of code"] = faults(host, pid)
    found["own pages with a first line of code"] = own_pages(host, pid)
    return found


def rounds(outer: Outer, n: int) -> Dict[str, List[Dict[str, int]]]:
    server = OuterServer(outer.agent, outer.port, arguments=["--pool-filled", "0", "--pool-empty", "0", "--header-timeout", "60"])
    server.start()
    host = Host(server)
    raw: Dict[str, List[Dict[str, int]]] = defaultdict(list)
    Machine(server.url).delete()  # the template's machine is restored
    time.sleep(5)
    template = set(host.monitors())
    assert len(template) == 1, template
    origin = template.pop()
    for _ in range(n):
        parent = Machine.__new__(Machine)

        def create() -> Machine:
            nonlocal parent
            parent = Machine(server.url, persistent=True)
            return parent

        raw["create"].append(measure(host, server, lambda: origin, create))
        parent.ok("x = list(range(1000))")
        monitor = host.monitor_of(parent)
        children: List[Machine] = []

        def fork() -> Machine:
            children.extend(parent.forks())
            return children[0]

        raw["fork"].append(measure(host, server, lambda: monitor, fork))
        children[0].delete()
        parent.hibernate()

        def wake() -> Machine:
            parent.wake()
            return parent

        raw["resume"].append(measure(host, server, lambda: 0, wake))
        parent.delete()
        time.sleep(2)
    return dict(raw)


def table(raw: Dict[str, List[Dict[str, int]]]) -> str:
    lines = [f"| {'n = ' + str(len(next(iter(raw.values())))):<40} | " + " | ".join(f"{name:>18}" for name in raw) + " |", "|---|" + "---:|" * len(raw)]
    for key in next(iter(raw.values()))[0]:
        cells = []
        for samples in raw.values():
            values = [sample[key] for sample in samples]
            cells.append(f"{percentile(values, 50):,.0f} ({min(values):,}–{max(values):,})")
        lines.append(f"| {key:<40} | " + " | ".join(f"{cell:>18}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    chosen, rest = options.parse_known_args()
    given = emulated.parser().parse_args(rest)
    given.pytest = []
    ring = emulated.Ring(given)
    with ring.machine("counting", ring.disk()) as outer:
        try:
            raw = rounds(outer, chosen.rounds)
        except BaseException:
            ring.tell_logs(outer)
            raise
        kernel = outer.agent.run("uname -r").strip()
    RESULTS.mkdir(exist_ok=True)
    there = RESULTS / time.strftime("microvm-counts-%Y%m%d-%H%M%S.json")
    there.write_text(json.dumps({"kernel": kernel, "rounds": raw}, indent=1))
    print(table(raw))
    print(f"raw: {there}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
