"""The integrations as whoever imports them meets them: typed, and clear about what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.server import ROOT

SDK = ROOT / "sdk" / "python"


def test_strictly_typed_against_the_frameworks(frameworks: Path) -> None:
    """The frameworks' own types are checked once: what mypy found out stays beside them."""
    command = [str(frameworks), "-m", "mypy", "--strict", "--cache-dir", str(frameworks.parents[2] / "mypy"), "cella/integrations"]
    done = subprocess.run(command, cwd=SDK, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.parametrize("module,package", [("openai_agents", "openai-agents"), ("langchain", "langchain-core")])
def test_a_missing_framework_is_named(module: str, package: str) -> None:
    """This python, Debian's, has none of them."""
    code = f"import sys; sys.path.insert(0, {str(SDK)!r}); sys.modules['agents'] = sys.modules['langchain_core'] = None; import cella.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and f"ImportError: cella.integrations.{module} needs the package {package}: pip install" in done.stderr


def test_no_framework_is_needed_for_the_wire(tmp_path: Path) -> None:
    """openai and anthropic are plain dictionaries."""
    code = f"import sys; sys.path.insert(0, {str(SDK)!r}); sys.modules['openai'] = sys.modules['anthropic'] = None; import cella.integrations.openai, cella.integrations.anthropic"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
