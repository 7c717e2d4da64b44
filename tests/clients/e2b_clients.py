"""Tests of E2B's two packages side by side: each runs the same program (programs/NAME.mjs, programs/NAME.py) once per module and every call has a
test of its own."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple, Union

import pytest
from cella import Sandbox
from e2b_run import JS, PYTHON, javascript, python
from support.server import Server

#: One call's outcome: {"value": …} or {"error": class name, "message", "result"}.
Outcomes = Dict[str, Dict[str, Any]]


def run(client: str, program: str, server: Server, sandbox: str) -> Outcomes:
    """The outcomes of a program's calls to a sandbox."""
    if client == "python":
        return python(f"{program}.py", server.url, SANDBOX=sandbox)
    return javascript(f"{program}.mjs", "e2b", server.url, SANDBOX=sandbox)


def once(server: Server, program: str) -> Callable[[str], Outcomes]:
    """The outcomes of a program by client: it runs at the first question, once, also when it fails."""
    kept: Dict[str, Union[Outcomes, BaseException]] = {}

    def get(client: str) -> Outcomes:
        if client not in kept:
            try:
                with Sandbox(host=server.url) as box:
                    kept[client] = run(client, program, server, box.id)
            except BaseException as e:  # noqa: BLE001 - a skip is one too
                kept[client] = e
        found = kept[client]
        if isinstance(found, BaseException):
            raise found
        return found

    return get


def both(call: str, python_call: str = "", state: Optional[str] = None) -> Callable[..., Any]:
    """A test of one call with each package; python_call: its name there, where it differs; state: what there is to say but that it works."""
    mark = pytest.mark.client
    return pytest.mark.parametrize("client", [
        pytest.param("js", marks=mark(JS, call, state=state)), pytest.param("python", marks=mark(PYTHON, python_call or call, state=state)),
    ])  # fmt: skip


def only(client: str, call: str) -> Callable[..., Any]:
    """A test of a call that one of the packages has."""
    return pytest.mark.parametrize("client", [pytest.param(client, marks=pytest.mark.client(JS if client == "js" else PYTHON, call))])


def value(outcome: Dict[str, Any]) -> Any:
    assert "error" not in outcome, outcome
    return outcome["value"]


def refused(outcome: Dict[str, Any]) -> Tuple[str, str]:
    """(kind of error, message): the packages name their errors alike but for the ending."""
    assert "error" in outcome, outcome
    return str(outcome["error"]).replace("Exception", "").replace("Error", ""), str(outcome["message"])
