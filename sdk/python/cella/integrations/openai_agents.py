"""A code interpreter for the OpenAI Agents SDK (``pip install openai-agents``), on your own machine. ::

    from agents import Agent, Runner
    from cella.integrations.openai_agents import code_interpreter

    agent = Agent(name="Analyst", instructions="Compute, never guess.", tools=[code_interpreter()])
    print(Runner.run_sync(agent, "What is the 1000th prime?").final_output)
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Dict, Optional, Union

try:
    from agents import (
        AsyncComputer, ComputerProvider, ComputerTool, FunctionTool, RunContextWrapper, ToolOutputImage, ToolOutputText,
        custom_span, resolve_computer,
    )  # fmt: skip
    from agents.tool_context import ToolContext
except ImportError as e:
    raise ImportError(f"cella.integrations.openai_agents needs the package openai-agents: pip install -U openai-agents ({e})") from e

from .. import AsyncSandbox, Sandbox
from ..errors import CellaError, InvalidRequest, TooLargeError
from ..models import Execution
from ._answers import DESCRIPTION, NAME, PARAMETERS, TIMEOUT_SECONDS, answer, code_of
from ._twin import OnResult, OnText, asynchronous

AnySandbox = Union[Sandbox, AsyncSandbox]


def code_interpreter(
    sandbox: Optional[AnySandbox] = None,
    name: str = NAME,
    description: str = DESCRIPTION,
    timeout_seconds: float = TIMEOUT_SECONDS,
    on_stdout: Optional[OnText] = None,
    on_stderr: Optional[OnText] = None,
    on_result: Optional[OnResult] = None,
    **options: Any,
) -> FunctionTool:
    """A tool that runs Python and returns text and figures.

    Args:
        sandbox: where it runs; it stays yours to close. Without one each run of an agent gets its own, made when the model
            first calls the tool and deleted when the run ends, however it ends. Two runs never share one; agents that work
            for each other within a run (handoffs, agents as tools) do. A run that stops for an approval has ended: give a
            sandbox when its variables are to be there afterwards.
        timeout_seconds: of one call; the code is interrupted then, its variables stay.
        on_stdout, on_stderr, on_result: called while the code runs, with its text and its figures. Functions or coroutine
            functions.
        options: for the sandboxes it makes, as of :class:`cella.Sandbox`: ``template``, ``env``, ``limits``…

    Each call is a span ``cella.run_code`` below the tool's span, with the sandbox's id, the code's hash and size, how it
    ended and how long it took; never the code itself.

    A daemon that cannot be reached, or a sandbox that is gone, ends the run: the SDK's UserError, its ``__cause__`` the
    CellaError.
    """
    cells = _CellPerRun(options) if sandbox is None else None

    async def call(context: ToolContext[Any], arguments: str) -> Any:
        try:
            code = code_of(arguments)
            cell = await cells.of(context) if cells else await asynchronous(sandbox)
            with custom_span("cella.run_code", {"sandbox_id": cell.id, **_size_and_hash(code)}) as span:
                try:
                    execution = await cell.run_code(
                        code, timeout_seconds=timeout_seconds, on_stdout=on_stdout, on_stderr=on_stderr, on_result=on_result
                    )
                except CellaError as e:
                    span.set_error({"message": e.message, "data": {"code": e.code}})
                    raise
                span.span_data.data.update(_outcome(execution))
        except (ValueError, InvalidRequest, TooLargeError) as e:  # the model's mistake, and the model's to mend
            return f"error: {e}"
        done = answer(execution)
        images = [ToolOutputImage(image_url=image.data_url) for image in done.images]
        return [ToolOutputText(text=done.text), *images] if images else done.text

    return FunctionTool(name, description, PARAMETERS, call, is_enabled=cells.expect if cells else True)


def _size_and_hash(code: str) -> Dict[str, Any]:
    data = code.encode("utf-8", "surrogatepass")
    return {"code_bytes": len(data), "code_sha256": hashlib.sha256(data).hexdigest()}


def _outcome(execution: Execution) -> Dict[str, Any]:
    return {
        "execution_id": execution.id, "exit": execution.exit, "duration_ms": execution.duration_ms,
        "stdout_characters": len(execution.stdout), "stderr_characters": len(execution.stderr), "results": len(execution.results),
    }  # fmt: skip


class _Cell(AsyncComputer):
    """The sandbox of one run, made when it is first asked for.

    The framework ends one kind of thing together with a run, in whatever way the run ends: a computer. So this is one, for
    a tool that no model gets to see; none of a computer's abilities is ever called.
    """

    def __init__(self, run: object, options: Dict[str, Any]) -> None:
        self.run = run  # kept alive, so that no other run can have its id()
        self.users = 0  # the run, and runs of agents it uses as tools
        self._options = options
        self._lock = asyncio.Lock()
        self._sandbox: Optional[AsyncSandbox] = None

    async def sandbox(self) -> AsyncSandbox:
        async with self._lock:
            if self._sandbox is None:
                self._sandbox = await AsyncSandbox.create(**self._options)
            return self._sandbox

    async def close(self) -> None:
        async with self._lock:
            if self._sandbox is not None:
                await self._sandbox.close()


_Cell.__abstractmethods__ = frozenset()


class _CellPerRun:
    """Which run has which cell. A run is told by its Usage, which all of its contexts share and no other run has."""

    def __init__(self, options: Dict[str, Any]) -> None:
        self._options = options
        self._cells: Dict[int, _Cell] = {}
        self._tool = ComputerTool(computer=ComputerProvider(create=self._begin, dispose=self._end))

    async def expect(self, context: RunContextWrapper[Any], agent: Any) -> bool:
        """The framework asks, before each turn of a run, whether the tool is there: so we learn of the run."""
        await resolve_computer(tool=self._tool, run_context=context)
        return True

    async def of(self, context: RunContextWrapper[Any]) -> AsyncSandbox:
        cell = self._cells.get(id(context.usage))
        if cell is None:
            raise RuntimeError("the tool was called outside of a run of the Agents SDK's Runner: give it a sandbox")
        return await cell.sandbox()

    def _begin(self, *, run_context: RunContextWrapper[Any]) -> _Cell:
        cell = self._cells.get(id(run_context.usage))
        if cell is None:
            cell = self._cells[id(run_context.usage)] = _Cell(run_context.usage, self._options)  # type: ignore[abstract]
        cell.users += 1
        return cell

    async def _end(self, *, run_context: RunContextWrapper[Any], computer: _Cell) -> None:
        computer.users -= 1
        if computer.users == 0:
            self._cells.pop(id(computer.run), None)
            await computer.close()
