"""E2B's SDKs for JavaScript and Python, unmodified: sandboxes made, listed, paused, copied, ended."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator

import pytest
from e2b_run import JS, PYTHON, both, failure, side_by_side, value
from support.server import Server

Steps = Dict[str, Any]
ID = re.compile(r"sbx_[0-9a-f]{32}")
NETWORK, PORTS = "refused until network policies land", "refused until ports are published"
BUILDS, VOLUMES = "refused until templates are built over HTTP", "refused until volumes land"


@pytest.fixture(scope="module")
def ran(server: Server) -> Iterator[Dict[str, Steps]]:
    """The programs run once; each test looks at its own steps."""
    yield side_by_side("e2b_control", "e2b", server.url)


@pytest.fixture
def steps(ran: Dict[str, Steps], request: pytest.FixtureRequest) -> Steps:
    return ran[request.param]


@both("Sandbox.create", JS, PYTHON)
def test_create(steps: Steps) -> None:
    made = value(steps, "create")
    assert ID.fullmatch(made["id"])
    assert made["env"] == "hällo\n" and made["home"] == "here\n"
    assert value(steps, "is_running") is True


@both("Sandbox.create, template that is not there", JS, PYTHON)
def test_create_unknown_template(steps: Steps) -> None:
    assert failure(steps, "create_unknown") == "Sandbox: 404: template 'no-such-template' not found"


@both("Sandbox.create, no internet", JS, PYTHON)
def test_create_without_internet(steps: Steps) -> None:
    assert value(steps, "create_no_internet") is False


@both("Sandbox.create, network rules", JS, PYTHON, NETWORK)
def test_create_with_network_rules(steps: Steps) -> None:
    assert failure(steps, "create_allow_list").startswith("Sandbox: 501: network policies are not in this version")


@both("Sandbox.create, volumes", JS, PYTHON, VOLUMES)
def test_create_with_volume(steps: Steps) -> None:
    assert failure(steps, "create_volume") == 'Sandbox: 501: volumes are not in this version ("volumeMounts")'


@both("Sandbox.getInfo", JS, PYTHON)
def test_info(steps: Steps) -> None:
    info, made = value(steps, "info"), value(steps, "create")
    assert info["sandboxId"] == made["id"] == value(steps, "info_static")
    assert info["templateId"] == "base" and info["state"] == "running" and info["envdVersion"] == "0.6.4"
    assert info["metadata"].keys() == {"mark", "odd"} and info["metadata"]["odd"] == "a b&c=d%20é/+"
    assert info["cpuCount"] >= 1 and info["memoryMB"] > 0 and info["allowInternetAccess"] is False
    assert info["startedAt"] < info["endAt"]
    assert failure(steps, "info_missing") == f"SandboxNotFound: Sandbox sbx_{'0' * 32} not found"


@both("Sandbox.list", JS, PYTHON)
def test_list(steps: Steps) -> None:
    me = value(steps, "create")["id"]
    assert value(steps, "list_by_metadata") == [[me]]
    assert value(steps, "list_other_metadata") == [[]]
    assert value(steps, "list_template") == [1, 1, 0] and value(steps, "list_later") == 0
    pages = value(steps, "list_pages")
    first, second, third = pages["three"]
    assert pages["newest"] == [[third, second], [first]] and pages["oldest"] == [[first, second], [third]]


@both("Sandbox.setTimeout", JS, PYTHON)
def test_set_timeout(steps: Steps) -> None:
    later, sooner = value(steps, "set_timeout")
    assert 900_000 < later <= 1_200_000 and 0 < sooner <= 900_000


@both("timeout kills", JS, PYTHON)
def test_timeout_kills(steps: Steps) -> None:
    assert value(steps, "timeout_kills").startswith("SandboxNotFound")


@both("timeout pauses, traffic resumes", JS, PYTHON)
def test_timeout_pauses(steps: Steps) -> None:
    assert value(steps, "timeout_pauses") == {"asked": {"onTimeout": "pause", "autoResume": True}, "resumed": "awake\n"}


@both("Sandbox.getMetrics", JS, PYTHON)
def test_metrics(steps: Steps) -> None:
    (now,) = value(steps, "metrics")
    assert now["timestamp"] is True and now["cpuCount"] >= 1 and now["cpuUsedPct"] >= 0
    assert 0 < now["memUsed"] < now["memTotal"] and 0 <= now["diskUsed"] < now["diskTotal"]


@both("Sandbox.updateNetwork, no internet", JS, PYTHON)
def test_network_none(steps: Steps) -> None:
    assert value(steps, "network_none") is None


@both("Sandbox.updateNetwork", JS, PYTHON, NETWORK)
def test_network(steps: Steps) -> None:
    assert failure(steps, "network").startswith("Sandbox: 501: network policies are not in this version")


@both("Sandbox.fork", JS, PYTHON)
def test_fork(steps: Steps) -> None:
    assert value(steps, "fork") == {"ids": 3, "files": ["parent\n", "child\n", "parent\n"]}


@both("Sandbox.createSnapshot, listSnapshots, deleteSnapshot", JS, PYTHON)
def test_snapshot(steps: Steps) -> None:
    seen = value(steps, "snapshot")
    assert seen["names"] == [seen["wanted"]] and seen["listed"] == [seen["id"]]
    assert seen["files"] == ["parent\n", "parent\n"]
    assert seen["deleted"] == [True, False] and seen["left"] == 0


@both("Sandbox.pause", JS, PYTHON)
def test_pause(steps: Steps) -> None:
    me, seen = value(steps, "create")["id"], value(steps, "pause")
    assert seen["answers"] == [True, False]
    assert seen["while_paused"]["running"] is False and seen["while_paused"]["state"] == "paused"
    assert seen["while_paused"]["listed"] == [me] and me not in seen["while_paused"]["running_ones"]
    assert failure(steps, "use_paused")  # each SDK has its own words for a 502


@both("Sandbox.connect", JS, PYTHON)
def test_connect(steps: Steps) -> None:
    seen = value(steps, "connect")
    assert seen["same"] is True and seen["file"] == "kept\n" and seen["state"] == "running"
    assert 0 < seen["left"] <= 600_000 and seen["after"] > 1000


@both("Sandbox.pause without memory", JS, PYTHON, "refused: memory is always kept")
def test_pause_without_memory(steps: Steps) -> None:
    assert failure(steps, "pause_without_memory").startswith("Sandbox: 501: a pause without memory: not in this version of Cella")


@both("Template.exists", JS, PYTHON)
def test_template_exists(steps: Steps) -> None:
    assert value(steps, "template_exists") == [True, False]


@both("Template.build", JS, PYTHON, BUILDS)
def test_template_build(steps: Steps) -> None:
    assert failure(steps, "template_build").startswith("Build: 501: building templates over HTTP: not in this version of Cella")


@both("Volume.create", JS, PYTHON, VOLUMES)
def test_volume(steps: Steps) -> None:
    assert failure(steps, "volume") == "Volume: 501: volumes: not in this version of Cella"


@both("Sandbox.getHost", JS, PYTHON, PORTS)
def test_host(steps: Steps) -> None:
    made = value(steps, "create")
    assert re.fullmatch(rf"3000-{made['id']}\.localhost:\d+", made["host"])
    status, body = value(steps, "host")
    assert status == body["code"] == 501 and "port 3000 of a sandbox" in body["message"]


@both("Sandbox.kill", JS, PYTHON)
def test_kill(steps: Steps) -> None:
    assert value(steps, "kill") == [True, False, False, False]
    assert failure(steps, "use_killed")


def test_nothing_else_failed(ran: Dict[str, Steps]) -> None:
    """Every step that failed had to: a new one is looked at by a test of its own."""
    wanted = {"create_unknown", "create_allow_list", "create_volume", "info_missing", "network", "use_paused", "pause_without_memory", "template_build", "volume", "use_killed"}
    for steps in ran.values():
        assert {name for name, outcome in steps.items() if "error" in outcome} == wanted
