# Made from cella/_async/processes.py by make_sync.py: change that file.
"""Processes that run beside the caller: in the background, with their input open, in a terminal."""

from __future__ import annotations

import json
import signal as signals
from typing import Any, Dict, Optional, Union

from .. import _calls
from ..errors import CommandError, ConflictError, ConnectionFailed, InvalidRequest, NotFoundError, error_for
from ..events import CommandCollector, Event, from_websocket, json_message
from ..models import CommandResult, TerminalExit
from . import native
from .native import OnText
from .running import Runner, Handlers
from .stream import Stream
from .transport import Transport
from .websocket import WebSocket


class Process:
    """A background process. It lives on when this program ends; of its output the daemon keeps the last 256 KiB per stream.

    Attributes:
        id: what requests name it by.
        pid: its number inside the sandbox.
    """

    def __init__(self, transport: Transport, sandbox_id: str, process_id: str, pid: int) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id
        self._runner = Runner(transport, sandbox_id)
        self.id = process_id
        self.pid = pid

    def result(self) -> Optional[CommandResult]:
        """How it ended, with the output kept; None while it runs."""
        output = self.output()
        return None if output.exit == "running" else output

    def output(self) -> CommandResult:
        """The output kept so far; while it runs ``exit`` is ``"running"``."""
        value = self._transport.json(_calls.process(self._sandbox_id, self.id))
        running = value.get("status") in ("running", "starting")
        return CommandResult.from_json(dict(value, exit="running") if running else value)

    def wait(
        self, check: bool = False, on_stdout: Optional[OnText] = None, on_stderr: Optional[OnText] = None
    ) -> CommandResult:
        """Wait for its end. ``on_stdout``, ``on_stderr`` get the output kept so far, then what comes. ``check``: raise
        CommandError unless it ended with exit code 0. Giving up waiting leaves the process alone."""
        call = _calls.process_attach(self._sandbox_id, self.id)
        return self._runner.command(call, Handlers(on_stdout, on_stderr), check)

    def attach(self) -> Stream[Event]:
        """Its events: first the output kept, then what comes; last ``"end"``. Leaving early only ends the watching."""
        return self._runner.command_stream(_calls.process_attach(self._sandbox_id, self.id))

    def signal(self, signal: Union[int, str]) -> None:
        """Send a signal, a number or a name such as ``"SIGINT"``, to its process group. ConflictError when it has ended."""
        self._transport.json(_calls.process_signal(self._sandbox_id, self.id, signal))

    def kill(self) -> None:
        """SIGKILL; nothing happens when it has ended already."""
        try:
            self.signal(int(signals.SIGKILL))
        except (ConflictError, NotFoundError):
            pass

    def __repr__(self) -> str:
        return f"Process({self.id!r}, pid={self.pid})"


#: Characters per message: the daemon takes 1 MiB, and JSON may write six bytes for one of them.
_PIECE = 128 * 1024
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")


