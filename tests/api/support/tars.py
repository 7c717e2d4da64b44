"""Archives for tests, friendly and hostile."""

from __future__ import annotations

import io
import tarfile
from typing import Callable, List, Optional, Tuple, Union

Member = Tuple[str, Union[bytes, None], Optional[Callable[[tarfile.TarInfo], None]]]


def make(members: List[Member], mode: str = "w", home: str = "") -> bytes:
    """A tar of (name, content, change): content None makes no body; change may alter the header. "HOME" in a
    name or link stands for `home`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, content, change in members:
            info = tarfile.TarInfo(name.replace("HOME", home))
            info.size = len(content or b"")
            info.mode = 0o644
            if change:
                change(info)
                info.linkname = info.linkname.replace("HOME", home)
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


def typed(kind: bytes, mode: int = 0o644) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.mode, info.size = kind, mode, 0
        info.devmajor, info.devminor = 1, 1

    return change


def moded(mode: int) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.mode = mode

    return change


def read(data: bytes) -> "tarfile.TarFile":
    return tarfile.open(fileobj=io.BytesIO(data))
