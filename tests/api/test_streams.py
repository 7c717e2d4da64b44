"""Streamed executions: events arrive while the code runs, as NDJSON and as server-sent events."""

from __future__ import annotations

import json
from typing import Iterator, List, Tuple

import httpx
import pytest
from cella import Event, Sandbox
from support.raw import Connection
from support.server import Server
from support.wait import until

#: Prints, then waits for a file that the test makes only after it has seen the print.
GATED = "import os, time\nprint('before', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.01)\nprint('after')\n'value'"


def open_gate(box: Sandbox) -> None:
    box.filesystem.write("gate", "")


def test_output_arrives_while_it_runs(box: Sandbox) -> None:
    types: List[str] = []
    last: Event = Event("")
    for event in box.run_code_stream(GATED):
        types.append(event.type)
        if event.type == "stdout" and "before" in event.text:
            open_gate(box)
        last = event
    assert types[0] == "start" and types[-1] == "end" and types.count("end") == 1
    assert types.index("stdout") < types.index("result")
    run = last.execution
    assert run is not None and run.exit == "ok" and run.stdout == "before\nafter\n" and run.text == "'value'"


def ndjson_events(response: httpx.Response) -> Iterator[dict]:
    for line in response.iter_lines():
        if line.strip():
            yield json.loads(line)


