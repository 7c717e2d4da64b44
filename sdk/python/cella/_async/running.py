"""Runs code and processes and follows their streams. What Sandbox, CodeContext and Process share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import AsyncGenerator, Mapping, Optional

from .. import _calls
from .._http import Call
from ..errors import CellaError, CommandError, ExecutionError
from ..events import CommandCollector, Event, ExecutionCollector, Objects
from ..models import CommandResult, Execution
from . import native
from .native import OnInput, OnResult, OnText
from .stream import AsyncStream
from .transport import AsyncTransport

#: Of each stream of exec so much is kept when nobody follows it, as the daemon keeps of an execution.
OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True)
class Handlers:
    """Who is told while something runs."""

    stdout: Optional[OnText] = None
    stderr: Optional[OnText] = None
    result: Optional[OnResult] = None
    input: Optional[OnInput] = None

    def __bool__(self) -> bool:
        return any((self.stdout, self.stderr, self.result, self.input))


class AsyncRunner:
    """Execution requests of one sandbox."""

    def __init__(self, transport: AsyncTransport, sandbox_id: str) -> None:
        self._transport = transport
        self._id = sandbox_id

    # ---- code ----

    async def run(self, code: _calls.Code, handlers: Handlers, check: bool) -> Execution:
        if handlers:
            execution = await self._run_streamed(code, handlers)
        else:
            execution = Execution.from_json(await self._transport.json(_calls.execute(self._id, code)))
        if check and not execution.ok:
            raise ExecutionError(execution)
        return execution

    async def _run_streamed(self, code: _calls.Code, handlers: Handlers) -> Execution:
        execution: Optional[Execution] = None
        async with self.stream(code) as events:
            async for event in events:
                if event.type == "input_request":
                    line = await native.settled(handlers.input(event.prompt or "")) if handlers.input else None
                    await self.answer(event.execution_id or "", line)
                elif event.result is not None and handlers.result:
                    await native.settled(handlers.result(event.result))
                elif event.type == "end":
                    execution = event.execution
                else:
                    await self._tell(event, handlers)
        assert execution is not None  # the stream raises before this can be
        return execution

    def stream(self, code: _calls.Code) -> AsyncStream[Event]:
        return AsyncStream(self._events(code))

    async def _events(self, code: _calls.Code) -> AsyncGenerator[Event, None]:
        collector, objects = ExecutionCollector(), Objects()
        async with self._transport.stream(_calls.execute(self._id, code, stream=True)) as response:
            async for piece in self._transport.pieces(response):
                for raw in objects.feed(piece):
                    yield collector.feed(raw)
        collector.finish()

    async def answer(self, execution_id: str, line: Optional[str]) -> None:
        """Answer ``input()``; None: end of input."""
        await self._transport.json(_calls.execution_input(self._id, execution_id, line))

    # ---- processes ----

    async def command(self, call: Call, handlers: Handlers, check: bool) -> CommandResult:
        """The end of a process, told by a stream: hanging up is then noticed, and ends what the call started."""
        result: Optional[CommandResult] = None
        async with self.command_stream(call, None if handlers else OUTPUT_BYTES) as events:
            async for event in events:
                result = event.command or result
                await self._tell(event, handlers)
        if result is None:
            raise CellaError("the daemon did not say how the command ended", code="lost")
        if check and not result.ok:
            raise CommandError(result)
        return result

    def command_stream(self, call: Call, keep_bytes: Optional[int] = None) -> AsyncStream[Event]:
        return AsyncStream(self._command_events(call, CommandCollector(keep_bytes)))

    async def _command_events(self, call: Call, collector: CommandCollector) -> AsyncGenerator[Event, None]:
        objects = Objects()
        async with self._transport.stream(call) as response:
            async for piece in self._transport.pieces(response):
                for raw in objects.feed(piece):
                    yield collector.feed(raw)
        collector.finish()

    @staticmethod
    async def _tell(event: Event, handlers: Handlers) -> None:
        handler = {"stdout": handlers.stdout, "stderr": handlers.stderr}.get(event.type)
        if handler:
            await native.settled(handler(event.text))


def code_of(
    code: str,
    language: Optional[str],
    context_id: Optional[str],
    timeout_seconds: Optional[float],
    env: Optional[Mapping[str, str]],
    svg: bool,
    traceparent: Optional[str],
) -> _calls.Code:
    """``language`` says which context when none is named; it is Python's when nothing is said."""
    if language is None and context_id is None:
        language = "python"
    return _calls.Code(code, language, context_id, timeout_seconds, env, svg, traceparent)
