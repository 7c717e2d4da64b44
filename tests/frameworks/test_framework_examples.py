"""Every example of examples/ in its own words, as a reader would start it; only the model provider is a scripted one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, List

import pytest
from cella import Sandbox, Space
from support.fake_models import FakeModels, call, calls, say
from support.packages import python_tree
from support.server import ROOT, Server, programs

EXAMPLES = ROOT / "examples"
#: Run by tests of their own: the tour of the command line, and the branches' example.
ELSEWHERE = {"tree_of_thought.py"}


@pytest.fixture
def example(frameworks: Path, paste: Callable[..., str]) -> Callable[..., str]:
    """What an example printed."""

    def example(name: str, *arguments: str, says: str = "", python: Path = frameworks, **more: str) -> str:
        return paste([str(python), str(EXAMPLES / name), *arguments], says, **more)

    return example


def made_by(name: str) -> List[Any]:
    return Sandbox.list({"example": name})


def test_chat_with_code(example: Callable[..., str], models: FakeModels) -> None:
    models.script([
        call("run_python", code="total = sum(n for n in range(1000) if n % 3 == 0 or n % 5 == 0)\ntotal"), say("It is {output}."),
        call("run_python", code="total * 2"), say("Twice that is {output}."),
    ])  # fmt: skip
    said = example("chat_with_code.py", says="Sum up the multiples of 3 and 5 below 1000.\nAnd twice that?\n")
    assert "It is 233168.\n" in said and said.endswith("Twice that is 466336.\n") and ">>> total * 2\n466336\n" in said
    asked = [m["content"] for m in models.requests[-1].body["messages"] if m["role"] == "user"]
    assert asked == ["Sum up the multiples of 3 and 5 below 1000.", "And twice that?"]
    assert made_by("chat with code") == []


def test_anthropic_loop(example: Callable[..., str], models: FakeModels, tmp_path: Path) -> None:
    chart = "import matplotlib.pyplot as plt; from estimate import pi; plt.plot([pi(n) for n in (10, 100, 1000)]); None"
    module = "import random\nrandom.seed(1)\ndef pi(n):\n    return 4 * sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(n)) / n\n"
    models.script([
        dict(call("str_replace_based_edit_tool", command="create", path="/workspace/estimate.py", file_text=module), text="I write a module."),
        calls(call("code_execution", "chart", code=chart), call("bash", command="python3 -c 'import estimate; print(3 < estimate.pi(10000) < 3.3)'")),
        say("Done: {output}."),
    ])  # fmt: skip
    said = example("anthropic_loop.py", "Estimate pi.")
    assert "I write a module.\n" in said and "Done: True.\n" in said and re.search(r"^files: .*estimate\.py", said, re.M)
    assert (tmp_path / "charts" / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert models.requests[0].body["messages"] == [{"role": "user", "content": "Estimate pi."}]
    assert models.requests[0].tools == ["code_execution", "bash", "str_replace_based_edit_tool"]


def test_openai_agents_handoff(example: Callable[..., str], models: FakeModels) -> None:
    models.script({
        "coder": [call("run_python", code="import math\nprint(math.lcm(*range(1, 21)))"), call("transfer_to_writer")],
        "writer": [say("The smallest such number is 232792560.")],
    })  # fmt: skip
    said = example("openai_agents_handoff.py", CODER_MODEL="coder", WRITER_MODEL="writer")
    assert said == "[Coder]\n232792560\n[Writer]\nThe smallest such number is 232792560.\n"
    assert [r.tools for r in models.requests] == [["run_python", "transfer_to_writer"]] * 2 + [[]]
    assert models.outputs()[0].text == "232792560"


def test_notebook_three_turns(example: Callable[..., str], tmp_path: Path) -> None:
    said = example("notebook_three_turns.py")
    assert re.findall(r"^(In|Out) ?\[(\d)\]", said, re.M) == [("In", "1"), ("Out", "1"), ("In", "2"), ("Out", "2"), ("In", "3"), ("Out", "3")]
    assert "5 weeks" in said and (tmp_path / "notebook.png").read_bytes().startswith(b"\x89PNG") and made_by("notebook") == []


@pytest.mark.own_server
def test_resume_tomorrow(example: Callable[..., str], new_server: Callable[..., Server], tmp_path: Path) -> None:
    """With a night between: the daemon and the keeper end, and start again."""
    server = new_server()
    assert example("resume_tomorrow.py", CELLA_URL=server.url) == "day 1: [2, 3, 5, 7, 11]\n"
    server.stop_daemon()
    server.stop_keeper()
    server.start_keeper()
    server.start_daemon()
    assert example("resume_tomorrow.py", CELLA_URL=server.url) == "day 2: [13, 17, 19, 23, 29]\n"
    assert [space.state for space in Space.list(host=server.url)] == ["frozen"]
    assert example("resume_tomorrow.py", "--forget", CELLA_URL=server.url) == "forgotten\n"
    assert Space.list(host=server.url) == [] and not (tmp_path / "tomorrow.txt").exists()


@pytest.mark.parametrize("way", ["http", "stdio"])
def test_mcp_client(example: Callable[..., str], way: str) -> None:
    python = python_tree(ROOT / "tests" / "clients" / "requirements-mcp.txt")
    said = example("mcp_client.py", *([str(programs() / "cella"), "mcp"] if way == "stdio" else []), python=python)
    assert said.startswith("tools: run_code run_shell read_file write_file list_files fork merge snapshot")
    errors = [float(e) for e in re.findall(r"^degree \d: error ([\d.]+)$", said, re.M)]
    assert len(errors) == 3 and errors[0] > errors[1] > errors[2]
    assert "kept: 2\n" in said and "shell: the best one\n" in said and "report.txt" in said and re.search(r"^image: image/png, \d{4,} characters$", said, re.M)


def test_every_example_is_listed_and_tested() -> None:
    names = {p.name for p in EXAMPLES.glob("*.py")}
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    tested = set(re.findall(r'example\("(\w+\.py)"', Path(__file__).read_text()))
    assert names == listed and names - ELSEWHERE == tested
