"""Real frameworks, a real daemon; only the model provider is a scripted one (support/fake_models.py).

The frameworks live in a virtual environment of their own (requirements.txt), so each test runs a program of programs/ there and
looks at three places: what the program printed, what the model got back, and what is in the cell.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from support.fake_models import FakeModels
from support.packages import python_tree
from support.server import ROOT, Server

HERE = Path(__file__).resolve().parent
SECONDS = 240  # a program that takes longer hangs


@pytest.fixture(scope="session")
def frameworks() -> Path:
    """The python that has them."""
    return python_tree(HERE / "requirements.txt")


@pytest.fixture(scope="session")
def provider() -> Iterator[FakeModels]:
    with FakeModels() as models:
        yield models


@pytest.fixture
def models(provider: FakeModels) -> FakeModels:
    """A model provider whose script the test writes."""
    provider.script([])
    return provider


@pytest.fixture(scope="session")
def environment(server: Server, provider: FakeModels) -> Dict[str, str]:
    """For a program that talks to this daemon and to these models."""
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return {
        **keep, **provider.environment, "CELLA_URL": server.url, "PYTHONPATH": str(ROOT / "sdk" / "python"),
        "PYTHONDONTWRITEBYTECODE": "1", "LANGSMITH_TRACING": "false",
    }  # fmt: skip


class Program:
    """One of programs/, which is asked for one function after the other."""

    def __init__(self, python: Path, path: Path, environment: Dict[str, str]) -> None:
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(python), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=environment
        )

    def call(self, function: str, arguments: Dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        answered = False
        try:
            self.process.stdin.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            answered = bool(line)
        finally:
            if not answered:  # it ended, or the test was told to stop waiting: this one is of no use any more
                self.process.kill()
        self.said.seek(0)
        assert answered, f"the program ended:\n{self.said.read()[-6000:]}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.said.close()


@pytest.fixture(scope="session")
def programs(frameworks: Path, environment: Dict[str, str]) -> Iterator[Callable[[str], Program]]:
    running: Dict[str, Program] = {}

    def get(name: str) -> Program:
        if name not in running or running[name].process.poll() is not None:
            running[name] = Program(frameworks, HERE / "programs" / f"{name}.py", environment)
        return running[name]

    yield get
    for program in running.values():
        program.close()


@pytest.fixture
def run(programs: Callable[[str], Program]) -> Callable[..., Any]:
    """run("openai_loops", "chat", sandbox=id): the function's return value."""
    return lambda program, function, **arguments: programs(program).call(function, arguments)


@pytest.fixture
def paste(environment: Dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """What a program printed that a reader might start; it ran in tmp_path."""

    quiet = {"OPENAI_AGENTS_DISABLE_TRACING": "1"}  # its exporter would look for the internet before it lets the program end

    def paste(command: List[str], says: str = "", **more: str) -> str:
        done = subprocess.run(command, input=says, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path, env={**environment, **quiet, **more})
        assert done.returncode == 0, f"{command[1:]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    return paste
