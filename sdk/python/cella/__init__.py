"""Cella: run code nobody reviewed in isolated sandboxes.

>>> from cella import Sandbox
>>> with Sandbox() as sandbox:
...     print(sandbox.run_code("1 + 1").text)
2

``AsyncSandbox`` is the same with ``async with`` and ``await``.

Environment: ``CELLA_URL`` (default http://127.0.0.1:7070), ``CELLA_API_KEY``, ``TRACEPARENT``.
"""

from ._async.branching import AsyncBranches
from ._async.contexts import AsyncCodeContext
from ._async.filesystem import AsyncFilesystem
from ._async.processes import AsyncCommandSession, AsyncProcess, AsyncTerminal
from ._async.sandbox import AsyncSandbox
from ._async.snapshots import AsyncSnapshot, AsyncSpace
from ._async.stream import AsyncStream
from ._async.transport import close_connections_async
from ._sync.branching import Branches
from ._sync.contexts import CodeContext
from ._sync.filesystem import Filesystem
from ._sync.processes import CommandSession, Process, Terminal
from ._sync.sandbox import Sandbox
from ._sync.snapshots import Snapshot, Space
from ._sync.stream import Stream
from ._sync.transport import close_connections
from .branches import Diff, FileChange, FileChanges, NotCarried, Promotion, TreeNode, VariableChange, VariableChanges
from .errors import (
    AuthenticationError,
    CellaError,
    CommandError,
    ConflictError,
    ConnectionFailed,
    ExecutionError,
    FileExists,
    FileNotFound,
    FilesystemError,
    ForbiddenError,
    GoneError,
    ImageRefused,
    InvalidRequest,
    IsADirectory,
    LimitError,
    NoSpaceError,
    NotADirectory,
    NotFoundError,
    PermissionDenied,
    RequestTimeout,
    ServerError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from .events import Event
from .models import (
    CommandResult,
    ContextInfo,
    ErrorInfo,
    Execution,
    FileEvent,
    FileInfo,
    Logs,
    Port,
    Result,
    SandboxInfo,
    TerminalExit,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncBranches",
    "AsyncCodeContext",
    "AsyncCommandSession",
    "AsyncFilesystem",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSnapshot",
    "AsyncSpace",
    "AsyncStream",
    "AsyncTerminal",
    "AuthenticationError",
    "Branches",
    "CellaError",
    "CodeContext",
    "CommandError",
    "CommandResult",
    "CommandSession",
    "ConflictError",
    "ConnectionFailed",
    "ContextInfo",
    "Diff",
    "ErrorInfo",
    "Event",
    "Execution",
    "ExecutionError",
    "FileChange",
    "FileChanges",
    "FileEvent",
    "FileExists",
    "FileInfo",
    "FileNotFound",
    "Filesystem",
    "FilesystemError",
    "ForbiddenError",
    "GoneError",
    "ImageRefused",
    "InvalidRequest",
    "IsADirectory",
    "LimitError",
    "Logs",
    "NoSpaceError",
    "NotADirectory",
    "NotCarried",
    "NotFoundError",
    "PermissionDenied",
    "Port",
    "Process",
    "Promotion",
    "RequestTimeout",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "ServerError",
    "Snapshot",
    "Space",
    "Stream",
    "Terminal",
    "TerminalExit",
    "TooLargeError",
    "TreeNode",
    "UnavailableError",
    "UnsupportedError",
    "VariableChange",
    "VariableChanges",
    "close_connections",
    "close_connections_async",
]
