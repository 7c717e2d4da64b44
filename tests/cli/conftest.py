"""The command line program as a user runs it, against the daemon of tests/conftest.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Callable, Iterator, Optional

import pytest

ROOT = Path(__file__).resolve().parents[2]
CELLA = str((Path(os.environ.get("CELLA_BUILD", ROOT / "build" / "bin")) / "cella").resolve())

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_cella(*words: str, url: Optional[str] = None, stdin: str = "", cwd: Optional[Path] = None, timeout: float = 120, **env: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k not in ("CELLA_URL", "CELLA_API_KEY", "CELLA_STATE")} | env
    if url:
        environment["CELLA_URL"] = url
    return subprocess.run([CELLA, *words], input=stdin, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)


@pytest.fixture
def cella(server) -> Run:
    """cella("ps", "-q") → CompletedProcess, talking to the shared daemon."""
    return lambda *words, **more: run_cella(*words, url=server.url, **more)


@pytest.fixture(scope="module")
def cell(server) -> Iterator[str]:
    """One cell for the tests of a module."""
    made = run_cella("create", url=server.url)
    assert made.returncode == 0, made.stderr
    yield made.stdout.strip()
    run_cella("rm", "-f", made.stdout.strip(), url=server.url)
