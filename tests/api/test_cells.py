"""Sandboxes: create, describe, list, pause, end."""

from __future__ import annotations

import re
from typing import Iterator

import httpx
import pytest
from cella import ConflictError, GoneError, InvalidRequest, NotFoundError, Sandbox
from support.server import Server
from support.wait import until

ID = re.compile(r"^sbx_[0-9a-f]{32}$")
RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")


@pytest.fixture
def made(http: httpx.Client) -> Iterator[dict]:
    answer = http.post("/v1/sandboxes", json={"metadata": {"purpose": "test", "n": "1"}, "ttl_seconds": 600})
    assert answer.status_code == 201, answer.text
    yield answer.json()
    http.delete("/v1/sandboxes/" + answer.json()["id"])


def test_create_answers_the_whole_cell(made: dict) -> None:
    assert ID.match(made["id"])
    assert made["status"] == "running" and made["driver"] and made["isolation"]
    assert made["metadata"] == {"purpose": "test", "n": "1"}
    assert RFC3339.match(made["created_at"]) and RFC3339.match(made["expires_at"])
    assert 0 < made["remaining_seconds"] <= 600
    assert made["boot_ms"] >= 0 and made["boot_mode"] in ("filled", "empty", "made", "cold")
    assert made["template"] and isinstance(made["limits"], dict)


def test_create_without_a_body(http: httpx.Client) -> None:
    for options in ({}, {"content": b""}, {"json": {}}):
        answer = http.post("/v1/sandboxes", **options)  # type: ignore[arg-type]
        assert answer.status_code == 201, answer.text
        http.delete("/v1/sandboxes/" + answer.json()["id"])


def test_describe_and_list(made: dict, http: httpx.Client) -> None:
    one = http.get("/v1/sandboxes/" + made["id"])
    assert one.status_code == 200 and one.json()["id"] == made["id"] and one.json()["created_at"] == made["created_at"]
    listed = http.get("/v1/sandboxes").json()
    assert made["id"] in [c["id"] for c in listed]
    times = [c["created_at"] for c in listed]
    assert times == sorted(times)


def test_list_filters_by_metadata(server: Server) -> None:
    with Sandbox(host=server.url, metadata={"team": "a", "tier": "x=y&z"}) as one, \
            Sandbox(host=server.url, metadata={"team": "a"}) as two, Sandbox(host=server.url, metadata={"team": "b"}):  # fmt: skip
        ids = lambda **pairs: [c.id for c in Sandbox.list(metadata=pairs, host=server.url)]  # noqa: E731
        assert ids(team="a") == [one.id, two.id]
        assert ids(team="a", tier="x=y&z") == [one.id]
        assert ids(team="nobody") == [] and ids(nothing="") == []


def test_delete_is_final(http: httpx.Client) -> None:
    cell = http.post("/v1/sandboxes").json()["id"]
    assert http.delete(f"/v1/sandboxes/{cell}").status_code == 204
    for answer in (
        http.get(f"/v1/sandboxes/{cell}"),
        http.post(f"/v1/sandboxes/{cell}/execute", json={"code": "1"}),
        http.delete(f"/v1/sandboxes/{cell}"),
    ):
        assert answer.status_code == 410 and answer.json()["code"] == "gone"
    assert cell not in [c["id"] for c in http.get("/v1/sandboxes").json()]


def test_ids_nobody_has(http: httpx.Client) -> None:
    answer = http.get("/v1/sandboxes/sbx_" + "0" * 32)
    assert answer.status_code == 404 and answer.json()["code"] == "not_found" and answer.json()["error"]
    for nonsense in ("x", "sbx_", "sbx_" + "g" * 32, "sbx_" + "0" * 33, "..%2f..%2fetc", "%00", "default"):
        answer = http.get(f"/v1/sandboxes/{nonsense}")
        assert answer.status_code in (400, 404), nonsense
        assert answer.json()["code"] in ("not_found", "invalid_request")


