"""The scripted model provider is as strict as the real ones: otherwise the tests that rely on it would prove little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import httpx
import pytest
from support.fake_models import FakeModels, call, say
from support.server import ROOT

FUNCTION: Dict[str, Any] = {"name": "f", "parameters": {}}
PATHS = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/messages": "messages"}
TOOLS = {"/v1/chat/completions": [{"type": "function", "function": FUNCTION}], "/v1/responses": [{"type": "function", **FUNCTION}], "/v1/messages": [FUNCTION]}
CALLED = {
    "/v1/chat/completions": {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    "/v1/responses": {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    "/v1/messages": {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
}
ANSWER: Dict[str, Any] = {
    "/v1/chat/completions": {"role": "tool", "tool_call_id": "c", "content": "42"},
    "/v1/responses": {"type": "function_call_output", "call_id": "c", "output": "42"},
    "/v1/messages": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "42"}]},
}


def post(url: str, path: str, items: Any, **more: Any) -> httpx.Response:
    return httpx.post(url + path, json={"model": "m", PATHS[path]: items, "tools": TOOLS[path], **more}, trust_env=False)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_provider_refuses(models: FakeModels, path: str) -> None:
    models.script([say("never said")] * 3)
    for items, problem in (
        ([CALLED[path]], "calls without an answer: ['c']"),
        ([ANSWER[path]], "answers to calls that nobody made: ['c']"),
        ([CALLED[path], ANSWER[path], ANSWER[path]], "a call was answered twice"),
    ):
        refused = post(models.url, path, items)
        assert refused.status_code == 400 and problem in refused.json()["error"]["message"]
    assert models.left() == 3 and len(models.requests) == 3


@pytest.mark.parametrize("path", PATHS)
def test_turns(models: FakeModels, path: str) -> None:
    models.script([say("It is {output}."), call("g"), {"status": 429, "error": "slowly"}])
    assert "It is 42." in post(models.url, path, [CALLED[path], ANSWER[path]]).text
    undeclared = post(models.url, path, [])
    assert undeclared.status_code == 400 and "the script calls ['g'], but the request declares ['f']" in undeclared.text
    assert post(models.url, path, []).status_code == 429
    assert "no further turn" in post(models.url, path, []).text
    assert [o.text for o in models.outputs()] == ["42"]


def arguments_of(path: str, event: Dict[str, Any]) -> str:
    """The piece of a call's arguments that an event brings."""
    if path == "/v1/chat/completions":
        return "".join(c["function"]["arguments"] for choice in event["choices"] for c in choice["delta"].get("tool_calls", []))
    if path == "/v1/responses":
        return str(event["delta"]) if event["type"] == "response.function_call_arguments.delta" else ""
    return str(event["delta"]["partial_json"]) if event["type"] == "content_block_delta" else ""


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_brings_the_same_in_pieces(models: FakeModels, path: str) -> None:
    models.script([call("f", n=[1, "zwölf"])])
    streamed = post(models.url, path, [], stream=True)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    pieces = [piece for piece in (arguments_of(path, event) for event in events) if piece]
    assert len(pieces) > 1 and json.loads("".join(pieces)) == {"n": [1, "zwölf"]}


def test_goes_on_from_an_earlier_answer(models: FakeModels) -> None:
    models.script([call("f", "c"), say("{output}")])
    first = post(models.url, "/v1/responses", []).json()
    assert "42" in post(models.url, "/v1/responses", [ANSWER["/v1/responses"]], previous_response_id=first["id"]).text
    assert post(models.url, "/v1/responses", [], previous_response_id="resp_none").status_code == 404


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "turns.json").write_text(json.dumps([{"calls": [{"name": "f", "arguments": {}, "id": "c"}]}]))
    command = [sys.executable, "-m", "support.fake_models", "--script", str(tmp_path / "turns.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "api")}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin and process.stdout
    try:
        url = process.stdout.readline().strip()
        assert post(url, "/v1/messages", []).json()["content"][0]["name"] == "f"
        assert httpx.put(url + "/script", json=[{"text": "{output}"}], trust_env=False).status_code == 200
        post(url, "/v1/messages", [CALLED["/v1/messages"], ANSWER["/v1/messages"]])
        [request] = httpx.get(url + "/requests", trust_env=False).json()
        assert request["path"] == "/v1/messages" and request["outputs"][0]["text"] == "42"
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(60) == 0
