"""Loops with the package openai."""

from typing import Any, Dict, List

import start
from cella import Sandbox
from cella.integrations.openai import handle_tool_call, run_python_tool
from openai import OpenAI


def chat(sandbox: str) -> str:
    cell, client = Sandbox.connect(sandbox), OpenAI()
    messages: List[Any] = [{"role": "user", "content": "go"}]
    while True:
        message = client.chat.completions.create(model="a", messages=messages, tools=[run_python_tool("chat")]).choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        messages += [handle_tool_call(call, cell) for call in message.tool_calls]


def chat_stream(sandbox: str) -> str:
    """The package puts the pieces of a streamed call together; its objects are handed on as they are."""
    cell, client = Sandbox.connect(sandbox), OpenAI()
    messages: List[Any] = [{"role": "user", "content": "go"}]
    while True:
        with client.chat.completions.stream(model="a", messages=messages, tools=[run_python_tool("chat")]) as stream:
            message = stream.get_final_completion().choices[0].message
        messages.append({"role": "assistant", "content": message.content, "tool_calls": [c.model_dump(include={"id", "type", "function"}) for c in message.tool_calls or []]})
        if not message.tool_calls:
            return message.content or ""
        messages += [handle_tool_call(call.model_dump(), cell) for call in message.tool_calls]


def responses(sandbox: str, stream: bool = False, timeout_seconds: float = 60) -> str:
    cell, client = Sandbox.connect(sandbox), OpenAI()
    items: List[Any] = [{"role": "user", "content": "go"}]
    while True:
        asked: Dict[str, Any] = dict(model="a", input=items, tools=[run_python_tool()])
        if stream:
            with client.responses.stream(**asked) as events:
                answer = events.get_final_response()
        else:
            answer = client.responses.create(**asked)
        items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            return answer.output_text
        items += [handle_tool_call(call, cell, timeout_seconds) for call in calls]


if __name__ == "__main__":
    start.main(globals())
