"""A newc archive, as the kernel unpacks it for its first root."""
from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Iterable


class Cpio:
    def __init__(self, path: Path):
        self.out, self.number, self.made = open(path, "wb"), 0, set()

    def put(self, name: str, mode: int, data: bytes = b"", device=(0, 0)) -> None:
        if name in self.made:
            return
        self.made.add(name)
        self.number += 1
        fields = (self.number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % n for n in fields) + name.encode() + b"\0"
        self.out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    def directory(self, name: str) -> None:
        if name in ("", "."):
            return
        self.directory(os.path.dirname(name))
        self.put(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        name = name.lstrip("/")
        self.directory(os.path.dirname(name))
        self.put(name, stat.S_IFREG | mode, data)

    def copy(self, source: Path, name: str = "") -> None:
        self.file(name or str(source), source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644)

    def program(self, path: str, name: str = "") -> None:
        """A program of this host with the libraries it names."""
        self.copy(Path(path).resolve(), name or path)
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            self.copy(Path(library).resolve(), library)

    def tree(self, source: Path, name: str, skip: Iterable[str] = ("__pycache__",)) -> None:
        for path in sorted(source.rglob("*")):
            if path.is_file() and not any(part in skip for part in path.parts):
                self.copy(path, f"{name}/{path.relative_to(source)}")

    def close(self) -> None:
        self.put("TRAILER!!!", 0)
        self.out.close()
