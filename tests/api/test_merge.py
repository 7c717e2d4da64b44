"""A branch takes its parent's place."""

from __future__ import annotations

import threading
from typing import Any, List

import httpx
import pytest
from cella import GoneError, Sandbox
from support.branches import at, end, executions, finished, fork, merge
from support.wait import until

pytestmark = pytest.mark.needs_isolation


def test_the_id_names_the_childs_state(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("x = 'parent'\nopen('f', 'w').write('parent')", check=True)
    child, sibling = fork(http, box, 2)
    child.run_code("x = 'child'\nopen('f', 'w').write('child')", check=True)
    child.run_code("v=child", language="bash")
    sibling.run_code("x = 'sibling'", check=True)
    before = http.get(f"/v1/sandboxes/{box.id}").json()
    merge(http, box, child)
    assert box.run_code("x").text == "'child'" and box.filesystem.read("f") == "child"
    assert box.run_code("echo $v", language="bash").stdout == "child\n"
    assert box.exec("cat f").stdout == "child"
    after = http.get(f"/v1/sandboxes/{box.id}").json()
    for field in ("id", "metadata", "created_at", "parent_id", "boot_mode"):
        assert after[field] == before[field], field
    with pytest.raises(GoneError) as gone:
        child.run_code("1")
    assert f"merged into {box.id}" in str(gone.value)
    assert sibling.run_code("x").text == "'sibling'"
    assert [s["id"] for s in _list(http)].count(box.id) == 1 and child.id not in [s["id"] for s in _list(http)]
    (grandchild,) = fork(http, box)
    assert grandchild.run_code("x").text == "'child'"
    end(sibling, grandchild)


def _list(http: httpx.Client) -> List[Any]:
    value = http.get("/v1/sandboxes").json()
    return list(value if isinstance(value, list) else value["sandboxes"])


def test_what_the_id_keeps(http: httpx.Client) -> None:
    parent = http.post("/v1/sandboxes", json={"metadata": {"who": "parent"}, "ttl_seconds": 500, "limits": {"memory_mb": 512}}).json()["id"]
    child = http.post(f"/v1/sandboxes/{parent}/fork", json={"metadata": {"who": "child"}, "ttl_seconds": 5}).json()["children"][0]
    assert http.post(f"/v1/sandboxes/{parent}/merge_into/{child}").status_code == 204
    about = http.get(f"/v1/sandboxes/{parent}").json()
    assert about["metadata"] == {"who": "parent"} and about["remaining_seconds"] > 400 and about["limits"]["memory_mb"] == 512
    http.delete(f"/v1/sandboxes/{parent}")
    assert http.get(f"/v1/sandboxes/{parent}").status_code == 410


def test_executions_at_the_moment_of_the_merge(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    got: dict[str, Any] = {}
    code = "import os, time\nopen('up', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\nopen('go').read()"

    def run(name: str, sandbox: Sandbox, what: str) -> None:
        got[name] = sandbox.run_code(what)

    threads = [threading.Thread(target=run, args=a) for a in (("parent", box, code), ("child", child, code), ("waits", box, "'never'"))]
    for t in threads[:2]:
        t.start()
    for sandbox in (box, child):
        until(lambda s=sandbox: s.filesystem.exists("up"), "the code to run")  # type: ignore[misc]
    threads[2].start()
    until(lambda: len(executions(http, box)) == 2, "the second to wait")
    (of_child,) = executions(http, child)
    merge(http, box, child)
    threads[0].join(60)
    threads[2].join(60)
    for name in ("parent", "waits"):
        assert got[name].exit == "killed" and "merged" in str(got[name].error.value)
    (run_now,) = [e for e in executions(http, box) if e["status"] == "running"]
    assert run_now["id"] == of_child["id"], "it goes on under the parent's id"
    box.filesystem.write("go", "on")
    threads[1].join(60)
    assert got["child"].text == "'on'" and got["child"].exit == "ok", "whoever waits for the child's execution gets its result"
    assert finished(http, box, of_child["id"])["text"] == "'on'"


def test_processes_of_the_child_go_on(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    process = child.start("while [ ! -e stop ]; do sleep 0.02; done; touch stopped")
    mine = box.start("sleep 4444")
    merge(http, box, child)
    pids = [str(p["command"]) for p in box.list_processes()]
    assert any("stop" in c for c in pids) and not any("4444" in c for c in pids), (pids, process.pid, mine.pid)
    box.filesystem.write("stop", "")
    until(lambda: box.filesystem.exists("stopped"), "the process to go on")


def test_who_may_not_be_merged(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    with Sandbox(host=str(http.base_url)) as stranger:
        for into, winner, status in (
            (box.id, box.id, 400),
            (box.id, stranger.id, 409),
            (child.id, box.id, 409),
            (box.id, "sbx_" + "0" * 32, 404),
            (box.id, "nonsense", 404),
            ("sbx_" + "0" * 32, child.id, 404),
        ):
            answer = http.post(f"/v1/sandboxes/{into}/merge_into/{winner}")
            assert answer.status_code == status, (into, winner, answer.text)
    child.close()
    assert http.post(f"/v1/sandboxes/{box.id}/merge_into/{child.id}").status_code == 410
    assert box.run_code("1").text == "1"


def test_grandchildren_siblings_and_twice(http: httpx.Client, box: Sandbox) -> None:
    a, b = fork(http, box, 2)
    (aa,) = fork(http, a)
    for name, sandbox in (("a", a), ("b", b), ("aa", aa)):
        sandbox.run_code(f"who = '{name}'", check=True)
    merge(http, a, b)  # siblings
    assert a.run_code("who").text == "'b'"
    merge(http, box, aa)  # a grandchild, past its parent
    assert box.run_code("who").text == "'aa'"
    merge(http, box, a)
    assert box.run_code("who").text == "'b'"
    for _ in range(3):
        (child,) = fork(http, box)
        child.run_code("who += '!'", check=True)
        merge(http, box, child)
    assert box.run_code("who").text == "'b!!!'"
    node = http.get(f"/v1/sandboxes/{box.id}/tree").json()["tree"]
    assert node["state"] == "running" and {c["state"] for c in node["children"]} == {"ended"}
    assert all("merged into" in c["reason"] for c in node["children"])


def test_a_paused_parent_runs_again(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    child.run_code("x = 1", check=True)
    box.pause()
    merge(http, box, child)
    assert box.info().status == "running" and box.run_code("x").text == "1"


def test_uploads_into_the_old_state_are_not_claimed(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    sent: List[int] = []

    def content() -> Any:
        yield b"n" * (1 << 20)
        merge(http, box, child)
        yield b"n" * (1 << 20)

    with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as other:
        try:
            sent.append(other.put(f"/v1/sandboxes/{box.id}/fs", params={"path": "upload"}, content=content()).status_code)
        except httpx.HTTPError:
            pass
    assert all(status >= 400 for status in sent)
    assert not box.filesystem.exists("upload")


def test_events(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    merge(http, box, child)
    value = http.get(f"/v1/sandboxes/{box.id}/events").json()
    (merged,) = [e for e in (value if isinstance(value, list) else value["events"]) if e["type"] == "sandbox.merged"]
    assert merged["metadata"] == {"from": child.id}


def test_a_persistent_parent_keeps_its_space(http: httpx.Client) -> None:
    """What took the place is what is put away from then on."""
    parent = http.post("/v1/sandboxes", json={"persistent": True}).json()
    sandbox = at(http, parent["id"])
    sandbox.run_code("x = 'parent'", check=True)
    http.post(f"/v1/sandboxes/{sandbox.id}/hibernate").raise_for_status()
    sandbox.run_code("x", check=True)
    (child,) = fork(http, sandbox)
    assert child.info().raw["persistent"] is False and child.info().raw["space_id"] is None
    child.run_code("x = 'child'", check=True)
    merge(http, sandbox, child)
    about = http.get(f"/v1/sandboxes/{sandbox.id}").json()
    assert about["persistent"] is True and about["space_id"] == parent["space_id"]
    http.post(f"/v1/sandboxes/{sandbox.id}/hibernate").raise_for_status()
    assert sandbox.run_code("x").text == "'child'"
    end(sandbox)
