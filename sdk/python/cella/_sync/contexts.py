# Made from cella/_async/contexts.py by make_sync.py: change that file.
"""Interpreters inside a sandbox."""

from __future__ import annotations

from typing import Mapping, Optional

from .. import _calls
from ..errors import NotFoundError
from ..events import Event
from ..models import ContextInfo, Execution
from .native import OnInput, OnResult, OnText
from .running import Runner, Handlers, code_of
from .stream import Stream
from .transport import Transport


class CodeContext:
    """An interpreter of its own inside a sandbox: its variables (Python) or cwd, environment and functions (shell)
    stay between runs, apart from those of other contexts. Contexts of a sandbox run side by side; the runs of one
    context follow each other.

    Attributes:
        id: what requests name it by.
        language: ``"python"`` or ``"bash"``.
    """

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
        traceparent: Optional[str] = None,
    ) -> Execution:
        """As :meth:`Sandbox.run_code`, in this context."""
        run = code_of(code, None, self.id, timeout_seconds, env, svg, traceparent)
        return self._runner.run(run, Handlers(on_stdout, on_stderr, on_result, on_input), check)

    def run_code_stream(
        self,
        code: str,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
        traceparent: Optional[str] = None,
    ) -> Stream[Event]:
        """As :meth:`Sandbox.run_code_stream`, in this context."""
        return self._runner.stream(code_of(code, None, self.id, timeout_seconds, env, svg, traceparent))

    def info(self) -> ContextInfo:
        """Its state, and how much ran in it."""
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
