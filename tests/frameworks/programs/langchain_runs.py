"""Agents of LangChain and LangGraph."""

from typing import Any, Dict, List

import start
from cella import Sandbox
from cella.integrations.langchain import run_python_tool
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

GO = {"messages": [{"role": "user", "content": "go"}]}


def invoked(sandbox: str, images: bool = False, timeout_seconds: float = 60) -> Dict[str, Any]:
    tool = run_python_tool(Sandbox.connect(sandbox), timeout_seconds=timeout_seconds, images=images)
    state = create_agent(ChatOpenAI(model="a", use_responses_api=images), tools=[tool]).invoke(GO)
    tools = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    return {"text": state["messages"][-1].text, "exits": [m.artifact and m.artifact.exit for m in tools], "pngs": [bool(m.artifact and m.artifact.png) for m in tools]}


async def awaited(sandbox: str) -> str:
    """Streamed and asynchronous."""
    agent = create_agent(ChatOpenAI(model="a", streaming=True), tools=[run_python_tool(Sandbox.connect(sandbox))])
    states = [state async for state in agent.astream(GO, stream_mode="values")]
    return str(states[-1]["messages"][-1].text)


def by_thread(sandboxes: Dict[str, str]) -> List[str]:
    """One agent, several conversations that it remembers, each with its own sandbox."""
    cells = {thread: Sandbox.connect(sandbox) for thread, sandbox in sandboxes.items()}
    tool = run_python_tool(lambda config: cells[config["configurable"]["thread_id"]])
    agent = create_agent(ChatOpenAI(model="a"), tools=[tool], checkpointer=InMemorySaver())
    said = []
    for thread in [*cells, *cells]:
        said.append(agent.invoke(GO, {"configurable": {"thread_id": thread}})["messages"][-1].text)
    return said


if __name__ == "__main__":
    start.main(globals())
