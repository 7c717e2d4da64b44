"""Interpreters inside a sandbox."""

from __future__ import annotations

from typing import Mapping, Optional

from .. import _calls
from ..errors import NotFoundError
from ..events import Event
from ..models import ContextInfo, Execution
from .native import OnInput, OnResult, OnText
from .running import AsyncRunner, Handlers, code_of
from .stream import AsyncStream
from .transport import AsyncTransport


class AsyncCodeContext:
    """An interpreter of its own inside a sandbox: its variables (Python) or cwd, environment and functions (shell)
    stay between runs, apart from those of other contexts. Contexts of a sandbox run side by side; the runs of one
    context follow each other.

    Attributes:
        id: what requests name it by.
        language: ``"python"`` or ``"bash"``.
    """

    def __init__(self, transport: AsyncTransport, sandbox_id: str, info: ContextInfo) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id
        self._runner = AsyncRunner(transport, sandbox_id)
        self.id = info.id
        self.language = info.language

    async def run_code(
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
        """As :meth:`AsyncSandbox.run_code`, in this context."""
        run = code_of(code, None, self.id, timeout_seconds, env, svg, traceparent)
        return await self._runner.run(run, Handlers(on_stdout, on_stderr, on_result, on_input), check)

    def run_code_stream(
        self,
        code: str,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
        traceparent: Optional[str] = None,
    ) -> AsyncStream[Event]:
        """As :meth:`AsyncSandbox.run_code_stream`, in this context."""
        return self._runner.stream(code_of(code, None, self.id, timeout_seconds, env, svg, traceparent))

    async def info(self) -> ContextInfo:
        """Its state, and how much ran in it."""
        return ContextInfo.from_json(await self._transport.json(_calls.context(self._sandbox_id, self.id)))

    async def interrupt(self) -> None:
        """Interrupt what runs. ConflictError when nothing does."""
        await self._transport.json(_calls.context_action(self._sandbox_id, self.id, "interrupt"))

    async def restart(self) -> None:
        """A fresh interpreter under the same id; what ran ends as "killed"."""
        await self._transport.json(_calls.context_action(self._sandbox_id, self.id, "restart"))

    async def close(self) -> None:
        """Delete the context. Nothing happens when it is gone already."""
        try:
            await self._transport.json(_calls.context_delete(self._sandbox_id, self.id))
        except NotFoundError:
            pass

    async def __aenter__(self) -> "AsyncCodeContext":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncCodeContext({self.id!r}, language={self.language!r})"
