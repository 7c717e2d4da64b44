"""What the hostile tests share: daemons of the ring, keepers with a layer switched off, and ways to run an attack inside a cell."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from cella import Sandbox
from support.server import ROOT, USER, Server, contexts, programs, wanted_driver
from support.wait import until

#: Small enough that a bomb which goes off hurts nobody, large enough for the interpreter.
SMALL: Dict[str, float] = {"memory_mb": 192, "pids": 64, "disk_mb": 64, "cpus": 1}
LAYERS = ("seccomp", "landlock", "masks", "caps", "limits", "userlimits")


class Ring(Server):
    """A daemon with a keeper of its own; `without` names a layer that its keeper leaves out (a test build)."""

    def __init__(self, without: Optional[str] = None) -> None:
        filled, empty = ("1", "0") if without else ("2", "2")
        super().__init__(driver="process" if without else wanted_driver(), arguments=["--pool-filled", filled, "--pool-empty", empty])
        self.without = without

    def prepare(self) -> None:
        super().prepare()
        database = self.state / "db"
        database.mkdir(exist_ok=True)
        account = pwd.getpwnam(USER)
        os.chown(database, account.pw_uid, account.pw_gid)

    def start(self) -> "Ring":
        try:
            super().start()
        except BaseException:
            self.stop()
            raise
        return self

    def start_keeper(self) -> None:
        if not self.without:
            super().start_keeper()
            return
        command = [
            str(test_keeper()), "--state", str(self.state), "--socket", str(self.keeper_socket), "--user", USER,
            "--contexts", str(contexts()), "--guest", str(programs() / "cella-guest"), "--without", self.without,
        ]  # fmt: skip
        self.keeper = self._spawn("keeper", command)
        until(lambda: self.keeper_socket.exists() or self._died(self.keeper), "the keeper's socket")
        self._raise_if_dead(self.keeper, "keeper")

    def cell(self, **limits: float) -> "Cell":
        return Cell(self, {**SMALL, **limits})


_built: List[Path] = []


def test_keeper() -> Path:
    """A keeper that knows --without: CELLA_TEST_LAYERS_BUILD (a directory with a cella-keeper), else one built here from the same sources."""
    given = os.environ.get("CELLA_TEST_LAYERS_BUILD")
    if given:
        return Path(given) / "cella-keeper"
    if not _built:
        directory = Path(tempfile.mkdtemp(prefix="cella-layers-"))
        log = subprocess.run(
            f"meson setup {directory} {ROOT} -Dtest_layers=true && ninja -j2 -C {directory} src/keeper/cella-keeper",
            shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if log.returncode:
            raise RuntimeError("the keeper with switchable layers does not build:\n" + log.stdout[-3000:])
        _built.append(directory)
    return _built[0] / "src" / "keeper" / "cella-keeper"


def forget_test_keeper() -> None:
    while _built:
        shutil.rmtree(_built.pop())


#: In front of every attack. `call` is a raw system call that answers -errno; `report` hands a value to the test.
PRELUDE = '''
import ctypes, errno, json, os, signal, socket, struct, subprocess, sys, threading, time
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
def call(nr, *args):
    ctypes.set_errno(0)
    full = [a if isinstance(a, (bytes, ctypes.Array, ctypes.Structure)) or a is None else ctypes.c_long(a) for a in args]
    got = _libc.syscall(ctypes.c_long(nr), *full)
    return -ctypes.get_errno() if got == -1 else got
def refusal(fn, *args, **named):
    """The name of the errno that stops fn, "ok" when nothing does."""
    try:
        fn(*args, **named)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
    except (ValueError, MemoryError, RuntimeError) as e:
        return type(e).__name__
    return "ok"
def name(result):
    return errno.errorcode.get(-result, str(result)) if result < 0 else "ok"
def report(value):
    sys.stdout.write("\\n@@" + json.dumps(value, default=repr) + "\\n")
    sys.stdout.flush()
'''


class Breach(AssertionError):
    """An attack got through. What test_layers.py wants to see where a layer is off; any other failure proves nothing."""


def reported(stdout: str, why: str) -> Any:
    lines = [line for line in stdout.splitlines() if line.startswith("@@")]
    if not lines:
        raise RuntimeError(f"the attack reported nothing: {why}\n{stdout[-1500:]}")
    return json.loads(lines[-1][2:])


class Cell(Sandbox):
    """A sandbox with shorthands for attacks. `with` deletes it."""

    def __init__(self, server: Server, limits: Optional[Dict[str, float]] = None) -> None:
        super().__init__(host=server.url, limits=limits)
        self.server = server

    def attack(self, code: str, timeout: float = 60.0, preface: str = "") -> Any:
        """Run Python (after `preface`, which stands at the margin) in a context; what it gives to report()."""
        run = self.run_code(PRELUDE + preface + textwrap.dedent(code), timeout_seconds=timeout)
        why = f"exit {run.exit}, error {run.error}, stderr {run.stderr[-1500:]}"
        return reported(run.stdout, why)

    def attack_process(self, code: str, user: Optional[str] = None, timeout: float = 60.0, preface: str = "") -> Any:
        """The same in a process of its own, as the ordinary user or as the cell's root."""
        run = self.exec(["python3", "-c", PRELUDE + preface + textwrap.dedent(code)], user=user, timeout_seconds=timeout)
        return reported(run.stdout, f"exit {run.exit} code {run.exit_code} signal {run.signal} stderr {run.stderr[-1500:]}")

    def everywhere(self, code: str, timeout: float = 60.0, preface: str = "") -> Dict[str, Any]:
        """As code of a context, as an ordinary process, as a process of the cell's root."""
        return {
            "context": self.attack(code, timeout, preface),
            "process": self.attack_process(code, None, timeout, preface),
            "root": self.attack_process(code, "root", timeout, preface),
        }

    def answers(self) -> bool:
        """Both ways in work: the context and a new process."""
        run = self.run_code("print(6 * 7)", timeout_seconds=60)
        return run.exit == "ok" and run.stdout == "42\n" and self.exec(["echo", "alive"], timeout_seconds=60).stdout == "alive\n"


def held(condition: object, what: str) -> None:
    """The defence held, or Breach."""
    if not condition:
        raise Breach(what)


def denied(results: Any, *refusals: str) -> None:
    """Every answer in `results` (a name of an errno; lists and dictionaries of them) is one of `refusals`."""
    wrong = [path for path in _leaves(results, "") if path[1] not in refusals]
    held(not wrong, f"not refused with {' or '.join(refusals)}: {wrong}")


def _leaves(value: Any, path: str) -> Iterator[Tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    if not value:
        raise RuntimeError(f"nothing was tried at {path or 'the top'}")
    for key, inner in items:
        yield from _leaves(inner, f"{path}/{key}")


def upload_program(cell: Sandbox, source: str, path: str = "/workspace/attack") -> None:
    """Compile C on this host, statically, and put it into the cell."""
    with tempfile.TemporaryDirectory() as directory:
        c, out = Path(directory, "attack.c"), Path(directory, "attack")
        c.write_text(textwrap.dedent(source))
        subprocess.run(["gcc", "-static", "-O1", "-w", "-o", str(out), str(c)], check=True)
        cell.filesystem.write(path, out.read_bytes(), mode=0o755)
