"""The values Cella answers with. All are plain dataclasses; ``raw`` (where there is one) is the answer as it came,
so that a field newer than this package can still be read."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, cast

JSON = Dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One rich value: of the last expression, of ``display()``, or an open figure.

    ``data`` maps a MIME type to its value: text as str, images as base64 str, ``application/json`` as the value itself.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_main_result: bool = False  #: True for the value of the last expression

    @property
    def text(self) -> Optional[str]:
        return _text(self.data.get("text/plain"))

    @property
    def html(self) -> Optional[str]:
        return _text(self.data.get("text/html"))

    @property
    def markdown(self) -> Optional[str]:
        return _text(self.data.get("text/markdown"))

    @property
    def latex(self) -> Optional[str]:
        return _text(self.data.get("text/latex"))

    @property
    def javascript(self) -> Optional[str]:
        return _text(self.data.get("application/javascript"))

    @property
    def svg(self) -> Optional[str]:
        return _text(self.data.get("image/svg+xml"))

    @property
    def json(self) -> Any:
        return self.data.get("application/json")

    @property
    def png(self) -> Optional[bytes]:
        """The image's bytes, decoded."""
        return _image(self.data.get("image/png"))

    @property
    def jpeg(self) -> Optional[bytes]:
        return _image(self.data.get("image/jpeg"))

    @property
    def pdf(self) -> Optional[bytes]:
        return _image(self.data.get("application/pdf"))

    def formats(self) -> List[str]:
        """The MIME types there are."""
        return list(self.data)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Shows in a notebook as it would have shown in the sandbox."""
        return dict(self.data), dict(self.metadata)

    @classmethod
    def from_json(cls, value: JSON) -> "Result":
        return cls(
            data=dict(value.get("data") or {}),
            metadata=dict(value.get("metadata") or {}),
            is_main_result=bool(value.get("is_main_result", False)),
        )


@dataclass(frozen=True)
class ErrorInfo:
    """The exception the user's code ended with. ``traceback`` is plain text without escape codes."""

    name: str
    value: str
    traceback: str = ""

    @classmethod
    def from_json(cls, value: Optional[JSON]) -> Optional["ErrorInfo"]:
        if not value:
            return None
        return cls(str(value.get("name", "")), str(value.get("value", "")), str(value.get("traceback", "")))


