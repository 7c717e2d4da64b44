#!/usr/bin/env python3
"""The emulated ring: a machine with a working KVM, made by QEMU (TCG with nested SVM), in which this build's programs run stock Debian kernels.

    ring.py [OPTION…] [PART…] [-- PYTEST ARGUMENT…]                          last line: N passed, N failed

      vmm     cella-vmm by itself with a small Linux (test_linux.py, test_fork.py): pytest runs inside the outer machine
      guest   what `cella template build` makes, under cella-vmm alone: cella-guest as process 1 (test_guest.py): the same; also with --all
      bare    cella-vmm by itself with the bare-metal guest (tests/microvm): the same; for a host without a /dev/kvm
      cells   keeper and daemon with microvm cells (tests/microvm/cells): they run inside, pytest here, over HTTP
      suite   tests of the other rings that speak HTTP only (SUITE below), against that daemon

Without a part: vmm, cells and suite. Of cells the core set; --all for the rest too. --up starts the outer machine with keeper and daemon and waits;
--native runs vmm, cells and suite on this machine's own KVM. The disk with templates is kept in the cache together with what the first
start bakes (disks.py). A part whose outer machine hangs is run once more, which is said."""
from __future__ import annotations

import argparse
import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as xml
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import disks
from outer import PYTHON, ROOT, Outer, make_image  # first: it knows where the others are
from builder.cpio import Cpio
from builder.kernel_elf import kernel_elf
from builder.kernel_package import fetch, image, modules, put_modules, release
from support.agent import Gone
from support.outer import OuterServer

HERE = Path(__file__).resolve().parent
PARTS = ("vmm", "cells", "suite")
LEAST = {"vmm": 15, "guest": 14, "bare": 15, "cells": 15, "suite": 15}
UNSTEADY_MAX = 3
PART_SECONDS = {"vmm": 900, "guest": 1200, "bare": 900, "cells": 1500, "suite": 1500}
L2_MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon", "vmw_vsock_virtio_transport", "erofs", "overlay"]
BAKED_FROM = ("src/vmm", "src/keeper", "src/driver", "src/wire")  # and machine.json: guest, contexts, kernel, template

#: Tests of the other rings that only speak HTTP, and those of the extended set.
SUITE = ["tests/api/test_driver.py", "tests/api/test_rich.py", "tests/api/test_exec.py", "--deselect=tests/api/test_exec.py::test_background_outlives_the_request_and_keeps_the_tail",
         "--deselect=tests/api/test_driver.py::test_the_other_one_is_made_or_refused_with_a_reason"]  # the emulated processor has no XSAVE
MORE = ["tests/api/test_files.py", "tests/api/test_fork.py", "tests/api/test_merge.py", "tests/api/test_snapshots.py", "tests/api/test_spaces.py", "tests/api/test_interrupt.py",
        "tests/api/test_contexts.py", "tests/api/test_output.py", "tests/api/test_diff.py", "tests/api/test_tree.py", "tests/api/test_fork_correctness.py", "tests/api/test_limits.py"]


# ---- what is run inside ----

def inner_files(kernel: Path, cache: Path) -> Path:
    """vmlinux and l2.cpio: what test_linux.py boots."""
    out = cache / f"files-{release(kernel)}"
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "vmlinux").exists():
        (out / "vmlinux").write_bytes(kernel_elf(image(kernel).read_bytes()))
    init = out / "init"
    subprocess.run(["cc", "-O1", "-static", "-D_GNU_SOURCE", "-o", str(init), str(HERE / "init.c"), "-lpthread"], check=True)
    cpio = Cpio(out / "l2.cpio")
    cpio.copy(init, "init")
    for name in ("dev", "proc", "sys", "modules"):
        cpio.directory(name)
    cpio.put("dev/console", 0o020600, device=(5, 1))
    put_modules(cpio.file, modules(kernel, L2_MODULES))
    cpio.file("lines", "".join(f"line {i}\n" for i in range(1, 500)).encode())
    cpio.close()
    return out


def bake(ring: "Ring", disk: Path) -> None:
    """One create: what takes long happens once and stays on the disk."""
    with ring.machine("bake", disk=disk, keep=True) as outer:
        server = OuterServer(outer.agent, outer.port)
        try:
            server.start()
            ring.first_cell(server)
            server.end()
            outer.off()
        except BaseException:
            ring.tell_logs(outer)
            raise


