#!/usr/bin/env python3
"""Two agents of the OpenAI Agents SDK: one computes in a sandbox, the other, who has none, writes it down.

    pip install openai-agents ./sdk/python; sudo cella up -d; export OPENAI_API_KEY=…
    examples/openai_agents_handoff.py "How does compound interest at 3 % and 4 % differ after 30 years?"

The sandbox is made when the coder first runs code, and is gone when the run is over. CODER_MODEL and WRITER_MODEL name the
models, CELLA_URL the daemon.
"""

import asyncio
import os
import sys

from agents import Agent, Runner
from agents.extensions.handoff_prompt import RECOMMENDED_PROMPT_PREFIX
from cella.integrations.openai_agents import code_interpreter

QUESTION = "Which is the smallest number that is divisible by all of 1 to 20?"

writer = Agent(
    name="Writer",
    model=os.environ.get("WRITER_MODEL", "gpt-5"),
    handoff_description="Writes the answer, once the numbers are there.",
    instructions=f"{RECOMMENDED_PROMPT_PREFIX}\nWrite two plain sentences from the numbers in the conversation. Never compute.",
)

coder = Agent(
    name="Coder",
    model=os.environ.get("CODER_MODEL", "gpt-5"),
    instructions=f"{RECOMMENDED_PROMPT_PREFIX}\nFind the numbers with Python, check them, then hand over to the writer.",
    tools=[code_interpreter(on_stdout=lambda text: print(text, end="", flush=True))],
    handoffs=[writer],
)


async def main() -> None:
    result = Runner.run_streamed(coder, " ".join(sys.argv[1:]) or QUESTION)
    async for event in result.stream_events():
        if event.type == "agent_updated_stream_event":
            print(f"[{event.new_agent.name}]", flush=True)
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
