# Made from cella/_async/filesystem.py by make_sync.py: change that file.
"""Files of a sandbox. Paths are absolute, or relative to ``/workspace``; sizes in bytes; files of any size stream.

Errors: :class:`FileNotFound`, :class:`IsADirectory`, :class:`NotADirectory`, :class:`PermissionDenied`,
:class:`FileExists`, :class:`NoSpaceError`.
"""

from __future__ import annotations

import os
from typing import Generator, BinaryIO, Iterable, List, Literal, Optional, Union, cast, overload

from .. import _calls
from .._http import Body, Call
from ..errors import ConnectionFailed, FileNotFound, GoneError, NotADirectory
from ..events import Objects
from ..models import FileEvent, FileInfo, iterate
from . import native
from .stream import Stream
from .transport import Transport

CHUNK_BYTES = 1 << 20
Content = Union[str, bytes, bytearray, memoryview, BinaryIO, Iterable[bytes]]
LocalPath = Union[str, "os.PathLike[str]"]


class Filesystem:
    """``sandbox.filesystem``: paths are absolute, or relative to ``/workspace``. What goes wrong is a FilesystemError."""

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
    def read(self, path: str, format: Literal["stream"]) -> Stream[bytes]: ...

    def read(self, path: str, format: str = "text") -> Union[str, bytes, Stream[bytes]]:
        """A file's content: ``"text"`` (UTF-8, else UnicodeDecodeError), ``"bytes"``, or ``"stream"``: an iterator of
        pieces that never holds the whole file (close it, or read it to its end)."""
        if format not in ("text", "bytes", "stream"):
            raise ValueError(f"format is 'text', 'bytes' or 'stream', not {format!r}")
        call = _calls.file_read(self._id, path)
        if format == "stream":
            return self._stream(call)
        content = self._transport.send(call).content
        return content.decode("utf-8") if format == "text" else content

    def _stream(self, call: Call) -> Stream[bytes]:
        source = self._pieces(call)
        source.__next__()  # the answer's head: what is wrong with the path is raised now
        return Stream(source)

    def _pieces(self, call: Call) -> Generator[bytes, None, None]:
        with self._transport.stream(call) as response:
            yield b""
            for piece in self._transport.pieces(response):
                yield piece

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
        """Of a symlink: of itself, with its ``target``."""
        return FileInfo.from_json(self._transport.json(_calls.file_stat(self._id, path)))

    def exists(self, path: str) -> bool:
        """Whether there is something."""
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

    def watch(self, path: str = ".", recursive: bool = False) -> Stream[FileEvent]:
        """Changes below a directory (or of a file) from now on, as they happen; ``recursive``: at every depth. ::

            with sandbox.filesystem.watch() as changes:
                for change in changes:
                    print(change.type, change.path)

        It has no end of its own: when the sandbox goes, ConnectionFailed says so.
        """
        source = self._changes(_calls.file_watch(self._id, path, recursive))
        source.__next__()  # from here on nothing is missed
        return Stream(source)

    def _changes(self, call: Call) -> Generator[FileEvent, None, None]:
        objects = Objects()
        with self._transport.stream(call) as response:
            for piece in self._transport.pieces(response):
                for raw in objects.feed(piece):
                    yield FileEvent.from_json(raw)
        raise ConnectionFailed("the watch ended: the sandbox is gone, or its daemon", code="lost")

    def upload(self, local: LocalPath, path: str) -> int:
        """Copy a local file of any size into the sandbox. Returns its bytes."""
        with open(local, "rb") as f:
            return self.write(path, f)

    def download(self, path: str, local: LocalPath) -> int:
        """Copy a file of any size out. A local file appears only when it is complete. Returns its bytes."""
        partial = f"{os.fspath(local)}.part"
        total = 0
        try:
            with self.read(path, "stream") as pieces:
                with open(partial, "wb") as f:
                    for piece in pieces:
                        total += native.blocking(f.write, piece)
            os.replace(partial, local)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
        return total

    def read_tar(self, path: str = ".") -> Stream[bytes]:
        """A directory tree as a tar stream (pax)."""
        return self._stream(_calls.tar_read(self._id, path))

    def write_tar(self, path: str, content: Content) -> int:
        """Unpack a tar (plain or gzip) into a directory, which is made when it is not there. Entries that would leave
        it are refused (InvalidRequest). Returns the number of entries."""
        answer = self._transport.json(_calls.tar_write(self._id, path, _content(content)))
        return int((answer or {}).get("entries", 0))


def _content(content: Content) -> Body:
    if isinstance(content, str):
        return content.encode("utf-8")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if hasattr(content, "read"):
        return _file_pieces(cast(BinaryIO, content))
    return native.pieces(content)


def _file_pieces(file: BinaryIO) -> Generator[bytes, None, None]:
    while True:
        piece = native.blocking(file.read, CHUNK_BYTES)
        if not piece:
            return
        yield piece
