#!/usr/bin/env python3
"""Claude with Python, a shell and a text editor in one sandbox; its words appear as they come, its charts land in ./charts.

    pip install anthropic ./sdk/python; sudo cella up -d; export ANTHROPIC_API_KEY=…
    examples/anthropic_loop.py "Write a module that simulates a queue, test it, and plot waiting time over load."

MODEL names the model, CELLA_URL the daemon.
"""

import base64
import os
import sys
from pathlib import Path
from typing import Any, List

import anthropic
from cella import Sandbox
from cella.integrations.anthropic import tool_results, tools

MODEL = os.environ.get("MODEL", "claude-sonnet-4-5")
TASK = "Estimate pi by random points, and plot how the estimate comes closer."


def save_charts(results: List[Any], folder: Path) -> None:
    for result in results:
        for block in result["content"]:
            if block["type"] == "image":
                folder.mkdir(exist_ok=True)
                path = folder / f"{result['tool_use_id']}.{block['source']['media_type'].split('/')[1]}"
                path.write_bytes(base64.b64decode(block["source"]["data"]))
                print(f"[chart: {path}]")


def main() -> None:
    client = anthropic.Anthropic()
    messages: List[Any] = [{"role": "user", "content": " ".join(sys.argv[1:]) or TASK}]
    with Sandbox(metadata={"example": "anthropic loop"}) as sandbox:
        while True:
            with client.messages.stream(model=MODEL, max_tokens=8000, messages=messages, tools=tools()) as stream:
                for text in stream.text_stream:
                    print(text, end="", flush=True)
                message = stream.get_final_message()
            print()
            messages.append({"role": "assistant", "content": message.content})
            if message.stop_reason != "tool_use":
                break
            for block in message.content:
                if block.type == "tool_use":
                    print(f"[{block.name}] {block.input}")
            results = tool_results(message, sandbox)
            save_charts(results, Path("charts"))
            messages.append({"role": "user", "content": results})
        print("files:", *(entry.name for entry in sandbox.filesystem.list("/workspace")))


if __name__ == "__main__":
    main()
