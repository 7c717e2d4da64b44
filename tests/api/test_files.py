"""Files through the API: exact bytes, clear errors, nothing half done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict
from urllib.parse import quote

import httpx
import pytest
from cella import (
    ConflictError,
    FileExists,
    FileNotFound,
    FilesystemError,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    PermissionDenied,
    Sandbox,
)
from support.raw import Connection
from support.server import Server
from support.wait import until

EVERY_BYTE = bytes(range(256)) * 41 + b"\r\n\0\xff"


@pytest.mark.parametrize("content", [b"", b"x", EVERY_BYTE, os.urandom(1_000_003)], ids=["empty", "one", "every byte", "a megabyte"])
def test_bytes_come_back_exactly(shared: Sandbox, content: bytes) -> None:
    assert shared.filesystem.write("blob", content) == len(content)
    assert shared.filesystem.read("blob", "bytes") == content
    assert b"".join(shared.filesystem.read("blob", "stream")) == content
    assert shared.filesystem.stat("blob").size == len(content)


def test_text_is_utf8(shared: Sandbox) -> None:
    shared.filesystem.write("text", "Grüße\r\n世界")
    assert shared.filesystem.read("text") == "Grüße\r\n世界"
    assert shared.exec(["cat", "text"]).stdout == "Grüße\r\n世界"
    shared.filesystem.write("latin", b"\xe9")
    with pytest.raises(UnicodeDecodeError):
        shared.filesystem.read("latin")


def test_code_and_api_see_the_same_files(shared: Sandbox) -> None:
    shared.filesystem.write("in.csv", "a,b\n1,2\n")
    run = shared.run_code("import pandas as pd\nd = pd.read_csv('in.csv')\nd.assign(c=d.a+d.b).to_csv('out.csv', index=False)", check=True)
    assert run.exit == "ok" and shared.filesystem.read("out.csv") == "a,b,c\n1,2,3\n"


def test_parents_are_made(box: Sandbox) -> None:
    box.filesystem.write("a/b/c/file", "deep")
    assert box.filesystem.stat("a/b/c").is_dir
    assert box.run_code("open('a/b/c/other', 'w').write('mine too')").exit == "ok"  # they belong to the user


def test_relative_paths_start_at_home(shared: Sandbox) -> None:
    shared.filesystem.write("relative/file", "r")
    home = shared.filesystem.stat(".").path
    assert home.startswith("/") and shared.filesystem.read(f"{home}/relative/file") == "r"
    assert shared.filesystem.stat("relative").path == shared.filesystem.stat(".").path + "/relative"


def test_owner_and_mode(shared: Sandbox) -> None:
    shared.filesystem.write("script.sh", "#!/bin/sh\necho ran\n", mode=0o755)
    info = shared.filesystem.stat("script.sh")
    assert info.mode & 0o777 == 0o755
    assert shared.exec(["./script.sh"]).stdout == "ran\n"
    shared.filesystem.write("plain", "")
    assert shared.filesystem.stat("plain").mode & 0o777 == 0o644


def test_overwrite_is_whole_and_keeps_no_rest(shared: Sandbox) -> None:
    shared.filesystem.write("over", "a long first content")
    shared.filesystem.write("over", "short")
    assert shared.filesystem.read("over") == "short"


def test_a_broken_upload_leaves_the_old_file(server: Server, box: Sandbox) -> None:
    box.filesystem.write("precious", "old")
    with Connection(server.url) as connection:
        path = f"/v1/sandboxes/{box.id}/fs?path=precious"
        connection.request("PUT", path, {"Content-Length": "1000000"}, b"n" * 300_000)
    until(lambda: [e.name for e in box.filesystem.list(".")] == ["precious"], "the temporary file to be gone")
    assert box.filesystem.read("precious") == "old"


def test_a_broken_chunked_upload_leaves_nothing(server: Server, box: Sandbox) -> None:
    with Connection(server.url) as connection:
        headers = {"Transfer-Encoding": "chunked", "Host": f"127.0.0.1:{server.port}"}
        head = f"PUT /v1/sandboxes/{box.id}/fs?path=new HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        connection.send(head.encode() + b"\r\n4\r\nhalf\r\n")
    until(lambda: box.filesystem.list(".") == [], "the temporary file to be gone")


def test_chunked_upload(box: Sandbox) -> None:
    pieces = [b"a" * 10, b"b", b"c" * 70_000, b"d"]
    assert box.filesystem.write("chunked", iter(pieces)) == 70_012
    assert box.filesystem.read("chunked", "bytes") == b"".join(pieces)


def test_list(box: Sandbox) -> None:
    files = box.filesystem
    home = files.stat(".").path
    assert files.list(".") == files.list(home) == []
    files.write("b.txt", "12345")
    files.write("dir/inner/leaf", "")
    box.exec("ln -s /etc/hostname link; ln -s nowhere dangling; mkfifo pipe")
    entries = {e.name: e for e in files.list(".")}
    assert {n: e.type for n, e in entries.items()} == {
        "b.txt": "file", "dir": "directory", "link": "symlink", "dangling": "symlink", "pipe": "other"
    }  # fmt: skip
    assert entries["b.txt"].size == 5 and entries["b.txt"].path == f"{home}/b.txt" and entries["b.txt"].modified > 1.6e9
    assert entries["link"].target == "/etc/hostname" and entries["dangling"].target == "nowhere"
    deep = {e.path for e in files.list(".", depth=3)}
    assert {f"{home}/dir", f"{home}/dir/inner", f"{home}/dir/inner/leaf"} <= deep
    assert f"{home}/dir/inner/leaf" not in {e.path for e in files.list(".", depth=2)}


def test_list_of_many(box: Sandbox) -> None:
    box.exec("mkdir many && cd many && seq -f 'file-%05g' 5000 | xargs touch", check=True)
    names = [e.name for e in box.filesystem.list("many")]
    assert len(names) == 5000 and set(names) == {f"file-{i:05d}" for i in range(1, 5001)}


def test_names_with_odd_characters(box: Sandbox) -> None:
    for name in ("with space", "ü-世界", "plus+and%41&=?#", "-rf", "new\nline", "quote'\"", "a" * 255):
        box.filesystem.write(f"{name}", name)
        assert box.filesystem.read(f"{name}") == name
    assert len(box.filesystem.list(".")) == 7


def test_mkdir_move_remove(box: Sandbox) -> None:
    files = box.filesystem
    assert files.mkdir("x/y") is True and files.mkdir("x/y") is False
    files.write("x/y/file", "1")
    files.move("x", "z")
    assert files.read("z/y/file") == "1" and not files.exists("x")
    files.write("other", "2")
    with pytest.raises((FileExists, ConflictError)):
        files.move("other", "z/y/file")
    assert files.read("z/y/file") == "1"
    files.move("other", "z/y/file", overwrite=True)
    assert files.read("z/y/file") == "2"
    with pytest.raises((FilesystemError, ConflictError)):
        files.remove("z")
    files.remove("z", recursive=True)
    assert not files.exists("z") and files.list(".") == []


def test_removing_follows_no_symlink(box: Sandbox) -> None:
    files = box.filesystem
    files.write("kept/file", "stays")
    box.exec("ln -s kept link; mkdir d; ln -s ../kept d/link", check=True)
    files.remove("link")
    files.remove("d", recursive=True)
    assert files.read("kept/file") == "stays"


def test_what_is_not_there(shared: Sandbox) -> None:
    files = shared.filesystem
    for call in (
        lambda: files.read("none"), lambda: files.stat("none"), lambda: files.list("none"),
        lambda: files.remove("none"), lambda: files.move("none", "x"),
        lambda: files.mkdir("none/below", parents=False),
    ):  # fmt: skip
        with pytest.raises(FileNotFound) as caught:
            call()
        assert caught.value.code == "not_found" and "none" in caught.value.message


def test_what_is_of_another_kind(shared: Sandbox) -> None:
    files = shared.filesystem
    files.mkdir("kind")
    files.write("kind-file", "")
    with pytest.raises(IsADirectory):
        files.read("kind")
    with pytest.raises(IsADirectory):
        files.write("kind", "x")
    with pytest.raises(NotADirectory):
        files.list("kind-file")
    with pytest.raises((NotADirectory, FileExists)):
        files.write("kind-file/below", "x")
    with pytest.raises((NotADirectory, FileExists)):
        files.mkdir("kind-file")


@pytest.mark.needs_isolation
def test_what_is_not_allowed(shared: Sandbox) -> None:
    for call in (
        lambda: shared.filesystem.write("/etc/passwd", "x"), lambda: shared.filesystem.read("/etc/shadow"),
        lambda: shared.filesystem.mkdir("/usr/new"), lambda: shared.filesystem.remove("/usr/bin/python3"),
    ):  # fmt: skip
        with pytest.raises(PermissionDenied) as caught:
            call()
        assert caught.value.status == 403


def test_devices_and_pipes_do_not_hang(box: Sandbox) -> None:
    box.exec("mkfifo pipe", check=True)
    for path in ("pipe", "/dev/tty"):
        with pytest.raises((FilesystemError, InvalidRequest, FileNotFound)):
            box.filesystem.read(path, "bytes")
    assert box.filesystem.exists("pipe")


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 5000])
def test_bad_paths(shared: Sandbox, http: httpx.Client, bad: str) -> None:
    for method, route in (("GET", "fs"), ("GET", "fs/stat"), ("GET", "fs/dir"), ("DELETE", "fs")):
        if route == "fs/dir" and not bad:
            continue  # without a path: the home
        answer = http.request(method, f"/v1/sandboxes/{shared.id}/{route}?path={quote(bad)}")
        assert 400 <= answer.status_code < 500 and answer.json()["code"], (method, route, answer.text)
    assert http.get(f"/v1/sandboxes/{shared.id}/fs").status_code == 400
    assert shared.filesystem.exists(".")


def test_the_workspace_itself_survives(box: Sandbox) -> None:
    for path in (".", "/"):
        try:
            box.filesystem.remove(path, recursive=True)
        except (FilesystemError, InvalidRequest, ConflictError):
            pass
    assert box.run_code("'alive'").text == "'alive'"


def test_ranges_of_a_file(shared: Sandbox, http: httpx.Client) -> None:
    shared.filesystem.write("range", b"0123456789")
    answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "range", "offset": 3, "length": 4})
    assert answer.status_code == 200 and answer.content == b"3456"


@pytest.mark.parametrize(
    "asked, got, which",
    [("bytes=0-3", b"0123", "0-3"), ("bytes=7-", b"789", "7-9"), ("bytes=-2", b"89", "8-9"), ("bytes=8-99", b"89", "8-9"), ("bytes=0-", b"0123456789", "0-9")],
)  # fmt: skip
def test_range_header(shared: Sandbox, http: httpx.Client, asked: str, got: bytes, which: str) -> None:
    shared.filesystem.write("range", b"0123456789")
    shared.exec("ln -sf range link_to_range")
    for path in ("range", "link_to_range"):
        answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": path}, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, got)
        assert answer.headers["content-range"] == f"bytes {which}/10" and answer.headers["content-length"] == str(len(got))


def test_range_header_outside_of_the_file(shared: Sandbox, http: httpx.Client) -> None:
    shared.filesystem.write("range", b"0123456789")
    for asked in ("bytes=10-", "bytes=-0", "bytes=99999999999999999999-"):
        answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "range"}, headers={"Range": asked})
        assert (answer.status_code, answer.headers["content-range"], answer.json()["code"]) == (416, "bytes */10", "invalid_request")
    for path, status in (("no such file", 404), (".", 400)):
        assert http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": path}, headers={"Range": "bytes=0-"}).status_code == status


@pytest.mark.parametrize("headers", [{"Range": "bytes=5-2"}, {"Range": "lines=1-2"}, {"Range": "bytes=0-1,3-4"}, {"Range": "bytes=1-2", "If-Range": '"x"'}])
def test_range_headers_that_mean_the_whole_file(shared: Sandbox, http: httpx.Client, headers: Dict[str, str]) -> None:
    shared.filesystem.write("range", b"0123456789")
    answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "range"}, headers=headers)
    assert (answer.status_code, answer.content, answer.headers["accept-ranges"]) == (200, b"0123456789", "bytes")


def test_range_header_where_the_size_is_not_known(shared: Sandbox, http: httpx.Client) -> None:
    answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "/proc/version"}, headers={"Range": "bytes=0-3"})
    assert answer.status_code == 200 and answer.text.startswith("Linux version") and "content-range" not in answer.headers
    shared.filesystem.write("empty", b"")
    answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "empty"}, headers={"Range": "bytes=0-3"})
    assert (answer.status_code, answer.content) == (200, b"")


def test_range_of_a_large_file(shared: Sandbox, http: httpx.Client) -> None:
    content = os.urandom(20_000_000)
    shared.filesystem.write("large", content)
    got = b""
    for start in range(0, len(content), 7_000_000):
        answer = http.get(f"/v1/sandboxes/{shared.id}/fs", params={"path": "large"}, headers={"Range": f"bytes={start}-{start + 6_999_999}"})
        assert answer.status_code == 206
        got += answer.content
    assert got == content


def test_upload_and_download(box: Sandbox, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(EVERY_BYTE)
    assert box.filesystem.upload(source, "up") == len(EVERY_BYTE)
    assert box.filesystem.download("up", target) == len(EVERY_BYTE)
    assert target.read_bytes() == EVERY_BYTE
    with pytest.raises(FileNotFound):
        box.filesystem.download("none", target)
    assert target.read_bytes() == EVERY_BYTE and list(tmp_path.iterdir()) != [] and len(list(tmp_path.iterdir())) == 2
