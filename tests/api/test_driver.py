"""Who makes a sandbox: the field "driver", what it answers, and the daemon's setting."""

from __future__ import annotations

from typing import Callable

import httpx
import pytest
from cella import InvalidRequest, Sandbox, UnsupportedError
from support.server import Server, wanted_driver


def made(http: httpx.Client, driver: str) -> httpx.Response:
    answer = http.post("/v1/sandboxes", json={"driver": driver})
    if answer.status_code == 201:
        http.delete("/v1/sandboxes/" + answer.json()["id"])
    return answer


def test_auto_is_what_the_daemon_says(http: httpx.Client) -> None:
    own = http.get("/healthz").json()
    answer = made(http, "auto").json()
    assert (answer["driver"], answer["isolation"]) == (own["driver"], own["isolation"])
    assert answer["isolation"]


def test_by_name(http: httpx.Client) -> None:
    own = http.get("/healthz").json()["driver"]
    answer = made(http, own) if own != "plain" else made(http, "auto")
    assert answer.status_code == 201 and answer.json()["driver"] == own


def test_unknown_and_wrong(http: httpx.Client) -> None:
    for wrong in ("docker", "", "MICROVM"):
        answer = made(http, wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), wrong
        assert "process" in answer.json()["error"]
    answer = http.post("/v1/sandboxes", json={"driver": 7})
    assert answer.status_code == 400
    with pytest.raises(InvalidRequest):
        Sandbox(driver="docker")


def test_the_other_one_is_made_or_refused_with_a_reason(http: httpx.Client) -> None:
    """What this host cannot do is said, never replaced by something weaker."""
    other = "process" if http.get("/healthz").json()["driver"] == "microvm" else "microvm"
    answer = made(http, other)
    if answer.status_code == 201:
        assert answer.json()["driver"] == other
        return
    body = answer.json()
    assert answer.status_code in (409, 503) and body["code"] in ("driver_unavailable", "template_not_ready", "unavailable"), body
    assert body["error"] and body["hint"]
    if answer.status_code == 409:
        with pytest.raises(UnsupportedError):
            Sandbox(driver=other)


@pytest.mark.needs_isolation
def test_the_report_says_why(http: httpx.Client) -> None:
    answer = http.get("/v1/doctor").json()
    choice = answer["report"]["choice"]
    assert choice["setting"] in ("auto", "process", "microvm") and choice["reason"]
    assert choice["microvm_usable"] == (choice["microvm_missing"] is None)
    assert {answer["report"]["name"], answer["report"]["other"]["name"]} == {"process", "microvm"}


@pytest.mark.own_server
@pytest.mark.process_only
@pytest.mark.needs_isolation
def test_a_daemon_that_is_set_to_one(new_server: Callable[..., Server]) -> None:
    assert wanted_driver() == "process"
    server = new_server(arguments=["--driver", "process", "--warm", ""])
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.get("/v1/doctor").json()["report"]["choice"]["setting"] == "process"
        answer = made(http, "microvm")
        assert (answer.status_code, answer.json()["code"]) == (409, "driver_unavailable")
        assert "process" in answer.json()["error"] and "driver = auto" in answer.json()["hint"]
        assert made(http, "process").status_code == 201
