"""Branches, snapshots and Spaces on the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from .conftest import CELLA, Run

pytestmark = pytest.mark.needs_isolation  # the plain driver has no branches
NO_CELL = "sbx_" + "0" * 32
NO_SPACE = "space_" + "0" * 32


@pytest.fixture
def parent(cella: Run) -> Iterator[str]:
    cell = cella("create", "-m", "test=branches").stdout.strip()
    assert cella("run", "--cell", cell, "-c", "x = [1]; open('/workspace/note', 'w').write('one\\n'); None").returncode == 0
    yield cell
    for listed in json.loads(cella("ps", "-o", "json", "-m", "test=branches").stdout):
        cella("rm", "-f", listed["id"])


def shown(cella: Run, cell: str, code: str) -> str:
    done = cella("run", "--cell", cell, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_fork_diff_tree_merge(cella: Run, parent: str):
    forked = cella("fork", parent, "-n", "2", "-m", "try=1")
    assert forked.returncode == 0, forked.stderr
    one, two = forked.stdout.split()
    assert shown(cella, one, "x.append('one'); open('/workspace/note', 'a').write('two\\n'); x") == "[1, 'one']"
    assert shown(cella, two, "x") == shown(cella, parent, "x") == "[1]"

    diff = cella("diff", "--text", "--variables", one)
    assert diff.returncode == 0 and f"{one} against {parent}" in diff.stdout
    assert re.search(r"^M /workspace/note +4 B (→|->) 8 B$", diff.stdout, re.M) and "\n+two\n" in diff.stdout
    assert re.search(r"^~ x: ", diff.stdout, re.M) and "\x1b" not in diff.stdout
    assert "\x1b[32m+two\x1b[m" in cella("diff", "--text", "--color", "always", one).stdout
    assert json.loads(cella("-o", "json", "diff", one, two).stdout)["against"] == two
    assert cella("diff", "--stat", two).stdout.startswith("0 files")
    assert "/workspace/note" in cella("diff", "--template", parent).stdout

    tree = cella("tree", "--ascii", one)
    lines = tree.stdout.splitlines()
    assert lines[1].startswith(f"{parent} ") and lines[2].startswith(f"|- {one} * ") and lines[3].startswith(f"`- {two} ")
    assert f"├─ {one}" in cella("tree", parent, LC_ALL="C.UTF-8").stdout and f"|- {one}" in cella("tree", parent, LC_ALL="C").stdout
    assert re.search(r"^together \d", cella("tree", "-m", parent).stdout, re.M)
    assert json.loads(cella("tree", "-o", "json", one).stdout)["tree"]["id"] == parent

    listed = cella("ps", "-m", "try=1")
    assert "PARENT" in listed.stdout and parent[:12] in listed.stdout

    merged = cella("merge", parent, one)
    assert (merged.returncode, merged.stdout) == (0, parent + "\n"), merged.stderr
    assert shown(cella, parent, "x") == "[1, 'one']"
    gone = cella("exec", one, "true")
    assert gone.returncode == 4 and "merged" in gone.stderr
    assert shown(cella, two, "x") == "[1]"


def test_merge_and_fork_refusals(cella: Run, parent: str):
    other = cella("create", "-m", "test=branches").stdout.strip()
    assert cella("merge", parent, parent).returncode == 2
    assert cella("merge", parent, other).returncode == 5
    assert cella("merge", parent, NO_CELL).returncode == 4
    assert cella("fork", NO_CELL).returncode == 4
    assert cella("fork", parent, "-n", "101").returncode == 2
    assert cella("fork", parent, "-n", "0").returncode == 2
    assert cella("diff", parent, NO_CELL).returncode in (4, 5)
    assert cella("tree", NO_CELL).returncode == 4


def test_fork_tree_and_promote(cella: Run, parent: str):
    children = cella("fork", "--tree", "-n", "3", parent).stdout.split()
    assert len(children) == 3
    promoted = cella("promote", "--cleanup", children[1])
    assert promoted.returncode == 0, promoted.stderr
    assert sorted(promoted.stdout.split()) == sorted([children[0], children[2]])
    assert shown(cella, children[1], "x") == "[1]" and shown(cella, parent, "x") == "[1]"
    assert cella("exec", children[0], "true").returncode == 4


def test_snapshots(cella: Run, parent: str):
    made = cella("snapshot", parent, "--name", "cli-test")
    assert made.returncode == 0 and made.stdout.startswith("snap_"), made.stderr
    snapshot = made.stdout.strip()
    shown(cella, parent, "x.append(2)")
    assert re.search(rf"^{snapshot} +cli-test +{parent[:12]} ", cella("snapshots").stdout, re.M)
    assert cella("snapshots", "-q", "--cell", parent).stdout == snapshot + "\n"
    for name in ("cli-test", snapshot):
        cell = cella("create", "--from-snapshot", name, "-m", "test=branches").stdout.strip()
        assert shown(cella, cell, "x") == "[1]"
    assert cella("run", "--from-snapshot", "cli-test", "-c", "x").stdout == "[1]\n"
    removed = cella("snapshots", "rm", snapshot)
    assert (removed.returncode, removed.stdout) == (0, snapshot + "\n")
    assert cella("snapshots", "rm", snapshot).returncode == 4 and cella("snapshots", "rm", "-f", snapshot).returncode == 0
    assert cella("create", "--from-snapshot", "cli-test").returncode == 4


def test_spaces(cella: Run):
    cell = cella("create", "--persistent", "--idle-timeout", "500", "-m", "test=spaces").stdout.strip()
    [described] = json.loads(cella("ps", "-o", "json", "-m", "test=spaces").stdout)
    space = described["space_id"]
    assert described["idle_timeout_seconds"] == 500 and described["on_timeout"] == "freeze"
    shown(cella, cell, "import itertools; n = itertools.count(5)")
    assert shown(cella, cell, "next(n)") == "5"
    frozen = cella("freeze", cell)
    assert (frozen.returncode, frozen.stdout) == (0, space + "\n"), frozen.stderr
    table = cella("ps", "-m", "test=spaces").stdout
    assert re.search(rf"^{cell} +\S+ +hibernated ", table, re.M) and "SPACE" in table and space[:14] in table
    assert re.search(rf"^{space} +{cell[:12]} +frozen ", cella("spaces").stdout, re.M)
    assert cella("tree", cell).stdout.count("hibernated") == 1, "looking does not wake"
    assert shown(cella, cell, "next(n)") == "6", "a request wakes it"
    assert cella("freeze", cell).returncode == 0
    resumed = cella("resume", space)
    assert (resumed.returncode, resumed.stdout) == (0, cell + "\n"), resumed.stderr
    assert cella("freeze", cell).returncode == 0
    assert cella("resume", cell).stdout == cell + "\n"
    assert shown(cella, cell, "next(n)") == "7"
    assert cella("freeze", cell).returncode == 0
    # cp and exec wake it too
    assert cella("cp", "-", f"{cell}:note", stdin="hello").returncode == 0
    assert cella("freeze", cell).returncode == 0
    assert cella("exec", cell, "cat note").stdout == "hello"
    assert cella("freeze", cell).returncode == 0
    assert cella("exec", "-i", cell, "--", "cat", stdin="over a WebSocket").stdout == "over a WebSocket"
    removed = cella("spaces", "rm", space)
    assert (removed.returncode, removed.stdout) == (0, space + "\n"), removed.stderr
    assert cella("exec", cell, "true").returncode == 4 and cella("resume", space).returncode == 4
    assert cella("spaces", "rm", space).returncode == 4 and cella("resume", NO_SPACE).returncode == 4


def test_freeze_of_a_cell_without_a_space(cella: Run, parent: str):
    frozen = cella("freeze", parent)
    assert (frozen.returncode, frozen.stdout) == (0, parent + "\n"), frozen.stderr
    assert shown(cella, parent, "x") == "[1]"


def test_colours_on_a_terminal(server, parent: str):
    words = f"{CELLA} --url {server.url} diff --template {parent}"
    on = subprocess.run(["script", "-qec", words, "/dev/null"], input="", capture_output=True, text=True, env={"TERM": "xterm", "PATH": "/usr/bin:/bin"}, timeout=60)
    assert "\x1b[32mA /workspace/note" in on.stdout
    off = subprocess.run(["script", "-qec", words, "/dev/null"], input="", capture_output=True, text=True, env={"TERM": "xterm", "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}, timeout=60)
    assert "A /workspace/note" in off.stdout and "\x1b[" not in off.stdout


def test_create_refuses_what_does_not_fit(cella: Run):
    assert cella("create", "--on-timeout", "explode").returncode == 2
    assert cella("create", "--from-snapshot", "no-such-snapshot").returncode == 4


def test_the_commands_of_the_page_work(cella: Run, server):
    """docs/branches.md says its commands can be pasted; so they are, one block after the other in one shell."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "branches.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) >= 6
    script = "\n".join(f"echo '== block {i}'\n{block}" for i, block in enumerate(blocks))
    before = set(cella("ps", "-q").stdout.split())
    environment = dict(os.environ, CELLA_URL=server.url, PATH=f"{Path(CELLA).parent}:/usr/bin:/bin")
    try:
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=environment, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        said = re.split(r"== block \d+\n", done.stdout)[1:]
        assert "['x']" in said[0] and "['x', 'y']" in said[3] and said[-1].rstrip().endswith("\n1")
    finally:
        cella("rm", "-f", *(set(cella("ps", "-q").stdout.split()) - before))