@dataclass(frozen=True)
class Logs:
    """What the code printed, each stream whole (unless ``Execution.truncated`` says otherwise)."""

    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Execution:
    """What became of one ``run_code``.

    ``exit`` is the one word that tells: ``"ok"``; ``"error"`` (the code raised, see ``error``, or a non-zero exit code);
    ``"timeout"`` and ``"interrupted"`` (state kept); ``"oom"`` and ``"killed"`` (the context was started anew when
    ``context_restarted``); ``"lost"`` (the outcome is not known).
    """

    id: str
    exit: str
    context_id: str = ""
    language: str = ""
    results: List[Result] = field(default_factory=list)
    logs: Logs = field(default_factory=Logs)
    error: Optional[ErrorInfo] = None
    exit_code: Optional[int] = None  #: of SystemExit or the shell; None when the code has none
    execution_count: Optional[int] = None  #: running number within the context
    duration_ms: float = 0.0
    started_at: Optional[str] = None  #: RFC 3339
    truncated: Optional[JSON] = None  #: {"stdout": {"dropped_bytes": n}, …} when output was cut, else None
    context_restarted: bool = False
    remaining_seconds: Optional[float] = None  #: until the sandbox ends, None: no limit
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        return self.exit == "ok"

    @property
    def stdout(self) -> str:
        return self.logs.stdout

    @property
    def stderr(self) -> str:
        return self.logs.stderr

    @property
    def main_result(self) -> Optional[Result]:
        """The value of the last expression, None when it had none."""
        for result in reversed(self.results):
            if result.is_main_result:
                return result
        return None

    @property
    def text(self) -> Optional[str]:
        """Plain text of the last expression's value, else of the last thing displayed."""
        return cast(Optional[str], self._first("text"))

    @property
    def html(self) -> Optional[str]:
        return cast(Optional[str], self._first("html"))

    @property
    def markdown(self) -> Optional[str]:
        return cast(Optional[str], self._first("markdown"))

    @property
    def svg(self) -> Optional[str]:
        return cast(Optional[str], self._first("svg"))

    @property
    def json(self) -> Any:
        return self._first("json")

    @property
    def png(self) -> Optional[bytes]:
        """Bytes of the last expression's image, else of the last one displayed; ``results`` has all of them."""
        return cast(Optional[bytes], self._first("png"))

    @property
    def jpeg(self) -> Optional[bytes]:
        return cast(Optional[bytes], self._first("jpeg"))

    def _first(self, name: str) -> Any:
        main = self.main_result
        ordered = ([main] if main else []) + list(reversed(self.results))
        return next((v for v in (getattr(r, name) for r in ordered) if v is not None), None)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """A notebook shows the main result; without one, the error or what was printed."""
        chosen = self.main_result or (self.results[-1] if self.results else None)
        if chosen is not None and chosen.data:
            return chosen._repr_mimebundle_(include, exclude)
        if self.error is not None:
            return {"text/plain": self.error.traceback or f"{self.error.name}: {self.error.value}"}, {}
        return {"text/plain": self.stdout or self.stderr or f"<{self.exit}>"}, {}

    @classmethod
    def from_json(cls, value: JSON) -> "Execution":
        return cls(
            id=str(value.get("id", "")),
            exit=str(value.get("exit", "lost")),
            context_id=str(value.get("context_id") or ""),
            language=str(value.get("language") or ""),
            results=[Result.from_json(r) for r in value.get("results") or []],
            logs=Logs(value.get("stdout") or "", value.get("stderr") or ""),
            error=ErrorInfo.from_json(value.get("error")),
            exit_code=value.get("exit_code"),
            execution_count=value.get("execution_count"),
            duration_ms=float(value.get("duration_ms") or 0.0),
            started_at=value.get("started_at"),
            truncated=value.get("truncated"),
            context_restarted=bool(value.get("context_restarted", False)),
            remaining_seconds=value.get("remaining_seconds"),
            raw=value,
        )


@dataclass(frozen=True)
class CommandResult:
    """What became of one process. ``exit``: ``"ok" | "error" | "timeout" | "oom" | "killed" | "lost"``.
    ``exit_code`` is None when a signal ended it; ``signal`` is its number then."""

    stdout: str
    stderr: str
    exit_code: Optional[int]
    exit: str
    signal: Optional[int] = None
    duration_ms: float = 0.0
    id: str = ""
    pid: Optional[int] = None
    truncated: Optional[JSON] = None
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        return self.exit == "ok"

    @classmethod
    def from_json(cls, value: JSON) -> "CommandResult":
        return cls(
            stdout=value.get("stdout") or "",
            stderr=value.get("stderr") or "",
            exit_code=value.get("exit_code"),
            exit=str(value.get("exit", "lost")),
            signal=value.get("signal"),
            duration_ms=float(value.get("duration_ms") or 0.0),
            id=str(value.get("id") or ""),
            pid=value.get("pid"),
            truncated=value.get("truncated"),
            raw=value,
        )


