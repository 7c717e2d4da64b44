#!/usr/bin/env python3
"""What the VMM itself costs, with a bare-metal guest: vmm.py [--quick] [--build BUILD]. Prints p50/p90/p99/max, writes raw JSON like run.py.

The floor is fork(2) of a process with the same memory touched, KVM_CREATE_VM in the child, and a byte through a pipe. It is no machine yet: `made` is the
floor with what every machine needs besides (irqchip, memory slot, a vCPU with its CPUID)."""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report import ROOT, Report, Row, percentile  # noqa: E402

MB = 512
PAGES = 100_000  # 390 MiB of the 512 touched


def measure(program: Path, build: Path, *what: object) -> Dict[str, List[float]]:
    command = [program, build / "src/vmm/cella-vmm", build / "tests/microvm/microvm-guest", *map(str, what)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    samples: Dict[str, List[float]] = defaultdict(list)
    for line in said.splitlines():
        name, value = line.lstrip("# ").rsplit(" ", 1)
        samples[name].append(float(value) / 1000)  # ms
    return samples


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="50 samples instead of 500")
    options.add_argument("--build", type=Path, default=Path(os.environ["CELLA_BUILD"]).parent if "CELLA_BUILD" in os.environ else ROOT / "build")
    chosen = options.parse_args()
    n = 50 if chosen.quick else 500
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "vmm"
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", f"-I{ROOT / 'src'}", "-o", program, ROOT / "bench/vmm.c"], check=True)
        report = Report()
        print(report.header(), "\n", report.table(), sep="\n", flush=True)
        for pages in (0, PAGES):
            touched = f"{MB} MiB, {pages * 4096 >> 20} touched"
            floor = measure(program, chosen.build, "floor", n, MB, pages)
            report.add(Row(f"floor: fork(2) + KVM_CREATE_VM, {touched}", floor["floor"]))
            report.add(Row(f"  made: + irqchip, memory, vCPU, {touched}", floor["made"]))
            for kind in ("fork", "live"):
                got = measure(program, chosen.build, kind, n, MB, pages, 1, 1)
                ratio = f"{percentile(got['first'], 50) / percentile(floor['floor'], 50):.1f} x floor, {percentile(got['first'], 50) / percentile(floor['made'], 50):.1f} x made"
                report.add(Row(f"{kind} -> child's first instruction, {touched}", got["first"], budget=3.0 if kind == "fork" else None, note=ratio))
                report.add(Row(f"  of that fork(2)", got["fork2"]))
                report.add(Row(f"  request answered, parent {'goes on' if kind == 'live' else 'stays paused'}", got["frozen"]))
                report.add(Row(f"  teardown of the child", got["end"]))
        for vcpus in (4, 8):
            report.add(Row(f"fork -> first instruction, {vcpus} vCPUs", measure(program, chosen.build, "fork", n, MB, 0, vcpus, 1)["first"]))
        made = measure(program, chosen.build, "create", n, MB)
        report.add(Row("create: exec -> jailed and ready", made["ready"]))
        report.add(Row("create: exec -> guest's first instruction", made["create"]))
        report.add(Row("teardown", made["end"]))
        for mb, pages in ((128, 10_000), (512, PAGES), (1024, 200_000)):
            back = measure(program, chosen.build, "restore", n, mb, pages)
            report.add(Row(f"snapshot stands still, {mb} MiB, {pages * 4096 >> 20} touched", back["snapshot_frozen"]))
            report.add(Row(f"restore request, {mb} MiB, {pages * 4096 >> 20} touched", back["restore"]))
            report.add(Row(f"restore: exec -> first instruction", back["first"]))
        print(report.write())
        return 1 if report.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
