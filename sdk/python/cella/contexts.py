"""Objects that live inside a sandbox: code contexts and background processes."""

from __future__ import annotations

import signal as signals
from typing import Iterator, Mapping, Optional

from . import _calls
from ._running import OnInput, OnResult, OnText, Runner
from ._transport import Transport
from .errors import ConflictError, NotFoundError
from .events import Event
from .models import CommandResult, ContextInfo, Execution


class CodeContext:
    """An interpreter of its own inside a sandbox: its variables (Python) or cwd, environment and functions (shell)
    stay between runs, apart from those of other contexts. Contexts of a sandbox run side by side; the runs of one
    context follow each other."""

    def __init__(self, transport: Transport, sandbox_id: str, info: ContextInfo) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id
        self._runner = Runner(transport, sandbox_id)
        self.id = info.id
        self.language = info.language

    def run_code(
        self,
        code: str,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
        check: bool = False,
        on_stdout: Optional[OnText] = None,
        on_stderr: Optional[OnText] = None,
        on_result: Optional[OnResult] = None,
        on_input: Optional[OnInput] = None,
    ) -> Execution:
        """As :meth:`Sandbox.run_code`, in this context."""
        return self._runner.run(
            code, None, self.id, timeout_seconds, env, svg, check, on_stdout, on_stderr, on_result, on_input
        )

    def run_code_stream(
        self,
        code: str,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
    ) -> Iterator[Event]:
        """As :meth:`Sandbox.run_code_stream`, in this context."""
        return self._runner.stream(code, None, self.id, timeout_seconds, env, svg)

    def info(self) -> ContextInfo:
        return ContextInfo.from_json(self._transport.json(_calls.context(self._sandbox_id, self.id)))

    def interrupt(self) -> None:
        """Interrupt what runs. ConflictError when nothing does."""
        self._transport.json(_calls.context_action(self._sandbox_id, self.id, "interrupt"))

    def restart(self) -> None:
        """A fresh interpreter under the same id; what ran ends as "killed"."""
        self._transport.json(_calls.context_action(self._sandbox_id, self.id, "restart"))

    def close(self) -> None:
        """Delete the context. Nothing happens when it is gone already."""
        try:
            self._transport.json(_calls.context_delete(self._sandbox_id, self.id))
        except NotFoundError:
            pass

    def __enter__(self) -> "CodeContext":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CodeContext({self.id!r}, language={self.language!r})"


class Process:
    """A background process. Its output's last 256 KiB per stream are kept by the daemon."""

    def __init__(self, transport: Transport, sandbox_id: str, process_id: str, pid: int) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id
        self.id = process_id
        self.pid = pid

    def result(self) -> Optional[CommandResult]:
        """How it ended, with the output kept; None while it runs."""
        value = self._transport.json(_calls.process(self._sandbox_id, self.id))
        return None if value.get("status") == "running" or value.get("exit") is None else CommandResult.from_json(value)

    def output(self) -> CommandResult:
        """The output kept so far; while it runs ``exit`` is ``"running"``."""
        value = self._transport.json(_calls.process(self._sandbox_id, self.id))
        return CommandResult.from_json(dict(value, exit=value.get("exit") or "running"))

    def signal(self, number: int) -> None:
        """Send a signal to its process group. ConflictError when it has ended."""
        self._transport.json(_calls.process_signal(self._sandbox_id, self.id, int(number)))

    def kill(self) -> None:
        """SIGKILL; nothing happens when it has ended already."""
        try:
            self.signal(signals.SIGKILL)
        except (ConflictError, NotFoundError):
            pass

    def __repr__(self) -> str:
        return f"Process({self.id!r}, pid={self.pid})"
