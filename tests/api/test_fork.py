"""Copies of a living sandbox: everything it is, and nothing of what comes later."""

from __future__ import annotations

import threading
from typing import Any, Dict, List

import httpx
import pytest
from cella import GoneError, Sandbox
from support.branches import at, end, executions, finished, fork
from support.server import Server, wanted_driver
from support.wait import until

pytestmark = pytest.mark.needs_isolation


def test_a_child_has_everything_and_then_goes_its_own_way(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("import numpy as np\nx = {'a': [1]}\narray = np.arange(100000)\nf = open('open.txt', 'w+')\nf.write('abc'); f.flush()", check=True)
    box.run_code("v=shell; cd /tmp; f() { echo from $v; }", language="bash")
    second = box.create_code_context(env={"OF": "second"})
    second.run_code("y = 'other context'", check=True)
    (child,) = fork(http, box)
    assert child.run_code("(x['a'], int(array.sum()), f.tell(), f.closed)").text == "([1], 4999950000, 3, False)"
    assert child.run_code("f; pwd", language="bash").stdout == "from shell\n/tmp\n"
    other = at(http, child.id)
    assert other.run_code("import os\n(y, os.environ['OF'])", context=second.id).text == "('other context', 'second')"
    child.run_code("x['a'].append(2)\nopen('child.txt', 'w').close()", check=True)
    box.run_code("x['a'].append(3)", check=True)
    assert child.run_code("x['a']").text == "[1, 2]" and box.run_code("x['a']").text == "[1, 3]"
    assert child.filesystem.exists("child.txt") and not box.filesystem.exists("child.txt")
    assert child.filesystem.read("open.txt") == "abc"
    end(child)


def test_what_a_child_is_called(http: httpx.Client) -> None:
    fields: Dict[str, Any] = dict(metadata={"a": "1", "b": "2"}, env={"E": "e"}, ttl_seconds=300, idle_timeout_seconds=200, limits={"memory_mb": 512})
    with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as own:
        parent = own.post("/v1/sandboxes", json=fields).json()
        said = own.post(f"/v1/sandboxes/{parent['id']}/fork", json={"count": 2, "metadata": {"b": "3"}, "ttl_seconds": 100}).json()
        assert said["parent_id"] == parent["id"] and said["snapshot_id"] is None and said["at"].endswith("Z")
        assert 0 < said["frozen_ms"] < 10_000
        for child in said["sandboxes"]:
            assert child["metadata"] == {"a": "1", "b": "3"} and child["boot_mode"] == "fork" and child["parent_id"] == parent["id"]
            assert child["limits"] == parent["limits"] and child["template_id"] == parent["template_id"]
            assert child["idle_timeout_seconds"] == 200 and 50 < child["remaining_seconds"] <= 100
            assert child["env"] == ["E"] and child["persistent"] is False
            sandbox = at(http, child["id"])
            assert sandbox.run_code("import os, socket\n(os.environ['E'], socket.gethostname())").text == f"('e', '{child['id'][4:16]}')"
            assert sandbox.exec("echo $E").stdout == "e\n"
            end(sandbox)
        own.delete(f"/v1/sandboxes/{parent['id']}")


def test_no_body_is_one_child(http: httpx.Client, box: Sandbox) -> None:
    answer = http.post(f"/v1/sandboxes/{box.id}/fork")
    assert answer.status_code == 201 and len(answer.json()["children"]) == 1
    end(at(http, answer.json()["children"][0]))


@pytest.mark.parametrize("body", [{"n": 0}, {"n": 101}, {"n": "1"}, {"n": 1, "count": 2}, {"metadata": {"a": 1}}, {"ttl_seconds": 0}])
def test_bad_bodies(http: httpx.Client, shared: Sandbox, body: Dict[str, Any]) -> None:
    answer = http.post(f"/v1/sandboxes/{shared.id}/fork", json=body)
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"


def test_a_paused_sandbox_is_not_forked(http: httpx.Client, box: Sandbox) -> None:
    box.pause()
    answer = http.post(f"/v1/sandboxes/{box.id}/fork")
    assert answer.status_code == 409 and answer.json()["hint"]


def test_what_runs_goes_on_in_all(http: httpx.Client, box: Sandbox) -> None:
    """The waiter hears of the parent's; each child has an execution of its own."""
    got: List[Any] = []
    code = "import os, time\nprint('before', flush=True)\nopen('up', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('after')\nopen('go').read()"
    thread = threading.Thread(target=lambda: got.append(box.run_code(code)))
    thread.start()
    until(lambda: box.filesystem.exists("up"), "the code to run")
    (original,) = executions(http, box)
    children = fork(http, box, 3)
    for i, child in enumerate(children):
        (run,) = executions(http, child)
        assert run["status"] == "running" and run["forked_from"] == original["id"] != run["id"]
        child.filesystem.write("go", f"child {i}")
        record = finished(http, child, run["id"])
        assert record["exit"] == "ok" and record["text"] == f"'child {i}'" and record["forked_from"] == original["id"]
        assert record["stdout"] == "after\n", "its output begins at the fork"
        assert child.run_code("'next'").text == "'next'"
    assert not got
    box.filesystem.write("go", "parent")
    thread.join(60)
    assert got[0].text == "'parent'" and got[0].stdout == "before\nafter\n"
    end(*children)


def test_a_computation_is_finished_in_both(http: httpx.Client, box: Sandbox) -> None:
    code = "total = 0\nfor i in range(12_000_000): total += i\ntotal"
    got: List[Any] = []
    thread = threading.Thread(target=lambda: got.append(box.run_code(code)))
    thread.start()
    until(lambda: executions(http, box), "the code to run")
    children = fork(http, box, 2)
    for child in children:
        for run in executions(http, child):
            record = finished(http, child, run["id"])
            assert record["exit"] == "ok" and record["text"] == str(sum(range(12_000_000)))
    thread.join(120)
    assert got[0].text == str(sum(range(12_000_000)))
    end(*children)


def test_what_waits_stays_with_the_parent(http: httpx.Client, box: Sandbox) -> None:
    got: List[Any] = []
    first = "import os, time\nopen('up', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)"
    threads = [threading.Thread(target=lambda c=c: got.append(box.run_code(c))) for c in (first, "open('queued', 'w').close()\n'queued'")]  # type: ignore[misc]
    threads[0].start()
    until(lambda: box.filesystem.exists("up"), "the code to run")
    threads[1].start()
    until(lambda: len(executions(http, box)) == 2, "the second to wait")
    (child,) = fork(http, box)
    (run,) = executions(http, child)
    for sandbox in (child, box):
        sandbox.filesystem.write("go", "")
    finished(http, child, run["id"])
    for thread in threads:
        thread.join(60)
    assert sorted(str(g.text) for g in got)[0] == "'queued'" and all(g.exit == "ok" for g in got)
    assert not child.filesystem.exists("queued")
    end(child)


def test_interrupt_and_timeout_reach_the_copy(http: httpx.Client, box: Sandbox) -> None:
    answer: List[Any] = []
    code = "import time\nopen('up', 'w').close()\ntime.sleep(300)"
    thread = threading.Thread(target=lambda: answer.append(box.run_code(code, timeout_seconds=6)))
    thread.start()
    until(lambda: box.filesystem.exists("up"), "the code to run")
    stopped, timed = fork(http, box, 2)
    (run,) = executions(http, stopped)
    http.post(f"/v1/sandboxes/{stopped.id}/executions/{run['id']}/interrupt").raise_for_status()
    assert finished(http, stopped, run["id"])["exit"] == "interrupted"
    (run,) = executions(http, timed)
    assert finished(http, timed, run["id"])["exit"] == "timeout"
    thread.join(60)
    assert answer[0].exit == "timeout"
    end(stopped, timed)


def test_a_question_is_answered_in_each(http: httpx.Client, box: Sandbox) -> None:
    asked, answers = threading.Event(), {}

    def run() -> None:
        for event in box.run_code_stream("input('name? ')"):
            if event.type == "input_request":
                asked.set()
            if event.type == "end":
                answers["parent"] = event.raw

    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(60)
    children = fork(http, box, 2)
    for i, child in enumerate(children):
        (run_there,) = executions(http, child)
        path = f"/v1/sandboxes/{child.id}/executions/{run_there['id']}/input"
        until(lambda p=path, n=i: http.post(p, json={"input": f"child {n}"}).status_code < 300, "the copy to ask")  # type: ignore[misc]
        assert finished(http, child, run_there["id"])["text"] == f"'child {i}'"
    (original,) = [e for e in executions(http, box) if e["status"] == "running"]
    http.post(f"/v1/sandboxes/{box.id}/executions/{original['id']}/input", json={"input": "parent"}).raise_for_status()
    thread.join(60)
    end(*children)


def test_long_code_sent_at_the_moment_of_the_fork(http: httpx.Client, box: Sandbox) -> None:
    """A message of many packets, cut anywhere by the freeze, is whole in parent and child."""
    filler = "#" + "x" * 1_500_000 + "\n"
    for _ in range(5):
        got: List[Any] = []
        thread = threading.Thread(target=lambda: got.append(box.run_code(filler + "'whole'")))
        thread.start()
        (child,) = fork(http, box)
        thread.join(60)
        assert got[0].text == "'whole'"
        for run in executions(http, child):
            if run.get("forked_from"):
                assert finished(http, child, run["id"])["text"] == "'whole'"
        assert child.run_code("1 + 1").text == "2"
        assert [c["restarts"] for c in http.get(f"/v1/sandboxes/{child.id}/contexts").json()] == [0], "the context was not lost"
        end(child)


def test_random_numbers_differ(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("import random, uuid, secrets\nimport numpy as np\nrandom.random(); np.random.random()", check=True)
    children = fork(http, box, 3)
    code = "(random.random(), np.random.random(), str(uuid.uuid4()), secrets.token_hex(8))"
    texts = [s.run_code(code).text for s in [box, *children]]
    for column in zip(*(eval(t or "()") for t in texts)):  # noqa: S307 - our own tuples
        assert len(set(column)) == 4, column
    end(*children)


@pytest.mark.process_only
def test_what_is_not_carried_is_said(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("import socket, subprocess\nserver = socket.create_server(('127.0.0.1', 0))\np = subprocess.Popen(['sleep', '4343'])", check=True)
    answer = http.post(f"/v1/sandboxes/{box.id}/fork", json={"n": 2}).json()
    kinds = {(n["kind"], n["context_id"]) for n in answer["not_carried"]}
    assert ("socket", "default") in kinds, answer["not_carried"]
    assert any(kind == "process" for kind, _ in kinds), answer["not_carried"]
    assert any("sleep" in n["text"] for n in answer["not_carried"] if n["kind"] == "process")
    children = [at(http, i) for i in answer["children"]]
    for child in children:
        assert not any("4343" in str(p["command"]) for p in child.list_processes())
    assert any("4343" in str(p["command"]) for p in box.list_processes()), "the parent keeps its own"
    end(*children)


def test_children_of_children(http: httpx.Client, box: Sandbox) -> None:
    chain = [box]
    box.run_code("depth = [0]", check=True)
    for i in range(1, 6):
        (child,) = fork(http, chain[-1])
        child.run_code(f"depth.append({i})", check=True)
        chain.append(child)
    for i, sandbox in enumerate(chain):
        assert sandbox.run_code("depth").text == str(list(range(i + 1)))
    end(*chain[1:])


def test_forks_at_once(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("x = 1", check=True)
    children: List[Sandbox] = []
    errors: List[BaseException] = []

    def one() -> None:
        try:
            children.extend(fork(http, box, 2))
        except BaseException as e:  # noqa: BLE001
            errors.append(e)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not errors and len({c.id for c in children}) == 8
    assert {c.run_code("x").text for c in children} == {"1"}
    end(*children)


def test_a_parent_that_is_deleted_in_the_middle(http: httpx.Client, server: Server) -> None:
    """The answer is the children, or that the parent is gone; never something between."""
    for _ in range(5):
        sandbox = Sandbox(host=server.url)
        sandbox.run_code("x = 1", check=True)
        got: List[httpx.Response] = []
        thread = threading.Thread(target=lambda s=sandbox: got.append(http.post(f"/v1/sandboxes/{s.id}/fork", json={"n": 3})))  # type: ignore[misc]
        thread.start()
        sandbox.close()
        thread.join(60)
        assert got[0].status_code in (201, 404, 410), got[0].text
        if got[0].status_code == 201:
            children = [at(http, i) for i in got[0].json()["children"]]
            assert [c.run_code("x").text for c in children] == ["1"] * 3
            end(*children)
        with pytest.raises(GoneError):
            sandbox.info()


def test_forty_children(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("x = list(range(1000))", check=True)
    children = fork(http, box, 40)
    assert {c.run_code("sum(x)").text for c in (children[0], children[20], children[39])} == {"499500"}
    end(*children)


@pytest.mark.own_server
def test_a_host_that_is_nearly_full(new_server: Any) -> None:
    own = new_server(arguments=["--cells-max", "4"])
    with httpx.Client(base_url=own.url, timeout=60, trust_env=False) as http:
        sandbox = Sandbox(host=own.url)
        said = http.post(f"/v1/sandboxes/{sandbox.id}/fork", json={"n": 5})
        assert said.status_code == 201
        assert len(said.json()["children"]) == 3
        assert [(e["index"], e["code"]) for e in said.json()["errors"]] == [(3, "limit_reached"), (4, "limit_reached")]
        assert http.post(f"/v1/sandboxes/{sandbox.id}/fork").status_code == 429


def test_keys_own_what_they_fork(http: httpx.Client, server: Server) -> None:
    made = [http.post("/v1/keys", json={"name": f"fork {i}"}).json() for i in range(2)]
    first, second = (Sandbox.create(host=server.url, api_key=k["key"]) if i == 0 else k["key"] for i, k in enumerate(made))
    headers = {"Authorization": f"Bearer {made[0]['key']}"}
    child = http.post(f"/v1/sandboxes/{first.id}/fork", headers=headers).json()["children"][0]
    assert http.get(f"/v1/sandboxes/{child}", headers=headers).status_code == 200
    stranger = {"Authorization": f"Bearer {second}"}
    assert http.get(f"/v1/sandboxes/{child}", headers=stranger).status_code == 404
    assert http.post(f"/v1/sandboxes/{child}/fork", headers=stranger).status_code == 404
    theirs = http.post("/v1/sandboxes", json={}, headers=stranger).json()["id"]
    assert http.post(f"/v1/sandboxes/{theirs}/merge_into/{child}", headers=stranger).status_code == 404
    for i, h in ((first.id, headers), (child, headers), (theirs, stranger)):
        http.delete(f"/v1/sandboxes/{i}", headers=h)
    for k in made:
        http.delete(f"/v1/keys/{k['id']}")


def test_events(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box)
    events = http.get(f"/v1/sandboxes/{box.id}/events").json()
    events = events if isinstance(events, list) else events["events"]
    (forked,) = [e for e in events if e["type"] == "sandbox.forked"]
    assert forked["metadata"]["children"] == [child.id]
    end(child)
