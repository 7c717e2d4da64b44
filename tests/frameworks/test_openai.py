"""cella.integrations.openai with the package openai."""

from __future__ import annotations

import base64
import json
from typing import Any, Callable

import httpx
import pytest
from cella import Sandbox
from support.branches import executions
from support.fake_models import FakeModels, call, calls, say

CHART = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title('t'); print('drawn')"


@pytest.mark.parametrize("loop,options", [("chat", {}), ("chat_stream", {}), ("responses", {}), ("responses", {"stream": True})])
def test_a_loop_runs_in_the_cell(run: Callable[..., Any], models: FakeModels, box: Sandbox, loop: str, options: Any) -> None:
    code = "total = sum(range(101))\nopen('total.txt', 'w').write(str(total))\nprint('écrit')"
    models.script([call("run_python", code=code), call("run_python", code="total + 1"), say("It is {output}.")])
    assert run("openai_loops", loop, sandbox=box.id, **options) == "It is 5051."
    assert [o.text for o in models.outputs()] == ["écrit", "5051"]
    assert box.filesystem.read("total.txt") == "5050" and box.run_code("total").text == "5050"
    assert models.left() == 0


def test_declared_in_either_shape(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([say("-"), say("-")])
    run("openai_loops", "chat", sandbox=box.id)
    run("openai_loops", "responses", sandbox=box.id)
    chat, responses = (request.body["tools"][0] for request in models.requests)
    assert chat == {"type": "function", "function": {k: v for k, v in responses.items() if k != "type"}}
    assert responses["strict"] is True and responses["parameters"]["additionalProperties"] is False


@pytest.mark.parametrize("loop", ["chat", "responses"])
def test_several_calls_of_one_turn(run: Callable[..., Any], models: FakeModels, box: Sandbox, loop: str) -> None:
    models.script([calls(*(call("run_python", code=f"print({n})") for n in range(3))), say("{output}")])
    assert run("openai_loops", loop, sandbox=box.id) == "2"
    assert [o.text for o in models.outputs()] == ["0", "1", "2"]


def test_an_error_reaches_the_model(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="x = 1\n1 / 0"), call("run_python", code="x"), say("ok")])
    run("openai_loops", "chat", sandbox=box.id)
    first, second = models.outputs()
    assert "ZeroDivisionError: division by zero" in first.text and second.text == "1"


@pytest.mark.parametrize("arguments", [{}, {"code": 3}, {"python": "1"}])
def test_the_models_mistake_goes_back_to_it(run: Callable[..., Any], models: FakeModels, http: httpx.Client, box: Sandbox, arguments: Any) -> None:
    models.script([call("run_python", **arguments), say("sorry")])
    assert run("openai_loops", "chat", sandbox=box.id) == "sorry"
    assert models.outputs()[0].text == 'error: the arguments need "code", a string'
    assert executions(http, box) == []


def test_time_runs_out_and_variables_stay(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="kept = 7\nwhile True: pass"), call("run_python", code="kept"), say("{output}")])
    assert run("openai_loops", "responses", sandbox=box.id, timeout_seconds=1) == "7"
    assert "[the time was over: the code was interrupted]" in models.outputs()[0].text


def test_a_figure(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    """Responses takes images from a tool, chat completions only text: there it says that there is one."""
    models.script([call("run_python", code=CHART), say("-")])
    run("openai_loops", "responses", sandbox=box.id)
    [shown] = models.outputs()
    assert shown.text == "drawn" and len(shown.images) == 1
    assert base64.b64decode(shown.images[0].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    models.script([call("run_python", code=CHART), say("-")])
    run("openai_loops", "chat", sandbox=box.id)
    [told] = models.outputs()
    assert told.text.startswith("drawn\n[image/png of ") and "base64" not in json.dumps(told.raw)


def test_a_long_output_keeps_both_ends(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="print('first' + 'x' * 100_000 + 'last')"), say("-")])
    run("openai_loops", "chat", sandbox=box.id)
    text = models.outputs()[0].text
    assert text.startswith("first") and text.endswith("last") and len(text) < 21_000
    assert "[80010 characters left out]" in text