@dataclass(frozen=True)
class FileInfo:
    """One entry of a sandbox's file system. ``size`` in bytes; ``mode`` permission bits; ``modified`` Unix seconds."""

    name: str
    path: str
    type: str  #: "file" | "directory" | "symlink" | "other"
    size: int
    mode: int
    uid: int = 0
    gid: int = 0
    modified: float = 0.0
    target: Optional[str] = None  #: where a symlink points

    @property
    def is_dir(self) -> bool:
        return self.type == "directory"

    @property
    def is_file(self) -> bool:
        return self.type == "file"

    @classmethod
    def from_json(cls, value: JSON) -> "FileInfo":
        return cls(
            name=str(value.get("name", "")),
            path=str(value.get("path", "")),
            type=str(value.get("type", "other")),
            size=int(value.get("size") or 0),
            mode=int(str(value.get("permissions") or "0"), 8),
            uid=int(value.get("uid") or 0),
            gid=int(value.get("gid") or 0),
            modified=float(value.get("mtime_ms") or 0) / 1000.0,
            target=value.get("target"),
        )


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox as the daemon describes it. ``remaining_seconds`` None: it has no end."""

    id: str
    template: str
    status: str  #: "running" | "paused" | "hibernating" | "hibernated" | "waking" | "deleted"
    driver: str  #: what isolates it: "process" | "microvm"
    isolation: str
    created_at: str
    expires_at: Optional[str]
    idle_timeout_seconds: Optional[float]
    remaining_seconds: Optional[float]
    metadata: Dict[str, str]
    parent_id: Optional[str] = None  #: of which it is a fork
    space_id: Optional[str] = None
    persistent: bool = False
    on_timeout: str = "delete"  #: what happens when its time is over: "freeze" | "delete"
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: JSON) -> "SandboxInfo":
        return cls(
            id=str(value.get("id", "")),
            template=str(value.get("template", "")),
            status=str(value.get("status", "")),
            driver=str(value.get("driver", "")),
            isolation=str(value.get("isolation", "")),
            created_at=str(value.get("created_at", "")),
            expires_at=value.get("expires_at"),
            idle_timeout_seconds=value.get("idle_timeout_seconds"),
            remaining_seconds=value.get("remaining_seconds"),
            metadata=dict(value.get("metadata") or {}),
            parent_id=value.get("parent_id"),
            space_id=value.get("space_id"),
            persistent=bool(value.get("persistent", False)),
            on_timeout=str(value.get("on_timeout") or "delete"),
            raw=value,
        )


@dataclass(frozen=True)
class ContextInfo:
    """A code context: an interpreter that keeps its state. ``state``: ``"idle" | "busy" | "restarting" | "lost"``."""

    id: str
    language: str
    state: str = "idle"
    execution_count: int = 0
    restarts: int = 0
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: JSON) -> "ContextInfo":
        return cls(
            id=str(value.get("id", "")),
            language=str(value.get("language", "")),
            state=str(value.get("state", "")),
            execution_count=int(value.get("execution_count") or 0),
            restarts=int(value.get("restarts") or 0),
            raw=value,
        )


@dataclass(frozen=True)
class FileEvent:
    """One change that ``filesystem.watch`` saw."""

    type: str  #: "create" | "write" | "remove" | "rename" | "chmod" | "overflow" (so many that some were missed)
    path: str
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: JSON) -> "FileEvent":
        return cls(type=str(value.get("type", "")), path=str(value.get("path", "")), raw=value)


@dataclass(frozen=True)
class Port:
    """A TCP port that a program in the sandbox listens on."""

    port: int
    pid: Optional[int]
    address: str

    @classmethod
    def from_json(cls, value: JSON) -> "Port":
        return cls(port=int(value.get("port") or 0), pid=value.get("pid"), address=str(value.get("address") or ""))


@dataclass(frozen=True)
class TerminalExit:
    """How what ran in a terminal ended. ``exit_code`` is None when a signal ended it."""

    exit_code: Optional[int]
    signal: Optional[int]
    exit: str  #: "ok" | "error" | "killed" | "oom" | "lost"


def _text(value: Any) -> Optional[str]:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):  # nbformat allows a list of lines
        return "".join(str(v) for v in value)
    return str(value)


def _image(value: Any) -> Optional[bytes]:
    return base64.b64decode(value) if isinstance(value, str) else None


def iterate(values: Any) -> Iterator[JSON]:
    """The objects of a list answer, whether it is a bare array or wrapped as {"…": [...]}."""
    if isinstance(values, dict):
        values = next((v for v in values.values() if isinstance(v, list)), [])
    return iter(values or [])
