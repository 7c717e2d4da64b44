"""Cella: run code nobody reviewed in isolated sandboxes.

>>> from cella import Sandbox
>>> with Sandbox() as sandbox:
...     print(sandbox.run_code("1 + 1").text)
2

Environment: ``CELLA_URL`` (default http://127.0.0.1:7070), ``CELLA_API_KEY``.
"""

from .contexts import CodeContext, Process
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
from .filesystem import Filesystem
from .models import CommandResult, ContextInfo, ErrorInfo, Execution, FileInfo, Logs, Result, SandboxInfo
from .sandbox import Sandbox

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "CellaError",
    "CodeContext",
    "CommandError",
    "CommandResult",
    "ConflictError",
    "ConnectionFailed",
    "ContextInfo",
    "ErrorInfo",
    "Event",
    "Execution",
    "ExecutionError",
    "FileExists",
    "FileInfo",
    "FileNotFound",
    "Filesystem",
    "FilesystemError",
    "ForbiddenError",
    "GoneError",
    "InvalidRequest",
    "IsADirectory",
    "LimitError",
    "Logs",
    "NoSpaceError",
    "NotADirectory",
    "NotFoundError",
    "PermissionDenied",
    "Process",
    "RequestTimeout",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "ServerError",
    "TooLargeError",
    "UnavailableError",
    "UnsupportedError",
]
