#!/usr/bin/env python3
"""A chat that computes: OpenAI's chat completions, and a sandbox that remembers everything between the questions.

    pip install openai ./sdk/python; sudo cella up -d; export OPENAI_API_KEY=…
    examples/chat_with_code.py                # then one question a line

MODEL names the model, CELLA_URL the daemon, OPENAI_BASE_URL any server that speaks the same API.
"""

import json
import os
import sys
from typing import Any, List

from cella import Sandbox
from cella.integrations.openai import handle_tool_call, run_python_tool
from openai import OpenAI

MODEL = os.environ.get("MODEL", "gpt-5")
SYSTEM = "You answer with the help of Python. Compute instead of guessing, and keep what may be needed later in variables."


def answer(client: OpenAI, sandbox: Sandbox, messages: List[Any]) -> str:
    """Let the model run code until it has something to say."""
    while True:
        reply = client.chat.completions.create(model=MODEL, messages=messages, tools=[run_python_tool("chat")])
        message = reply.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:
            print(f">>> {json.loads(call.function.arguments).get('code')}")
            result = handle_tool_call(call, sandbox)
            print(result["content"])
            messages.append(result)


def main() -> None:
    client, messages = OpenAI(), [{"role": "system", "content": SYSTEM}]
    with Sandbox(metadata={"example": "chat with code"}) as sandbox:
        print("Ask away; an empty line ends it.", file=sys.stderr)
        for question in iter(sys.stdin.readline, ""):
            if not question.strip():
                break
            messages.append({"role": "user", "content": question.strip()})
            print(answer(client, sandbox, messages), flush=True)


if __name__ == "__main__":
    main()
