"""Starts and stops the programs under test.

    CELLA_TEST_URL      a daemon that is up already (tests that restart it are deselected)
    CELLA_TEST_DRIVER   process (default: cella-keeper + cellad, as root) | microvm (the same, cells are virtual machines) | plain (cellad-plain, no
                        isolation); pytest --driver is the same
    CELLA_BUILD         where the programs are (default build/bin)
    CELLA_CONTEXTS      kernels of the contexts (default contexts/ beside the directory of the programs)
    CELLA_TEST_KEEP     set: keep the state directory and the logs beside it (/var/tmp/cella-test-…)
    CELLA_TEMPLATES     templates already built (default /var/lib/cella/templates); microvm: and machines/ beside it
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, List, Optional

from . import proc
from .wait import until

ROOT = Path(__file__).resolve().parents[3]
USER = "cella"  # whom cellad runs as

#: The first start bakes the template: an import of pandas and friends, on a small machine under load.
READY_SECONDS = 120.0


def wanted_driver() -> str:
    return os.environ.get("CELLA_TEST_DRIVER", "process")


def programs() -> Path:
    return Path(os.environ.get("CELLA_BUILD", ROOT / "build" / "bin")).absolute()


def contexts() -> Path:
    return Path(os.environ.get("CELLA_CONTEXTS", programs().parent / "contexts")).absolute()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """One daemon (and its keeper) with a state directory of its own."""

    def __init__(self, driver: Optional[str] = None, listen: str = "127.0.0.1", arguments: Optional[List[str]] = None) -> None:
        self.driver = driver or wanted_driver()
        self.arguments = list(arguments or [])
        self.port = free_port()
        self.listen = f"{listen}:{self.port}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.marker = f"CELLA_TEST_RUN={secrets.token_hex(8)}"
        self.state = Path(tempfile.mkdtemp(prefix="cella-test-", dir=os.environ.get("CELLA_TEST_DIR", "/var/tmp")))
        self.keeper: Optional[subprocess.Popen[bytes]] = None
        self.daemon: Optional[subprocess.Popen[bytes]] = None
        self.external = False
        self._logs: Dict[str, Path] = {}

    # ---- whole life ----

    def start(self) -> "Server":
        self.prepare()
        self.start_keeper()
        self.start_daemon()
        return self

    def stop(self) -> None:
        """End both programs, undo the mount, delete the state."""
        self.stop_daemon()
        self.stop_keeper()
        if self.driver != "plain":
            templates = self.state / "templates"
            if str(templates) in proc.mounts_below(str(templates)):
                subprocess.run(["umount", str(templates)], check=True)
        left = proc.mounts_below(str(self.state))
        assert not left, f"mounts left behind: {left}"
        if not os.environ.get("CELLA_TEST_KEEP"):
            shutil.rmtree(self.state)
            for log in self._logs.values():
                log.unlink(missing_ok=True)

    def prepare(self) -> None:
        """The state directory with the templates in it."""
        self.state.chmod(0o755)
        if self.driver == "plain":
            return
        if os.geteuid() != 0:
            raise RuntimeError(f"the {self.driver} driver needs root; CELLA_TEST_DRIVER=plain does not")
        source = Path(os.environ.get("CELLA_TEMPLATES", "/var/lib/cella/templates"))
        if not source.is_dir():
            raise RuntimeError(f"no templates in {source}: build one first (cella template build) or set CELLA_TEMPLATES")
        if subprocess.run(["id", "-u", USER], capture_output=True).returncode:
            subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", USER], check=True)
        account = pwd.getpwnam(USER)
        for name, owner in (("db", account.pw_uid), ("images", account.pw_uid), ("bases", account.pw_uid), ("run", 0), ("templates", 0)):
            (self.state / name).mkdir(mode=0o755)
            os.chown(self.state / name, owner, -1)
        templates = self.state / "templates"
        subprocess.run(["mount", "--bind", str(source), str(templates)], check=True)
        # whoever removes what a killed run left behind must not remove the templates by it
        subprocess.run(["mount", "-o", "remount,bind,ro", str(templates)], check=True)
        if self.driver == "microvm":
            self.prepare_machines(source.parent / "machines")

    def prepare_machines(self, source: Path) -> None:
        """What machines boot from; what the keeper bakes of it stays in this state directory."""
        files = [path for path in source.glob("*/*") if path.is_file() and not path.is_symlink()]
        if not files:
            raise RuntimeError(f"no machines in {source}: cella template build python --machine yes")
        for path in files:
            to = self.state / "machines" / path.parent.name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, to)
            except OSError:
                subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(path), str(to)], check=True)

    # ---- the keeper ----

    @property
    def keeper_socket(self) -> Path:
        return self.state / "run" / "keeper.sock"

    def start_keeper(self) -> None:
        if self.driver == "plain":
            return
        bin_dir = programs()
        command = [
            str(bin_dir / "cella-keeper"), "--state", str(self.state), "--socket", str(self.keeper_socket),
            "--user", USER, "--contexts", str(contexts()), "--guest", str(bin_dir / "cella-guest"),
        ]  # fmt: skip
        self.keeper_socket.unlink(missing_ok=True)
        self.keeper = self._spawn("keeper", command)
        until(lambda: self.keeper_socket.exists() or self._died(self.keeper), "the keeper's socket")
        self._raise_if_dead(self.keeper, "keeper")

    def stop_keeper(self) -> None:
        self._end(self.keeper, signal.SIGTERM)
        self.keeper = None

    def kill_keeper(self) -> None:
        self._end(self.keeper, signal.SIGKILL)
        self.keeper = None

    # ---- the daemon ----

    def daemon_command(self) -> List[str]:
        bin_dir = programs()
        if self.driver == "plain":
            return [str(bin_dir / "cellad-plain"), "--state", str(self.state), "--listen", self.listen, *self.arguments]
        return [
            str(bin_dir / "cellad"), "--state", str(self.state), "--listen", self.listen,
            "--keeper", str(self.keeper_socket), "--driver", self.driver, *self.arguments,
        ]  # fmt: skip

    def start_daemon(self) -> None:
        self.daemon = self._spawn("daemon", self.daemon_command(), USER if self.driver != "plain" else None)
        until(lambda: self.healthy() or self._died(self.daemon), "the daemon's /healthz", READY_SECONDS)
        self._raise_if_dead(self.daemon, "daemon")

    def stop_daemon(self) -> None:
        self._end(self.daemon, signal.SIGTERM)
        self.daemon = None

    def kill_daemon(self) -> None:
        """kill -9: what a crash is."""
        self._end(self.daemon, signal.SIGKILL)
        self.daemon = None

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as e:
            e.close()
            return False
        except OSError:
            return False

    @property
    def daemon_pid(self) -> int:
        assert self.daemon is not None
        return self.daemon.pid

    @property
    def keeper_pid(self) -> int:
        assert self.keeper is not None
        return self.keeper.pid

    # ---- looking ----

    def log(self, program: str = "daemon") -> str:
        path = self._logs.get(program)
        return path.read_text("utf-8", "replace") if path else ""

    def get(self, path: str) -> object:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    # ---- inside ----

    def _spawn(self, name: str, command: List[str], user: Optional[str] = None) -> "subprocess.Popen[bytes]":
        log = self._logs.setdefault(name, self.state.parent / f"{self.state.name}.{name}.log")
        key, _, value = self.marker.partition("=")
        environment = dict(os.environ, **{key: value})
        if self.driver == "plain":
            environment.update(CELLA_GUEST=str(programs() / "cella-guest"), CELLA_CONTEXTS=str(contexts()))
            environment["CELLA_SHELL_SO"] = str(contexts() / "shell" / "cella_shell.so")
        identity: Dict[str, object] = {}
        if user:
            account = pwd.getpwnam(user)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        # Through a descriptor: the build tree may lie where that user cannot look.
        program = os.open(command[0], os.O_PATH)
        try:
            with open(log, "ab") as out:
                return subprocess.Popen(
                    command, executable=f"/proc/self/fd/{program}", pass_fds=[program], stdin=subprocess.DEVNULL,
                    stdout=out, stderr=out, env=environment, cwd="/", **identity,  # type: ignore[call-overload]
                )  # fmt: skip
        finally:
            os.close(program)

    @staticmethod
    def _died(process: "Optional[subprocess.Popen[bytes]]") -> bool:
        return process is not None and process.poll() is not None

    def _raise_if_dead(self, process: "Optional[subprocess.Popen[bytes]]", name: str) -> None:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")

    @staticmethod
    def _end(process: "Optional[subprocess.Popen[bytes]]", signo: int) -> None:
        """Signal it and wait; SIGKILL after a while."""
        if process is None or process.poll() is not None:
            return
        process.send_signal(signo)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"pid {process.pid} did not end on signal {signo} within 30 s") from None


class ExternalServer(Server):
    """A daemon somebody else started."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.driver = os.environ.get("CELLA_TEST_DRIVER", "process")
        self.external = True
        self.daemon = self.keeper = None
        self._logs = {}
        self.port = int(self.url.rsplit(":", 1)[1])

    def start(self) -> "Server":
        deadline = time.monotonic() + READY_SECONDS
        while not self.healthy():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing healthy at {self.url}")
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        pass


def chosen() -> Server:
    """The server the environment asks for, not started."""
    url = os.environ.get("CELLA_TEST_URL")
    if os.environ.get("CELLA_RING_AGENT"):
        from .outer import OuterServer

        return OuterServer()
    return ExternalServer(url) if url else Server()
