"""E2B's command line, unmodified."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
from typing import Dict, Iterator

import pytest
from e2b_run import CLI, HERE, SECONDS, environment
from support.packages import node, npm_tree
from support.server import Server
from support.wait import until

ID = re.compile(r"sbx_[0-9a-f]{32}")


class Commands:
    def __init__(self, url: str, home: str) -> None:
        # A home of its own: the program keeps a configuration there.
        self.environment: Dict[str, str] = environment(url, HOME=home, NO_COLOR="1", FORCE_COLOR="0", E2B_DISABLE_TELEMETRY="1")
        self.program = [str(node()), str(npm_tree(HERE / "npm" / "e2b") / "node_modules" / "@e2b" / "cli" / "dist" / "index.js")]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run([*self.program, *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cli(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(server.url, str(tmp_path_factory.mktemp("e2b-home")))


@pytest.fixture
def sandbox(cli: Commands) -> Iterator[str]:
    found = ID.search(cli.run("sandbox", "create", "--detach", "--timeout", "900", "base"))
    assert found
    yield found[0]
    cli.run("sandbox", "kill", found[0])


@pytest.mark.client(CLI, "sandbox create, list, info, kill")
def test_create_list_kill(cli: Commands) -> None:
    said = cli.run("sandbox", "create", "--detach", "--timeout", "900", "base")
    found = ID.search(said)
    assert found, said
    one = found[0]
    assert one in [entry["sandboxId"] for entry in json.loads(cli.run("sandbox", "list", "--format", "json"))]
    info = cli.run("sandbox", "info", one)
    assert f"Sandbox ID: {one}" in info and "State: running" in info and "Internet access: false" in info
    assert f"{one} has been killed" in cli.run("sandbox", "kill", one)
    assert one not in cli.run("sandbox", "list")
    assert "wasn't found" in cli.run("sandbox", "kill", one)


@pytest.mark.client(CLI, "sandbox exec")
def test_exec(cli: Commands, sandbox: str) -> None:
    assert cli.run("sandbox", "exec", sandbox, "echo out").splitlines() == ["out"]
    cli.run("sandbox", "exec", sandbox, "exit 3", code=3)


@pytest.mark.client(CLI, "sandbox pause, resume")
def test_pause_resume(cli: Commands, sandbox: str) -> None:
    assert "has been paused" in cli.run("sandbox", "pause", sandbox)
    assert sandbox in cli.run("sandbox", "list", "--state", "paused")
    assert "has been resumed" in cli.run("sandbox", "resume", sandbox)
    assert cli.run("sandbox", "exec", sandbox, "echo again").splitlines() == ["again"]


@pytest.mark.client(CLI, "sandbox logs, metrics")
def test_logs_metrics(cli: Commands, sandbox: str) -> None:
    logs = [json.loads(line) for line in cli.run("sandbox", "logs", "--format", "json", sandbox).splitlines() if line.startswith("{")]
    assert logs and logs[0]["message"].startswith("sandbox.created") and logs[0]["level"] == "info"
    assert "Memory:" in cli.run("sandbox", "metrics", sandbox)


@pytest.mark.client(CLI, "sandbox snapshot create, list, delete")
def test_snapshot(cli: Commands, sandbox: str) -> None:
    found = re.search(r"snap_[0-9a-f]{32}", cli.run("sandbox", "snapshot", "create", sandbox))
    assert found
    assert found[0] in cli.run("sandbox", "snapshot", "list")
    cli.run("sandbox", "snapshot", "delete", found[0])
    assert found[0] not in cli.run("sandbox", "snapshot", "list")


@pytest.mark.client(CLI, "template list")
def test_templates(cli: Commands) -> None:
    assert "code-interpreter-v1" in cli.run("template", "list")


@pytest.mark.client(CLI, "sandbox connect")
def test_connect(cli: Commands, sandbox: str) -> None:
    """In a terminal, as a person does it: what is typed runs there, and leaving the shell ends the program."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve(cli.program[0], [*cli.program, "sandbox", "connect", sandbox], cli.environment)
    seen = ""

    def read() -> bool:
        nonlocal seen
        ready, _, _ = select.select([master], [], [], 0.1)
        try:
            chunk = os.read(master, 65536) if ready else b""
        except OSError:  # the other side is closed
            return True
        seen += chunk.decode("utf-8", "replace")
        return False

    def shows(text: str) -> bool:
        return read() or text in seen

    try:
        until(lambda: shows("$ "), "a prompt", SECONDS / 3)
        os.write(master, b"echo typed-$((40 + 2))\n")
        until(lambda: shows("typed-42"), "the answer", SECONDS / 3)
        os.write(master, b"exit\n")
        until(read, "the end of the program", SECONDS / 3)
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
        os.close(master)
    assert "typed-42" in seen, seen[-2000:]
