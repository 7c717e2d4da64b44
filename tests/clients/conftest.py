"""The mark of the client tests, and the table that is made of it: compatibility.py says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import compatibility
import pytest

outcomes: Dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compatibility", metavar="FILE", help="put the table of client, call and state of this run into that page")
    parser.addoption("--compatibility-marks", metavar="FILE", help="write the table that the marks ask for")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "client(name, call, state=None): a call of somebody's client; state: what there is to say but that it works")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    """Before anything is deselected: the table is about all of them."""
    here = Path(__file__).resolve().parent
    config.stash[compatibility.ITEMS] = [item for item in items if here in item.path.parents]
    path = config.getoption("--compatibility-marks", None)
    if path:
        Path(path).write_text(compatibility.text_of(compatibility.table_of(config.stash[compatibility.ITEMS])), "utf-8")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report = (yield).get_result()
    if report.when == "call" or report.outcome != "passed":
        worse = outcomes.get(item.nodeid, "passed") != "passed"
        outcomes[item.nodeid] = outcomes[item.nodeid] if worse else report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--compatibility", None)
    if path:
        compatibility.write(path, session.config.stash[compatibility.ITEMS], outcomes)
