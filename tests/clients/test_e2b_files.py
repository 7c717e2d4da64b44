"""Files of a sandbox through E2B's own packages: the file port, filesystem calls, signed URLs, watches."""

from __future__ import annotations

import gzip
import time
from typing import Any, Callable, Dict, Iterator

import httpx
import pytest
from cella import Sandbox
from e2b_clients import Outcomes, both, once, only, refused, run, value
from support.server import Server

HOME = "/home/user/files"


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Callable[[str], Outcomes]:
    """outcomes("js"): what each call gave."""
    return once(server, "e2b_files")


def written(path: str) -> Dict[str, str]:
    return {"name": path.rsplit("/", 1)[1], "type": "file", "path": path}


@both("files.write")
@pytest.mark.parametrize(
    "step, path",
    [
        ("write", f"{HOME}/hello.txt"), ("write_bytes", f"{HOME}/bytes.bin"), ("write_empty", f"{HOME}/empty"), ("write_relative", "/home/user/relative.txt"),
        ("write_odd_name", f'{HOME}/ä "q" %22 +.txt'), ("write_octets", f"{HOME}/octets"), ("write_gzip", f"{HOME}/gzip"), ("write_root", "/root/of_root"),
    ],
)  # fmt: skip
def test_written_files_are_told_with_their_path(outcomes: Any, client: str, step: str, path: str) -> None:
    assert value(outcomes(client)[step]) == written(path)


@both("files.writeFiles", "files.write_files")
def test_many_files_go_in_one_request(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["write_many"]) == [written(f"{HOME}/many/{name}") for name in ("1.txt", "deep/2.txt", "3")]


@both("files.write")
@pytest.mark.parametrize("step, kind", [("write_denied", "Sandbox"), ("write_directory", "InvalidArgument"), ("unknown_user", "InvalidArgument")])
def test_refused_writes_say_why(outcomes: Any, client: str, step: str, kind: str) -> None:
    assert refused(outcomes(client)[step])[0] == kind
    words = {"write_denied": "Permission denied", "write_directory": "is a directory", "unknown_user": 'no user "nobody"'}
    assert words[step] in refused(outcomes(client)[step])[1]


@both("files.write with metadata", state="refused (501): files carry no metadata")
def test_metadata_is_refused_not_lost(outcomes: Any, client: str) -> None:
    kind, message = refused(outcomes(client)["write_metadata"])
    assert kind == "Sandbox" and message.startswith("501") and "metadata" in message


@both("files.read")
def test_what_was_written_is_read(outcomes: Any, client: str) -> None:
    got = outcomes(client)
    assert value(got["read"]) == "héllo\n"
    assert value(got["read_bytes"]) == [0, 255, 13, 10, 45, 45]
    assert value(got["read_empty"]) == ""
    assert value(got["read_odd_name"]) == "odd"
    assert value(got["read_gzip"]) == 700_000


@both("files.read")
@pytest.mark.parametrize("step, kind", [("read_missing", "FileNotFound"), ("read_directory", "InvalidArgument")])
def test_what_cannot_be_read_has_its_own_error(outcomes: Any, client: str, step: str, kind: str) -> None:
    assert refused(outcomes(client)[step])[0] == kind


@both("files.write and read, 100 MB streamed")
def test_large_files_arrive_whole_both_ways(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["big"]) == {"size": 104_857_600, "inside": True, "back": True}


@both("files.write, 30 MB form")
def test_a_large_form_arrives_whole(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["big_form"]) is True


def entry(path: str, size: int, **more: Any) -> Dict[str, Any]:
    plain = {"type": "file", "mode": 0o644, "permissions": "-rw-r--r--", "owner": "user", "group": "user", "modifiedTime": True}
    return {"name": path.rsplit("/", 1)[1], "path": path, "size": size, **plain, **more}


@both("files.list")
def test_a_directory_is_listed(outcomes: Any, client: str) -> None:
    one, three, deep = value(outcomes(client)["list"])
    assert [one, three] == [entry(f"{HOME}/many/1.txt", 1), entry(f"{HOME}/many/3", 0)]
    assert (deep["name"], deep["type"], deep["permissions"]) == ("deep", "dir", "drwxr-xr-x")
    assert value(outcomes(client)["list_deep"]) == [f"{HOME}/many/{name}" for name in ("1.txt", "3", "deep", "deep/2.txt")]
    assert refused(outcomes(client)["list_missing"])[0] == "FileNotFound"


@both("files.getInfo", "files.get_info")
def test_a_file_is_described(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["info"]) == entry(f"{HOME}/hello.txt", 7)
    link = entry(f"{HOME}/link", 9, permissions="Lrwxrwxrwx", symlinkTarget=f"{HOME}/hello.txt")
    assert value(outcomes(client)["info_link"]) == link


@both("files.exists")
def test_existence(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["exists"]) == [True, False]


@both("files.makeDir", "files.make_dir")
def test_a_directory_is_made_once(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["make_dir"]) == [True, False]


@both("files.rename")
def test_a_file_is_moved(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["rename"]) == entry(f"{HOME}/new/there.txt", 7)
    assert value(outcomes(client)["renamed"]) == [False, "héllo\n"]
    assert refused(outcomes(client)["rename_missing"])[0] == "FileNotFound"


@both("files.remove")
def test_a_directory_is_removed_with_what_is_in_it(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["remove"]) is False


@both("uploadUrl", "upload_url")
def test_signed_uploads(outcomes: Any, client: str) -> None:
    answer = value(outcomes(client)["upload_url"])
    assert answer == (200 if client == "python" else {"status": 200, "body": [written(f"{HOME}/signed.txt")]})


