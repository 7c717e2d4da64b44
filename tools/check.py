#!/usr/bin/env python3
"""`make check`: build, run every ring of tests, add up. The last line is `N passed, N failed[, N skipped]`.

    tools/check.py [--build build] [RING...]

A ring is counted by what its own runner reports: cmocka's summary lines, pytest's JUnit file, one per fuzz target. A ring
that cannot run counts as one failure. A skip that tests/allowed_skips.txt does not list is a failure too. Up to three tests (unit: programs)
of a ring that failed are run once more, alone; one that passes then is counted as passed, and its first failure is printed as "unsteady".
What failed is told twice: behind its ring, and in short before the sum.
"""
from __future__ import annotations

import argparse
import ctypes
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"  # Debian's: the packages of packaging/packages.txt are for this one
FUZZ_SECONDS = int(os.environ.get("CELLA_FUZZ_SECONDS", "10"))
SANITIZED = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "--buildtype=debugoptimized"]
UNSTEADY_MAX = 3
LINES_AT_END = 12  # of each failure, before the sum
SOAK_ROUNDS = os.environ.get("CELLA_SOAK_ROUNDS", "500")


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        self.failed += 1
        self.problems.append(text)

    def add(self, other: "Counts") -> None:
        self.passed, self.failed, self.skipped = self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        self.problems += other.problems
        self.unsteady += other.unsteady

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def allowed_skips() -> list[str]:
    lines = (ROOT / "tests/allowed_skips.txt").read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


