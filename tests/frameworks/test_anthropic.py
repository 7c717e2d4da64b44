"""cella.integrations.anthropic with the package anthropic."""

from __future__ import annotations

import base64
import re
from typing import Any, Callable, Dict, List

import httpx
import pytest
from cella import Sandbox
from cella.integrations.anthropic import handle_code_execution_tool_use
from support.branches import executions
from support.fake_models import FakeModels, call, calls, say

CHART = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title('t'); print('drawn')"
EDITOR = "str_replace_based_edit_tool"


@pytest.mark.parametrize("stream", [False, True])
def test_code_shell_and_editor_share_one_cell(run: Callable[..., Any], models: FakeModels, box: Sandbox, stream: bool) -> None:
    models.script([
        call(EDITOR, command="create", path="/workspace/double.py", file_text="def double(x):\n    return x + x\n"),
        calls(call("bash", command="cd /tmp && export WHO=shell && ls /workspace"), call("code_execution", code="from double import double; y = double(21); y")),
        call("bash", command="echo $WHO in $PWD; exit 3"),
        say("It is {output}."),
    ])  # fmt: skip
    said = run("anthropic_loops", "messages", sandbox=box.id, stream=stream)
    created, listed, value, shell = models.outputs()
    assert created.text == "/workspace/double.py was created" and listed.text == "double.py" and value.text == "42"
    assert shell.text == "shell in /tmp\n[exit code 3]" and [o.is_error for o in models.outputs()] == [False, False, False, True]
    assert said == "It is shell in /tmp\n[exit code 3]."
    assert box.run_code("y").text == "42"


