# Made from cella/_async/running.py by make_sync.py: change that file.
"""Runs code and processes and follows their streams. What Sandbox, CodeContext and Process share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generator, Mapping, Optional

from .. import _calls
from .._http import Call
from ..errors import CellaError, CommandError, ExecutionError
from ..events import CommandCollector, Event, ExecutionCollector, Objects
from ..models import CommandResult, Execution
from . import native
from .native import OnInput, OnResult, OnText
from .stream import Stream
from .transport import Transport

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


class Runner:
    """Execution requests of one sandbox."""

    def __init__(self, transport: Transport, sandbox_id: str) -> None:
        self._transport = transport
        self._id = sandbox_id

    # ---- code ----

    def run(self, code: _calls.Code, handlers: Handlers, check: bool) -> Execution:
        if handlers:
            execution = self._run_streamed(code, handlers)
        else:
            execution = Execution.from_json(self._transport.json(_calls.execute(self._id, code)))
        if check and not execution.ok:
            raise ExecutionError(execution)
        return execution

    def _run_streamed(self, code: _calls.Code, handlers: Handlers) -> Execution:
        execution: Optional[Execution] = None
        with self.stream(code) as events:
            for event in events:
                if event.type == "input_request":
                    line = native.settled(handlers.input(event.prompt or "")) if handlers.input else None
                    self.answer(event.execution_id or "", line)
                elif event.result is not None and handlers.result:
                    native.settled(handlers.result(event.result))
                elif event.type == "end":
                    execution = event.execution
                else:
                    self._tell(event, handlers)
        assert execution is not None  # the stream raises before this can be
        return execution

    def stream(self, code: _calls.Code) -> Stream[Event]:
        return Stream(self._events(code))

    def _events(self, code: _calls.Code) -> Generator[Event, None, None]:
        collector, objects = ExecutionCollector(), Objects()
        with self._transport.stream(_calls.execute(self._id, code, stream=True)) as response:
            for piece in self._transport.pieces(response):
                for raw in objects.feed(piece):
                    yield collector.feed(raw)
        collector.finish()

    def answer(self, execution_id: str, line: Optional[str]) -> None:
        """Answer ``input()``; None: end of input."""
        self._transport.json(_calls.execution_input(self._id, execution_id, line))

    # ---- processes ----

    def command(self, call: Call, handlers: Handlers, check: bool) -> CommandResult:
        """The end of a process, told by a stream: hanging up is then noticed, and ends what the call started."""
        result: Optional[CommandResult] = None
        with self.command_stream(call, None if handlers else OUTPUT_BYTES) as events:
            for event in events:
                result = event.command or result
                self._tell(event, handlers)
        if result is None:
            raise CellaError("the daemon did not say how the command ended", code="lost")
        if check and not result.ok:
            raise CommandError(result)
        return result

    def command_stream(self, call: Call, keep_bytes: Optional[int] = None) -> Stream[Event]:
        return Stream(self._command_events(call, CommandCollector(keep_bytes)))

    def _command_events(self, call: Call, collector: CommandCollector) -> Generator[Event, None, None]:
        objects = Objects()
        with self._transport.stream(call) as response:
            for piece in self._transport.pieces(response):
                for raw in objects.feed(piece):
                    yield collector.feed(raw)
        collector.finish()

    @staticmethod
    def _tell(event: Event, handlers: Handlers) -> None:
        handler = {"stdout": handlers.stdout, "stderr": handlers.stderr}.get(event.type)
        if handler:
            native.settled(handler(event.text))


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