@only("js", "uploadUrl")
def test_a_signed_upload_without_a_path_takes_the_files_name(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["upload_url_named"]) == {"status": 200, "body": [written("/home/user/name.txt")]}


@only("js", "uploadUrl")
def test_a_form_that_is_cut_off_writes_nothing(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["upload_cut"]) == {"status": 400, "exists": False}


@both("downloadUrl", "download_url")
def test_signed_downloads(outcomes: Any, client: str) -> None:
    got = outcomes(client)
    assert value(got["download_url"]) == "signed"
    assert value(got["download_url_forged"]) == 401
    assert value(got["download_url_expired"]) == 401


@both("files.watchDir", "files.watch_dir")
def test_changes_are_told(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["watch"]) is True
    assert refused(outcomes(client)["watch_missing"])[0] == "FileNotFound"


@both("files.watchDir, recursive with entries", "AsyncSandbox.files.watch_dir, recursive with entries")
def test_changes_below_new_directories_are_told_with_their_entry(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["watch_recursive"]) == {"name": "two", "type": "file", "path": f"{HOME}/watched/sub/two"}


@both("isRunning", "is_running")
def test_health(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["health"]) is True


@both("files.write, full disk")
@pytest.mark.needs_isolation
def test_a_full_disk_is_told_and_the_old_file_stays(server: Server, client: str) -> None:
    with Sandbox(host=server.url, limits={"disk_mb": 40}) as box:
        got = run(client, "e2b_full", server, box.id)
    assert refused(got["octets"])[0] == refused(got["form"])[0] == "NotEnoughSpace"
    assert value(got["kept"]) == "old"


# ---- what those packages do not send, by hand ----


@pytest.fixture(scope="module")
def port(server: Server) -> Iterator[httpx.Client]:
    """Raw requests to the file port of a sandbox that an E2B client made."""
    key = {"X-API-KEY": "e2b_any"}
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        made = http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300}, headers=key).json()
        http.headers.update({"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": made["envdAccessToken"]})
        yield http
        http.delete(f"/sandboxes/{made['sandboxID']}", headers=key)


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> Dict[str, Any]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n'
    body = b"".join(head % i + part + b"\r\n" for i, part in enumerate(parts)) + end
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def test_data_that_looks_like_a_delimiter_is_data(port: httpx.Client) -> None:
    parts = [b"\r\n--", b"\r\n\r\n--a--", b"-b--", b"\r\n-\r\n--\r\r\n--a", b"", b"\r", b"\r\n\r\n-b\r\n", b"\n--b"]
    names = [row["path"] for row in port.post("/files", **form(*parts)).json()]
    assert names == [f"/home/user/{i}" for i in range(len(parts))]
    for name, part in zip(names, parts):
        assert port.get("/files", params={"path": name}).content == part


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r\n-"])
@pytest.mark.parametrize("packed", [False, True])
def test_twenty_megabytes_of_line_breaks_are_as_fast_as_others(port: httpx.Client, line: bytes, packed: bool) -> None:
    """Every one could begin a delimiter, so the form comes apart in as many bits: they go to the disk gathered."""
    data = line * (20_000_000 // len(line))
    request = form(data, b"behind it", data[:100_001])
    if packed:
        request = {"content": gzip.compress(request["content"], 1), "headers": {**request["headers"], "Content-Encoding": "gzip"}}
    start = time.monotonic()
    answer = port.post("/files", **request)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - start < 8  # in bits it took minutes
    assert port.get("/files", params={"path": "0"}).content == data
    assert port.get("/files", params={"path": "1"}).content == b"behind it"
    assert port.get("/files", params={"path": "2"}).content == data[:100_001]


@pytest.mark.parametrize(
    "request_of, status",
    [
        (lambda: form(b"x", end=b""), 400),
        (lambda: form(b"x", end=b"--b-"), 400),
        (lambda: {"content": b"--b\r\n\r\nx\r\n--b--", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
        (lambda: {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        (lambda: {"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415),
        (lambda: {"content": b"x", "headers": {"Content-Type": "application/octet-stream"}}, 400),
        (lambda: {"content": b"no gzip", "params": {"path": "/tmp/z"}, "headers": {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}}, 400),
        (lambda: {"content": b"", "params": {"path": "/tmp/z"}, "headers": {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}}, 400),
    ],
)  # fmt: skip
def test_malformed_uploads_are_refused(port: httpx.Client, request_of: Callable[[], Dict[str, Any]], status: int) -> None:
    answer = port.post("/files", **request_of())
    assert answer.status_code == status and answer.json()["code"] == status and answer.json()["message"]
    assert port.get("/files", params={"path": "/tmp/z"}).status_code == 404


def test_parts_of_files(port: httpx.Client) -> None:
    assert port.post("/files", **form(b"0123456789")).status_code == 200
    answer = port.get("/files", params={"path": "0"}, headers={"Range": "bytes=-3"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, b"789", "bytes 7-9/10")
    answer = port.get("/files", params={"path": "0"}, headers={"Range": "bytes=10-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10") and answer.json()["message"]


def test_one_form_cannot_write_a_file_twice(port: httpx.Client) -> None:
    answer = port.post("/files", params={"path": "/tmp/same"}, **form(b"1", b"2"))
    assert answer.status_code == 400 and "twice" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/files/compose", "/init"])
def test_calls_that_are_not_there_say_so(port: httpx.Client, path: str) -> None:
    answer = port.post(path, json={})
    assert answer.status_code == 501 and answer.json()["code"] == 501


def test_the_port_needs_the_sandboxs_token(port: httpx.Client) -> None:
    assert port.get("/files", params={"path": "/etc/hostname"}, headers={"X-Access-Token": "wrong"}).status_code == 401