class Check:
    def __init__(self, options: argparse.Namespace):
        self.build = (ROOT / options.build).resolve()
        self.asan = self.build.with_name(self.build.name + "-asan")
        self.layers = self.build.with_name(self.build.name + "-layers")
        self.faults = self.build.with_name(self.build.name + "-faults")
        self.jobs = options.jobs
        self.scratch = Path(tempfile.mkdtemp(prefix="cella-check-"))
        self.allowed = allowed_skips()

    # ---- building ----

    def compile(self, directory: Path, setup: list[str], env: dict[str, str] | None = None, targets: tuple[str, ...] = ()) -> str:
        """Empty when it went well, else the end of the compiler's words."""
        environment = os.environ | (env or {})
        if not (directory / "build.ninja").exists():
            done = subprocess.run(["meson", "setup", str(directory), str(ROOT), *setup], env=environment, capture_output=True, text=True)
            if done.returncode:
                return done.stdout[-3000:] + done.stderr[-1000:]
        done = subprocess.run(["ninja", "-C", str(directory), "-j", self.jobs, *targets], env=environment, capture_output=True, text=True)
        if done.returncode:
            return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("["))[-4000:]
        done = subprocess.run([str(ROOT / "packaging/stage"), str(directory)], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    # ---- rings ----

    def meson_tests(self, directory: Path, wrapper: dict[str, str] | None = None) -> Counts:
        programs = self.meson_once(directory, wrapper)
        bad = [name for name, counts in programs.items() if counts.failed]
        certain = any("Sanitizer" in text or "runtime error" in text for counts in programs.values() for text in counts.problems)
        again = self.meson_once(directory, wrapper, *bad) if not certain and 0 < len(bad) <= UNSTEADY_MAX else {}
        for name, counts in again.items():
            if not counts.failed:
                counts.unsteady = programs[name].problems
                programs[name] = counts
        total = Counts()
        for counts in programs.values():
            total.add(counts)
        if total.passed + total.failed == 0:
            total.fail(f"{directory.name}: no unit test ran")
        return total

    def meson_once(self, directory: Path, wrapper: dict[str, str] | None, *names: str) -> dict[str, Counts]:
        """What each program of tests said, by its name; names: only these."""
        log, programs = directory / "meson-logs/testlog.json", {}
        log.unlink(missing_ok=True)
        subprocess.run(["meson", "test", "-C", str(directory), "--no-rebuild", "--num-processes", self.jobs, "--timeout-multiplier", "4", *names],
                       env=os.environ | (wrapper or {}), capture_output=True, text=True)
        for line in log.read_text().splitlines() if log.exists() else []:
            test = json.loads(line)
            programs[test["name"]] = counts = Counts()
            self.count_program(counts, test)
        return programs

    def count_program(self, counts: Counts, test: dict) -> None:
        output = test.get("stdout", "") + test.get("stderr", "")
        name = test["name"]
        passed = sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) test", output, re.M))
        bad = set(re.findall(r"^\[  FAILED  \] ([A-Za-z_]\w*)\s*$", output, re.M))
        skips = set(re.findall(r"^\[  SKIPPED \] ([A-Za-z_]\w*)\s*$", output, re.M))
        for skip in skips:
            self.count_skip(counts, f"unit:{name}:{skip}")
        for test_name in sorted(bad):
            counts.fail(f"unit:{name}:{test_name}")
        ended_well = test["result"] in ("OK", "EXPECTEDFAIL")
        counts.passed += passed if passed else int(ended_well and not skips)
        if not ended_well and not bad:
            counts.fail(f"unit:{name}: {test['result']}\n{output[-2500:]}")
        elif bad:
            counts.problems.append(output[-2500:])

    def count_skip(self, counts: Counts, name: str) -> None:
        if any(fnmatch.fnmatch(name, pattern) for pattern in self.allowed):
            counts.skipped += 1
        else:
            counts.fail(f"{name}: skipped, and tests/allowed_skips.txt does not allow it")

    def pytest(self, *paths: str, env: dict[str, str] | None = None) -> Counts:
        counts, failed = self.pytest_once(paths, env)
        if not failed or len(failed) > UNSTEADY_MAX or len(failed) != counts.failed:
            return counts
        again, _ = self.pytest_once(tuple(failed), env)
        if again.failed or again.passed != len(failed):
            return counts
        return Counts(counts.passed + len(failed), 0, counts.skipped, unsteady=counts.problems)

    def pytest_once(self, arguments: tuple[str, ...], env: dict[str, str] | None) -> tuple[Counts, list[str]]:
        """What happened, and which tests failed."""
        counts, failed = Counts(), []
        report = self.scratch / "junit.xml"
        report.unlink(missing_ok=True)
        environment = os.environ | {"CELLA_BUILD": str(self.build / "bin"), "CELLA_CONTEXTS": str(self.build / "contexts"),
                                    "CELLA_BUILD_CONTEXTS": str(self.build / "contexts"),
                                    "CELLA_TEST_LAYERS_BUILD": str(self.layers / "bin"), "PYTHONDONTWRITEBYTECODE": "1"} | (env or {})
        environment.pop("CELLA_URL", None)
        done = subprocess.run([PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--color=no", "-o", "junit_family=xunit1",
                               f"--junit-xml={report}", *arguments],
                              cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if not report.exists():
            counts.fail(f"{' '.join(arguments)}: pytest did not run:\n{done.stdout[-3000:]}")
            return counts, failed
        for case in xml.parse(report).getroot().iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                detail = case.find("failure") if case.find("failure") is not None else case.find("error")
                counts.fail(f"{name}\n{(detail.text or detail.get('message') or '')[-1500:]}")
                failed.append(f"{case.get('file')}::{case.get('name')}")
            elif case.find("skipped") is not None:
                self.count_skip(counts, name)
            else:
                counts.passed += 1
        if done.returncode not in (0, 1) or counts.passed + counts.failed + counts.skipped == 0:
            counts.fail(f"{' '.join(arguments)}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return counts, failed

    def unit(self) -> Counts:
        return self.meson_tests(self.build)

    def sanitized(self) -> Counts:
        problem = self.compile(self.asan, SANITIZED, {"CC": "gcc"})
        if problem:
            counts = Counts()
            counts.fail(f"the sanitizer build failed:\n{problem}")
            return counts
        return self.meson_tests(self.asan, {"ASAN_OPTIONS": "abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"})

    def clang(self) -> Counts:
        """The second compiler, with its own warnings: it only has to build."""
        counts = Counts()
        problem = self.compile(self.build.with_name(self.build.name + "-clang"), [], {"CC": "clang"})
        if problem:
            counts.fail(f"clang does not build it without a warning:\n{problem}")
        else:
            counts.passed += 1
        return counts

    def fuzz(self) -> Counts:
        """One test per target; tests/fuzz/run.py knows how they are built and where their corpus is."""
        counts = Counts()
        done = subprocess.run([PYTHON, "tests/fuzz/run.py", str(FUZZ_SECONDS)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = re.search(r"^(\d+) passed, (\d+) failed$", done.stdout, re.M)
        if said and done.returncode == 0:
            counts.passed += int(said.group(1))
        else:
            counts.passed += int(said.group(1)) if said else 0
            counts.fail("fuzz:\n" + "\n".join(line for line in done.stdout.splitlines() if not re.match(r"\w+_fuzz: \d+ inputs$", line))[-4000:])
        return counts

    def keeper(self) -> Counts:
        return self.pytest("tests/keeper")

    def kvm(self) -> str:
        """What doctor's trial found: "linux" (a stock Linux guest runs), "guest" (guest code runs) or ""."""
        said = subprocess.run([str(self.build / "bin/cella"), "doctor", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        report = json.loads(said)
        ran = any(one["name"] == "trial" and "virtual machine ran" in one["text"] for one in report["checks"])
        return "linux" if report["kvm_works"] else "guest" if ran else ""

    def microvm(self) -> Counts:
        """The VMM by itself with a bare-metal guest, on this machine's /dev/kvm; where that runs no guest code, in the emulated ring."""
        if self.kvm():
            return self.pytest("tests/microvm", "--ignore=tests/microvm/linux", "--ignore=tests/microvm/cells")
        return self.ring("bare")

    def microvm_linux(self) -> Counts:
        """Debian kernels under the VMM, and the whole of keeper, daemon and microvm cells: inside a machine that QEMU emulates
        (tests/microvm/linux/ring.py), natively where KVM boots Linux."""
        return self.ring(*(["--native", "--all"] if self.kvm() == "linux" else []))

    def ring(self, *arguments: str) -> Counts:
        counts, report = Counts(), self.scratch / "ring.json"
        report.unlink(missing_ok=True)
        done = subprocess.run([PYTHON, "tests/microvm/linux/ring.py", "--build", str(self.build), "--report", str(report), *arguments], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        said = json.loads(report.read_text()) if report.exists() else {"passed": 0, "failed": [], "unsteady": []}
        counts.passed, counts.unsteady = said["passed"], said["unsteady"]
        for text in said["failed"]:
            counts.fail(text)
        if bool(done.returncode) != bool(said["failed"]) or not counts.passed:
            counts.fail(f"emulated ring: it ended with {done.returncode}:\n{done.stdout[-3000:]}")
        for line in re.findall(r"^ring: .*once more$", done.stdout, re.M):
            print(line, flush=True)
        if counts.failed:  # logs of keeper and daemon are in it
            kept = self.build.parent / (self.build.name + "-ring.log")
            kept.write_text(done.stdout)
            print(f"ring: all that was said is in {kept}", flush=True)
        return counts

    def contexts(self) -> Counts:
        return self.pytest("tests/contexts")

    def api(self) -> Counts:
        return self.pytest("tests/api")

    def api_sanitized(self) -> Counts:
        """The same requests against a daemon under the sanitizers (plain driver: cells without isolation)."""
        problem = self.compile(self.asan, SANITIZED, {"CC": "gcc"})
        if problem:
            counts = Counts()
            counts.fail(f"the sanitizer build failed:\n{problem}")
            return counts
        return self.pytest("-m", "not slow", "tests/api", env={"CELLA_TEST_DRIVER": "plain", "CELLA_BUILD": str(self.asan / "bin"),
                                                               "CELLA_CONTEXTS": str(self.asan / "contexts"), "ASAN_OPTIONS": "detect_leaks=0"})

    def python_sdk(self) -> Counts:
        return self.pytest("tests/sdk_python")

    def typescript(self) -> Counts:
        counts = Counts()
        environment = os.environ | {"CELLA_BUILD": str(self.build / "bin"), "CELLA_CONTEXTS": str(self.build / "contexts")}
        done = subprocess.run([str(ROOT / "sdk/typescript/check")], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = re.search(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*\Z", done.stdout, re.M)
        counts.passed = int(said.group(1)) if said else 0
        for name in re.findall(r"^skipped: (.*?) # SKIP", done.stdout, re.M):
            self.count_skip(counts, f"typescript:{name}")
        if done.returncode or not counts.passed:
            counts.fail(f"typescript:\n{done.stdout[-4000:]}")
        return counts

    def frameworks(self) -> Counts:
        """Agent frameworks with our adapters, against a model server of our own."""
        return self.pytest("tests/frameworks")

    def clients(self) -> Counts:
        """Other people's clients, unmodified."""
        return self.pytest("tests/clients")

    def cli(self) -> Counts:
        return self.pytest("tests/cli")

    def hostile(self) -> Counts:
        problem = self.compile(self.layers, ["-Dtest_layers=true"], targets=("src/keeper/cella-keeper",))
        if problem:
            counts = Counts()
            counts.fail(f"the build whose layers can be switched off failed:\n{problem}")
            return counts
        return self.pytest("tests/hostile")

    def crash(self) -> Counts:
        """Programs that die or fail at each step of fork, merge, snapshot, freeze and resume (base/fault.h)."""
        problem = self.compile(self.faults, ["-Dfaults=true"], targets=("src/keeper/cella-keeper", "src/guest/cella-guest", "src/api/cellad"))
        if problem:
            counts = Counts()
            counts.fail(f"the build with fault points failed:\n{problem}")
            return counts
        return self.pytest("tests/crash", env={"CELLA_FAULTS_BUILD": str(self.faults / "bin")})

    def soak(self) -> Counts:
        counts = Counts()
        environment = os.environ | {"CELLA_BUILD": str(self.build / "bin"), "CELLA_CONTEXTS": str(self.build / "contexts")}
        done = subprocess.run([PYTHON, "tests/soak/soak.py", SOAK_ROUNDS], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            counts.fail(f"soak ({SOAK_ROUNDS} rounds):\n{done.stdout[-3000:]}")
        else:
            counts.passed += 1
        return counts


RINGS = ("unit", "sanitized", "clang", "fuzz", "contexts", "microvm_linux", "keeper", "microvm", "cli", "api", "api_sanitized", "python_sdk", "typescript",
         "frameworks", "clients", "hostile", "crash", "soak")
BESIDE = "microvm_linux"  # an emulator on one processor for minutes: it runs beside the rings before it, which compile and compute
NEED_TEMPLATE = set(RINGS) - {"unit", "sanitized", "clang", "fuzz", "contexts", "api_sanitized", "microvm"}


def prepare(check: Check, rings: list[str]) -> str:
    problem = check.compile(check.build, [])
    if problem or not NEED_TEMPLATE & set(rings):
        return problem
    done = subprocess.run([str(check.build / "bin/cella"), "template", "build", "python"], stdout=subprocess.PIPE, text=True)
    return "the python template does not build" if done.returncode else ""


def run_ring(name: str, run: Callable[[], Counts]) -> Counts:
    started = time.monotonic()
    live = sys.stdout.isatty()
    if live:
        print(f"{name:<13} …", end="", flush=True)
    try:
        counts = run()
    except Exception as problem:  # a ring that breaks is a failure of that ring, not the end of the others
        counts = Counts()
        counts.fail(f"{name}: {type(problem).__name__}: {problem}")
    print(("\r" if live else "") + f"{name:<13} {counts} ({time.monotonic() - started:.0f} s)", flush=True)
    for text in counts.problems:
        print("  " + text.strip().replace("\n", "\n    "), flush=True)
    for text in counts.unsteady:
        print("  unsteady: " + text.strip().replace("\n", "\n    "), flush=True)
    return counts


def default_signals() -> None:
    """Every test inherits what is ignored here: SIGINT and SIGQUIT under a shell's `&`, and glibc's own 32 and 33 under make
    (its posix_spawn leaves them ignored; only the bare system call can change them)."""
    libc, default = ctypes.CDLL(None), bytes(32)  # struct kernel_sigaction, all zero: SIG_DFL
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (32, 33):
        libc.syscall(13, number, default, None, 8)  # rt_sigaction


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--build", default="build")
    options.add_argument("--jobs", default=str(os.cpu_count() or 2))
    options.add_argument("rings", nargs="*", metavar="RING", help=", ".join(RINGS))
    chosen = options.parse_args()
    unknown = [ring for ring in chosen.rings if ring not in RINGS]
    if unknown:
        options.error(f"unknown ring {unknown[0]}; there are: {', '.join(RINGS)}")
    default_signals()
    rings = chosen.rings or list(RINGS)
    check, total = Check(chosen), Counts()
    try:
        problem = prepare(check, rings)
        if problem:
            total.fail("build")
            print(problem)
        else:
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(getattr(check, BESIDE)) if BESIDE in rings[1:] else None
                for name in rings:
                    total.add(run_ring(name, beside.result if beside and name == BESIDE else getattr(check, name)))
    finally:
        shutil.rmtree(check.scratch, ignore_errors=True)
    for text in total.problems:
        print("failed: " + "\n    ".join(text.strip().splitlines()[:LINES_AT_END]), flush=True)
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
