"""Numbers, untrimmed: percentiles, a table, raw JSON, and what machine it was."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


def percentile(samples: Sequence[float], p: float) -> float:
    """Nearest rank: a value that was measured, never one in between."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


@dataclass
class Row:
    """One line of the table. samples in `unit`; budget: what design asks of the p50 (or of the only value)."""

    name: str
    samples: List[float]
    unit: str = "ms"
    budget: Optional[float] = None
    at_least: bool = False  # the budget is a floor, not a ceiling
    note: str = ""
    details: Dict[str, Any] = field(default_factory=dict)

    @property
    def p50(self) -> float:
        return percentile(self.samples, 50)

    @property
    def verdict(self) -> str:
        if self.budget is None or not self.samples:
            return ""
        held = self.p50 >= self.budget if self.at_least else self.p50 <= self.budget
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.budget:g} {'held' if held else 'MISSED'}"


class Report:
    def __init__(self) -> None:
        self.rows: List[Row] = []
        self.machine = machine()

    def add(self, row: Row) -> None:
        """Keep and print at once, so that an interrupted run has shown what it had."""
        self.rows.append(row)
        print(line(row), flush=True)

    def table(self) -> str:
        return "\n".join([HEAD, "-" * len(HEAD), *map(line, self.rows)])

    def missed(self) -> List[Row]:
        return [r for r in self.rows if "MISSED" in r.verdict + r.note]

    def write(self) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
        rows = [dict(vars(r), verdict=r.verdict) for r in self.rows]
        path.write_text(json.dumps({"machine": self.machine, "rows": rows}, indent=1) + "\n")
        (RESULTS / "latest.txt").write_text(self.header() + "\n\n" + self.table() + "\n")
        return path

    def header(self) -> str:
        return "\n".join(f"{k}: {v}" for k, v in self.machine.items())


HEAD = f"{'what':<58} {'n':>5} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}  {'unit':<6} budget (p50)"


def line(row: Row) -> str:
    if not row.samples:
        return f"{row.name:<58} {0:>5} {'no samples':>39}  {row.note}"
    numbers = " ".join(f"{v:>9.3f}" for v in (row.p50, percentile(row.samples, 90), percentile(row.samples, 99), max(row.samples)))
    return f"{row.name:<58} {len(row.samples):>5} {numbers}  {row.unit:<6} {row.verdict}{'  ' + row.note if row.note else ''}"


def machine() -> Dict[str, str]:
    cpu = next((x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "?")
    memory = next(x.split()[1] for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory": f"{int(memory) // 1024} MiB",
        "load": " ".join(f"{x:.2f}" for x in os.getloadavg()),
        "commit": commit or "?",
    }
