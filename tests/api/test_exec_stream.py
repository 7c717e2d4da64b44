"""Processes followed live through server-sent events."""

from __future__ import annotations

import json
from typing import List

import httpx
import pytest
from cella import CellaError, CommandError, InvalidRequest, NotFoundError, Sandbox
from support.wait import until

GATED = "echo before; while [ ! -e gate ]; do sleep 0.01; done; echo after; echo bad >&2; exit 6"


def test_output_arrives_while_it_runs(box: Sandbox) -> None:
    kinds: List[str] = []
    for event in box.exec_stream(GATED):
        kinds.append(event.type)
        if "before" in event.text:
            box.filesystem.write("gate", "")
    assert kinds.count("end") == 1 and kinds[-1] == "end" and kinds.count("stdout") >= 2
    result = event.command
    assert result is not None
    assert (result.stdout, result.stderr, result.exit_code, result.exit) == ("before\nafter\n", "bad\n", 6, "error")


def test_event_names_on_the_wire(box: Sandbox, http: httpx.Client) -> None:
    with http.stream("POST", f"/v1/sandboxes/{box.id}/exec/stream", json={"cmd": "echo o; echo e >&2"}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    # SSE: blocks of an event line and a data line.
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")]
    got = [(block["event"], json.loads(block["data"])) for block in blocks]
    assert [data["chunk"] for name, data in got if name == "stdout"] == ["o\n"]
    assert [data["chunk"] for name, data in got if name == "stderr"] == ["e\n"]
    assert got[0][0] == "start" and got[0][1]["pid"] > 0
    assert got[-1][0] == "exit" and got[-1][1]["exit_code"] == 0 and got[-1][1]["exit"] == "ok"


def test_callbacks(box: Sandbox) -> None:
    out: List[str] = []
    err: List[str] = []
    result = box.exec("echo 1; echo 2 >&2", on_stdout=out.append, on_stderr=err.append)
    assert "".join(out) == "1\n" == result.stdout and "".join(err) == "2\n" == result.stderr and result.exit == "ok"
    with pytest.raises(CommandError):
        box.exec("exit 2", on_stdout=out.append, check=True)


def test_large_output_is_whole_when_streamed(box: Sandbox) -> None:
    result = box.exec("seq 1000000", on_stdout=lambda text: None)
    assert result.stdout == "".join(f"{i}\n" for i in range(1, 1_000_001))


def test_timeout_of_a_stream(box: Sandbox) -> None:
    last = list(box.exec_stream("echo x; sleep 300", timeout_seconds=1))[-1]
    assert last.command is not None and last.command.exit == "timeout" and last.command.stdout == "x\n"


def test_what_cannot_start(box: Sandbox) -> None:
    with pytest.raises((NotFoundError, CellaError)) as caught:
        list(box.exec_stream(["/no/such/program"]))
    assert "/no/such/program" in caught.value.message
    with pytest.raises(InvalidRequest):
        list(box.exec_stream(""))


def test_hanging_up_kills_the_process(box: Sandbox) -> None:
    stream = box.exec_stream("echo on; sleep 306")
    for event in stream:
        if event.type == "stdout":
            break
    stream.close()  # type: ignore[attr-defined]
    until(lambda: not [p for p in box.list_processes() if "sleep 306" in p["command"]], "the process to be gone")
