"""The sandbox object."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from . import _calls
from ._branching import Branching
from ._calls import Command
from ._config import resolve
from ._running import OnInput, OnResult, OnText, Runner
from ._transport import Transport, shared
from .contexts import CodeContext, Process
from .errors import NotFoundError
from .events import Event
from .filesystem import Filesystem
from .models import CommandResult, ContextInfo, Execution, JSON, SandboxInfo, iterate
from .snapshots import Snapshot

DEFAULT_CONTEXT = "default"
_UNSET: Any = object()


class Sandbox(Branching):
    """An isolated machine of its own for code nobody reviewed.

    ::

        with Sandbox() as sandbox:
            sandbox.run_code("x = 20 + 1")
            print(sandbox.run_code("x * 2").text)      # 42

    Making the object creates the sandbox; leaving the ``with`` block (or :meth:`close`) deletes it with everything in
    it. One object may be used by several threads.

    A persistent sandbox is frozen instead: its live objects wait on the disk under its ``space_id``. ::

        with Sandbox(persistent=True) as sandbox:
            sandbox.run_code("x = 20 + 1")
            space = sandbox.space_id
        ...                                            # tomorrow, after a reboot
        with Sandbox.resume(space) as sandbox:
            print(sandbox.run_code("x * 2").text)      # 42

    Args:
        template: name of the image to start from; None: the daemon's default (Python with numpy, pandas, matplotlib).
        env: environment of everything that runs in it.
        metadata: strings of your own, for :meth:`list`.
        ttl_seconds: the sandbox ends this long after its creation; None: the daemon's default.
        idle_timeout_seconds: it ends when no request came for this long; None: the daemon's default.
        limits: any of ``memory_mb``, ``cpus``, ``pids``, ``disk_mb``, ``open_files``.
        from_snapshot: start as this snapshot (its id or name, or a Snapshot) instead of a template.
        persistent: it belongs to a Space: :meth:`close` and timeouts freeze it, only :meth:`delete` ends it.
        on_timeout: what "ends" means above: ``"freeze"`` (default when persistent) or ``"delete"``.
        host: URL of the daemon; None: ``CELLA_URL``, else http://127.0.0.1:7070.
        api_key: None: ``CELLA_API_KEY``; a daemon on loopback needs none.

    Raises:
        ConnectionFailed, AuthenticationError, InvalidRequest, NotFoundError (template, snapshot), LimitError,
        UnavailableError, ImageRefused (snapshot).

    Attributes:
        id: what requests name it by; stays over freezing, and over a merge into it.
        space_id: for :meth:`resume`; None when it is not persistent.
        persistent: see above.
        on_timeout: ``"freeze"`` or ``"delete"``, as the newest answer said.
        merged_into: id of the sandbox that took this one's state over, else None.
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
        from_snapshot: Union[Snapshot, str, None] = None,
        persistent: bool = False,
        on_timeout: Optional[str] = None,
    ) -> None:
        transport = shared(resolve(host, api_key))
        fields: Dict[str, Any] = dict(
            template=template,
            env=dict(env) if env else None,
            metadata=dict(metadata) if metadata else None,
            ttl_seconds=ttl_seconds,
            idle_timeout_seconds=idle_timeout_seconds,
            limits=dict(limits) if limits else None,
            from_snapshot=from_snapshot.id if isinstance(from_snapshot, Snapshot) else from_snapshot,
            persistent=persistent or None,
            on_timeout=on_timeout,
        )
        self._attach(transport, SandboxInfo.from_json(transport.json(_calls.create(fields))))

    def _attach(self, transport: Transport, info: SandboxInfo) -> None:
        self.id = info.id
        self.merged_into: Optional[str] = None
        self._closed = False
        self._remaining: Tuple[Optional[float], float] = (info.remaining_seconds, time.monotonic())
        self.on_timeout = info.on_timeout
        self._take(info)
        self._transport = transport.watched(self._headers)
        self._runner = Runner(self._transport, info.id)
        self.filesystem = Filesystem(self._transport, info.id)

    def _take(self, info: SandboxInfo) -> None:
        self.space_id = info.space_id
        self.persistent = info.persistent or info.space_id is not None

    def _headers(self, headers: Mapping[str, str]) -> None:
        """Every answer about the sandbox says how long it has and what then."""
        then = headers.get("X-Cella-On-Timeout")
        if then is None:
            return
        self.on_timeout = then
        try:
            self._remaining = (float(headers["X-Cella-Remaining-Seconds"]), time.monotonic())
        except (KeyError, ValueError):
            self._remaining = (None, time.monotonic())

    def _learn(self, answer: Any) -> None:
        if isinstance(answer, dict) and answer.get("space_id"):
            self.space_id = answer["space_id"]

    def _merged(self, parent_id: str) -> None:
        self.merged_into = parent_id
        self._closed = True

    @classmethod
    def _of(cls, transport: Transport, info: SandboxInfo) -> "Sandbox":
        sandbox = cls.__new__(cls)
        sandbox._attach(transport, info)
        return sandbox

    # ---- finding ----

    @classmethod
    def create(cls, template: Optional[str] = None, **options: Any) -> "Sandbox":
        """The same as ``Sandbox(template, …)``."""
        return cls(template, **options)

    @classmethod
    def connect(cls, sandbox_id: str, host: Optional[str] = None, api_key: Optional[str] = None) -> "Sandbox":
        """A sandbox that exists already, running or frozen. NotFoundError when there is none, GoneError when it has
        ended."""
        transport = shared(resolve(host, api_key))
        return cls._of(transport, SandboxInfo.from_json(transport.json(_calls.describe(sandbox_id))))

    @classmethod
    def resume(cls, space_id: str, host: Optional[str] = None, api_key: Optional[str] = None) -> "Sandbox":
        """The sandbox of a Space, awake, with the objects it had. NotFoundError when there is no such Space,
        ImageRefused when it does not fit this host any more."""
        transport = shared(resolve(host, api_key))
        info = SandboxInfo.from_json(transport.json(_calls.space_resume(space_id)))
        sandbox = cls._of(transport, info)
        sandbox.space_id, sandbox.persistent = space_id, True
        return sandbox

    @classmethod
    def list(
        cls, metadata: Optional[Mapping[str, str]] = None, host: Optional[str] = None, api_key: Optional[str] = None
    ) -> List[SandboxInfo]:
        """Living and frozen sandboxes, oldest first; with ``metadata`` those that have every pair of it."""
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

    @property
    def remaining_seconds(self) -> Optional[float]:
        """Until its time is over and ``on_timeout`` happens, as far as the newest answer told; None: it has no end.
        Asks nobody: a request would itself be activity."""
        seconds, at = self._remaining
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - at))

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
        """Let a paused sandbox go on. (:meth:`wake` is for a frozen one.)"""
        self._transport.json(_calls.resume(self.id))

    def set_lifecycle(self, ttl_seconds: Optional[float] = _UNSET, idle_timeout_seconds: Optional[float] = _UNSET) -> None:
        """Change when the sandbox ends (or freezes: ``on_timeout``), counted from now. None: no such end. What is not
        given stays."""
        patch = dict(ttl_seconds=ttl_seconds, idle_timeout_seconds=idle_timeout_seconds)
        self._transport.json(_calls.lifecycle(self.id, {k: v for k, v in patch.items() if v is not _UNSET}))

    def close(self) -> None:
        """Delete the sandbox, or freeze it when it is persistent. Nothing happens when it is closed, merged or gone
        already."""
        if self._closed:
            return
        if not self.persistent:
            return self.delete()
        try:
            self.hibernate()
        except NotFoundError:
            pass
        self._closed = True

    def delete(self) -> None:
        """Delete the sandbox with everything in it, its Space too. Nothing happens when it is merged or gone already."""
        if self.merged_into is not None:
            return
        try:
            self._transport.json(_calls.delete(self.id))
        except NotFoundError:
            pass
        self._closed = True

    kill = delete

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sandbox({self.id!r}" + (f", merged into {self.merged_into!r})" if self.merged_into else ")")


def _context_id(context: Union[CodeContext, str, None]) -> Optional[str]:
    return context.id if isinstance(context, CodeContext) else context


def _language(language: Optional[str], context: Union[CodeContext, str, None]) -> Optional[str]:
    return language if language is not None or context is not None else "python"
