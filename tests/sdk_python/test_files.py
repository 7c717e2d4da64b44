"""Files of both clients: text, bytes, streams, uploads and downloads, archives, watching."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any, Iterator

import cella
import pytest
from both import Client
from support.wait import until

BIG = 40 << 20


def pattern() -> bytes:
    block = bytes(range(256)) * 4096
    return block * (BIG // len(block))


def test_text_bytes_and_listing(sandbox: Any) -> None:
    files = sandbox.filesystem
    assert files.write("a/b.txt", "ä\n") == 3
    assert files.read("a/b.txt") == "ä\n" and files.read("/workspace/a/b.txt", "bytes") == "ä\n".encode()
    assert files.write("a/run", b"#!/bin/sh\necho hi\n", mode=0o755) == 18
    assert sandbox.exec(["a/run"]).stdout == "hi\n"
    stat = files.stat("a/run")
    assert (stat.name, stat.type, stat.size, stat.mode, stat.is_file) == ("run", "file", 18, 0o755, True)
    assert [f.name for f in files.list("a")] == ["b.txt", "run"]
    assert "/workspace/a/run" in [f.path for f in files.list(depth=2)]
    assert files.mkdir("d/e") is True and files.mkdir("d/e") is False and files.stat("d").is_dir
    files.move("a/b.txt", "d/c.txt")
    assert files.exists("d/c.txt") and not files.exists("a/b.txt") and not files.exists("d/c.txt/below")
    files.write("a/other", "x")
    with pytest.raises(cella.FileExists):
        files.move("a/other", "d/c.txt")
    files.move("a/other", "d/c.txt", overwrite=True)
    files.remove("d", recursive=True)
    with pytest.raises(cella.FileNotFound) as caught:
        files.read("d/c.txt")
    assert caught.value.code == "not_found"
    with pytest.raises(cella.FileNotFound):
        files.read("d/c.txt", "stream")
    with pytest.raises(cella.IsADirectory):
        files.read("a")
    with pytest.raises(UnicodeDecodeError):
        files.write("latin", b"\xe4")
        files.read("latin")


def test_big_files_are_streamed(sandbox: Any, tmp_path: Path) -> None:
    data = pattern()
    local, back = tmp_path / "up", tmp_path / "down"
    local.write_bytes(data)
    assert sandbox.upload(local, "big") == BIG
    assert sandbox.exec("sha256sum < big").stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert sandbox.download("big", back) == BIG and back.read_bytes() == data
    with sandbox.filesystem.read("big", "stream") as pieces:
        first = next(pieces)
    assert data.startswith(first) and 0 < len(first) < BIG, "it may be left early"
    assert sum(len(piece) for piece in sandbox.filesystem.read("big", "stream")) == BIG


def test_content_from_anywhere(sandbox: Any) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    assert sandbox.filesystem.write("f", pieces()) == 7 and sandbox.filesystem.read("f") == "one two"
    assert sandbox.filesystem.write("f", io.BytesIO(b"file")) == 4 and sandbox.filesystem.read("f") == "file"
    assert sandbox.filesystem.write("f", bytearray(b"array")) == 5 and sandbox.filesystem.read("f") == "array"


def test_async_content(client: Client, sandbox: Any) -> None:
    if client.kind == "async":

        async def pieces() -> Any:
            yield b"a"
            yield b"b"

        assert sandbox.filesystem.write("f", pieces()) == 2 and sandbox.filesystem.read("f") == "ab"


def test_an_upload_that_breaks_leaves_the_old_file(sandbox: Any) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise LookupError

    sandbox.filesystem.write("f", "whole")
    with pytest.raises(LookupError):
        sandbox.filesystem.write("f", pieces())
    assert sandbox.filesystem.read("f") == "whole"


def test_a_download_that_fails_leaves_nothing(sandbox: Any, tmp_path: Path) -> None:
    with pytest.raises(cella.FileNotFound):
        sandbox.download("nothing", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_archives(sandbox: Any) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        info = tarfile.TarInfo("in/side.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    assert sandbox.filesystem.write_tar("tree", archive.getvalue()) >= 1
    assert sandbox.filesystem.read("tree/in/side.txt") == "hi"
    out = b"".join(sandbox.filesystem.read_tar("tree"))
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert [m.name for m in tar.getmembers() if m.isfile()][0].endswith("in/side.txt")


def test_watching(sandbox: Any) -> None:
    sandbox.filesystem.mkdir("deep/er")
    with sandbox.filesystem.watch(recursive=True) as changes:
        sandbox.filesystem.write("deep/er/new", "x")
        for change in changes:
            if change.path == "/workspace/deep/er/new":
                break
        assert change.type in ("create", "write", "rename")
        sandbox.exec("rm deep/er/new")
        for change in changes:
            if change.type == "remove":
                break
        assert change.path == "/workspace/deep/er/new"
    with pytest.raises(cella.FileNotFound):
        sandbox.filesystem.watch("no/such")


def test_a_watch_ends_with_its_sandbox(client: Client, sandbox: Any) -> None:
    changes = sandbox.filesystem.watch()
    client.Sandbox.connect(sandbox.id).delete()
    with pytest.raises(cella.ConnectionFailed):
        for _ in changes:
            pass


def test_ports_and_what_the_daemon_does_not_have(sandbox: Any) -> None:
    assert sandbox.ports() == []
    server = sandbox.start("python3 -m http.server 8123")
    [port] = until(sandbox.ports, "the server", 60)
    assert port.port == 8123 and port.pid
    server.kill()
    for ask in (sandbox.network, lambda: sandbox.set_network({"mode": "open"})):
        with pytest.raises(cella.UnsupportedError) as caught:
            ask()
        assert caught.value.code == "unsupported" and caught.value.hint and caught.value.status == 501
