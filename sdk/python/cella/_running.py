"""Runs code and processes and follows their streams. What Sandbox and CodeContext share."""

from __future__ import annotations

from typing import Callable, Iterator, Mapping, Optional

from . import _calls
from ._transport import Call, Transport
from .errors import CellaError, CommandError, ExecutionError
from .events import CommandCollector, Event, ExecutionCollector, ndjson, sse
from .models import CommandResult, Execution, Result

OnText = Callable[[str], object]
OnResult = Callable[[Result], object]
#: Gets the prompt, returns the line (without newline), or None for end of input.
OnInput = Callable[[str], Optional[str]]


class Runner:
    """Execution requests of one sandbox."""

    def __init__(self, transport: Transport, sandbox_id: str) -> None:
        self._transport = transport
        self._id = sandbox_id

    def run(
        self,
        code: str,
        language: Optional[str],
        context_id: Optional[str],
        timeout_seconds: Optional[float],
        env: Optional[Mapping[str, str]],
        svg: bool,
        check: bool,
        on_stdout: Optional[OnText],
        on_stderr: Optional[OnText],
        on_result: Optional[OnResult],
        on_input: Optional[OnInput],
    ) -> Execution:
        args = (code, language, context_id, timeout_seconds, env, svg)
        if on_stdout or on_stderr or on_result or on_input:
            execution = self._run_streamed(self.stream(*args), on_stdout, on_stderr, on_result, on_input)
        else:
            call = _calls.execute(self._id, *args, stream=False)
            execution = Execution.from_json(self._transport.json(call))
        if check and not execution.ok:
            raise ExecutionError(execution)
        return execution

    def _run_streamed(
        self,
        events: Iterator[Event],
        on_stdout: Optional[OnText],
        on_stderr: Optional[OnText],
        on_result: Optional[OnResult],
        on_input: Optional[OnInput],
    ) -> Execution:
        execution: Optional[Execution] = None
        execution_id = ""
        for event in events:
            if event.type == "start":
                execution_id = str(event.raw.get("execution_id", ""))
            elif event.type == "stdout" and on_stdout:
                on_stdout(event.text)
            elif event.type == "stderr" and on_stderr:
                on_stderr(event.text)
            elif event.result is not None and on_result:
                on_result(event.result)
            elif event.type == "input_request":
                line = on_input(event.prompt or "") if on_input else None
                self.answer(execution_id, line)
            elif event.type == "end":
                execution = event.execution
        assert execution is not None  # stream() raises before this can be
        return execution

    def stream(
        self,
        code: str,
        language: Optional[str],
        context_id: Optional[str],
        timeout_seconds: Optional[float],
        env: Optional[Mapping[str, str]],
        svg: bool,
    ) -> Iterator[Event]:
        call = _calls.execute(self._id, code, language, context_id, timeout_seconds, env, svg, stream=True)
        collector = ExecutionCollector()
        with self._transport.stream(call) as response:
            for raw in ndjson(self._transport.pieces(response)):
                if raw.get("type") != "keepalive":
                    yield collector.feed(raw)
        collector.finish()

    def answer(self, execution_id: str, line: Optional[str]) -> None:
        """Answer ``input()``; None: end of input."""
        self._transport.json(_calls.execution_input(self._id, execution_id, line))

    def command(self, call: Call, check: bool) -> CommandResult:
        result = CommandResult.from_json(self._transport.json(call))
        if check and not result.ok:
            raise CommandError(result)
        return result

    def command_stream(self, call: Call) -> Iterator[Event]:
        collector = CommandCollector()
        with self._transport.stream(call) as response:
            for name, data in sse(self._transport.pieces(response)):
                yield collector.feed(name, data)
        collector.finish()

    def command_streamed(
        self, call: Call, check: bool, on_stdout: Optional[OnText], on_stderr: Optional[OnText]
    ) -> CommandResult:
        result: Optional[CommandResult] = None
        for event in self.command_stream(call):
            if event.type == "stdout" and on_stdout:
                on_stdout(event.text)
            elif event.type == "stderr" and on_stderr:
                on_stderr(event.text)
            elif event.command is not None:
                result = event.command
        if result is None:
            raise CellaError("the daemon did not say how the command ended", code="lost")
        if check and not result.ok:
            raise CommandError(result)
        return result