def test_ids_are_random_in_every_digit(http: httpx.Client) -> None:
    ids = [http.post("/v1/sandboxes").json()["id"] for _ in range(6)]
    for cell in ids:
        http.delete(f"/v1/sandboxes/{cell}")
    assert len(set(ids)) == 6
    alike = sum(len({cell[i] for cell in ids}) == 1 for i in range(4, 36))
    assert alike <= 1  # 32 digits, six ids: one digit alike by chance is rare, two never


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"template": 5}, "template"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"ttl_seconds": "long"}, "ttl_seconds"),
        ({"idle_timeout_seconds": 0}, "idle_timeout_seconds"),
        ({"env": ["A=1"]}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"": "1"}}, "env"),
        ({"metadata": "text"}, "metadata"),
        ({"metadata": {"k": {"nested": 1}}}, "metadata"),
        ({"limits": {"memory_mb": 0}}, "memory_mb"),
        ({"limits": {"memory_mb": "much"}}, "memory_mb"),
        ({"limits": {"cpus": -1}}, "cpus"),
        ({"limits": {"pids": 10**12}}, "pids"),
        ({"limits": {"open_files": 5}}, "open_files"),
        ({"limits": {"open_files": 10**9}}, "open_files"),
        ({"limits": {"disk_mb": -3}}, "disk_mb"),
        ({"limits": []}, "limits"),
    ],
)
def test_fields_are_validated_by_name(http: httpx.Client, spec: dict, field: str) -> None:
    answer = http.post("/v1/sandboxes", json=spec)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "invalid_request" and field in answer.json()["error"]


def test_what_comes_later_says_unsupported(http: httpx.Client) -> None:
    answer = http.post("/v1/sandboxes", json={"network": {"mode": "open"}})
    assert answer.status_code == 501 and answer.json()["code"] == "unsupported", answer.text
    answer = http.post("/v1/sandboxes", json={"network": {"mode": "none"}, "persistent": False, "some_new_field": 1})
    assert answer.status_code == 201
    http.delete("/v1/sandboxes/" + answer.json()["id"])


def test_a_driver_without_images_says_so(http: httpx.Client, server: Server) -> None:
    specs = {"persistent": True, "on_timeout": "freeze", "from_snapshot": "none"}
    for name, value in specs.items():
        answer = http.post("/v1/sandboxes", json={name: value})
        expected = 501 if server.driver == "plain" else 404 if name == "from_snapshot" else 201
        assert answer.status_code == expected, (name, answer.text)
        if expected == 501:
            assert answer.json()["code"] == "unsupported"
        if expected == 201:
            http.delete("/v1/sandboxes/" + answer.json()["id"])


def test_unknown_template(server: Server) -> None:
    for name in ("no-such-template", "../../etc", "f" * 64, "a" * 5000):
        with pytest.raises((NotFoundError, InvalidRequest)) as caught:
            Sandbox(name, host=server.url)
        assert caught.value.message


def test_template_names_mean_the_same(server: Server) -> None:
    templates = set()
    for name in (None, "default", "python", "base"):
        with Sandbox(name, host=server.url) as sandbox:
            templates.add(sandbox.info().raw["template_id"])
    assert len(templates) == 1


def test_sandboxes_do_not_see_each_other(server: Server, box: Sandbox) -> None:
    with Sandbox(host=server.url) as other:
        box.run_code("secret = 'mine'\nopen('secret.txt', 'w').write('mine')", check=True)
        seen = other.run_code("import os\n('secret' in globals(), os.path.exists('secret.txt'))")
        assert seen.text == "(False, False)"


def test_ttl_ends_it_and_the_answer_says_why(server: Server) -> None:
    sandbox = Sandbox(host=server.url, ttl_seconds=1)
    until(lambda: sandbox.id not in [c.id for c in Sandbox.list(host=server.url)], "the sandbox to expire")
    with pytest.raises(GoneError) as caught:
        sandbox.run_code("1")
    assert "time to live" in caught.value.message
    sandbox.close()


def test_ttl_ends_running_code(server: Server) -> None:
    sandbox = Sandbox(host=server.url, ttl_seconds=2)
    try:
        run = sandbox.run_code("import time\ntime.sleep(300)")
        assert run.exit in ("killed", "lost")
    except GoneError:
        pass


def test_idle_timeout_ends_it_but_use_keeps_it(server: Server) -> None:
    with Sandbox(host=server.url, idle_timeout_seconds=2) as idle, Sandbox(host=server.url, idle_timeout_seconds=60) as busy:
        assert idle.run_code("1").text == "1"
        until(lambda: idle.id not in [c.id for c in Sandbox.list(host=server.url)], "the idle sandbox to end")
        assert busy.run_code("'alive'").text == "'alive'"
        with pytest.raises(GoneError) as caught:
            idle.run_code("1")
        assert "idle" in caught.value.message.lower()


