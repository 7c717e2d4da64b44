"""Loops with the package anthropic."""

from typing import Any, List, Optional

import anthropic
import start
from cella import Sandbox
from cella.integrations.anthropic import code_execution_tool, handle_code_execution_tool_use, tool_results, tools


def messages(sandbox: str, stream: bool = False, timeout_seconds: float = 60, only: Optional[str] = None) -> str:
    """The loop of the module's own documentation."""
    cell, client = Sandbox.connect(sandbox), anthropic.Anthropic()
    said: List[Any] = [{"role": "user", "content": "go"}]
    while True:
        asked: Any = dict(model="a", max_tokens=1000, messages=said, tools=[code_execution_tool()] if only else tools())
        if stream:
            with client.messages.stream(**asked) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**asked)
        said.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            return message.content[0].text
        said.append({"role": "user", "content": tool_results(message, cell, timeout_seconds)})


def server_shape(sandbox: str) -> str:
    """A gateway that stands in for Anthropic's own sandbox: the results go into the assistant's turn, beside the calls."""
    cell, client = Sandbox.connect(sandbox), anthropic.Anthropic()
    declared: Any = [{"type": "code_execution_20250825", "name": "code_execution"}]
    said: List[Any] = [{"role": "user", "content": "go"}]
    while True:
        message = client.messages.create(model="a", max_tokens=1000, messages=said, tools=declared)
        said.append({"role": "assistant", "content": [*message.content, *tool_results(message, cell, 2)]})
        if message.stop_reason != "pause_turn":
            return message.content[0].text


def runner(sandbox: str) -> str:
    """The package's own loop, with a function of ours as its tool."""
    cell, client = Sandbox.connect(sandbox), anthropic.Anthropic()
    declared = code_execution_tool()

    @anthropic.beta_tool(name=declared["name"], description=declared["description"], input_schema=declared["input_schema"])
    def code_execution(code: str) -> Any:
        block = {"type": "tool_use", "id": "-", "name": "code_execution", "input": {"code": code}}
        return handle_code_execution_tool_use(block, cell)["content"]

    last = client.beta.messages.tool_runner(
        model="a", max_tokens=1000, tools=[code_execution], messages=[{"role": "user", "content": "go"}]
    ).until_done()
    return last.content[0].text


if __name__ == "__main__":
    start.main(globals())
