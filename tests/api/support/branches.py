"""Forking over plain HTTP: what the tests of branches share."""

from __future__ import annotations

from typing import Any, Dict, List

import httpx
from cella import Sandbox

from .wait import until


def fork(http: httpx.Client, sandbox: Sandbox, n: int = 1, **fields: Any) -> List[Sandbox]:
    """n children; the test ends them, or the end of its daemon does."""
    answer = http.post(f"/v1/sandboxes/{sandbox.id}/fork", json={"n": n, **fields})
    assert answer.status_code == 201, answer.text
    said = answer.json()
    assert not said["errors"], said["errors"]
    assert [c["id"] for c in said["sandboxes"]] == said["children"] and len(said["children"]) == n
    return [at(http, i) for i in said["children"]]


def at(http: httpx.Client, sandbox_id: str) -> Sandbox:
    return Sandbox.connect(sandbox_id, host=str(http.base_url))


def end(*sandboxes: Sandbox) -> None:
    for s in sandboxes:
        s.close()


def executions(http: httpx.Client, sandbox: Sandbox) -> List[Dict[str, Any]]:
    answer = http.get(f"/v1/sandboxes/{sandbox.id}/executions")
    answer.raise_for_status()
    value = answer.json()
    return list(value if isinstance(value, list) else value["executions"])


def finished(http: httpx.Client, sandbox: Sandbox, execution: str) -> Dict[str, Any]:
    """The record of an execution once it has ended."""

    def look() -> Dict[str, Any]:
        record: Dict[str, Any] = http.get(f"/v1/sandboxes/{sandbox.id}/executions/{execution}").json()
        return record if record.get("exit") else {}

    return until(look, f"the end of {execution}", 60)


def merge(http: httpx.Client, into: Sandbox, winner: Sandbox) -> None:
    answer = http.post(f"/v1/sandboxes/{into.id}/merge_into/{winner.id}")
    assert answer.status_code == 204, answer.text