def test_code_that_runs_is_not_idle(server: Server) -> None:
    with Sandbox(host=server.url, idle_timeout_seconds=1) as sandbox:
        run = sandbox.run_code("import time\ntime.sleep(3)\n'done'")
        assert run.exit == "ok" and run.text == "'done'"


def test_lifecycle_is_changed_and_cleared(box: Sandbox) -> None:
    box.set_lifecycle(ttl_seconds=500, idle_timeout_seconds=100)
    info = box.info()
    assert info.idle_timeout_seconds == 100 and info.remaining_seconds is not None and 0 < info.remaining_seconds <= 500
    box.set_lifecycle(ttl_seconds=None)
    info = box.info()
    assert info.expires_at is None and info.idle_timeout_seconds == 100
    assert info.remaining_seconds is not None and info.remaining_seconds <= 100  # the idle timeout is what is left
    box.set_lifecycle(idle_timeout_seconds=None)
    assert box.info().remaining_seconds is None and box.info().idle_timeout_seconds is None
    with pytest.raises(InvalidRequest):
        box.set_lifecycle(ttl_seconds=-5)


def test_extending_the_life_of_a_short_lived_one(server: Server) -> None:
    with Sandbox(host=server.url, ttl_seconds=2) as sandbox:
        sandbox.set_lifecycle(ttl_seconds=600)
        assert sandbox.run_code("import time\ntime.sleep(3)\n'outlived'").text == "'outlived'"


def test_pause_stops_everything_and_resume_goes_on(box: Sandbox) -> None:
    box.run_code(
        "import threading, time\nn = 0\ndef count():\n    global n\n    while True:\n        n += 1\n        time.sleep(0.005)\n"
        "threading.Thread(target=count, daemon=True).start()",
        check=True,
    )
    box.pause()
    assert box.info().status == "paused"
    cpu = box.stats().get("cpu_us")
    assert box.stats().get("cpu_us") == cpu
    with pytest.raises(ConflictError):
        box.run_code("n", timeout_seconds=5)
    box.unpause()
    assert box.info().status == "running"
    assert int(box.run_code("n").text or 0) > 0


def test_pausing_twice_and_deleting_paused(server: Server) -> None:
    sandbox = Sandbox(host=server.url)
    sandbox.pause()
    try:
        sandbox.pause()
    except ConflictError:
        pass
    sandbox.close()
    with pytest.raises(GoneError):
        sandbox.info()


def test_stats_name_the_use(box: Sandbox) -> None:
    box.run_code("block = bytearray(50_000_000)", check=True)
    stats = box.stats()
    assert {"memory_bytes", "memory_peak_bytes", "memory_limit_bytes", "cpu_us", "pids", "disk_bytes", "disk_limit_bytes", "oom_kills", "uptime_seconds"} <= set(stats)
    assert stats["oom_kills"] == 0 and stats["uptime_seconds"] >= 0


def test_events_tell_the_life(box: Sandbox, http: httpx.Client) -> None:
    box.pause()
    box.unpause()
    events = http.get(f"/v1/sandboxes/{box.id}/events").json()
    types = [e["type"] for e in events]
    assert types[0] == "sandbox.created"
    assert types.index("sandbox.paused") < types.index("sandbox.resumed")
    assert all(e["sandbox_id"] == box.id and e["ts"] for e in events)


def test_close_is_idempotent(server: Server) -> None:
    sandbox = Sandbox(host=server.url)
    sandbox.close()
    sandbox.close()
    sandbox.kill()
    again = Sandbox(host=server.url)
    Sandbox.connect(again.id, host=server.url).close()
    again.close()  # gone already: nothing happens


def test_connect_finds_state(server: Server, box: Sandbox) -> None:
    box.run_code("x = 'found'", check=True)
    assert Sandbox.connect(box.id, host=server.url).run_code("x").text == "'found'"
    with pytest.raises(NotFoundError):
        Sandbox.connect("sbx_" + "0" * 32, host=server.url)
