#!/usr/bin/env python3
"""Benchmarks: a table on the screen, raw samples in bench/results/.

    bench/run.py [--quick] [--only WORD…]     WORDs: create execute throughput burst sustained memory sdk peers,
                                              and branches, which is: fork chain children unflushed freeze

Starts its own keeper and daemon (CELLA_TEST_DRIVER, CELLA_BUILD, CELLA_TEMPLATES as in tests/api). Percentiles are of all
samples, nothing trimmed. Exit code 0 also with missed budgets: they are printed with their row and again at the end; 1 when
something failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, List

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "api"), str(HERE.parent / "sdk" / "python")]

import peers  # noqa: E402
import sdk  # noqa: E402
from branches import Branches  # noqa: E402
from measures import Cella, template_root  # noqa: E402
from report import HEAD, Report, Row  # noqa: E402
from support.server import Server  # noqa: E402

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger would warn on the table

BRANCHES = ("fork", "chain", "children", "unflushed", "freeze")
PARTS = ("create", "execute", "throughput", "burst", "sustained", "memory", "sdk", *BRANCHES, "peers")


def compiled(name: str, directory: Path) -> Path:
    """One of the C clients beside this file."""
    program = directory / name
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", str(HERE / f"{name}.c"), "-o", str(program), "-pthread"]
    subprocess.run(command, check=True)
    return program


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a tenth of the samples")
    options.add_argument("--only", nargs="+", choices=[*PARTS, "branches"], default=list(PARTS))
    args = options.parse_args()
    if "branches" in args.only:
        args.only += BRANCHES
    scale = 10 if args.quick else 1

    report = Report()
    failures: List[str] = []
    print(report.header() + "\n\n" + HEAD, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        hot, peer = compiled("hot", Path(scratch)), compiled("peer", Path(scratch))
        server = Server()
        try:
            server.start()
            report.machine["driver"] = server.driver
            cella = Cella(server, hot)

            def part(name: str, measure: Callable[[], List[Row]]) -> None:
                if name not in args.only:
                    return
                try:
                    for row in measure():
                        report.add(row)
                except Exception as e:  # noqa: BLE001 - the other rows are still worth having
                    failures.append(f"{name}: {type(e).__name__}: {e}")
                    print(f"FAILED {failures[-1]}", flush=True)

            part("create", lambda: [cella.cold_row()])
            part("create", lambda: cella.create_rows(200 // scale, "warm pool", "filled", budget=2.0))
            part("execute", lambda: cella.execute_rows(5000 // scale))
            part("throughput", lambda: cella.throughput_rows(8, 1000 // scale))
            part("burst", lambda: cella.burst_rows(100))
            part("sustained", lambda: [cella.sustained_row(10 / scale, 4)])
            part("memory", lambda: cella.memory_rows(500 // scale))
            part("sdk", lambda: sdk.measure_python(server.url, 400 // scale))
            part("sdk", lambda: sdk.measure_typescript(server.url, 400 // scale))
            if server.driver == "process":  # the plain driver has no branches
                branches = Branches(server, args.quick)
                for name in BRANCHES:
                    part(name, getattr(branches, f"{name}_rows"))
            root = template_root(server)
            part("peers", lambda: peers.start_rows(peer, root, 100 // scale))
            part("peers", lambda: [peers.pipe_row(peer, 2000 // scale)])
            part("peers", lambda: peers.kernel_rows(max(2, 10 // scale), 500 // scale))
        finally:
            server.stop()
        if server.driver == "process" and "create" in args.only:
            for title, arguments, wanted in (
                ("pool of empty cells only", ["--pool-filled", "0"], "empty"),
                ("no pool at all", ["--pool-filled", "0", "--pool-empty", "0"], "made"),
            ):
                bare = Server(arguments=arguments)
                try:
                    bare.start()
                    cella = Cella(bare, hot)
                    cella.cold_row()
                    part("create", lambda: cella.create_rows(100 // scale, title, wanted, budget=8.0))
                finally:
                    bare.stop()
    print(f"\nraw samples: {report.write()}")
    for row in report.missed():
        print(f"MISSED BUDGET {row.name}: " + (f"p50 {row.p50:.3f} {row.unit}, {row.verdict}" if row.samples else row.note))
    for failure in failures:
        print("FAILED", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