class CommandSession:
    """A running process with its standard input open. It is killed when the object is closed, or this program ends. ::

        with sandbox.spawn("sort") as process:
            process.write("b\\na\\n")
            process.end()
            print(process.wait().stdout)

    Iterate over it for its events as they come; the last has type ``"end"`` and the CommandResult. Output waits in memory
    until it is taken; :meth:`wait` gives all of it in each case.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._collector = CommandCollector()
        self._result: Optional[CommandResult] = None

    @classmethod
    def _open(cls, transport: Transport, sandbox_id: str, fields: Dict[str, Any]) -> "CommandSession":
        session = cls(WebSocket.open(transport, _calls.box(sandbox_id, "/exec/ws"), {}))
        session._say(**fields, stdin=True)
        return session

    def _say(self, **fields: Any) -> None:
        self._socket.send(json.dumps({"id": 1, **fields}, ensure_ascii=False))

    def write(self, text: str) -> None:
        """Give it text to read. ConnectionFailed when it has ended and that was read already."""
        for start in range(0, len(text), _PIECE):
            self._say(stdin=text[start : start + _PIECE])

    def end(self) -> None:
        """End of its standard input."""
        self._say(stdin_eof=True)

    def signal(self, name: str) -> None:
        """Send it SIGINT, SIGTERM, SIGHUP or SIGKILL."""
        if name not in _SIGNALS:
            raise InvalidRequest(f"{name!r} is not one of {', '.join(_SIGNALS)}", code="invalid_request")
        self._say(signal=name)

    def kill(self) -> None:
        """Kill it; :meth:`wait` then tells how it ended. Nothing happens when it has ended already."""
        try:
            self._say(cancel=True)
        except ConnectionFailed:
            pass

    def __iter__(self) -> "CommandSession":
        return self

    def __next__(self) -> Event:
        if self._result is not None:
            raise StopIteration
        event = self._collector.feed(from_websocket(json_message(self._socket.receive())))
        if event.command is not None:
            self._result = event.command
            self._socket.close()
        return event

    def wait(
        self, check: bool = False, on_stdout: Optional[OnText] = None, on_stderr: Optional[OnText] = None
    ) -> CommandResult:
        """How it ended, with all it printed. ``on_stdout``, ``on_stderr``: called with what was not taken yet, as it comes.
        ``check``: raise CommandError unless it ended with exit code 0. ConnectionFailed when its end is not known."""
        for event in self:
            handler = {"stdout": on_stdout, "stderr": on_stderr}.get(event.type)
            if handler:
                native.settled(handler(event.text))
        assert self._result is not None  # the iteration raises before this can be
        if check and not self._result.ok:
            raise CommandError(self._result)
        return self._result

    def close(self) -> None:
        """Kill it when it still runs, and let go of the connection."""
        self._socket.close()

    def __enter__(self) -> "CommandSession":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Terminal:
    """A terminal (PTY) with a shell, or a command, in it. What runs in it is killed when the object is closed. ::

        with sandbox.pty(rows=24, cols=80) as terminal:
            terminal.write("ls\\n")
            for screen in terminal:
                sys.stdout.buffer.write(screen)

    Iterate over it for the bytes of its screen; they wait in memory until they are taken.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._exit: Optional[TerminalExit] = None

    @classmethod
    def _open(cls, transport: Transport, sandbox_id: str, params: Dict[str, Any]) -> "Terminal":
        return cls(WebSocket.open(transport, _calls.box(sandbox_id, "/exec/pty"), params))

    def write(self, keys: Union[str, bytes]) -> None:
        """Type. ``"\\x03"`` is Ctrl-C, ``"\\x04"`` Ctrl-D."""
        data = keys.encode() if isinstance(keys, str) else keys
        for start in range(0, len(data), _PIECE):
            self._socket.send(data[start : start + _PIECE])

    def resize(self, rows: int, cols: int) -> None:
        """Change its size; programs in it get SIGWINCH."""
        self._socket.send(json.dumps({"resize": {"rows": rows, "cols": cols}}))

    def read(self, timeout_seconds: Optional[float] = None) -> bytes:
        """The next bytes of the screen; empty when what ran in it has ended. RequestTimeout when nothing comes."""
        if self._exit is not None:
            return b""
        message = self._socket.receive(timeout_seconds)
        if isinstance(message, bytes):
            return message
        value = json_message(message)
        if "error" in value:
            raise error_for(0, value)
        self._exit = TerminalExit(value.get("exit"), value.get("signal"), str(value.get("status") or "lost"))
        self._socket.close()
        return b""

    def __iter__(self) -> "Terminal":
        return self

    def __next__(self) -> bytes:
        screen = self.read()
        if not screen:
            raise StopIteration
        return screen

    def wait(self) -> TerminalExit:
        """How it ended. What was on the screen meanwhile is not told."""
        for _ in self:
            pass
        assert self._exit is not None  # the iteration raises before this can be
        return self._exit

    def close(self) -> None:
        """Kill what runs in it, and let go of the connection."""
        self._socket.close()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