class Ring:
    def __init__(self, options: argparse.Namespace):
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that no outer machine stays
        self.options, self.cache, self.build = options, options.cache, options.build.resolve()
        shared = Path(os.environ.get("CELLA_TEMPLATE_CACHE", "/var/cache/cella/templates"))  # where `cella template build` keeps them
        kernels = shared / "kernels" if os.geteuid() == 0 else self.cache
        self.kernel = fetch(kernels, options.backports_outer)
        self.inner = inner_files(fetch(kernels, options.backports), self.cache)
        self.scratch = Path(tempfile.mkdtemp(prefix="cella-ring-"))
        atexit.register(shutil.rmtree, self.scratch, ignore_errors=True)
        self.number, self.image = 0, self.scratch / "outer.cpio"
        self.results: Dict[str, List[xml.Element]] = {}
        self.unsteady: List[str] = []

    @contextmanager
    def machine(self, what: str, disk: Path | None = None, keep: bool = False) -> Iterator[Outer]:
        if not self.image.exists():
            make_image(self.kernel, self.build, self.image, self.inner)
        self.number += 1
        began = time.monotonic()
        outer = Outer(self.kernel, self.image, self.scratch / f"console-{self.number}", disk, keep)
        say(f"outer machine for {what} is up after {time.monotonic() - began:.1f} s (kernel {release(self.kernel)})")
        try:
            yield outer
        finally:
            outer.kill()

    def state(self) -> Path:
        """A state directory with the machine's files of this build beside the templates of --templates."""
        there = self.cache / "state"
        there.mkdir(parents=True, exist_ok=True)
        link = there / "templates"
        if not link.is_symlink() or Path(os.readlink(link)) != self.options.templates.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(self.options.templates.resolve())
        done = subprocess.run([str(self.build / "bin/cella"), "template", "build", "python", "--state", str(there), "--machine", "yes"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"cella template build: {done.stderr[-3000:]}")
        return there

    def disk(self) -> Path:
        began = time.monotonic()
        fresh = disks.fresh(self.state(), self.cache)
        sources = disks.of_files(path for name in BAKED_FROM for path in (ROOT / name).rglob("*.[ch]"))
        there = disks.baked(fresh, f"{sources} {self.kernel.name}", self.cache, lambda disk: bake(self, disk))
        say(f"disk {there.name} after {time.monotonic() - began:.1f} s")
        return there

    def first_cell(self, server: OuterServer) -> None:
        """Waits for the machine that all others are copied from."""
        began = time.monotonic()
        create = urllib.request.Request(server.url + "/v1/sandboxes", b"{}", {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(create, timeout=900) as answer:
                made = json.load(answer)
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/sandboxes/{made['id']}", method="DELETE"), timeout=60).close()
        except urllib.error.HTTPError as refused:
            raise RuntimeError(f"the first sandbox: {refused.code} {refused.read().decode()}") from None
        say(f"first sandbox after {time.monotonic() - began:.1f} s")

    def tell_logs(self, outer: Outer) -> None:
        for name in ("keeper", "daemon"):
            try:
                print(f"ring: {name}.log\n{outer.agent.read(f'/state/{name}.log', 6000).decode(errors='replace')}", flush=True)
            except (OSError, RuntimeError, Gone, ValueError) as problem:
                print(f"ring: no {name}.log: {problem}", flush=True)
        try:
            print(f"ring: kernel\n{outer.agent.run('dmesg | tail -n 40', 30, check=False)}", flush=True)
        except (OSError, RuntimeError, Gone, ValueError) as problem:
            print(f"ring: no kernel log: {problem}", flush=True)
        print(f"ring: console\n{outer.said()[-3000:]}", flush=True)

    # ---- parts ----

    def inside(self, part: str, runs: List[List[str]]) -> List[xml.Element]:
        """pytest inside the outer machine, once for each list of arguments."""
        found: List[xml.Element] = []
        disk = disks.fresh(self.state(), self.cache) if part == "guest" else None
        with self.machine(part, disk) as outer:
            outer.watch(outer.kill)
            if disk:
                outer.agent.run("ln -sfn /state/machines/*/ /state/machines/python")
            command = ["cd /tree; exec", PYTHON, "-m pytest -v -s -p no:cacheprovider --tb=short --color=no --confcutdir=/tree/tests/microvm --junit-xml=/tmp/junit.xml"]
            try:
                for arguments in runs:
                    outer.agent.run(" ".join([*command, *(shlex.quote(word) for word in arguments)]), PART_SECONDS[part], check=False, heard=lambda text: print(text, end="", flush=True),
                                    env={"CELLA_BUILD": "/tree/build/bin", "CELLA_RING_FILES": "/files", "CELLA_MACHINE": "/state/machines/python", "TMPDIR": "/var/tmp"})
                    junit = self.scratch / f"{part}.xml"
                    junit.write_bytes(outer.agent.read("/tmp/junit.xml"))
                    outer.agent.run("rm /tmp/junit.xml")
                    found += cases(junit)
            except (OSError, Gone, RuntimeError) as problem:
                say(f"{part}: {problem}")
                self.hung |= outer.hung
        return found

    def outside(self, part: str, arguments: List[str], outer: Outer) -> Path:
        """pytest here, against the daemon inside."""
        junit = self.scratch / f"{part}.xml"
        environment = {**os.environ, "CELLA_RING_AGENT": f"127.0.0.1:{outer.agent_port}", "CELLA_RING_PORT": str(outer.port), "CELLA_TEST_URL": outer.url,
                       "CELLA_TEST_DRIVER": "microvm", "CELLA_BUILD": str(self.build / "bin"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.setdefault("CELLA_TEST_HANG_SECONDS", "400")
        environment.setdefault("CELLA_TEST_PATIENCE", "4")
        pytest = subprocess.Popen([PYTHON, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", "--color=no", "--durations=10", "-o", "junit_family=xunit1", f"--junit-xml={junit}", *arguments],
                                  cwd=ROOT, env=environment)
        outer.watch(pytest.kill)
        try:
            pytest.wait(PART_SECONDS[part])
        except subprocess.TimeoutExpired:
            say(f"{part}: no end after {PART_SECONDS[part]} s")
            pytest.kill()
            pytest.wait()
        self.hung |= outer.hung
        return junit

    def steady(self, part: str, found: List[xml.Element], outer: Outer) -> List[xml.Element]:
        """A few that failed are run once more, alone; what passes then is told apart."""
        again = [case for case in found if bad(case)]
        if self.options.pytest or not 0 < len(again) <= UNSTEADY_MAX:
            return found
        names = [f"{case.get('file')}::{case.get('name')}" for case in again]
        say(f"{part}: {len(names)} failed: once more")
        passed = {(case.get("file"), case.get("name")) for case in cases(self.outside(f"{part}", names, outer)) if not bad(case)}
        better = [case for case in again if (case.get("file"), case.get("name")) in passed]
        self.unsteady += [describe(part, case) for case in better]
        for case in better:
            for kind in ("failure", "error"):
                for element in case.findall(kind):
                    case.remove(element)
        return found

    def run(self, part: str) -> None:
        """Those that run inside; pytest arguments of each run."""
        runs = {"vmm": [["tests/microvm/linux/test_linux.py", "tests/microvm/test_fork.py"]],
                "guest": [["tests/microvm/linux/test_guest.py"]],
                "bare": [["tests/microvm", "--ignore=tests/microvm/linux", "--ignore=tests/microvm/cells"], ["tests/keeper/test_machines.py"]]}[part]
        self.hung = False
        found = self.inside(part, [self.options.pytest] if self.options.pytest else runs)
        if self.hung:
            say("the outer machine hangs; once more")
            found = self.inside(part, [self.options.pytest] if self.options.pytest else runs)
        self.results[part] = found

    def run_cells(self, parts: List[str]) -> None:
        """Those that share an outer machine with keeper and daemon in it."""
        core = [] if self.options.all else ["-m", "core"]
        arguments = {"cells": ["tests/microvm/cells", *core], "suite": [*SUITE, *(MORE if self.options.all else [])]}
        disk = self.disk()
        left = list(parts)
        for attempt in range(2):
            self.hung = False
            with self.machine("cells", disk) as outer:
                server = OuterServer(outer.agent, outer.port)
                try:
                    began = time.monotonic()
                    server.start()
                    say(f"daemon ready after {time.monotonic() - began:.1f} s")
                    while left and not self.hung:
                        junit = self.outside(left[0], self.options.pytest or arguments[left[0]], outer)
                        if not self.hung:
                            part = left.pop(0)
                            self.results[part] = self.steady(part, cases(junit), outer)
                except (OSError, Gone, RuntimeError, AssertionError) as problem:
                    say(f"cells: {problem}")
                    self.hung |= outer.hung
                if left or any(bad(case) for part in parts for case in self.results.get(part, [])):
                    self.tell_logs(outer)
            if not self.hung or attempt:
                break
            say("the outer machine hangs; once more")
        for part in left:
            self.results[part] = []

    # ---- other ways ----

    def native(self, parts: List[str]) -> None:
        """On this machine's own KVM, where every server is a local one."""
        for part in parts:
            junit = self.scratch / f"{part}.xml"
            arguments = {"vmm": ["--confcutdir=tests/microvm", "tests/microvm/linux/test_linux.py"], "bare": ["tests/microvm", "--ignore=tests/microvm/linux", "--ignore=tests/microvm/cells"],
                         "cells": ["tests/microvm/cells"], "suite": [*SUITE, *MORE]}[part]
            subprocess.run([PYTHON, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", "--color=no", f"--junit-xml={junit}", *(self.options.pytest or arguments)], cwd=ROOT,
                           env={**os.environ, "CELLA_TEST_DRIVER": "microvm", "CELLA_BUILD": str(self.build / "bin"), "CELLA_RING_FILES": str(self.inner),
                                "CELLA_TEMPLATES": str(self.state() / "templates")})
            self.results[part] = cases(junit)

    def up(self) -> None:
        """For people: an outer machine that stays until this ends."""
        with self.machine("you", self.disk() if self.options.up == "baked" else disks.fresh(self.state(), self.cache)) as outer:
            print(f"export CELLA_URL={outer.url} CELLA_TEST_URL={outer.url} CELLA_RING_PORT={outer.port} CELLA_RING_AGENT=127.0.0.1:{outer.agent_port} CELLA_TEST_DRIVER=microvm\n"
                  f"console: {outer.console}; commands inside: tests/api/support/agent.py 127.0.0.1:{outer.agent_port} 'ps ax; tail /state/keeper.log'", flush=True)
            try:
                OuterServer(outer.agent, outer.port).start()
                say("keeper and daemon are up; end me to end all of it")
                outer.process.wait()
            except KeyboardInterrupt:
                pass
            except Exception as problem:  # a daemon that does not start is what one wants to look at
                say(f"{problem}\nthe outer machine stays up")
                outer.process.wait()


# ---- results ----

def say(text: str) -> None:
    print(f"ring: {text}", flush=True)


def cases(junit: Path) -> List[xml.Element]:
    try:
        return list(xml.parse(junit).getroot().iter("testcase"))
    except (OSError, xml.ParseError):
        return []


def bad(case: xml.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message') or ''}\n{found.text or ''}"
    return ""


def describe(part: str, case: xml.Element) -> str:
    return f"microvm {part}: {case.get('classname')}::{case.get('name')}\n{bad(case)[-1500:]}"


def total(ring: Ring, least: bool) -> int:
    """Print what failed and the sum; 0 when all is well."""
    passed, failed = 0, []
    for part, found in ring.results.items():
        failed += [describe(part, case) for case in found if bad(case)]
        passed += sum(not bad(case) for case in found)
        if len(found) < (LEAST[part] if least else 1):
            failed.append(f"microvm {part}: only {len(found)} tests ran")
    for text in ring.unsteady:
        print(f"unsteady: {text}")
    for text in failed:
        print(f"failed: {text}")
    if ring.options.report:
        ring.options.report.write_text(json.dumps({"passed": passed, "failed": failed, "unsteady": ring.unsteady}))
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not ring.results else 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cache", type=Path, default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cella/ring")
    options.add_argument("--build", type=Path, default=ROOT / "build")
    options.add_argument("--templates", type=Path, default=Path(os.environ.get("CELLA_TEMPLATES", "/var/lib/cella/templates")), help="where the python template is")
    options.add_argument("--all", action="store_true", help="the extended set too")
    options.add_argument("--up", nargs="?", const="baked", choices=("baked", "fresh"), help="start it and wait; fresh: nothing baked before")
    options.add_argument("--native", action="store_true")
    options.add_argument("--backports", action="store_true", help="Debian's backported kernel (6.12) as the guest of the vmm part, instead of 6.1")
    options.add_argument("--backports-outer", action="store_true", help="the same for the outer machine")
    options.add_argument("--report", type=Path, help="write the results there, as JSON")
    options.add_argument("parts", nargs="*", metavar="PART")
    return options


def main() -> int:
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        arguments, extra = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    options = parser()
    chosen = options.parse_args(arguments)
    chosen.pytest = extra
    parts = chosen.parts or [*PARTS, *(["guest"] if chosen.all else [])]
    unknown = [part for part in parts if part not in LEAST]
    if unknown:
        options.error(f"unknown part {unknown[0]}; there are: {', '.join(LEAST)}")
    ring, began = Ring(chosen), time.monotonic()
    if chosen.up:
        ring.up()
        return 0
    if chosen.native:
        ring.native(parts)
    else:
        for part in parts:
            started = time.monotonic()
            if part in ("vmm", "guest", "bare"):
                ring.run(part)
                say(f"{part} took {time.monotonic() - started:.0f} s")
        together = [part for part in parts if part in ("cells", "suite")]
        if together:
            started = time.monotonic()
            try:
                ring.run_cells(together)
            except (OSError, Gone, RuntimeError, AssertionError) as problem:  # nothing was baked, no machine came up: no test ran
                say(f"{problem}")
                ring.results.update({part: [] for part in together if part not in ring.results})
            say(f"{' and '.join(together)} took {time.monotonic() - started:.0f} s")
    say(f"{time.monotonic() - began:.0f} s in all")
    return total(ring, least=not extra)


if __name__ == "__main__":
    sys.exit(main())
