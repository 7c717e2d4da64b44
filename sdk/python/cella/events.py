"""What arrives while code or a process runs, and how it is put together again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from .errors import CellaError, ConnectionFailed, error_for
from .models import CommandResult, ErrorInfo, Execution, Logs, Result

JSON = Dict[str, Any]


@dataclass(frozen=True)
class Event:
    """One event of ``run_code_stream`` or ``exec_stream``.

    ``type``: ``"start"``, ``"stdout"`` and ``"stderr"`` (``text``), ``"display"`` and ``"result"`` (``result``),
    ``"error"`` (``error``), ``"input_request"`` (``prompt``), and last of all ``"end"`` with the whole
    ``execution`` (code) or ``command`` (process).
    """

    type: str
    text: str = ""
    result: Optional[Result] = None
    error: Optional[ErrorInfo] = None
    prompt: Optional[str] = None
    execution: Optional[Execution] = None
    command: Optional[CommandResult] = None
    raw: JSON = field(default_factory=dict, repr=False, compare=False)


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream of byte pieces at newlines; a last line without one is not a line (the stream was cut)."""
    pending: List[bytes] = []
    for piece in pieces:
        head, newline, rest = piece.partition(b"\n")
        pending.append(head)
        while newline:
            yield b"".join(pending)
            head, newline, rest = rest.partition(b"\n")
            pending = [head]


def ndjson(pieces: Iterable[bytes]) -> Iterator[JSON]:
    """One JSON object per line."""
    for line in lines(pieces):
        if line.strip():
            yield _object(line)


def sse(pieces: Iterable[bytes]) -> Iterator[Tuple[str, JSON]]:
    """Server-sent events as (name, data); comments and unnamed fields are skipped."""
    name, data = "message", []  # type: Tuple[str, List[bytes]]
    for line in lines(pieces):
        line = line.rstrip(b"\r")
        if not line:
            if data:
                yield name, _object(b"\n".join(data))
            name, data = "message", []
            continue
        key, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if key == b"event":
            name = value.decode("utf-8", "replace")
        elif key == b"data":
            data.append(value)


def _object(text: bytes) -> JSON:
    try:
        value = json.loads(text)
    except ValueError:
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
        elif kind in ("stdout", "stderr"):
            text = str(raw.get("text", ""))
            (self._stdout if kind == "stdout" else self._stderr).append(text)
            return Event(kind, text=text, raw=raw)
        elif kind in ("display", "result"):
            value = dict(raw, is_main_result=kind == "result")
            self._results.append(value)
            return Event(kind, result=Result.from_json(value), raw=raw)
        elif kind == "error":
            self._error = raw
            return Event(kind, error=ErrorInfo.from_json(raw), raw=raw)
        elif kind == "input_request":
            return Event(kind, prompt=str(raw.get("prompt", "")), raw=raw)
        elif kind == "end":
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


class CommandCollector:
    """The same for a process: (name, data) of its server-sent events."""

    def __init__(self) -> None:
        self._out: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self._start: JSON = {}
        self.done = False

    def feed(self, name: str, data: JSON) -> Event:
        if name in self._out:
            text = str(data.get("chunk", ""))
            self._out[name].append(text)
            return Event(name, text=text, raw=data)
        if name == "start":
            self._start = data
        elif name == "error":
            raise error_for(int(data.get("status") or 0), data)
        elif name == "exit":
            self.done = True
            value = dict(self._start, **data)
            value.update(stdout="".join(self._out["stdout"]), stderr="".join(self._out["stderr"]))
            return Event("end", command=CommandResult.from_json(value), raw=data)
        return Event(name, raw=data)

    def finish(self) -> None:
        if not self.done:
            raise ConnectionFailed("the stream ended before the process did; its outcome is not known", code="lost")