def test_charts_are_image_blocks(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("code_execution", code=CHART), say("-")])
    run("anthropic_loops", "messages", sandbox=box.id)
    [shown] = models.outputs()
    assert shown.text == "drawn" and base64.b64decode(shown.images[0].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert [block["type"] for block in shown.raw["content"]] == ["text", "image"]


def test_errors_and_time(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([
        call("code_execution", code="kept = 7\n1 / 0"), call("code_execution", code="while True: pass"),
        call("bash", restart=True), call("bash", command=5), call("code_execution", code="kept"), say("-"),
    ])  # fmt: skip
    run("anthropic_loops", "messages", sandbox=box.id, timeout_seconds=2)
    raised, timeout, restarted, mistake, kept = models.outputs()
    assert raised.is_error and "ZeroDivisionError" in raised.text
    assert timeout.is_error and timeout.text.endswith("[the time was over: the code was interrupted]")
    assert restarted.text == "[the shell was started anew]" and not restarted.is_error
    assert mistake.is_error and mistake.text == 'error: the input needs "command", a string'
    assert kept.text == "7"


def test_the_packages_own_loop(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    models.script([call("code_execution", code="z = 6 * 7; z"), say("It is {output}.")])
    assert run("anthropic_loops", "runner", sandbox=box.id) == "It is 42."
    assert box.run_code("z").text == "42"


def test_the_shape_of_the_server_tool(run: Callable[..., Any], models: FakeModels, box: Sandbox) -> None:
    path, editor = "/workspace/notes.txt", "text_editor_code_execution"
    models.script([
        call("code_execution", _server=True, code="import sys; print('out'); print('err', file=sys.stderr); 6 * 7"),
        call("code_execution", _server=True, code="1 / 0"),
        call("code_execution", _server=True, code="while True: pass"),
        call("code_execution", _server=True, code=CHART),
        call("bash_code_execution", _server=True, command="echo hi; exit 4"),
        call(editor, _server=True, command="create", path=path, file_text="one\ntwo\nthree\n"),
        call(editor, _server=True, command="str_replace", path=path, old_str="two", new_str="2"),
        call(editor, _server=True, command="view", path=path, view_range=[2, 3]),
        call(editor, _server=True, command="view", path="/workspace/none"),
        say("done"),
    ])  # fmt: skip
    assert run("anthropic_loops", "server_shape", sandbox=box.id) == "done"
    blocks: List[Dict[str, Any]] = [o.raw["content"] for o in models.outputs()]
    assert [o.raw["type"] for o in models.outputs()] == ["code_execution_tool_result"] * 4 + ["bash_code_execution_tool_result"] + ["text_editor_code_execution_tool_result"] * 4
    plain, raised, timeout, chart, shell, created, replaced, viewed, missing = blocks
    assert plain == {"type": "code_execution_result", "stdout": "out\n42", "stderr": "err", "return_code": 0, "content": []}
    assert raised["return_code"] == 1 and "ZeroDivisionError" in raised["stderr"]
    assert timeout == {"type": "code_execution_tool_result_error", "error_code": "execution_time_exceeded"}
    assert chart["stdout"] == "drawn" and chart["stderr"] == "[image/png: cannot be shown here]"
    assert shell == {"type": "bash_code_execution_result", "stdout": "hi", "stderr": "", "return_code": 4, "content": []}
    assert created == {"type": "text_editor_code_execution_create_result", "is_file_update": False}
    assert replaced == {
        "type": "text_editor_code_execution_str_replace_result", "lines": ["-two", "+2"],
        "old_start": 2, "old_lines": 1, "new_start": 2, "new_lines": 1,
    }  # fmt: skip
    assert viewed == {"type": "text_editor_code_execution_view_result", "file_type": "text", "content": "2\nthree", "num_lines": 2, "start_line": 2, "total_lines": 3}
    assert missing == {"type": "text_editor_code_execution_tool_result_error", "error_code": "file_not_found"}
    assert box.filesystem.read(path) == "one\n2\nthree\n"


# ---- the editor, without a model between: nothing here needs the package ----


def edit(box: Sandbox, **given: Any) -> Dict[str, Any]:
    block = {"type": "tool_use", "id": "t1", "name": EDITOR, "input": {"path": "/workspace/f", **given}}
    answer = handle_code_execution_tool_use(block, box)
    assert answer["type"] == "tool_result" and answer["tool_use_id"] == "t1"
    return {"text": answer["content"][0]["text"], "error": answer["is_error"]}


@pytest.mark.parametrize("before,line,text,after", [
    ("a\nb\n", 0, "x", "x\na\nb\n"), ("a\nb\n", 1, "x\n", "a\nx\nb\n"), ("a\nb\n", 2, "x", "a\nb\nx\n"), ("a\nb", 2, "x", "a\nb\nx"),
    ("", 0, "x", "x\n"), ("a\r\nb\r\n", 1, "x\r\n", "a\r\nx\r\nb\r\n"), ("a\u2028b\nc", 1, "x", "a\u2028b\nx\nc"),
])  # fmt: skip
def test_insert(shared: Sandbox, before: str, line: int, text: str, after: str) -> None:
    shared.filesystem.write("f", before)
    assert not edit(shared, command="insert", insert_line=line, insert_text=text)["error"]
    assert shared.filesystem.read("f") == after


@pytest.mark.parametrize("given", [
    {"command": "str_replace", "old_str": "twice", "new_str": "x"}, {"command": "str_replace", "old_str": "never", "new_str": "x"},
    {"command": "str_replace", "old_str": "", "new_str": "x"}, {"command": "str_replace"}, {"command": "insert", "insert_line": 99, "insert_text": "x"},
    {"command": "insert", "insert_line": -1, "insert_text": "x"}, {"command": "insert", "insert_line": "0", "insert_text": "x"}, {"command": "insert", "insert_line": 0},
    {"command": "view", "view_range": [9, 10]}, {"command": "view", "view_range": [2, 1]}, {"command": "view", "view_range": 1}, {"command": "undo_edit"}, {},
    {"command": "create"}, {"command": "create", "path": 4, "file_text": ""}, {"command": "view", "path": "/none"}, {"command": "create", "path": "/etc/x", "file_text": "x"},
])  # fmt: skip
def test_what_cannot_be_done_leaves_the_file(shared: Sandbox, given: Any) -> None:
    content = "twice\ntwice\nonce\n"
    shared.filesystem.write("f", content)
    answer = edit(shared, **given)
    assert answer["error"] and answer["text"].startswith("error: ")
    assert shared.filesystem.read("f") == content


def test_view_and_replace(shared: Sandbox) -> None:
    shared.filesystem.write("f", "one\ntwo\nthree\n", mode=0o755)
    assert edit(shared, command="view")["text"] == "     1\tone\n     2\ttwo\n     3\tthree"
    assert edit(shared, command="view", view_range=[2, -1])["text"] == "     2\ttwo\n     3\tthree"
    assert "     2\t2\n" in edit(shared, command="str_replace", old_str="two", new_str="2")["text"]
    assert shared.filesystem.stat("f").mode & 0o777 == 0o755, "an edit keeps the permission bits"
    assert not edit(shared, command="str_replace", old_str="one\n")["error"]
    assert shared.filesystem.read("f") == "2\nthree\n"
    shared.filesystem.mkdir("d/e")
    shared.filesystem.write("d/.hidden/x", "")
    listing = edit(shared, command="view", path="/workspace/d")["text"]
    assert listing == "/workspace/d/e/", listing
    shared.filesystem.write("binary", b"\xff\xfe")
    assert edit(shared, command="view", path="/workspace/binary")["error"]


def test_another_tool_is_no_call_of_ours(shared: Sandbox, http: httpx.Client) -> None:
    before = len(executions(http, shared))
    with pytest.raises(ValueError, match=re.escape("'get_weather' is none of")):
        handle_code_execution_tool_use({"type": "tool_use", "id": "t", "name": "get_weather", "input": {"code": "1"}}, shared)
    assert len(executions(http, shared)) == before
