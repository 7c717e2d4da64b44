"""Podflare's wire, by requests as its documentation describes them: its packages cannot be had."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

import httpx
import pytest
from support.server import Server

CLIENT = "Podflare's HTTP API"
Lines = List[Dict[str, Any]]


def call(name: str, state: str = "") -> pytest.MarkDecorator:
    return pytest.mark.client(CLIENT, name, state=state)


class Pod:
    """One sandbox, in Podflare's words."""

    def __init__(self, http: httpx.Client, **body: Any) -> None:
        self.http = http
        made = http.post("/v1/sandboxes", json=body)
        assert made.status_code == 201, made.text
        self.made = made.json()
        self.id: str = self.made["id"]

    def exec(self, code: str, language: Optional[str] = "python") -> Lines:
        body = {"code": code, **({"language": language} if language else {})}
        answer = self.http.post(f"/v1/sandboxes/{self.id}/exec", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].split(";")[0] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["seq"] for line in lines] == list(range(len(lines)))
        assert lines[-1]["type"] == "exit" and all(line["type"] in ("stdout", "stderr") for line in lines[:-1])
        assert all(abs(line["ts"] / 1000 - time.time()) < 600 for line in lines)
        return lines

    def run(self, code: str, language: str = "python") -> str:
        """stdout of code that must work."""
        lines = self.exec(code, language)
        assert lines[-1]["data"] == 0, lines
        return "".join(line["data"] + "\n" for line in lines[:-1] if line["type"] == "stdout")

    def fork(self, n: int) -> List["Pod"]:
        answer = self.http.post(f"/v1/sandboxes/{self.id}/fork", json={"n": n})
        assert answer.status_code == 201, answer.text
        pods = [Pod.__new__(Pod) for _ in answer.json()["children"]]
        for pod, child in zip(pods, answer.json()["children"]):
            pod.http, pod.id = self.http, child
        return pods

    def delete(self) -> int:
        return self.http.delete(f"/v1/sandboxes/{self.id}").status_code


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False, headers={"Authorization": "Bearer pf_live_anything"}) as http:
        yield http


@pytest.fixture
def pod(client: httpx.Client) -> Iterator[Pod]:
    pod = Pod(client, template="default", egress=True, persistent=False, idle_timeout_seconds=600)
    yield pod
    pod.delete()


@call("GET /v1/healthz")
def test_health(client: httpx.Client) -> None:
    answer = httpx.get(f"{client.base_url}/v1/healthz", trust_env=False)
    assert (answer.status_code, answer.text) == (200, "ok")


@call("POST /v1/sandboxes")
def test_create(pod: Pod) -> None:
    assert pod.id.startswith("sbx_") and len(pod.id) == 36 and pod.made["state"] == "ready"


@call("POST /v1/sandboxes with egress: true", "the field is ignored: a sandbox has no network, and the answer's network.mode says so")
def test_there_is_no_egress(pod: Pod) -> None:
    assert pod.made["network"] == {"mode": "none"}


@call("POST …/exec, python")
def test_python_keeps_its_state(pod: Pod) -> None:
    assert pod.exec("x = 41", None)[-1]["data"] == 0
    lines = pod.exec("import sys\nprint(x + 1)\nprint('two\\nlines')\nprint('bad', file=sys.stderr)")
    assert [line["data"] for line in lines if line["type"] == "stdout"] == ["42", "two", "lines"]
    assert [line["data"] for line in lines if line["type"] == "stderr"] == ["bad"]


@call("POST …/exec, python")
def test_an_exception_does_not_poison(pod: Pod) -> None:
    pod.exec("y = 1")
    lines = pod.exec("y = 2\nraise ValueError('no')")
    assert lines[-1]["data"] == 1 and any("ValueError" in line["data"] for line in lines if line["type"] == "stderr")
    assert pod.run("print(y)") == "2\n"


@call("POST …/exec, python")
@pytest.mark.parametrize("code, exit_code", [("raise SystemExit(7)", 7), ("import sys; sys.exit()", 0), ("import sys; sys.exit('why')", 1)])
def test_the_code_of_system_exit(pod: Pod, code: str, exit_code: int) -> None:
    pod.exec("z = 5")
    assert pod.exec(code)[-1]["data"] == exit_code
    assert pod.run("print(z)") == "5\n"


@call("POST …/exec, bash")
def test_bash_is_a_process_of_its_own(pod: Pod) -> None:
    lines = pod.exec("A=1; cd /tmp; echo $A; echo e >&2; exit 9", "bash")
    assert [(line["type"], line["data"]) for line in lines if line["type"] == "stdout"] == [("stdout", "1")] and lines[-1]["data"] == 9
    assert pod.run("echo [$A] $PWD", "bash") == "[] /workspace\n"


@call("POST …/exec, bash")
def test_python_and_bash_share_files(pod: Pod) -> None:
    pod.run("open('shared', 'w').write('from python')")
    assert pod.run("cat shared", "bash") == "from python\n"


@call("POST …/exec: output while it runs")
def test_lines_come_while_the_code_runs(pod: Pod) -> None:
    code = "import os, time\nprint('before', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.01)\nprint('after')"
    with pod.http.stream("POST", f"/v1/sandboxes/{pod.id}/exec", json={"code": code}) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["data"] == "before"
        assert pod.http.put(f"/v1/sandboxes/{pod.id}/fs", params={"path": "gate"}, content=b"").status_code == 200
        assert [json.loads(line)["data"] for line in lines] == ["after", 0]


