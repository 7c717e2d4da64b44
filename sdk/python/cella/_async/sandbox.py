"""The sandbox object."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from .. import _calls
from .._calls import Command
from .._config import checked_traceparent, resolve, traceparent as inherited
from ..errors import CellaError, NotFoundError
from ..events import Event
from ..models import CommandResult, ContextInfo, Execution, JSON, Port, SandboxInfo, iterate
from . import native
from .branching import AsyncBranching
from .contexts import AsyncCodeContext
from .filesystem import AsyncFilesystem, LocalPath
from .native import OnInput, OnResult, OnText
from .processes import AsyncCommandSession, AsyncProcess, AsyncTerminal
from .running import AsyncRunner, Handlers, code_of
from .snapshots import AsyncSnapshot
from .stream import AsyncStream
from .transport import AsyncTransport, shared

DEFAULT_CONTEXT = "default"
_UNSET: Any = object()


class AsyncSandbox(AsyncBranching, native.Making):
    """An isolated machine of its own for code nobody reviewed. ::

        async with AsyncSandbox() as sandbox:
            await sandbox.run_code("x = 20 + 1")
            print((await sandbox.run_code("x * 2")).text)      # 42

    Making the object creates the sandbox; leaving the ``with`` block (or :meth:`close`) deletes it with everything in it. One
    Sandbox may be used by several threads. An AsyncSandbox is made when it is awaited, or its ``async with`` block is
    entered, and belongs to that event loop.

    A persistent sandbox is frozen instead: its live objects wait on the disk under its ``space_id``. ::

        async with AsyncSandbox(persistent=True) as sandbox:
            await sandbox.run_code("x = 20 + 1")
            space = sandbox.space_id
        ...                                                    # tomorrow, after a reboot
        async with await AsyncSandbox.resume(space) as sandbox:
            print((await sandbox.run_code("x * 2")).text)      # 42

    Ctrl-C (KeyboardInterrupt), or cancelling the task, while :meth:`run_code` or :meth:`exec` waits interrupts the code, or
    kills the command. Variables stay.

    A request is sent a second time only when that can do no harm: any request when no connection could be made, so that
    nothing was sent; and one that only reads (a GET) when the connection broke before its answer, or the daemon was just
    starting (503). Code, commands, forks, writes and deletions that were sent are never repeated.

    Args:
        template: name of the image to start from; None: the daemon's default (Python with numpy, pandas, matplotlib).
        env: environment of everything that runs in it.
        metadata: strings of your own, for :meth:`list`.
        ttl_seconds: the sandbox ends this long after its creation; None: the daemon's default.
        idle_timeout_seconds: it ends when no request came for this long; None: the daemon's default.
        limits: any of ``memory_mb``, ``cpus``, ``pids``, ``disk_mb``, ``open_files``.
        host: URL of the daemon; None: ``CELLA_URL``, else http://127.0.0.1:7070.
        api_key: None: ``CELLA_API_KEY``; a daemon on loopback needs none.
        from_snapshot: start as this snapshot (its id or name, or a Snapshot) instead of a template.
        persistent: it belongs to a Space: :meth:`close` and timeouts freeze it, only :meth:`delete` ends it.
        on_timeout: what "ends" means above: ``"freeze"`` (default when persistent) or ``"delete"``.
        network: the policy, as ``{"mode": "none"}`` (loopback only, the default). UnsupportedError for a mode that the
            daemon does not have.
        traceparent: W3C trace context to send with every request; None: ``TRACEPARENT`` of the environment, if any.
        driver: what isolates it: ``"process"`` (shares the host's kernel) or ``"microvm"`` (a virtual machine of its own); None, ``"auto"``:
            whichever the daemon prefers. UnsupportedError when the daemon cannot, or will not; its text says why.

    Raises:
        ConnectionFailed, AuthenticationError, InvalidRequest, NotFoundError (template, snapshot), LimitError,
        UnavailableError, UnsupportedError, ImageRefused (snapshot).

    Attributes:
        id: what requests name it by; stays over freezing, and over a merge into it.
        filesystem: its files.
        space_id: for :meth:`resume`; None when it is not persistent.
        persistent: see above.
        on_timeout: ``"freeze"`` or ``"delete"``, as the newest answer said.
        merged_into: id of the sandbox that took this one's state over, else None.
    """

    id: str
    filesystem: AsyncFilesystem

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
        from_snapshot: Union[AsyncSnapshot, str, None] = None,
        persistent: bool = False,
        on_timeout: Optional[str] = None,
        network: Optional[Mapping[str, Any]] = None,
        traceparent: Optional[str] = None,
        driver: Optional[str] = None,
    ) -> None:
        self._config = resolve(host, api_key)
        self._trace = inherited(traceparent)
        self._fields: Dict[str, Any] = dict(
            template=template,
            env=dict(env) if env else None,
            metadata=dict(metadata) if metadata else None,
            ttl_seconds=ttl_seconds,
            idle_timeout_seconds=idle_timeout_seconds,
            limits=dict(limits) if limits else None,
            from_snapshot=from_snapshot.id if isinstance(from_snapshot, AsyncSnapshot) else from_snapshot,
            persistent=persistent or None,
            on_timeout=on_timeout,
            network=None if network is None else dict(network),
            driver=driver,
        )
        self._begin()

    async def _make(self) -> None:
        source = shared(self._config)
        # Of its own: the trace goes with the first request too, and the answer's headers are looked at once there is an id.
        transport = source.watched(lambda headers: None, self._trace)
        made = transport.json(_calls.create(self._fields))
        value = await native.owned(made, lambda answer: source.json(_calls.delete(str(answer.get("id")))))
        self._attach(source, SandboxInfo.from_json(value), self._trace)

    def _attach(self, source: AsyncTransport, info: SandboxInfo, trace: Optional[str]) -> None:
        self.id = info.id
        self.merged_into: Optional[str] = None
        self._made = True
        self._closed = False
        self._remaining: Tuple[Optional[float], float] = (info.remaining_seconds, time.monotonic())
        self.on_timeout = info.on_timeout
        self.space_id = info.space_id
        self.persistent = info.persistent or info.space_id is not None
        self._transport = source.watched(self._headers, trace)
        self._runner = AsyncRunner(self._transport, info.id)
        self.filesystem = AsyncFilesystem(self._transport, info.id)

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
    def _of(cls, source: AsyncTransport, info: SandboxInfo, trace: Optional[str]) -> "AsyncSandbox":
        sandbox = cls.__new__(cls)
        sandbox._attach(source, info, trace)
        return sandbox

    @property
    def traceparent(self) -> Optional[str]:
        """W3C trace context that goes along with every request; may be set anew."""
        return self._transport.traceparent

    @traceparent.setter
    def traceparent(self, value: Optional[str]) -> None:
        self._transport.traceparent = None if value is None else checked_traceparent(value)

    # ---- finding ----

    @classmethod
    async def create(
        cls,
        template: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        ttl_seconds: Optional[float] = None,
        idle_timeout_seconds: Optional[float] = None,
        limits: Optional[Mapping[str, float]] = None,
        host: Optional[str] = None,
        api_key: Optional[str] = None,
        from_snapshot: Union[AsyncSnapshot, str, None] = None,
        persistent: bool = False,
        on_timeout: Optional[str] = None,
        network: Optional[Mapping[str, Any]] = None,
        traceparent: Optional[str] = None,
        driver: Optional[str] = None,
    ) -> "AsyncSandbox":
        """The same as ``await AsyncSandbox(…)``."""
        return await cls(
            template, env, metadata, ttl_seconds, idle_timeout_seconds, limits, host, api_key,
            from_snapshot, persistent, on_timeout, network, traceparent, driver,
        )  # fmt: skip

    @classmethod
    async def connect(
        cls, sandbox_id: str, host: Optional[str] = None, api_key: Optional[str] = None, traceparent: Optional[str] = None
    ) -> "AsyncSandbox":
        """A sandbox that exists already, running or frozen. NotFoundError when there is none, GoneError when it has
        ended."""
        source = shared(resolve(host, api_key))
        info = SandboxInfo.from_json(await source.json(_calls.describe(sandbox_id)))
        return cls._of(source, info, inherited(traceparent))

    @classmethod
    async def resume(
        cls, space_id: str, host: Optional[str] = None, api_key: Optional[str] = None, traceparent: Optional[str] = None
    ) -> "AsyncSandbox":
        """The sandbox of a Space, awake, with the objects it had. NotFoundError when there is no such Space,
        ImageRefused when it does not fit this host any more."""
        source = shared(resolve(host, api_key))
        info = SandboxInfo.from_json(await source.json(_calls.space_resume(space_id)))
        sandbox = cls._of(source, info, inherited(traceparent))
        sandbox.space_id, sandbox.persistent = space_id, True
        return sandbox

    @classmethod
    async def list(
        cls, metadata: Optional[Mapping[str, str]] = None, host: Optional[str] = None, api_key: Optional[str] = None
    ) -> List[SandboxInfo]:
        """Living and frozen sandboxes, oldest first; with ``metadata`` those that have every pair of it."""
        source = shared(resolve(host, api_key))
        return [SandboxInfo.from_json(v) for v in iterate(await source.json(_calls.list_sandboxes(metadata)))]

    # ---- code ----

    async def run_code(
        self,
        code: str,
        language: Optional[str] = None,
        context: Union[AsyncCodeContext, str, None] = None,
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
            traceparent: of this run, instead of the sandbox's.

        A callback that raises interrupts the code; what it raised comes out of here.
        """
        run = code_of(code, language, _context_id(context), timeout_seconds, env, svg, traceparent)
        return await self._runner.run(run, Handlers(on_stdout, on_stderr, on_result, on_input), check)

    def run_code_stream(
        self,
        code: str,
        language: Optional[str] = None,
        context: Union[AsyncCodeContext, str, None] = None,
        timeout_seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        svg: bool = False,
        traceparent: Optional[str] = None,
    ) -> AsyncStream[Event]:
        """Run code and yield its events as they happen; the last has type ``"end"`` and the whole Execution. The code
        begins with the first event that is asked for; closing the stream early interrupts it. A stream that breaks raises
        ConnectionFailed."""
        return self._runner.stream(code_of(code, language, _context_id(context), timeout_seconds, env, svg, traceparent))

    async def answer_input(self, execution_id: str, line: Optional[str]) -> None:
        """Answer an ``"input_request"`` event; None: end of input."""
        await self._runner.answer(execution_id, line)

    async def create_code_context(
        self, language: str = "python", cwd: Optional[str] = None, env: Optional[Mapping[str, str]] = None
    ) -> AsyncCodeContext:
        """A further interpreter with a state of its own."""
        value = await self._transport.json(_calls.context_create(self.id, language, cwd, env))
        return AsyncCodeContext(self._transport, self.id, ContextInfo.from_json(value))

    async def list_code_contexts(self) -> List[ContextInfo]:
        """All, those that every sandbox has among them."""
        return [ContextInfo.from_json(v) for v in iterate(await self._transport.json(_calls.context_list(self.id)))]

    async def interrupt(self, context: Union[AsyncCodeContext, str] = DEFAULT_CONTEXT) -> None:
        """Interrupt what runs in a context. ConflictError when nothing does."""
        await self._transport.json(_calls.context_action(self.id, _context_id(context) or DEFAULT_CONTEXT, "interrupt"))

    async def restart_context(self, context: Union[AsyncCodeContext, str] = DEFAULT_CONTEXT) -> None:
        """A fresh interpreter under the same id; what ran ends as ``"killed"``."""
        await self._transport.json(_calls.context_action(self.id, _context_id(context) or DEFAULT_CONTEXT, "restart"))

    # ---- processes ----

    async def exec(
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
        traceparent: Optional[str] = None,
    ) -> CommandResult:
        """Run a process and wait for its end. ``cmd``: a string for the shell, or a list of arguments.

        ``stdin``: text for its standard input. After ``timeout_seconds`` it and its children are killed and ``exit`` is
        ``"timeout"``. ``user``: ``"root"`` is the sandbox's, without capabilities. ``check``: raise CommandError unless it
        ended with exit code 0. ``on_stdout``, ``on_stderr``: called with text as it is printed. Without them
        the result has the first MiB of each stream, and says in ``truncated`` what was cut.
        """
        fields = _calls.command_fields(cmd, cwd, env, stdin, timeout_seconds, user)
        call = _calls.exec_stream(self.id, fields, traceparent)
        return await self._runner.command(call, Handlers(on_stdout, on_stderr), check)

    def exec_stream(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        user: Optional[str] = None,
        traceparent: Optional[str] = None,
    ) -> AsyncStream[Event]:
        """Run a process and yield its output as it comes; the last event has type ``"end"`` and the CommandResult.
        The process begins with the first event that is asked for; closing the stream early kills it."""
        fields = _calls.command_fields(cmd, cwd, env, stdin, timeout_seconds, user)
        return self._runner.command_stream(_calls.exec_stream(self.id, fields, traceparent))

    async def start(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        stdin: Optional[str] = None,
    ) -> AsyncProcess:
        """Start a background process and return at once. It lives on when this program ends. ``stdin``: all it gets to
        read; for more see :meth:`spawn`."""
        fields = _calls.command_fields(cmd, cwd, env, stdin, timeout_seconds, user)
        value = await self._transport.json(_calls.exec_background(self.id, fields, None))
        return AsyncProcess(self._transport, self.id, str(value.get("id", "")), int(value.get("pid") or 0))

    async def spawn(
        self,
        cmd: Command,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
    ) -> AsyncCommandSession:
        """Start a process whose standard input stays open, over a WebSocket of its own: it ends when the object is closed,
        or this program ends. UnsupportedError without the package websockets (``pip install "cella[terminal]"``)."""
        fields = _calls.command_fields(cmd, cwd, env, None, timeout_seconds, user)
        return await AsyncCommandSession._open(self._transport, self.id, fields)

    async def pty(
        self,
        rows: int = 24,
        cols: int = 80,
        cmd: Optional[str] = None,
        cwd: Optional[str] = None,
        user: Optional[str] = None,
    ) -> AsyncTerminal:
        """Open a terminal with a login shell in it, or with ``cmd`` (for the shell). UnsupportedError without the package
        websockets (``pip install "cella[terminal]"``)."""
        return await AsyncTerminal._open(self._transport, self.id, _calls.terminal_params(rows, cols, cmd, cwd, user))

    async def get_process(self, process_id: str) -> AsyncProcess:
        """A background process that was started before, by its id. NotFoundError when there is none."""
        value = await self._transport.json(_calls.process(self.id, process_id))
        return AsyncProcess(self._transport, self.id, str(value.get("id") or process_id), int(value.get("pid") or 0))

    async def list_processes(self) -> List[JSON]:
        """Every process in the sandbox as its kernel sees it: pid, ppid, command, state, cpu_ms, memory_bytes."""
        return [dict(v) for v in iterate(await self._transport.json(_calls.processes(self.id)))]

    # ---- files and network ----

    async def upload(self, local: LocalPath, path: str) -> int:
        """The same as ``filesystem.upload``."""
        return await self.filesystem.upload(local, path)

    async def download(self, path: str, local: LocalPath) -> int:
        """The same as ``filesystem.download``."""
        return await self.filesystem.download(path, local)

    async def ports(self) -> List[Port]:
        """TCP ports that programs in the sandbox listen on."""
        return [Port.from_json(v) for v in iterate(await self._transport.json(_calls.ports(self.id)))]

    async def network(self) -> JSON:
        """The network policy. UnsupportedError from a daemon that has none."""
        return dict(await self._transport.json(_calls.network(self.id)))

    async def set_network(self, policy: Mapping[str, Any]) -> JSON:
        """Change the network policy while the sandbox runs. UnsupportedError from a daemon that has none."""
        return dict(await self._transport.json(_calls.network_set(self.id, policy)) or {})

    # ---- life ----

    async def info(self) -> SandboxInfo:
        """The sandbox as the daemon describes it. Does not wake a frozen one."""
        return SandboxInfo.from_json(await self._transport.json(_calls.describe(self.id)))

    @property
    def remaining_seconds(self) -> Optional[float]:
        """Until its time is over and ``on_timeout`` happens, as far as the newest answer told; None: it has no end.
        Asks nobody: a request would itself be activity."""
        seconds, at = self._remaining
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - at))

    async def stats(self) -> JSON:
        """memory_bytes, memory_peak_bytes, memory_limit_bytes, cpu_us, pids, disk_bytes, oom_kills, uptime_seconds."""
        return dict(await self._transport.json(_calls.stats(self.id)))

    async def logs(self, stream: str = "both") -> str:
        """The last lines that code and processes printed. stream: ``"stdout"``, ``"stderr"`` or ``"both"``."""
        return (await self._transport.send(_calls.logs(self.id, stream))).text

    async def pause(self) -> None:
        """Stop every process of the sandbox where it is; memory is kept."""
        await self._transport.json(_calls.pause(self.id))

    async def unpause(self) -> None:
        """Let a paused sandbox go on. (:meth:`wake` is for a frozen one.)"""
        await self._transport.json(_calls.resume(self.id))

    async def set_lifecycle(
        self, ttl_seconds: Optional[float] = _UNSET, idle_timeout_seconds: Optional[float] = _UNSET, on_timeout: str = _UNSET
    ) -> None:
        """Change when the sandbox ends (or freezes: ``on_timeout``), counted from now. None: no such end. What is not
        given stays."""
        patch = dict(ttl_seconds=ttl_seconds, idle_timeout_seconds=idle_timeout_seconds, on_timeout=on_timeout)
        await self._transport.json(_calls.lifecycle(self.id, {k: v for k, v in patch.items() if v is not _UNSET}))

    async def close(self) -> None:
        """Delete the sandbox, or freeze it when it is persistent. Nothing happens when it is closed, merged, expired or
        deleted already."""
        if not self._made or self._closed:
            return
        if not self.persistent:
            return await self.delete()
        try:
            await self.hibernate()
        except NotFoundError:
            pass
        self._closed = True

    async def delete(self) -> None:
        """Delete the sandbox with everything in it, its Space too. Nothing happens when it is merged or gone already."""
        if self.merged_into is not None:
            return
        try:
            await self._transport.json(_calls.delete(self.id))
        except NotFoundError:
            pass
        self._closed = True

    kill = delete

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            await self.close()
        except CellaError:
            # What went wrong in the block is what has to be told.
            if error is None:
                raise

    def __repr__(self) -> str:
        if not self._made:
            return "AsyncSandbox(not made yet)"
        return f"AsyncSandbox({self.id!r}" + (f", merged into {self.merged_into!r})" if self.merged_into else ")")


def _context_id(context: Union[AsyncCodeContext, str, None]) -> Optional[str]:
    return context.id if isinstance(context, AsyncCodeContext) else context
