"""docs/compatibility.md says what the marks of the tests say: a call that gets or loses a test, or another state, changes the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import compatibility
from support.server import ROOT

PAGE = ROOT / "docs" / "compatibility.md"
HINT = "run `pytest tests/clients --compatibility docs/compatibility.md` and commit the page"


def test_the_page_agrees_with_the_marks(tmp_path: Path) -> None:
    """All marks that exist: in a session of its own, which collects everything and runs nothing."""
    marked = tmp_path / "marked.md"
    environment = {k: v for k, v in os.environ.items() if k not in ("CELLA_TEST_URL", "CELLA_TEST_DRIVER", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "--compatibility-marks", str(marked), str(Path(__file__).parent)],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert compatibility.generated(PAGE.read_text("utf-8")) == marked.read_text("utf-8").strip() + "\n", HINT


def test_the_table_of_some_marks() -> None:
    table = {"b client": {"one": ["works"]}, "A client": {"two": ["refused", "works"], "a|b": ["works"]}}
    text = compatibility.text_of(table)
    assert text.index("## A client") < text.index("## b client")
    assert "| two | works; refused |" in text and "| a\\|b | works |" in text
    page = f"before\n{compatibility.BEGIN}\nold\n{compatibility.END}\nafter\n"
    assert compatibility.generated(compatibility.replaced(page, text)) == text.strip() + "\n"
    assert compatibility.replaced(page, text).startswith("before\n") and compatibility.replaced(page, text).endswith("after\n")
