"""The table client × call × state in docs/compatibility.md, made of the marks of the tests here.

    @pytest.mark.client("E2B JS SDK 2.51.0", "Sandbox.create")
    @pytest.mark.client("E2B JS SDK 2.51.0", "sandbox.getHost", state="refused until ports are published")

A call with a state is one that answers otherwise than its client's own service; its test asserts how. Several tests may name one call.

    pytest tests/clients --compatibility docs/compatibility.md       after a run: every mark's test must have passed
    pytest tests/clients --collect-only --compatibility-marks FILE   the table that the marks ask for, whatever ran
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Tuple

import pytest

ITEMS = pytest.StashKey[List[pytest.Item]]()
BEGIN = "<!-- The tables below are generated: pytest tests/clients --compatibility docs/compatibility.md -->"
END = "<!-- end of the generated tables -->"
WORKS = "works"

#: client -> call -> states, in the order of the tests
Table = Dict[str, Dict[str, List[str]]]


def marks(items: Iterable[pytest.Item]) -> Iterable[Tuple[pytest.Item, str, str, str]]:
    for item in items:
        for mark in item.iter_markers("client"):
            client, call = mark.args
            yield item, client, call, mark.kwargs.get("state") or WORKS


def table_of(items: Iterable[pytest.Item]) -> Table:
    table: Table = {}
    for _, client, call, state in marks(items):
        states = table.setdefault(client, {}).setdefault(call, [])
        if state not in states:
            states.append(state)
    return table


def text_of(table: Table) -> str:
    lines = []
    for client in sorted(table, key=str.lower):
        lines += [f"## {client}", "", "| call | state |", "|---|---|"]
        for call, states in table[client].items():
            states = sorted(states, key=lambda state: state != WORKS)
            lines.append(f"| {_cell(call)} | {_cell('; '.join(states))} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def generated(page: str) -> str:
    """The generated part of a page."""
    return page.split(BEGIN, 1)[1].split(END, 1)[0].strip() + "\n"


def replaced(page: str, text: str) -> str:
    head, rest = page.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END, 1)[1]}"


def write(path: str, items: List[pytest.Item], outcomes: Dict[str, str]) -> None:
    """Refuses to say that something works whose test did not pass."""
    not_shown = sorted({f"{client}: {call} ({outcomes.get(item.nodeid, 'not run')})" for item, client, call, _ in marks(items) if outcomes.get(item.nodeid) != "passed"})
    if not_shown:
        raise pytest.UsageError(f"{path} is not written, because these did not pass:\n  " + "\n  ".join(not_shown))
    page = Path(path)
    page.write_text(replaced(page.read_text("utf-8"), text_of(table_of(items))), "utf-8")
