"""The machine that the daemon runs on: this one, or the outer machine of the emulated ring."""
from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import Any, Dict, List

import httpx
from support.branches import until
from support.cells import Cell
from support.server import Server

#: Emulation of an emulation is a hundred times slower than a machine; nothing here measures time.
SECONDS = 300


class Machine(Cell):
    """A sandbox whose driver is microvm; the words of the API."""

    def __init__(self, url: str, **spec: Any) -> None:
        self.http = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False)
        made = self.http.post("/v1/sandboxes", json=spec)
        assert made.status_code == 201, made.text
        self.made = made.json()
        self.id = self.made["id"]
        self.path = f"/v1/sandboxes/{self.id}"

    @classmethod
    def at(cls, url: str, sandbox: str) -> "Machine":
        self = cls.__new__(cls)
        self.http, self.id, self.path, self.made = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False), sandbox, f"/v1/sandboxes/{sandbox}", {}
        return self

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def exec(self, cmd: Any, **body: Any) -> Dict[str, Any]:
        value: Dict[str, Any] = self.call("POST", "/exec", json={"cmd": cmd, **body}).json()
        return value

    def sh(self, cmd: str, **body: Any) -> str:
        """Standard output of a command that must end with 0."""
        run = self.exec(cmd, **body)
        assert run["exit"] == "ok" and run["exit_code"] == 0, run
        return str(run["stdout"])

    def put(self, path: str, data: bytes) -> None:
        answer = self.http.put(self.path + "/fs", params={"path": path}, content=data)
        assert answer.status_code in (200, 201, 204), answer.text

    def get(self, path: str) -> bytes:
        return self.call("GET", "/fs", params={"path": path}).content

    def forks(self, n: int = 1, **body: Any) -> List["Machine"]:
        said = self.call("POST", "/fork", 201, json={"n": n, **body}).json()
        assert not said["errors"] and len(said["children"]) == n, said
        return [Machine.at(self.url, child) for child in said["children"]]


class Host:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.agent = getattr(server, "agent", None)

    def run(self, command: str) -> str:
        if self.agent:
            return str(self.agent.run(command))
        return subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=True).stdout

    def signal(self, pid: int, signo: int = signal.SIGKILL) -> None:
        if self.agent:
            assert self.agent.ask("signal", pid=pid, signal=int(signo))
        else:
            os.kill(pid, signo)

    def monitors(self) -> Dict[int, str]:
        """Living cella-vmm processes below the keeper, with their cgroup."""
        said = self.run("for p in /proc/[0-9]*; do read -r comm 2>/dev/null < $p/comm || continue; "
                        "[ \"$comm\" = cella-vmm ] && ! grep -q '^State:.Z' $p/status 2>/dev/null && echo ${p#/proc/} $(cat $p/cgroup 2>/dev/null | tr '\\n' ' '); done; true")
        return {int(line.split()[0]): line.partition(" ")[2] for line in said.splitlines() if line.strip()}

    def monitor_of(self, cell: Machine) -> int:
        """The monitor of this cell: the one that stands still while the cell is paused."""
        cell.call("POST", "/pause", 204)
        try:
            frozen = [pid for pid, groups in self.monitors().items() if self.frozen(groups)]
        finally:
            cell.call("POST", "/resume", 204)
        assert len(frozen) == 1, (frozen, self.monitors())
        return frozen[0]

    def frozen(self, groups: str) -> bool:
        path = re.search(r"(?:^|\s)0::(\S+)", groups)
        if not path:
            return False
        # not cgroup.events: kernels before 6.13 keep a thread of KVM's in the group, which never freezes
        said = self.run(f"for d in /sys/fs/cgroup /sys/fs/cgroup/unified; do cat $d{path.group(1)}/cgroup.freeze 2>/dev/null; done; true")
        return "1" in said.split()


__all__ = ["Host", "Machine", "SECONDS", "until"]
