"""What arrives while code or a process runs, and how it is put together again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .errors import CellaError, ConnectionFailed, error_for
from .models import CommandResult, ErrorInfo, Execution, Logs, Result

JSON = Dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One event of ``run_code_stream`` or ``exec_stream``.

    ``type``: ``"start"``, ``"stdout"`` and ``"stderr"`` (``text``), ``"display"`` and ``"result"`` (``result``),
    ``"error"`` (``error``), ``"input_request"`` (``prompt``, ``password``: answer it with ``answer_input`` and the
    ``execution_id``), and last of all ``"end"`` with the whole ``execution`` (code) or ``command`` (process).
    """

    type: str
    text: str = ""
    result: Optional[Result] = None
    error: Optional[ErrorInfo] = None
    prompt: Optional[str] = None
    password: bool = False  #: what is typed should not be shown
    execution_id: Optional[str] = None  #: with "start" and "input_request"
    execution: Optional[Execution] = None
    command: Optional[CommandResult] = None
    raw: JSON = field(default_factory=dict, repr=False, compare=False)


class Lines:
    """Cuts byte pieces at newlines. A last line without one is no line: the stream was cut."""

    def __init__(self) -> None:
        self._pending: List[bytes] = []

    def feed(self, piece: bytes) -> List[bytes]:
        """The lines that this piece completes."""
        *complete, rest = piece.split(b"\n")
        if complete:
            complete[0] = b"".join(self._pending) + complete[0]
            self._pending = []
        self._pending.append(rest)
        return complete


class Objects:
    """The same for lines that are JSON objects each. Keepalives and empty lines are left out."""

    def __init__(self) -> None:
        self._lines = Lines()

    def feed(self, piece: bytes) -> List[JSON]:
        values = [_object(line) for line in self._lines.feed(piece) if line.strip()]
        return [value for value in values if value.get("type") != "keepalive"]


def _object(text: bytes) -> JSON:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise CellaError("the daemon sent an event that is not JSON") from None
    return value if isinstance(value, dict) else {"value": value}


class ExecutionCollector:
    """Turns the event objects of one execution into Events, and into the Execution at the end."""

    def __init__(self) -> None:
        self._stdout: List[str] = []
        self._stderr: List[str] = []
        self._results: List[JSON] = []
        self._error: Optional[JSON] = None
        self.id: Optional[str] = None
        self.done = False

    def feed(self, raw: JSON) -> Event:
        kind = str(raw.get("type", ""))
        if kind == "start":
            self.id = raw.get("execution_id")
            return Event(kind, execution_id=self.id, raw=raw)
        if kind in ("stdout", "stderr"):
            text = str(raw.get("text", ""))
            (self._stdout if kind == "stdout" else self._stderr).append(text)
            return Event(kind, text=text, raw=raw)
        if kind in ("display", "result"):
            value = dict(raw, is_main_result=kind == "result")
            self._results.append(value)
            return Event(kind, result=Result.from_json(value), raw=raw)
        if kind == "error":
            self._error = raw
            return Event(kind, error=ErrorInfo.from_json(raw), raw=raw)
        if kind == "input_request":
            prompt, hidden = str(raw.get("prompt", "")), bool(raw.get("password", False))
            return Event(kind, prompt=prompt, password=hidden, execution_id=self.id, raw=raw)
        if kind == "end":
            self.done = True
            return Event(kind, execution=self._execution(raw), raw=raw)
        return Event(kind, raw=raw)

    def _execution(self, end: JSON) -> Execution:
        value = dict(end.get("execution") or end)
        value["stdout"], value["stderr"] = "".join(self._stdout), "".join(self._stderr)
        value["results"] = self._results
        value["error"] = value.get("error") or self._error
        return Execution.from_json(value)

    def finish(self) -> None:
        """The stream is over. Without an end event its outcome is unknown: say so instead of inventing one."""
        if not self.done:
            raise ConnectionFailed("the stream ended before the execution did; its outcome is not known", code="lost")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class CommandCollector:
    """The same for a process. ``keep_bytes``: of each stream no more is kept for the result, the rest is counted."""

    def __init__(self, keep_bytes: Optional[int] = None) -> None:
        self._out: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self._dropped = {"stdout": 0, "stderr": 0}
        self._room = {"stdout": keep_bytes, "stderr": keep_bytes}
        self._start: JSON = {}
        self.done = False

    def feed(self, raw: JSON) -> Event:
        kind = str(raw.get("type", ""))
        if kind in self._out:
            text = str(raw.get("chunk", ""))
            self._keep(kind, text)
            return Event(kind, text=text, raw=raw)
        if kind == "start":
            self._start = raw
        elif kind == "error":
            raise error_for(int(raw.get("status") or 0), raw)
        elif kind == "exit":
            self.done = True
            return Event("end", command=self._result(raw), raw=raw)
        return Event(kind, raw=raw)

    def _keep(self, stream: str, text: str) -> None:
        room = self._room[stream]
        if room is not None:
            size = _size(text)
            if size > room:
                text = text.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
                self._dropped[stream] += size - _size(text)
            # Once something is cut nothing later is kept: what there is, is the beginning.
            self._room[stream] = room - size if size <= room else 0
        self._out[stream].append(text)

    def _result(self, end: JSON) -> CommandResult:
        value = dict(self._start, **end)
        value.update((stream, "".join(parts)) for stream, parts in self._out.items())
        cut = {stream: {"dropped_bytes": n} for stream, n in self._dropped.items() if n}
        if cut:
            value["truncated"] = {**(value.get("truncated") or {}), **cut}
        return CommandResult.from_json(value)

    def finish(self) -> None:
        if not self.done:
            raise ConnectionFailed("the stream ended before the process did; its outcome is not known", code="lost")


def from_websocket(raw: JSON) -> JSON:
    """A message of a command's WebSocket in the words of the other streams."""
    if "stream" in raw:
        return {"type": raw["stream"], "chunk": raw.get("data", "")}
    if "error" in raw:
        return dict(raw, type="error")
    if "exit" not in raw:
        return dict(raw, type="other")
    end = {k: raw.get(k) for k in ("signal", "duration_ms", "truncated")}
    return dict(end, type="exit", exit_code=raw["exit"], exit=raw.get("status") or "lost")


def json_message(message: Any) -> JSON:
    """A message that should be a JSON object."""
    return _object(message.encode() if isinstance(message, str) else bytes(message))

