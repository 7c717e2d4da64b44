"""A driver that cannot copy living sandboxes says so."""

from __future__ import annotations

import httpx
import pytest
from support.server import Server

pytestmark = pytest.mark.own_server


def test_the_plain_driver_does_not_fork(new_server: object) -> None:
    server: Server = new_server(driver="plain")  # type: ignore[operator]
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        cell = http.post("/v1/sandboxes", json={}).json()["id"]
        for path in ("fork", "fork-tree"):
            answer = http.post(f"/v1/sandboxes/{cell}/{path}")
            assert answer.status_code == 501 and answer.json()["code"] == "unsupported" and answer.json()["hint"]
        tree = http.get(f"/v1/sandboxes/{cell}/tree").json()["tree"]
        assert tree["id"] == cell and tree["children"] == []
