"""cella.integrations.openai_agents with the package openai-agents."""

from __future__ import annotations

import hashlib
from typing import Any, Callable

import pytest
from cella import Sandbox
from support.fake_models import FakeModels, Request, call, calls, say
from support.server import free_port

HOST = "import os; print(os.uname().nodename)"
CHART = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title('t'); print('drawn')"


@pytest.mark.parametrize("program", ["sync", "chat_completions"])
def test_a_given_sandbox_stays(run: Callable[..., Any], models: FakeModels, box: Sandbox, program: str) -> None:
    models.script([call("run_python", code="n = 20 + 1\nopen('n', 'w').write(str(n))"), call("run_python", code="n * 2"), say("It is {output}.")])
    assert run("agents_runs", program, sandbox=box.id) == "It is 42."
    assert box.filesystem.read("n") == "21" and box.run_code("n").text == "21"


def test_what_is_told_while_it_runs_and_the_span(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7"
    models.script([call("run_python", code=code), say("{output}")])
    told = run("agents_runs", "traced", sandbox=box.id)
    assert "".join(text for kind, text in told["said"] if kind == "stdout") == "out\n"
    assert "".join(text for kind, text in told["said"] if kind == "stderr") == "err\n"
    assert told["said"][-1] == ["result", ["text/plain"]]
    assert models.outputs()[0].text == "out\nstderr:\nerr\n42"
    span = told["span"]
    assert told["below"] and span["sandbox_id"] == box.id and span["exit"] == "ok" and span["duration_ms"] > 0
    assert span["code_sha256"] == hashlib.sha256(code.encode()).hexdigest() and span["code_bytes"] == len(code)
    assert (span["stdout_characters"], span["stderr_characters"], span["results"]) == (4, 4, 1)
    assert "6 * 7" not in str(span)


def test_figures(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code=CHART), say("-")])
    run("agents_runs", "sync", sandbox=box.id)
    [shown] = models.outputs()
    assert shown.text == "drawn" and shown.images[0].startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("tracing", [True, False])
def test_two_runs_never_share(run: Callable[..., Any], models: FakeModels, tracing: bool) -> None:
    def script(name: str) -> Any:
        return [call("run_python", code=f"name = {name!r}; {HOST}"), call("run_python", code=HOST), call("run_python", code="name"), say("{output}")]

    models.script({"a": script("a"), "b": script("b")})
    told = run("agents_runs", "side_by_side", tracing=tracing)
    assert told == {"outputs": ["'a'", "'b'"], "left": []}
    hosts = [o.text for o in models.outputs() if not o.text.startswith("'")]
    assert len(hosts) == 4 and len(set(hosts)) == 2, hosts


def test_calls_of_one_turn_share_the_runs_cell(run: Callable[..., Any], models: FakeModels) -> None:
    """The first use is two at once: still one cell."""
    models.script({"a": [calls(call("run_python", code=HOST), call("run_python", code=HOST)), say("-")], "b": [say("-")]})
    assert run("agents_runs", "side_by_side", tracing=True)["left"] == []
    first, second = models.outputs()
    assert first.text == second.text


def test_a_streamed_run(run: Callable[..., Any], models: FakeModels) -> None:
    models.script([call("run_python", code="6 * 7"), say("It is {output}.")])
    told = run("agents_runs", "streamed")
    assert told == {"output": "It is 42.", "items": 3, "left": []}, "the call, its output, the message"


@pytest.mark.parametrize("how,error", [
    ("max_turns", "MaxTurnsExceeded"), ("provider", "BadRequestError"), ("cancelled", "CancelledError"), ("stream_cancelled", None),
])  # fmt: skip
def test_the_cell_ends_with_its_run(run: Callable[..., Any], models: FakeModels, how: str, error: str) -> None:
    code = "print('on', flush=True)" + ("\nwhile True: pass" if how.endswith("cancelled") else "")
    models.script([call("run_python", code=code), {"status": 400, "error": "scripted"}])
    told = run("agents_runs", "ends", how=how)
    assert len(told["during"]) == 1 and told["left"] == [] and told["error"] == error


def test_only_the_coder_has_the_tool(run: Callable[..., Any], models: FakeModels) -> None:
    models.script({
        "coder": [call("run_python", code="6 * 7"), call("transfer_to_writer")],
        "writer": [say("The answer is 42.")],
    })  # fmt: skip
    assert run("agents_runs", "handoff") == {"output": "The answer is 42.", "last": "Writer", "left": []}
    assert models.requests[0].tools == ["run_python", "transfer_to_writer"] and models.requests[-1].tools == []


def test_agents_as_tools_are_part_of_the_run(run: Callable[..., Any], models: FakeModels) -> None:
    def helper(name: str) -> Any:
        return [call("run_python", code=f"{name} = 1; {HOST}"), say("helped")]

    models.script({
        "boss": [call("run_python", code=f"boss = 1; {HOST}"), calls(call("help", input="x"), call("second", input="y")), call("run_python", code="boss + one + two"), say("{output}")],
        "helper": helper("one"), "second": helper("two"),
    })  # fmt: skip
    assert run("agents_runs", "nested") == {"output": "3", "left": []}


def test_approvals(run: Callable[..., Any], models: FakeModels) -> None:
    def last(request: Request) -> Any:
        return say(request.outputs[-1].text)

    models.script([call("run_python", code="kept = 5"), say("-"), call("run_python", code="kept"), last, call("run_python", code="6 * 7"), last])
    assert run("agents_runs", "approved") == {"outputs": ["5", "42"], "left": []}


def test_a_daemon_that_is_not_there_ends_the_run(run: Callable[..., Any], models: FakeModels) -> None:
    models.script([call("run_python", code="1"), say("-")])
    assert run("agents_runs", "no_daemon", url=f"http://127.0.0.1:{free_port()}") == ["UserError", "ConnectionFailed"]
    assert models.left() == 1