def test_ndjson_on_the_wire(box: Sandbox, http: httpx.Client) -> None:
    body = {"code": GATED, "stream": True}
    with http.stream("POST", f"/v1/sandboxes/{box.id}/execute", json=body, headers={"Accept": "application/x-ndjson"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("application/x-ndjson")
        events = []
        for event in ndjson_events(response):
            events.append(event)
            if event["type"] == "stdout" and len(events) < 4:
                open_gate(box)
    assert events[0]["type"] == "start" and events[0]["execution_id"] and events[0]["context_id"] == "default"
    assert events[-1]["type"] == "end" and events[-1]["exit"] == "ok" and events[-1]["duration_ms"] >= 0


def sse_events(response: httpx.Response) -> Iterator[Tuple[str, dict]]:
    name, data = "message", []
    for line in response.iter_lines():
        line = line.rstrip("\r\n")
        if not line and data:
            yield name, json.loads("\n".join(data))
            name, data = "message", []
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())


def test_server_sent_events_on_the_wire(box: Sandbox, http: httpx.Client) -> None:
    body = {"code": GATED, "stream": True}
    with http.stream("POST", f"/v1/sandboxes/{box.id}/execute", json=body, headers={"Accept": "text/event-stream"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = []
        for name, data in sse_events(response):
            events.append((name, data))
            if name == "stdout" and len(events) < 4:
                open_gate(box)
    names = [name for name, _ in events]
    assert names[0] == "start" and names[-1] == "end" and "result" in names
    assert "".join(d["text"] for n, d in events if n == "stdout") == "before\nafter\n"
    assert events[-1][1]["exit"] == "ok"


def test_rich_and_failing_streams(box: Sandbox) -> None:
    code = "from IPython.display import HTML, display\ndisplay(HTML('<b>1</b>'))\nprint('between')\ndisplay(2)\n1/0"
    events = list(box.run_code_stream(code))
    kinds = [e.type for e in events]
    assert kinds.count("display") == 2 and kinds.count("error") == 1 and "result" not in kinds
    error = next(e.error for e in events if e.type == "error")
    assert error is not None and error.name == "ZeroDivisionError"
    run = events[-1].execution
    assert run is not None and run.exit == "error" and run.error is not None and run.error.name == "ZeroDivisionError"
    assert run.results[0].html == "<b>1</b>" and run.stdout == "between\n"


def test_callbacks_hear_everything_once(box: Sandbox) -> None:
    out: List[str] = []
    err: List[str] = []
    results: List[object] = []
    run = box.run_code(
        "import sys\nfor i in range(3):\n    print(i, flush=True)\n    print(-i, file=sys.stderr)\n'r'",
        on_stdout=out.append, on_stderr=err.append, on_result=results.append,
    )  # fmt: skip
    assert "".join(out) == run.stdout == "0\n1\n2\n" and "".join(err) == run.stderr == "0\n-1\n-2\n"
    assert [r.text for r in results] == ["'r'"] == [r.text for r in run.results]  # type: ignore[attr-defined]


def test_streamed_and_plain_say_the_same(box: Sandbox) -> None:
    code = "import sys\nprint('o')\nprint('e', file=sys.stderr)\nfrom IPython.display import display\ndisplay({'a': 1})\n[1, 2]"
    plain = box.run_code(code)
    last = list(box.run_code_stream(code))[-1].execution
    assert last is not None
    same = lambda r: (r.exit, r.stdout, r.stderr, r.text, r.error, [x.data for x in r.results], [x.is_main_result for x in r.results])  # noqa: E731
    assert same(plain) == same(last)
    assert last.execution_count == (plain.execution_count or 0) + 1


def test_refused_before_it_runs_is_an_http_error(box: Sandbox, http: httpx.Client) -> None:
    for body in ({"stream": True}, {"code": 5, "stream": True}, {"code": "1", "language": "cobol", "stream": True}):
        answer = http.post(f"/v1/sandboxes/{box.id}/execute", json=body)
        assert answer.status_code == 400 and answer.json()["code"] == "invalid_request", body


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_every_byte_arrives_through_a_stream(box: Sandbox, http: httpx.Client, accept: str) -> None:
    lines = 60_000
    body = {"code": f"for i in range({lines}): print(f'{{i:09d}}')", "stream": True}
    with http.stream("POST", f"/v1/sandboxes/{box.id}/execute", json=body, headers={"Accept": accept}) as response:
        if accept == "text/event-stream":
            events = [dict(data, type=name) for name, data in sse_events(response)]
        else:
            events = list(ndjson_events(response))
    text = "".join(e["text"] for e in events if e["type"] == "stdout")
    assert text == "".join(f"{i:09d}\n" for i in range(lines))
    assert events[-1]["exit"] == "ok"


def test_a_slow_reader_loses_nothing_and_blocks_nobody(server: Server, box: Sandbox) -> None:
    other = box.create_code_context()
    size = 900_000
    body = json.dumps({"code": f"import sys\nsys.stdout.write('s' * {size}); None", "stream": True}).encode()
    with Connection(server.url) as connection:
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        connection.request("POST", f"/v1/sandboxes/{box.id}/execute", headers, body)
        status, head = connection.read_head()
        assert status == 200
        assert other.run_code("'not blocked'").text == "'not blocked'"
        events = [json.loads(line) for line in connection.read_body(head).splitlines() if line.strip()]
    assert sum(len(e["text"]) for e in events if e["type"] == "stdout") == size
    assert events[-1]["type"] == "end" and events[-1]["exit"] == "ok"


def test_execution_is_kept_for_later(box: Sandbox, http: httpx.Client) -> None:
    run = box.run_code("print('kept')\n5")
    later = http.get(f"/v1/sandboxes/{box.id}/executions/{run.id}")
    assert later.status_code == 200 and later.json()["exit"] == "ok" and later.json()["stdout"] == "kept\n"
    assert http.get(f"/v1/sandboxes/{box.id}/executions/exec_{'0' * 32}").status_code == 404
    listed = http.get(f"/v1/sandboxes/{box.id}/executions").json()
    assert run.id in [e["id"] for e in listed]


def test_interrupt_by_execution_id(box: Sandbox, http: httpx.Client) -> None:
    asked = False
    for event in box.run_code_stream("print('on', flush=True)\nimport time\ntime.sleep(300)"):
        if event.type == "start":
            execution = event.raw["execution_id"]
        if event.type == "stdout" and not asked:
            asked = True
            running = http.get(f"/v1/sandboxes/{box.id}/executions/{execution}").json()
            assert running.get("status") == "running"
            assert http.post(f"/v1/sandboxes/{box.id}/executions/{execution}/interrupt").status_code in (200, 202, 204)
    assert event.execution is not None and event.execution.exit == "interrupted"
    until(lambda: http.get(f"/v1/sandboxes/{box.id}/executions/{execution}").json().get("exit") == "interrupted", "the record")
    answer = http.post(f"/v1/sandboxes/{box.id}/executions/{execution}/interrupt")
    assert answer.status_code == 409 and answer.json()["code"] == "conflict"
