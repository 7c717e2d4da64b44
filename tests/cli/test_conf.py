"""packaging/cella.conf is the manual of every setting: it must name each one the daemon knows, and none besides."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("CELLA_BUILD", ROOT / "build" / "bin"))


def manual() -> dict[str, str]:
    text = (ROOT / "packaging" / "cella.conf").read_text()
    return dict(re.findall(r"^#([a-z-]+) = (.+)$", text, re.M))


def test_every_setting_of_the_daemon_is_explained():
    text = subprocess.run([BIN / "cellad", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  --([a-z-]+)", text, re.M)) - {"routes", "version", "help"}
    assert len(known) > 20
    assert set(manual()) == known


def test_the_values_shown_are_the_built_in_ones():
    text = subprocess.run([BIN / "cellad", "--help"], capture_output=True, text=True, check=True).stdout
    shown = manual()
    checked = 0
    for name, default in re.findall(r"^  --([a-z-]+) .*?default \"?([^\s\");,]+)", text, re.M):
        assert shown[name] == default, name
        checked += 1
    assert checked > 5
