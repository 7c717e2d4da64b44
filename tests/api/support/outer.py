"""The programs under test inside an emulated outer machine: same calls as Server, done by its agent.

    CELLA_RING_AGENT    HOST:PORT of the agent (tests/microvm/linux/ring.py sets it)
    CELLA_RING_PORT     of the daemon, the same inside and on this host's 127.0.0.1
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, Optional

from .agent import Agent
from .server import USER, Server
from .wait import until

STATE = Path("/state")
TREE = Path("/tree/build")
#: Emulation of an emulation: a start that has to bake boots a kernel and imports pandas in it.
READY_SECONDS = 240.0


class RemoteProcess:
    """As much of subprocess.Popen as Server needs."""

    def __init__(self, agent: Agent, name: str, pid: int) -> None:
        self.agent, self.name, self.pid = agent, name, pid

    @property
    def returncode(self) -> Optional[int]:
        return self.poll()

    def poll(self) -> Optional[int]:
        status: Optional[int] = self.agent.ask("poll", name=self.name)
        return status

    def send_signal(self, signo: int) -> None:
        self.agent.ask("signal", name=self.name, signal=int(signo))

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds: float = 60) -> int:
        status = self.agent.ask("wait", name=self.name, seconds=seconds * 4)
        if status is None:
            raise subprocess.TimeoutExpired(self.name, seconds)
        return int(status)


class OuterServer(Server):
    """Keeper and daemon in the outer machine; they stay when the tests end."""

    def __init__(self, agent: Optional[Agent] = None, port: int = 0, driver: str = "microvm", arguments: Optional[List[str]] = None) -> None:
        self.agent = agent or Agent(os.environ["CELLA_RING_AGENT"])
        self.port = port or int(os.environ["CELLA_RING_PORT"])
        self.driver = driver
        self.arguments = list(arguments or ["--pool-filled", "1", "--pool-empty", "0", "--header-timeout", "60"])
        self.listen = f"127.0.0.1:{self.port}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = STATE
        self.external = True
        self.keeper = self.daemon = None
        self._logs: Dict[str, Path] = {name: STATE / f"{name}.log" for name in ("keeper", "daemon")}
        for name in ("keeper", "daemon"):
            pid = self.pid_of(name)
            if pid:
                setattr(self, name, RemoteProcess(self.agent, name, pid))

    def pid_of(self, name: str) -> int:
        return int(self.agent.ask("pid", name=name) or 0)

    def start(self) -> "OuterServer":
        if not self.keeper:
            self.prepare()
            self.start_keeper()
        if not self.daemon:
            self.start_daemon()
        return self

    def stop(self) -> None:
        """The next tests go on with them."""

    def end(self) -> None:
        self.stop_daemon()
        self.stop_keeper()

    def prepare(self) -> None:
        """The process driver takes a template's root as a directory; here it is the machine's read-only image."""
        self.agent.run(f"cd {STATE}; for root in templates/*/root; do id=${{root%/root}}; image=machines/${{id#*/}}/root.erofs; "
                       "[ ! -e $image ] || mount -t erofs -o loop,ro $image $root; done; mkdir -p run log")

    # ---- the keeper ----

    @property
    def keeper_socket(self) -> Path:
        return STATE / "run/keeper.sock"

    def keeper_command(self) -> List[str]:
        return [str(TREE / "bin/cella-keeper"), "--state", str(STATE), "--socket", str(self.keeper_socket), "--user", USER,
                "--contexts", str(TREE / "contexts"), "--guest", str(TREE / "bin/cella-guest")]

    def start_keeper(self) -> None:
        self.agent.run(f"rm -f {self.keeper_socket}")
        self.keeper = self._spawn("keeper", self.keeper_command())  # type: ignore[assignment]
        until(lambda: self.agent.ask("exists", path=str(self.keeper_socket)) or self._died(self.keeper), "the keeper's socket", 120, 0.1)
        self._raise_if_dead(self.keeper, "keeper")

    # ---- the daemon ----

    def daemon_command(self) -> List[str]:
        return [str(TREE / "bin/cellad"), "--state", str(STATE), "--listen", self.listen, "--keeper", str(self.keeper_socket), "--driver", "auto", *self.arguments]

    def start_daemon(self) -> None:
        self.daemon = self._spawn("daemon", self.daemon_command(), USER)  # type: ignore[assignment]
        until(lambda: self.healthy() or self._died(self.daemon), "the daemon's /healthz", READY_SECONDS, 0.2)
        self._raise_if_dead(self.daemon, "daemon")

    # ---- looking ----

    def log(self, program: str = "daemon") -> str:
        return self.agent.read(str(self._logs[program]), 1 << 20).decode("utf-8", "replace")

    def _spawn(self, name: str, command: List[str], user: Optional[str] = None) -> RemoteProcess:  # type: ignore[override]
        pid = self.agent.ask("spawn", name=name, argv=command, user=user, log=str(self._logs[name]))
        return RemoteProcess(self.agent, name, int(pid))
