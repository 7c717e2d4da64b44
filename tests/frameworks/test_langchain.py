"""cella.integrations.langchain with langchain, langchain-openai and langgraph."""

from __future__ import annotations

from typing import Any, Callable

import httpx
import pytest
from cella import Sandbox
from support.branches import executions
from support.fake_models import FakeModels, call, say

CHART = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title('t'); print('drawn')"


def test_an_agent_runs_in_the_cell(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="n = 21\nopen('n', 'w').write(str(n))"), call("run_python", code="1 / 0"), call("run_python", code="n * 2"), say("It is {output}.")])
    assert run("langchain_runs", "invoked", sandbox=box.id) == {"text": "It is 42.", "exits": ["ok", "error", "ok"], "pngs": [False] * 3}
    assert box.filesystem.read("n") == "21" and "ZeroDivisionError" in models.outputs()[1].text


def test_asynchronous_and_streamed(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="m = 6 * 7; m"), say("It is {output}.")])
    assert run("langchain_runs", "awaited", sandbox=box.id) == "It is 42."
    assert box.run_code("m").text == "42"


@pytest.mark.parametrize("images", [False, True])
def test_figures(run: Callable[..., Any], models: FakeModels, box: Sandbox, images: bool) -> None:
    models.script([call("run_python", code=CHART), say("-")])
    assert run("langchain_runs", "invoked", sandbox=box.id, images=images)["pngs"] == [True], "the artifact has it either way"
    [output] = models.outputs()
    if images:
        assert output.text == "drawn" and output.images[0].startswith("data:image/png;base64,iVBOR")
    else:
        assert output.text.startswith("drawn\n[image/png of ") and not output.images


def test_a_conversation_has_its_own_sandbox(run: Callable[..., Any], models: FakeModels, server: Any) -> None:
    with Sandbox(host=server.url) as one, Sandbox(host=server.url) as two:
        turns = [[call("run_python", code=f"who = {name!r}"), say("-")] for name in ("one", "two")]
        turns += [[call("run_python", code="who"), say("{output}")]] * 2
        models.script([turn for pair in turns for turn in pair])
        assert run("langchain_runs", "by_thread", sandboxes={"t1": one.id, "t2": two.id}) == ["-", "-", "'one'", "'two'"]


def test_time(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("run_python", code="kept = 1\nwhile True: pass"), call("run_python", code="kept"), say("{output}")])
    assert run("langchain_runs", "invoked", sandbox=box.id, timeout_seconds=1) == {"text": "1", "exits": ["timeout", "ok"], "pngs": [False] * 2}


def test_the_models_mistake_goes_back_to_it(run: Callable[..., Any], models: FakeModels, http: httpx.Client, box: Sandbox) -> None:
    models.script([call("run_python", python="1"), say("sorry")])
    assert run("langchain_runs", "invoked", sandbox=box.id)["text"] == "sorry"
    assert models.outputs()[0].text == 'error: the arguments need "code", a string' and executions(http, box) == []
