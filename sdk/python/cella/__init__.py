"""Cella: run code nobody reviewed in isolated sandboxes.

>>> from cella import Sandbox
>>> with Sandbox() as sandbox:
...     print(sandbox.run_code("1 + 1").text)
2

Environment: ``CELLA_URL`` (default http://127.0.0.1:7070), ``CELLA_API_KEY``.
"""

from .branches import (
    Branches,
    Diff,
    FileChange,
    FileChanges,
    NotCarried,
    Promotion,
    TreeNode,
    VariableChange,
    VariableChanges,
)
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
from .filesystem import Filesystem
from .models import CommandResult, ContextInfo, ErrorInfo, Execution, FileInfo, Logs, Result, SandboxInfo
from .sandbox import Sandbox
from .snapshots import Snapshot, Space

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "Branches",
    "CellaError",
    "CodeContext",
    "CommandError",
    "CommandResult",
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
    "Process",
    "Promotion",
    "RequestTimeout",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "ServerError",
    "Snapshot",
    "Space",
    "TooLargeError",
    "TreeNode",
    "UnavailableError",
    "UnsupportedError",
    "VariableChange",
    "VariableChanges",
]
