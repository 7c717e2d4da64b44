"""Runs of the OpenAI Agents SDK."""

import asyncio
from typing import Any, Dict, List, Optional

import start
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, set_default_openai_client, set_tracing_disabled
from agents.tracing import Span, Trace, TracingProcessor, set_trace_processors
from cella import Sandbox
from cella.integrations.openai_agents import code_interpreter
from openai import AsyncOpenAI


class Spans(TracingProcessor):
    """Keeps what ended."""

    def __init__(self) -> None:
        self.ended: List[Span[Any]] = []

    def on_trace_start(self, trace: Trace) -> None: ...

    def on_trace_end(self, trace: Trace) -> None: ...

    def on_span_start(self, span: Span[Any]) -> None: ...

    def on_span_end(self, span: Span[Any]) -> None:
        self.ended.append(span)

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


OWN: Dict[str, Any] = {"metadata": {"made_by": "agents_runs"}}  #: of the sandboxes the tool makes
spans = Spans()
set_trace_processors([spans])


def fresh() -> None:
    """Before each function: connections belong to the event loop they were opened in."""
    spans.ended.clear()
    set_tracing_disabled(False)
    set_default_openai_client(AsyncOpenAI(), use_for_tracing=False)


def living() -> List[str]:
    return [info.id for info in Sandbox.list(OWN["metadata"])]


def coder(**options: Any) -> Agent:
    return Agent(name="Coder", model="a", tools=[code_interpreter(**options)])


def sync(sandbox: str) -> str:
    return str(Runner.run_sync(coder(sandbox=Sandbox.connect(sandbox)), "go").final_output)


async def traced(sandbox: str) -> Dict[str, Any]:
    """With everything that is told while it runs and after."""
    said: List[Any] = []

    async def on_stderr(text: str) -> None:
        said.append(["stderr", text])

    tool = code_interpreter(
        Sandbox.connect(sandbox), on_stdout=lambda text: said.append(["stdout", text]), on_stderr=on_stderr,
        on_result=lambda result: said.append(["result", result.formats()]),
    )  # fmt: skip
    result = await Runner.run(Agent(name="Coder", model="a", tools=[tool]), "go")
    [span] = [s for s in spans.ended if s.span_data.type == "custom" and s.span_data.name == "cella.run_code"]
    [function] = [s for s in spans.ended if s.span_data.type == "function"]
    return {"output": result.final_output, "said": said, "span": span.span_data.data, "below": span.parent_id == function.span_id}


async def side_by_side(tracing: bool) -> Dict[str, Any]:
    """Two runs of one agent at the same time; the context object is the same, too."""
    set_tracing_disabled(not tracing)
    tool, context = code_interpreter(**OWN), object()
    agents = [Agent(name=name, model=name, tools=[tool]) for name in ("a", "b")]
    results = await asyncio.gather(*(Runner.run(agent, "go", context=context) for agent in agents))
    return {"outputs": [r.final_output for r in results], "left": living()}


async def streamed() -> Dict[str, Any]:
    result = Runner.run_streamed(coder(**OWN), "go")
    kinds = [event.type async for event in result.stream_events()]
    return {"output": result.final_output, "items": kinds.count("run_item_stream_event"), "left": living()}


async def ends(how: str) -> Dict[str, Any]:
    """Runs that do not end well. `during` is what lived when the run was in the middle."""
    during: List[str] = []
    tool = code_interpreter(**OWN, on_stdout=lambda text: during.extend(living()))
    agent: Agent = Agent(name="Coder", model="a", tools=[tool])
    error: Optional[str] = None
    try:
        if how == "max_turns":
            await Runner.run(agent, "go", max_turns=1)
        elif how == "provider":
            await Runner.run(agent, "go")
        elif how == "cancelled":
            task = asyncio.create_task(Runner.run(agent, "go"))
            while not during and not task.done():
                await asyncio.sleep(0.02)
            task.cancel()
            await task
        elif how == "stream_cancelled":
            result = Runner.run_streamed(agent, "go")

            async def cancel() -> None:
                while not during:
                    await asyncio.sleep(0.02)
                result.cancel()

            canceller = asyncio.create_task(cancel())
            async for _ in result.stream_events():
                pass
            canceller.cancel()
    except (Exception, asyncio.CancelledError) as e:
        error = type(e).__name__
    for _ in range(1500):  # a cancelled run says so before it has cleaned up
        if not living():
            break
        await asyncio.sleep(0.02)
    return {"during": sorted(set(during)), "left": living(), "error": error}


async def handoff() -> Dict[str, Any]:
    writer: Agent = Agent(name="Writer", model="writer", handoff_description="writes")
    first: Agent = Agent(name="Coder", model="coder", tools=[code_interpreter(**OWN)], handoffs=[writer])
    result = await Runner.run(first, "go")
    return {"output": result.final_output, "last": result.last_agent.name, "left": living()}


async def nested() -> Dict[str, Any]:
    """An agent that has agents as tools, which work at the same time."""
    tool = code_interpreter(**OWN)
    helper: Agent = Agent(name="Helper", model="helper", tools=[tool])
    boss: Agent = Agent(
        name="Boss", model="boss", model_settings=ModelSettings(parallel_tool_calls=True),
        tools=[tool, helper.as_tool("help", "helps"), helper.clone(name="Second", model="second").as_tool("second", "helps")],
    )  # fmt: skip
    result = await Runner.run(boss, "go")
    return {"output": result.final_output, "left": living()}


async def approved() -> Dict[str, Any]:
    """A call waits for an approval; the sandbox is the caller's, so that its variables are there afterwards."""
    with Sandbox() as sandbox:
        tool = code_interpreter(sandbox)
        agent: Agent = Agent(name="Coder", model="a", tools=[tool])
        await Runner.run(agent, "go")
        tool.needs_approval = True
        result = await Runner.run(agent, "again")
        state = result.to_state()
        for item in result.interruptions:
            state.approve(item)
        result = await Runner.run(agent, state)
    own = code_interpreter(**OWN)
    own.needs_approval = True
    agent = Agent(name="Coder", model="a", tools=[own])
    waiting = await Runner.run(agent, "go")
    state = waiting.to_state()
    for item in waiting.interruptions:
        state.approve(item)
    last = await Runner.run(agent, state)
    return {"outputs": [result.final_output, last.final_output], "left": living()}


def chat_completions(sandbox: str) -> str:
    """The other wire of the same SDK."""
    agent = coder(sandbox=Sandbox.connect(sandbox))
    agent.model = OpenAIChatCompletionsModel("a", AsyncOpenAI())
    return str(Runner.run_sync(agent, "go").final_output)


def no_daemon(url: str) -> List[str]:
    try:
        Runner.run_sync(coder(host=url), "go")
    except Exception as e:
        return [type(e).__name__, type(e.__cause__).__name__]
    return []


if __name__ == "__main__":
    start.main(globals())
