"""The Python of the quickstarts, page by page: the blocks of a page run in their order in one program, as a reader would paste them.

A block behind an HTML comment that begins with "not run" is only compiled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from cella import Sandbox
from support.fake_models import FakeModels, call, say
from support.packages import python_tree
from support.server import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(<!-- not run[^\n]*-->\n)?```python\n(.*?)^```$", re.M | re.S)
PRIME = [call("run_python", code="[n for n in range(2, 8000) if all(n % d for d in range(2, int(n ** 0.5) + 1))][999]"), say("It is {output}.")]
CLAUDE = [call("code_execution", code="import math; math.lcm(*range(1, 21))"), say("It is {output}.")]

#: page: what the models say, and what the program prints
PAGES: Dict[str, Any] = {
    "quickstart-openai.md": (
        [*PRIME, call("run_python", code="import datetime as d\n(d.date(2026, 11, 21) - d.date(1969, 7, 20)).days"), say("{output} days.")],
        "It is 7919.\n20943 days.\n",
    ),
    "quickstart-anthropic.md": (CLAUDE, "It is 232792560.\n45 False\n"),
    "quickstart-openai-agents.md": (
        [
            call("run_python", code="import math; math.lcm(*range(1, 21))"), say("It is {output}."),
            call("run_python", code="import pandas\nopen('total.txt', 'w').write(str(pandas.read_csv('sales.csv').sales.sum()))"), say("Done."),
            call("run_python", code="print(2, 3, 5)\n7"), say("Done."),
        ],
        "It is 232792560.\n215\n2 3 5\n['text/plain']\n",
    ),
    "quickstart-langchain.md": (
        [*PRIME, call("run_python", code="rows = [1, 2, 3]"), say("Loaded."), call("run_python", code="len(rows)"), say("{output} rows.")],
        "It is 7919.\nLoaded.\n3 rows.\n",
    ),
    "quickstart-mcp.md": ([], "42\n"),
    "coming-from-hosted.md": ([*PRIME, *PRIME, *CLAUDE], "It is 7919.\nIt is 7919.\nIt is 232792560.\n"),
}


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, frameworks: Path, models: FakeModels, tmp_path: Path, paste: Callable[..., str]) -> None:
    script, printed = PAGES[page]
    models.script(script)
    blocks = BLOCK.findall((DOCS / page).read_text())
    for _, code in blocks:
        compile(code, page, "exec")
    program = tmp_path / "page.py"
    program.write_text("\n".join(code for not_run, code in blocks if not not_run))
    python = python_tree(ROOT / "tests" / "clients" / "requirements-mcp.txt") if page == "quickstart-mcp.md" else frameworks
    before = {info.id for info in Sandbox.list()}
    assert paste([str(python), str(program)]) == printed
    assert models.left() == 0 and {info.id for info in Sandbox.list()} <= before, "nothing is left over"


def test_every_quickstart_is_here() -> None:
    pages = {p.name for p in DOCS.glob("quickstart-*.md")} | {"coming-from-hosted.md"}
    assert pages == set(PAGES)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", (DOCS / page).read_text()):
            assert (DOCS / target).exists(), f"{page}: {target}"
