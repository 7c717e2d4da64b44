"""Trees as tar streams, both ways; archives that want out."""

from __future__ import annotations

import gzip
import tarfile

import httpx
import pytest
from cella import CellaError, FileNotFound, InvalidRequest, Sandbox
from support import tars


def test_missing_directory_is_made_unless_told_otherwise(box: Sandbox, http: httpx.Client) -> None:
    data = tars.make([("f", b"content", None)])
    url = f"/v1/sandboxes/{box.id}/fs/tar"
    refused = http.put(url, params={"path": "no/such", "parents": "0"}, content=data)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert http.put(url, params={"path": "no/such"}, content=data).json()["entries"] == 1
    assert box.filesystem.read("no/such/f") == "content"


def test_up_and_down(box: Sandbox) -> None:
    data = tars.make(
        [
            ("dir/", None, tars.typed(tarfile.DIRTYPE, 0o755)),
            ("dir/file", b"content \0\xff", None),
            ("dir/run.sh", b"#!/bin/sh\necho ran\n", tars.moded(0o755)),
            ("dir/link", None, tars.link("file")),
            ("a" * 150 + "/" + "b" * 150, b"long name", None),
            ("ü/世界", b"unicode", None),
        ]
    )
    assert box.filesystem.write_tar("in", data) >= 5
    assert box.filesystem.read("in/dir/file", "bytes") == b"content \0\xff"
    assert box.exec("in/dir/run.sh; readlink in/dir/link").stdout == "ran\nfile\n"
    assert box.filesystem.read(f"in/{'a' * 150}/{'b' * 150}") == "long name"
    assert box.filesystem.read("in/ü/世界") == "unicode"

    with tars.read(b"".join(box.filesystem.read_tar("in"))) as back:
        by_name = {m.name.lstrip("./"): m for m in back.getmembers()}
        member = next(m for name, m in by_name.items() if name.endswith("dir/file"))
        extracted = back.extractfile(member)
        assert extracted is not None and extracted.read() == b"content \0\xff"
        assert next(m for n, m in by_name.items() if n.endswith("dir/link")).linkname == "file"
        assert next(m for n, m in by_name.items() if n.endswith("run.sh")).mode & 0o777 == 0o755
        assert any(n.endswith("ü/世界") for n in by_name)


def test_gzip(box: Sandbox) -> None:
    box.filesystem.write_tar("z", gzip.compress(tars.make([("f", b"zipped" * 1000, None)])))
    assert box.filesystem.read("z/f") == "zipped" * 1000


def test_tar_of_one_file_and_of_nothing(box: Sandbox) -> None:
    box.filesystem.write("alone", "1")
    with tars.read(b"".join(box.filesystem.read_tar("alone"))) as back:
        assert [m.size for m in back.getmembers()] == [1]
    with pytest.raises(FileNotFound):
        b"".join(box.filesystem.read_tar("none"))


#: HOME stands for the home of the user; the archive is unpacked one level below it.
HOSTILE = {
    "parent": [("../outside", b"x", None)],
    "parent inside": [("a/../../outside", b"x", None)],
    "absolute": [("HOME/outside", b"x", None)],
    "symlink out, then through it": [("l", None, tars.link("..")), ("l/outside", b"x", None)],
    "absolute symlink, then through it": [("l", None, tars.link("HOME")), ("l/outside", b"x", None)],
    "hard link out": [("h", None, tars.link("../victim", tarfile.LNKTYPE))],
    "absolute hard link": [("h", None, tars.link("HOME/victim", tarfile.LNKTYPE))],
    "symlink replaced": [("d", None, tars.typed(tarfile.DIRTYPE, 0o755)), ("d", None, tars.link("HOME")), ("d/outside", b"x", None)],
    "dot dot at the end": [("..", None, tars.typed(tarfile.DIRTYPE, 0o777))],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_entries_that_want_out_are_refused(box: Sandbox, kind: str) -> None:
    box.filesystem.write("victim", "untouched")
    with pytest.raises(InvalidRequest) as caught:
        box.filesystem.write_tar("into", tars.make(HOSTILE[kind], home=box.filesystem.stat(".").path))
    assert caught.value.code == "invalid_request"
    assert not box.filesystem.exists("outside")
    assert box.exec("stat -c %h victim; cat victim").stdout == "1\nuntouched"


def test_hard_links_inside_are_fine(box: Sandbox) -> None:
    box.filesystem.write_tar("h", tars.make([("f", b"1", None), ("g", None, tars.link("f", tarfile.LNKTYPE))]))
    assert box.filesystem.read("h/g") == "1"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_are_never_made(box: Sandbox, kind: bytes) -> None:
    try:
        box.filesystem.write_tar("dev", tars.make([("null", None, tars.typed(kind))]))
    except CellaError as e:
        assert e.code in ("invalid_request", "permission_denied")
    assert box.exec("find . -type c -o -type b").stdout == ""


@pytest.mark.needs_isolation
def test_setuid_bits_give_nothing(box: Sandbox) -> None:
    box.filesystem.write_tar("s", tars.make([("sh", b"#!/bin/sh\nid -u\n", tars.moded(0o6755))]))
    assert box.exec("s/sh").stdout == "1000\n"


@pytest.mark.parametrize(
    "garbage",
    [b"no tar at all" * 100, b"\0" * 100, tars.make([("f", b"x" * 5000, None)])[:1500], b"\x1f\x8b" + b"\xff" * 500, b"PK\x03\x04" + b"\0" * 600],
    ids=["text", "short", "cut", "broken gzip", "zip"],
)
def test_garbage_is_told(box: Sandbox, garbage: bytes) -> None:
    with pytest.raises(CellaError) as caught:
        box.filesystem.write_tar("garbage", garbage)
    assert caught.value.status == 400, caught.value
    assert box.run_code("1").text == "1"


def test_a_cut_archive_is_never_called_complete(box: Sandbox) -> None:
    whole = tars.make([(f"f{i}", b"y" * 3000, None) for i in range(20)])
    with pytest.raises(CellaError):
        box.filesystem.write_tar("cut", whole[: len(whole) // 2])


def test_sparse_sizes_that_lie(box: Sandbox) -> None:
    data = bytearray(tars.make([("f", b"abc", None)]))
    data[124:136] = b"77777777777\0"  # 8 GiB
    checksum = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % checksum
    with pytest.raises(CellaError):
        box.filesystem.write_tar("lie", bytes(data))
    assert box.run_code("1").text == "1"


def test_a_whole_project_round_trip(box: Sandbox, http: httpx.Client) -> None:
    box.exec("mkdir -p p && cd p && for i in $(seq 300); do mkdir -p d$((i % 7)); head -c $((i * 97)) /dev/urandom > d$((i % 7))/f$i; done", check=True)
    before = box.exec("cd p && find . -type f | sort | xargs sha256sum", check=True).stdout
    data = b"".join(box.filesystem.read_tar("p"))
    with tars.read(data) as t:
        prefix = "p/" if any(m.name.startswith("p/") for m in t.getmembers()) else ""
    box.filesystem.write_tar("q", data)
    after = box.exec(f"cd q/{prefix} && find . -type f | sort | xargs sha256sum", check=True).stdout
    assert after == before