@call("POST …/exec: one at a time, queued")
@pytest.mark.parametrize("first, second", [("python", "bash"), ("bash", "python"), ("bash", "bash")])
def test_one_runs_at_a_time(pod: Pod, first: str, second: str) -> None:
    """The second of two begins when the first has ended, whatever their languages are."""
    hold = {"python": "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.01)\nopen('order', 'a').write('1')",
            "bash": "echo on; while [ ! -e gate ]; do sleep 0.01; done; printf 1 >> order"}  # fmt: skip
    then = {"python": "open('order', 'a').write('2')", "bash": "printf 2 >> order"}
    later: List[Lines] = []
    with pod.http.stream("POST", f"/v1/sandboxes/{pod.id}/exec", json={"code": hold[first], "language": first}) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["data"] == "on"
        waiting = threading.Thread(target=lambda: later.append(pod.exec(then[second], second)))
        waiting.start()
        # It is in the queue, or on its way there: in neither case may it have run when others have been answered.
        for _ in range(20):
            assert pod.http.get(f"/v1/sandboxes/{pod.id}/fs", params={"path": "order"}).status_code == 404
        assert pod.http.put(f"/v1/sandboxes/{pod.id}/fs", params={"path": "gate"}, content=b"").status_code == 200
        assert json.loads(list(lines)[-1])["data"] == 0
    waiting.join(120)
    assert later[0][-1]["data"] == 0
    assert pod.run("print(open('order').read())") == "12\n"


@call("POST …/exec: one at a time, queued")
def test_whoever_leaves_the_queue_is_skipped(pod: Pod) -> None:
    hold = "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.01)"
    with pod.http.stream("POST", f"/v1/sandboxes/{pod.id}/exec", json={"code": hold}) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["data"] == "on"
        with pytest.raises(httpx.TimeoutException):
            pod.http.post(f"/v1/sandboxes/{pod.id}/exec", json={"code": "touch left", "language": "bash"}, timeout=1)
        assert pod.http.put(f"/v1/sandboxes/{pod.id}/fs", params={"path": "gate"}, content=b"").status_code == 200
        assert json.loads(list(lines)[-1])["data"] == 0
    assert pod.run("ls", "bash") == "gate\n"


@call("POST …/fork")
def test_children_inherit_variables_and_files(pod: Pod) -> None:
    pod.run("v = 'kept'; open('f', 'w').write('file')")
    children = pod.fork(3)
    assert len({child.id for child in children} | {pod.id}) == 4
    for i, child in enumerate(children):
        assert child.run(f"print(v, open('f').read()); v = {i}") == "kept file\n"
    assert pod.run("print(v)") == "kept\n"
    assert {child.delete() for child in children} == {204}


@call("POST …/fork")
@pytest.mark.parametrize("n", [0, -1, 1000, "two"])
def test_a_wrong_number_of_children(pod: Pod, n: Any) -> None:
    answer = pod.http.post(f"/v1/sandboxes/{pod.id}/fork", json={"n": n})
    assert answer.status_code == 400 and isinstance(answer.json()["error"], str)


@call("POST /v1/sandboxes/{parent}/merge_into/{winner}")
def test_merge(pod: Pod) -> None:
    pod.run("v = 'parent'")
    winner, sibling = pod.fork(2)
    winner.run("v = 'winner'; open('won', 'w').write('x')")
    sibling.run("v = 'sibling'")
    answer = pod.http.post(f"/v1/sandboxes/{pod.id}/merge_into/{winner.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert pod.run("print(v, open('won').read())") == "winner x\n"
    assert sibling.run("print(v)") == "sibling\n"
    gone = pod.http.post(f"/v1/sandboxes/{winner.id}/exec", json={"code": "1"})
    assert gone.status_code in (404, 410) and isinstance(gone.json()["error"], str)
    sibling.delete()


@call("POST /v1/sandboxes/{parent}/merge_into/{winner}")
def test_merging_into_itself_is_refused(pod: Pod) -> None:
    answer = pod.http.post(f"/v1/sandboxes/{pod.id}/merge_into/{pod.id}")
    assert answer.status_code == 400 and isinstance(answer.json()["error"], str)


@call("DELETE /v1/sandboxes/{id}")
def test_delete(client: httpx.Client) -> None:
    pod = Pod(client)
    assert pod.delete() in (200, 204)
    assert client.post(f"/v1/sandboxes/{pod.id}/exec", json={"code": "1"}).status_code in (404, 410)


@call("errors {\"error\"}")
def test_errors(pod: Pod) -> None:
    unknown = pod.http.post("/v1/sandboxes/sbx_" + "0" * 32 + "/exec", json={"code": "1"})
    assert unknown.status_code == 404 and unknown.json()["error"] == "sandbox not found"
    for body in ({"code": 5}, {"code": "1", "language": "cobol"}, {}):
        answer = pod.http.post(f"/v1/sandboxes/{pod.id}/exec", json=body)
        assert answer.status_code == 400 and isinstance(answer.json()["error"], str)


@pytest.mark.own_server
@call("errors {\"error\"}")
def test_a_wrong_key(new_server: Callable[..., Server]) -> None:
    server = new_server(arguments=["--require-key"])
    made = httpx.post(f"{server.url}/v1/keys", json={"name": "mine"}, trust_env=False)
    assert made.status_code == 201
    for headers in ({}, {"Authorization": "Bearer pf_live_wrong"}):
        answer = httpx.get(f"{server.url}/v1/sandboxes", headers=headers, trust_env=False)
        assert answer.status_code == 401 and isinstance(answer.json()["error"], str)
    assert answer.json()["error"] == "invalid api key"
    right = httpx.get(f"{server.url}/v1/sandboxes", headers={"Authorization": f"Bearer {made.json()['key']}"}, trust_env=False)
    assert (right.status_code, right.json()) == (200, [])
