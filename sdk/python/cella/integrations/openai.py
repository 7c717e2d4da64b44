"""A code interpreter for OpenAI's chat completions and Responses API, on your own machine. ::

    from openai import OpenAI
    from cella import Sandbox
    from cella.integrations.openai import handle_tool_call, run_python_tool

    client, messages = OpenAI(), [{"role": "user", "content": "What is the 1000th prime?"}]
    with Sandbox() as sandbox:
        while True:
            answer = client.chat.completions.create(model=…, messages=messages, tools=[run_python_tool("chat")])
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                break
            messages += [handle_tool_call(call, sandbox) for call in message.tool_calls]

Nothing of the package openai is needed here: these are the wire's own dictionaries.
"""

from __future__ import annotations

from typing import Any, Dict, List, Literal, Mapping

from .. import Sandbox
from ..errors import InvalidRequest, TooLargeError
from ._answers import DESCRIPTION, NAME, PARAMETERS, TIMEOUT_SECONDS, Answer, answer, code_of

JSON = Dict[str, Any]


def run_python_tool(api: Literal["responses", "chat"] = "responses", name: str = NAME, description: str = DESCRIPTION) -> JSON:
    """The declaration for ``tools=``, in the shape of the Responses API or of chat completions."""
    function = {"name": name, "description": description, "parameters": PARAMETERS, "strict": True}
    return {"type": "function", "function": function} if api == "chat" else {"type": "function", **function}


def handle_tool_call(call: Any, sandbox: Sandbox, timeout_seconds: float = TIMEOUT_SECONDS) -> JSON:
    """Run what the model called for, and return what answers it.

    Args:
        call: one of ``message.tool_calls`` (chat completions; answered by a ``tool`` message), or an item of type
            ``function_call`` (Responses; answered by ``function_call_output``). An object of the package openai or a dict.

    Chat completions has no images in a tool's answer, so there the text names them; Responses gets them.
    """
    function = _field(call, "function")
    try:
        done = answer(sandbox.run_code(code_of(_field(function or call, "arguments")), timeout_seconds=timeout_seconds))
    except (ValueError, InvalidRequest, TooLargeError) as e:  # the model's mistake, and the model's to mend
        done = Answer(f"error: {e}", [], True)
    if function is not None:
        return {"role": "tool", "tool_call_id": _field(call, "id"), "content": done.text_only}
    return {"type": "function_call_output", "call_id": _field(call, "call_id"), "output": _parts(done)}


def _parts(done: Answer) -> Any:
    if not done.images:
        return done.text
    parts: List[JSON] = [{"type": "input_text", "text": done.text}]
    return parts + [{"type": "input_image", "image_url": image.data_url, "detail": "auto"} for image in done.images]


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
