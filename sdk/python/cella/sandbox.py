"""The sandbox object."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Union

from . import _calls
from ._calls import Command
from ._config import Config, resolve
from ._running import OnInput, OnResult, OnText, Runner
from ._transport import Transport, shared
from .contexts import CodeContext, Process
from .errors import NotFoundError
from .events import Event
from .filesystem import Filesystem
from .models import CommandResult, ContextInfo, Execution, JSON, SandboxInfo, iterate

DEFAULT_CONTEXT = "default"
_UNSET: Any = object()


class Sandbox:
    """An isolated machine of its own for code nobody reviewed.

    ::

        with Sandbox() as sandbox:
            sandbox.run_code("x = 20 + 1")
            print(sandbox.run_code("x * 2").text)      # 42

    Making the object creates the sandbox; leaving the ``with`` block (or :meth:`close`) deletes it with everything in
    it. One object may be used by several threads.

    Args:
        template: name of the image to start from; None: the daemon's default (Python with numpy, pandas, matplotlib).
        env: environment of everything that runs in it.
        metadata: strings of your own, for :meth:`list`.
        ttl_seconds: the sandbox is deleted this long after its creation; None: the daemon's default.
        idle_timeout_seconds: deleted when no request came for this long; None: the daemon's default.
        limits: any of ``memory_mb``, ``cpus``, ``pids``, ``disk_mb``, ``open_files``.
        host: URL of the daemon; None: ``CELLA_URL``, else http://127.0.0.1:7070.
        api_key: None: ``CELLA_API_KEY``; a daemon on loopback needs none.

    Raises:
        ConnectionFailed, AuthenticationError, InvalidRequest, NotFoundError (template), LimitError, UnavailableError.
    """

    def __init__(
        self,
        template: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        ttl_seconds: Optional[float] = None,
        idle_timeout_seconds: Optional[float] = None,
        limits: Optional[Mapping[str, float]] = None,
        host: Optional[str] = None,
        api_key: Optional[str] = None,
    ) -> None:
        transport = shared(resolve(host, api_key))
        fields: Dict[str, Any] = dict(
            template=template,
            env=dict(env) if env else None,
            metadata=dict(metadata) if metadata else None,
            ttl_seconds=ttl_seconds,
            idle_timeout_seconds=idle_timeout_seconds,
            limits=dict(limits) if limits else None,
        )
        self._attach(transport, SandboxInfo.from_json(transport.json(_calls.create(fields))).id)

    def _attach(self, transport: Transport, sandbox_id: str) -> None:
        self._transport = transport
        self._runner = Runner(transport, sandbox_id)
        self._closed = False
        self.id = sandbox_id
        self.filesystem = Filesystem(transport, sandbox_id)

    # ---- finding ----

    @classmethod
    def create(cls, template: Optional[str] = None, **options: Any) -> "Sandbox":
        """The same as ``Sandbox(template, …)``."""
        return cls(template, **options)

    @classmethod
    def connect(cls, sandbox_id: str, host: Optional[str] = None, api_key: Optional[str] = None) -> "Sandbox":
        """A sandbox that runs already. NotFoundError when there is none, GoneError when it has ended."""
        transport = shared(resolve(host, api_key))
        transport.json(_calls.describe(sandbox_id))
        sandbox = cls.__new__(cls)
        sandbox._attach(transport, sandbox_id)
        return sandbox

    @classmethod
    def list(
        cls, metadata: Optional[Mapping[str, str]] = None, host: Optional[str] = None, api_key: Optional[str] = None
    ) -> List[SandboxInfo]:
        """Living sandboxes, oldest first; with ``metadata`` those that have every pair of it."""
        transport = shared(resolve(host, api_key))
        return [SandboxInfo.from_json(v) for v in iterate(transport.json(_calls.list_sandboxes(metadata)))]

    # ---- code ----

    def run_code(
        self,
        code: str,
        language: Optional[str] = None,
        context: Union[CodeContext, str, None] = None,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
        check: bool = False,
        on_stdout: Optional[OnText] = None,
        on_stderr: Optional[OnText] = None,
        on_result: Optional[OnResult] = None,
        on_input: Optional[OnInput] = None,
    ) -> Execution:
        """Run code and wait for its end. Whatever the code does, an Execution comes back.

        Args:
            language: ``"python"`` (default) or ``"bash"``; each has one context that keeps its state.
            context: run in this context instead (of :meth:`create_code_context`).
            timeout_seconds: then the code is interrupted, its state kept, ``exit`` is ``"timeout"``.
            env: environment variables for this run only.
            svg: figures as SVG too.
            check: raise ExecutionError unless ``exit`` is ``"ok"``.
            on_stdout, on_stderr: called with text as it is printed.
            on_result: called with each Result as it is displayed.
            on_input: called with the prompt of ``input()``; returns the line, or None for end of input. Without it
                ``input()`` raises EOFError in the sandbox.
        """
        return self._runner.run(
            code, _language(language, context), _context_id(context), timeout_seconds, env, svg, check,
            on_stdout, on_stderr, on_result, on_input,
        )  # fmt: skip

    def run_code_stream(
        self,
        code: str,
        language: Optional[str] = None,
        context: Union[CodeContext, str, None] = None,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
    ) -> Iterator[Event]:
        """Run code and yield its events as they happen; the last has type ``"end"`` and the whole Execution.
        Closing the iterator early interrupts the code. A stream that breaks raises ConnectionFailed."""
        return self._runner.stream(
            code, _language(language, context), _context_id(context), timeout_seconds, env, svg
        )

    def answer_input(self, execution_id: str, line: Optional[str]) -> None:
        """Answer an ``"input_request"`` event; None: end of input."""
        self._runner.answer(execution_id, line)

    def create_code_context(
        self, language: str = "python", cwd: Optional[str] = None, env: Optional[Mapping[str, str]] = None
    ) -> CodeContext:
        """A further interpreter with a state of its own."""
        value = self._transport.json(_calls.context_create(self.id, language, cwd, env))
        return CodeContext(self._transport, self.id, ContextInfo.from_json(value))

    def list_code_contexts(self) -> List[ContextInfo]:
        return [ContextInfo.from_json(v) for v in iterate(self._transport.json(_calls.context_list(self.id)))]

    def interrupt(self, context: Union[CodeContext, str] = DEFAULT_CONTEXT) -> None:
        """Interrupt what runs in a context. ConflictError when nothing does."""
        self._transport.json(_calls.context_action(self.id, _context_id(context) or DEFAULT_CONTEXT, "interrupt"))

    def restart_context(self, context: Union[CodeContext, str] = DEFAULT_CONTEXT) -> None:
        """A fresh interpreter under the same id; what ran ends as ``"killed"``."""
        self._transport.json(_calls.context_action(self.id, _context_id(context) or DEFAULT_CONTEXT, "restart"))

    # ---- processes ----

    def exec(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        user: Optional[str] = None,
        check: bool = False,
        on_stdout: Optional[OnText] = None,
        on_stderr: Optional[OnText] = None,
    ) -> CommandResult:
        """Run a process and wait for its end. ``cmd``: a string for the shell, or a list of arguments.

        ``stdin``: text for its standard input. After ``timeout_seconds`` it and its children are killed and ``exit`` is
        ``"timeout"``. ``check``: raise CommandError unless it ended with exit code 0. ``on_stdout``, ``on_stderr``:
        called with text as it is printed.
        """
        streamed = bool(on_stdout or on_stderr)
        call = _calls.exec_(self.id, cmd, cwd, env, stdin, timeout_seconds, user=user, stream=streamed)
        if streamed:
            return self._runner.command_streamed(call, check, on_stdout, on_stderr)
        return self._runner.command(call, check)

    def exec_stream(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        user: Optional[str] = None,
    ) -> Iterator[Event]:
        """Run a process and yield its output as it comes; the last event has type ``"end"`` and the CommandResult.
        Closing the iterator early kills the process."""
        call = _calls.exec_(self.id, cmd, cwd, env, stdin, timeout_seconds, user=user, stream=True)
        return self._runner.command_stream(call)

    def start(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
    ) -> Process:
        """Start a background process and return at once."""
        call = _calls.exec_(self.id, cmd, cwd, env, None, timeout_seconds, background=True, user=user)
        value = self._transport.json(call)
        return Process(self._transport, self.id, str(value.get("id", "")), int(value.get("pid") or 0))

    def list_processes(self) -> List[JSON]:
        """Every process in the sandbox as its kernel sees it: pid, ppid, command, state, cpu_ms, memory_bytes."""
        return [dict(v) for v in iterate(self._transport.json(_calls.processes(self.id)))]

    # ---- life ----

    def info(self) -> SandboxInfo:
        return SandboxInfo.from_json(self._transport.json(_calls.describe(self.id)))

    def stats(self) -> JSON:
        """memory_bytes, memory_peak_bytes, memory_limit_bytes, cpu_us, pids, disk_bytes, oom_kills, uptime_seconds."""
        return dict(self._transport.json(_calls.stats(self.id)))

    def logs(self, stream: str = "both") -> str:
        """The last lines that code and processes printed. stream: ``"stdout"``, ``"stderr"`` or ``"both"``."""
        return self._transport.send(_calls.logs(self.id, stream)).text

    def pause(self) -> None:
        """Stop every process of the sandbox where it is; memory is kept."""
        self._transport.json(_calls.pause(self.id))

    def unpause(self) -> None:
        """Let a paused sandbox go on."""
        self._transport.json(_calls.resume(self.id))

    def set_lifecycle(self, ttl_seconds: Optional[float] = _UNSET, idle_timeout_seconds: Optional[float] = _UNSET) -> None:
        """Change when the sandbox ends, counted from now. None: no such end. What is not given stays."""
        patch = dict(ttl_seconds=ttl_seconds, idle_timeout_seconds=idle_timeout_seconds)
        self._transport.json(_calls.lifecycle(self.id, {k: v for k, v in patch.items() if v is not _UNSET}))

    def close(self) -> None:
        """Delete the sandbox. Nothing happens when it is closed or gone already."""
        if self._closed:
            return
        try:
            self._transport.json(_calls.delete(self.id))
        except NotFoundError:
            pass
        self._closed = True

    kill = close
    delete = close

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sandbox({self.id!r})"


def _context_id(context: Union[CodeContext, str, None]) -> Optional[str]:
    return context.id if isinstance(context, CodeContext) else context


def _language(language: Optional[str], context: Union[CodeContext, str, None]) -> Optional[str]:
    return language if language is not None or context is not None else "python"
