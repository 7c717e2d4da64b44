"""The examples run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cella import Sandbox
from support.server import Server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.needs_isolation
def test_tree_of_thought(server: Server) -> None:
    before = {s.id for s in Sandbox.list(host=server.url)}
    command = [sys.executable, str(EXAMPLES / "tree_of_thought.py"), "--rows", "20000"]
    done = subprocess.run(command, env=dict(os.environ, CELLA_URL=server.url), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forked 8 branches" in done.stdout
    scores = dict(re.findall(r"^(.{32}) +(\d\.\d{4}) +\d+ ms", done.stdout, re.M))
    assert len(scores) == 8
    best = min(scores, key=lambda name: float(scores[name])).strip()
    assert f"the parent now answers: {best} 0." in done.stdout, "the parent has what the winner made"
    assert "ended merged into" in done.stdout
    memory = {line[:44].strip(): float(line[44:]) for line in done.stdout.splitlines() if line.startswith(("the parent alone", "parent and 8"))}
    assert memory["parent and 8 branches, after the fork"] < 9 * memory["the parent alone"], "the branches share nothing"
    assert {s.id for s in Sandbox.list(host=server.url)} == before
