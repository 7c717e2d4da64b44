"""Files of a sandbox. Paths are absolute, or relative to ``/workspace``; sizes in bytes; files of any size stream.

Errors: :class:`FileNotFound`, :class:`IsADirectory`, :class:`NotADirectory`, :class:`PermissionDenied`,
:class:`FileExists`, :class:`NoSpaceError`.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Iterable, Iterator, List, Literal, Optional, Union, cast, overload

from . import _calls
from ._transport import Call, Transport
from .errors import FileNotFound, GoneError, NotADirectory
from .models import FileInfo, iterate

CHUNK_BYTES = 256 * 1024
Content = Union[str, bytes, bytearray, memoryview, BinaryIO, Iterable[bytes]]
LocalPath = Union[str, "os.PathLike[str]"]


class Filesystem:
    """``sandbox.filesystem``."""

    def __init__(self, transport: Transport, sandbox_id: str) -> None:
        self._transport = transport
        self._id = sandbox_id

    @overload
    def read(self, path: str) -> str: ...
    @overload
    def read(self, path: str, format: Literal["text"]) -> str: ...
    @overload
    def read(self, path: str, format: Literal["bytes"]) -> bytes: ...
    @overload
    def read(self, path: str, format: Literal["stream"]) -> Iterator[bytes]: ...

    def read(self, path: str, format: str = "text") -> Union[str, bytes, Iterator[bytes]]:
        """A file's content: ``"text"`` (UTF-8, else UnicodeDecodeError), ``"bytes"``, or ``"stream"``: an iterator of
        pieces that never holds the whole file (close it, or read it to its end)."""
        if format not in ("text", "bytes", "stream"):
            raise ValueError(f"format is 'text', 'bytes' or 'stream', not {format!r}")
        call = _calls.file_read(self._id, path)
        if format == "stream":
            return self._pieces(call)
        content = self._transport.send(call).content
        return content.decode("utf-8") if format == "text" else content

    def _pieces(self, call: Call) -> Iterator[bytes]:
        with self._transport.stream(call) as response:
            yield from self._transport.pieces(response)

    def write(self, path: str, content: Content, mode: Optional[int] = None) -> int:
        """Put a file in place, whole or not at all; parents are made. ``content``: text (UTF-8), bytes, a binary file
        object, or an iterable of bytes. ``mode``: permission bits. Returns the bytes written."""
        answer = self._transport.json(_calls.file_write(self._id, path, _content(content), mode))
        return int((answer or {}).get("bytes", 0))

    def list(self, path: str = ".", depth: int = 1) -> List[FileInfo]:
        """Entries below a directory, ``depth`` levels down."""
        answer = self._transport.json(_calls.file_list(self._id, path, depth))
        return [FileInfo.from_json(e) for e in iterate(answer)]

    def stat(self, path: str) -> FileInfo:
        return FileInfo.from_json(self._transport.json(_calls.file_stat(self._id, path)))

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except GoneError:
            raise
        except (FileNotFound, NotADirectory):
            return False
        return True

    def mkdir(self, path: str, parents: bool = True) -> bool:
        """Make a directory. True when it was made, False when it was there already (``parents`` only)."""
        answer = self._transport.json(_calls.file_mkdir(self._id, path, parents))
        return bool((answer or {}).get("created", True))

    def move(self, source: str, target: str, overwrite: bool = False) -> None:
        """Rename. FileExists when ``target`` is there and ``overwrite`` is not set."""
        self._transport.json(_calls.file_move(self._id, source, target, overwrite))

    def remove(self, path: str, recursive: bool = False) -> None:
        """Delete a file, or with ``recursive`` a directory and what is in it. Symlinks are removed, not followed."""
        self._transport.json(_calls.file_remove(self._id, path, recursive))

    def upload(self, local: LocalPath, path: str) -> int:
        """Copy a local file into the sandbox. Returns its bytes."""
        with open(local, "rb") as f:
            return self.write(path, f)

    def download(self, path: str, local: LocalPath) -> int:
        """Copy a file out. A local file appears only when it is complete. Returns its bytes."""
        partial = f"{os.fspath(local)}.part"
        total = 0
        try:
            with open(partial, "wb") as f:
                for piece in self.read(path, "stream"):
                    total += f.write(piece)
            os.replace(partial, local)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
        return total

    def read_tar(self, path: str) -> Iterator[bytes]:
        """A directory tree as a tar stream (pax)."""
        return self._pieces(_calls.tar_read(self._id, path))

    def write_tar(self, path: str, content: Content) -> int:
        """Unpack a tar (plain or gzip) into a directory, which is made when it is not there. Entries that would leave
        it are refused (InvalidRequest). Returns the number of entries."""
        answer = self._transport.json(_calls.tar_write(self._id, path, _content(content)))
        return int((answer or {}).get("entries", 0))


def _content(content: Content) -> Union[bytes, Iterable[bytes]]:
    if isinstance(content, str):
        return content.encode("utf-8")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if hasattr(content, "read"):
        return _file_pieces(cast(BinaryIO, content))
    return content


def _file_pieces(file: BinaryIO) -> Iterator[bytes]:
    while True:
        piece = file.read(CHUNK_BYTES)
        if not piece:
            return
        yield piece
