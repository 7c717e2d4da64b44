"""What can go wrong between this program and Cella.

Nothing here is about the user's code: code that raises, times out or is killed comes back as an
:class:`~cella.Execution` whose ``error`` and ``exit`` say so. Only ``check=True`` turns that into
:class:`ExecutionError` (code) or :class:`CommandError` (a process).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Type

if TYPE_CHECKING:
    from .models import CommandResult, Execution


class CellaError(Exception):
    """Base of everything this package raises.

    Attributes:
        message: one sentence saying what happened.
        code: Cella's machine word for it (``"not_found"``, ``"no_space"``…); ``"no_connection"``, ``"lost"`` (the connection
            broke: what was asked for may have happened) and ``"request_timeout"`` are this side's own.
        hint: what to do about it, or None.
        status: HTTP status of the answer, or None when no answer came.
        index: in ``Branches.errors`` the number of the copy that could not be made, else None.
    """

    index: Optional[int] = None

    def __init__(
        self, message: str, *, code: Optional[str] = None, hint: Optional[str] = None, status: Optional[int] = None
    ) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.code = code
        self.hint = hint
        self.status = status

    def __reduce__(self) -> Any:
        # Exceptions cross process pools: keep the keyword-only attributes, which the default would drop.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: Type[CellaError], args: Any, attributes: Dict[str, Any]) -> CellaError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConnectionFailed(CellaError):
    """No connection to the daemon (``code`` ``"no_connection"``), or it broke before the answer was complete (``"lost"``)."""


class RequestTimeout(CellaError):
    """The daemon did not answer in time. What was asked for may still happen."""


class InvalidRequest(CellaError):
    """A field is missing or wrong; the message names it."""


class AuthenticationError(CellaError):
    """The API key is missing or not valid (401)."""


class ForbiddenError(CellaError):
    """The daemon refuses this Host, Origin or key (403)."""


class NotFoundError(CellaError):
    """No such sandbox, context, process, execution, template, file or directory."""


class GoneError(NotFoundError):
    """The sandbox existed and has ended; the message says why."""


class ConflictError(CellaError):
    """The object is in the wrong state for this request, or exists already."""


class ImageRefused(ConflictError):
    """A snapshot or Space cannot come back here: it is damaged, of another installation, or its template, format or
    processor does not fit. ``hint`` says what to do."""


class LimitError(CellaError):
    """A limit of the key or the host is reached; try later."""


class TooLargeError(CellaError):
    """The request is larger than the daemon accepts."""


class UnsupportedError(CellaError):
    """Not in this version, or not on this host: also a ``driver`` that cannot be used here, or that the template was not
    built for. ``hint`` says what to do."""


class UnavailableError(CellaError):
    """The daemon, its keeper or the template is not ready yet; try again."""


class ServerError(CellaError):
    """The daemon failed, or lost the sandbox."""


class FilesystemError(CellaError):
    """Base of what a sandbox's file system refuses."""


class FileNotFound(FilesystemError, NotFoundError):
    """The path does not exist."""


class FileExists(FilesystemError, ConflictError):
    """The target exists already."""


class IsADirectory(FilesystemError):
    """A file was expected."""


class NotADirectory(FilesystemError):
    """A directory was expected."""


class PermissionDenied(FilesystemError):
    """The sandbox's user may not do this."""


class NoSpaceError(FilesystemError):
    """The sandbox's disk is full."""


class ExecutionError(CellaError):
    """``run_code(check=True)``: the code did not end well. ``execution`` has everything it printed and returned."""

    def __init__(self, execution: "Execution") -> None:
        error = execution.error
        text = f"{error.name}: {error.value}" if error else f"the code ended with {execution.exit!r}"
        super().__init__(text, code=execution.exit)
        self.execution = execution


class CommandError(CellaError):
    """``exec(check=True)``: the process did not end with exit code 0. ``result`` has its output."""

    def __init__(self, result: "CommandResult") -> None:
        tail = result.stderr.strip()[-500:]
        ended = f"exit code {result.exit_code}" if result.exit == "error" and result.exit_code is not None else result.exit
        super().__init__(f"the command ended with {ended}" + (f": {tail}" if tail else ""), code=result.exit)
        self.result = result


_BY_CODE: Dict[str, Type[CellaError]] = {
    "invalid_request": InvalidRequest,
    "unauthorized": AuthenticationError,
    "forbidden": ForbiddenError,
    "permission_denied": PermissionDenied,
    "not_found": NotFoundError,
    "request_timeout": RequestTimeout,
    "conflict": ConflictError,
    "already_exists": ConflictError,
    "image_refused": ImageRefused,
    "driver_unavailable": UnsupportedError,
    "template_not_ready": UnsupportedError,
    "gone": GoneError,
    "too_large": TooLargeError,
    "is_a_directory": IsADirectory,
    "not_a_directory": NotADirectory,
    "unsupported": UnsupportedError,
    "limit_reached": LimitError,
    "no_space": NoSpaceError,
    "unavailable": UnavailableError,
    "lost": ServerError,
    "internal": ServerError,
}
_BY_STATUS: Dict[int, Type[CellaError]] = {
    400: InvalidRequest,
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: TooLargeError,
    429: LimitError,
    501: UnsupportedError,
    503: UnavailableError,
}
# Inside file calls the same words mean the file, unless the sandbox itself is missing.
_FILE_CODES: Dict[str, Type[CellaError]] = {"not_found": FileNotFound, "already_exists": FileExists}


def error_for(status: int, body: Any, *, files: bool = False) -> CellaError:
    """The exception for an error answer. ``body`` is its parsed JSON (or anything else); ``files``: the call was
    about a file, so ``not_found`` means the path."""
    detail: Dict[str, Any] = body if isinstance(body, dict) else {}
    code = detail.get("code")
    message = detail.get("error")
    if not isinstance(message, str) or not message:
        message = f"the daemon answered {status}"
    hint = detail.get("hint")
    kind: Optional[Type[CellaError]] = None
    if isinstance(code, str):
        kind = (_FILE_CODES.get(code) if files else None) or _BY_CODE.get(code)
    if kind is None:
        kind = _BY_STATUS.get(status, ServerError if status >= 500 else CellaError)
    return kind(
        message,
        code=code if isinstance(code, str) else None,
        hint=hint if isinstance(hint, str) else None,
        status=status,
    )
