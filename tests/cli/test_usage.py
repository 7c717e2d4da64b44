"""What needs no daemon: help, usage errors, exit codes, an unreachable daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from .conftest import CELLA, run_cella

NOBODY = "http://127.0.0.1:9"
COMMANDS = ["run", "exec", "create", "ps", "rm", "cp", "logs", "fork", "tree", "diff", "merge", "promote", "snapshot", "snapshots", "freeze", "resume",
            "spaces", "up", "down", "doctor", "template", "mcp", "key", "version", "help"]  # fmt: skip


def test_overview_names_every_command():
    for words in ([], ["help"], ["--help"], ["-h"]):
        done = run_cella(*words)
        assert done.returncode == 0
        for command in COMMANDS:
            assert re.search(rf"^  {command} ", done.stdout, re.M), command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command):
    done = run_cella("help", command)
    assert done.returncode == 0
    assert f"Usage: cella {command}" in done.stdout
    assert "-o, --output" in done.stdout
    if command not in ("version", "down", "doctor"):
        assert "Examples:" in done.stdout
    if command != "help":
        assert run_cella(command, "--help").stdout == done.stdout


@pytest.mark.parametrize("topic", ["cells", "branches", "exit-codes", "environment", "recipe"])
def test_topics(topic):
    assert len(run_cella("help", topic).stdout.splitlines()) > 5


def test_the_recipe_on_the_help_page_is_right(tmp_path):
    page = run_cella("help", "recipe").stdout
    lines = [re.sub(r"^  ", "", line) for line in page.splitlines() if line.startswith("  ")]
    # the explanations stand in a column of their own
    toml = "\n".join(re.split(r" {2,}(?=[a-z])", line)[0] for line in lines)
    (tmp_path / "countries.csv").write_text("a,b\n")
    (tmp_path / "geo.toml").write_text(toml)
    done = run_cella("template", "build", "--check", str(tmp_path / "geo.toml"))
    assert done.returncode == 0, done.stderr + toml
    assert json.loads(done.stdout)["name"] == "geo"


@pytest.mark.parametrize("words", [
    ["nonsense"], ["ps", "--nonsense"], ["ps", "extra"], ["exec"], ["exec", "cell"], ["run"], ["run", "-c", "1", "file.py"], ["rm"],
    ["rm", "--all", "x"], ["cp", "a", "b"], ["cp", "sbx_1:a", "sbx_2:b"], ["cp", "a"], ["create", "--memory", "lots"], ["ps", "-o", "yaml"],
    ["template"], ["template", "bake"], ["key"], ["exec", "-d", "-t", "cell", "ls"], ["up", "extra"], ["help", "nonsense"],
    ["fork"], ["fork", "a", "b"], ["fork", "a", "-n", "many"], ["fork", "a", "-m", "label"], ["tree"], ["diff"], ["diff", "a", "b", "--template"],
    ["diff", "a", "--color", "blue"], ["merge", "a"], ["promote"], ["snapshot"], ["snapshots", "drop", "a"], ["snapshots", "rm"], ["freeze"], ["resume"],
    ["spaces", "rm"], ["spaces", "ls"],
])  # fmt: skip
def test_wrong_usage_is_2_and_says_why(words):
    done = run_cella(*words, url=NOBODY)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.match(r"cella: .+\n", done.stderr)


@pytest.mark.parametrize("words", [["ps"], ["create"], ["run", "-c", "1"], ["exec", "x", "ls"], ["template", "ls"], ["rm", "x"], ["logs", "x"], ["key", "ls"],
                                   ["fork", "x"], ["tree", "x"], ["diff", "x"], ["merge", "x", "y"], ["snapshots"], ["freeze", "x"], ["resume", "space_x"], ["spaces"]])  # fmt: skip
def test_no_daemon_is_3_with_a_hint(words):
    done = run_cella(*words, url=NOBODY)
    assert done.returncode == 3
    assert "no daemon answers at http://127.0.0.1:9" in done.stderr
    assert "hint: " in done.stderr and "cella up" in done.stderr


def test_a_url_that_is_none():
    assert run_cella("ps", url="file:///etc/passwd").returncode == 2
    assert run_cella("ps", url="http://").returncode == 2


def test_version():
    text = run_cella("version").stdout
    assert re.fullmatch(r"cella \d+\.\d+\.\d+\n", text)
    assert run_cella("--version").stdout == text
    assert json.loads(run_cella("-o", "json", "version").stdout) == {"version": text.split()[1]}


def test_output_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "w") as full:
        done = subprocess.run([CELLA, "help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 125
    assert "could not be written" in done.stderr


def test_a_wrong_settings_file(tmp_path):
    (tmp_path / "c.conf").write_text("state = /tmp/x\nwhat is this\n")
    done = run_cella("up", "--config", str(tmp_path / "c.conf"))
    assert done.returncode == 2
    assert "c.conf, line 2" in done.stderr


def test_up_needs_root():
    if os.geteuid() != 0:
        assert run_cella("up").returncode == 5
        return
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", CELLA, "up"], capture_output=True, text=True)
    assert done.returncode == 5 and "root" in done.stderr
