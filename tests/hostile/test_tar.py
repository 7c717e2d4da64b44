"""Archives that lie, up and down."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import Callable, List, Optional, Tuple

import pytest
from cella.errors import CellaError
from ring import Cell, Ring, held

Entry = Tuple[str, bytes, str, bytes]  # name, type, link target, content


def archive(*entries: Entry, mode: int = 0o644, pax: Optional[dict] = None) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, target, len(content), mode
            info.devmajor, info.devminor = 1, 1
            info.pax_headers = dict(pax or {})
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def put(cell: Cell, data: bytes) -> Optional[CellaError]:
    cell.filesystem.mkdir("/workspace/in")
    try:
        cell.filesystem.write_tar("/workspace/in", data)
    except CellaError as e:
        return e
    return None


def outside(cell: Cell) -> List[str]:
    """Files with the mark of these attacks anywhere but below /workspace/in."""
    found = cell.exec("grep -rlsF 'tar-was-here' /tmp /workspace /etc /var /root /home /dev/shm /run /srv /opt 2>/dev/null | grep -v '^/workspace/in/'", user="root").stdout.split()
    return found


EVIL = b"tar-was-here\n"


@pytest.mark.layer("guest")
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "//tmp/evil", "./../evil", "..", "a/b/../../../evil", "/proc/self/cwd/evil", "...//../../evil"])
def test_names_that_lead_out(cell: Cell, name: str) -> None:
    """Entries with "..", absolute ones, tricks with slashes: refused, nothing written."""
    error = put(cell, archive((name, tarfile.REGTYPE, "", EVIL)))
    held(error is not None and error.code == "invalid_request", f"{name}: {error!r}")
    held(outside(cell) == [], f"{name}: {outside(cell)}")


@pytest.mark.layer("guest")
@pytest.mark.parametrize("kind,target", [(tarfile.SYMTYPE, "/tmp"), (tarfile.SYMTYPE, "../.."), (tarfile.SYMTYPE, "/proc/self/root/tmp"), (tarfile.SYMTYPE, "x/../../../tmp"),
                                         (tarfile.LNKTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../etc/passwd"), (tarfile.LNKTYPE, "/proc/1/environ")])  # fmt: skip
def test_links_that_lead_out(cell: Cell, kind: bytes, target: str) -> None:
    """A link out of the tree, and then an entry through it."""
    error = put(cell, archive(("link", kind, target, b""), ("link/evil", tarfile.REGTYPE, "", EVIL), ("link", tarfile.REGTYPE, "", EVIL)))
    held(error is not None, "it was taken")
    held(outside(cell) == [], f"{outside(cell)}")


@pytest.mark.layer("guest")
def test_links_that_were_there_before(fresh: Callable[..., Cell]) -> None:
    """The cell's code lays links in the place where the client will unpack: to /tmp, to the parent, to itself, a dangling one, a hard link to a file outside."""
    cell = fresh()
    cell.run_code("""
import os
os.makedirs('/workspace/in'); os.chdir('/workspace/in')
for n, t in (('tmp', '/tmp'), ('up', '..'), ('far', '../../../../../var/tmp'), ('self', 'self'), ('dangling', '/tmp/new'), ('proc', '/proc/self/cwd')): os.symlink(t, n)
open('/workspace/victim', 'w').write('untouched'); os.link('/workspace/victim', 'hard')
os.chdir('/workspace')
""")  # fmt: skip
    for name in ("tmp/evil", "up/evil", "far/evil", "self/evil", "dangling/evil", "dangling", "proc/evil", "tmp", "hard"):
        put(cell, archive((name, tarfile.REGTYPE, "", EVIL)))
    held(outside(cell) == [], f"{outside(cell)}")
    held(cell.filesystem.read("/workspace/victim") == "untouched", "a hard link was written through")


@pytest.mark.layer("guest")
def test_race_with_links(fresh: Callable[..., Cell]) -> None:
    """A directory of the target turns into a link to /tmp and back while archives are unpacked."""
    cell = fresh()
    process = cell.start(["python3", "-c", """
import os
os.makedirs('/workspace/in/real'); os.chdir('/workspace/in'); os.symlink('/tmp', 'link')
while True:
    try:
        os.rename('real', 'd'); os.rename('d', 'real'); os.rename('link', 'd'); os.rename('d', 'link')
    except OSError: pass
"""])  # fmt: skip
    for i in range(60):
        put(cell, archive(*[(f"d/evil{i}-{j}", tarfile.REGTYPE, "", EVIL) for j in range(10)]))
    process.kill()
    held(outside(cell) == [], f"{outside(cell)}")


@pytest.mark.layer("guest")
def test_other_kinds_of_entries(cell: Cell) -> None:
    """Character and block devices, FIFOs, contiguous files, unknown kinds; set-id bits, owners and attributes that ask for more."""
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        held(put(cell, archive((f"node{kind!r}", kind, "", b""))) is not None, f"{kind!r} was made")
    put(cell, archive(("suid", tarfile.REGTYPE, "", b"#!/bin/sh\n"), mode=0o6777))
    held(cell.filesystem.stat("/workspace/in/suid").mode & 0o7000 == 0, "set-id bits were kept")
    put(cell, archive(("attributes", tarfile.REGTYPE, "", b"x"), pax={"SCHILY.xattr.security.capability": "x", "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.fflags": "immutable",
                                                                       "SCHILY.acl.access": "user::rwx", "uid": "0", "gid": "0", "uname": "root", "GNU.sparse.major": "1"}))  # fmt: skip
    got = cell.attack("report([[os.listxattr(p), os.stat(p).st_uid] for p in ['/workspace/in/suid'] + [q for q in ['/workspace/in/attributes'] if os.path.exists(q)]])")
    held(all(attributes == [] and uid == 1000 for attributes, uid in got), f"{got}")


@pytest.mark.layer("limits")
def test_bomb_of_gzip(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """300 MB of zeros in 300 KB: ends at the disk's limit, with its word; the daemon never unpacks it."""
    cell = fresh(disk_mb=32)
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0) as zipped:
        info = tarfile.TarInfo("zeros")
        info.size = 300 << 20
        zipped.write(info.tobuf())
        for _ in range(300):
            zipped.write(bytes(1 << 20))
    error = put(cell, raw.getvalue())
    held(error is not None and error.code == "no_space", f"{error!r}")
    held(neighbour.answers() and ring.healthy() and cell.answers(), "somebody does not answer")


@pytest.mark.layer("limits")
def test_gzip_of_gzip_and_rubbish(cell: Cell, ring: Ring) -> None:
    """No archive at all, a cut one, gzip in gzip, a zip, headers of 0xff, a size of 2^63."""
    good = archive(("file", tarfile.REGTYPE, "", b"x" * 1000))
    info = tarfile.TarInfo("huge")
    info.size = (1 << 63) - 1
    for data in (b"", b"x", b"\xff" * 1024, bytes(512), good[:700], gzip.compress(good)[:-20], gzip.compress(gzip.compress(good)), b"PK\x03\x04" + bytes(600), info.tobuf(tarfile.GNU_FORMAT),
                 b"\x1f\x8b" + b"\xff" * 500, good[:512] + b"\xff" * 2000):  # fmt: skip
        put(cell, data)
    held(cell.answers() and ring.healthy(), "somebody does not answer")


@pytest.mark.layer("limits")
def test_sparse_giant(fresh: Callable[..., Cell]) -> None:
    """A sparse file of eight exabytes in a few bytes, in GNU's and pax's forms: refused or sparse, and reading it back as a tar does not fill anything."""
    cell = fresh(disk_mb=32)
    put(cell, archive(("sparse", tarfile.REGTYPE, "", b"1\n0\n0\n".ljust(512, b"\0")), pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": str(1 << 62)}))
    cell.run_code("open('/workspace/in2', 'wb').truncate(1 << 40)")
    stream = cell.filesystem.read("/workspace/in2", "stream")
    held(len(next(stream)) > 0, "nothing came")
    stream.close()  # type: ignore[attr-defined]
    held(cell.stats()["disk_bytes"] < 33 << 20 and cell.answers(), f"{cell.stats()}")


@pytest.mark.layer("limits")
def test_very_many_entries(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """30,000 files in a few hundred kilobytes of gzip: they end at the disk's limit or fit, neighbours are served meanwhile."""
    cell = fresh(disk_mb=4, memory_mb=192)
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as zipped:
        for i in range(30000):
            zipped.write(tarfile.TarInfo(f"{i % 100:02}/{i:0100}").tobuf(tarfile.USTAR_FORMAT))
    error = put(cell, raw.getvalue())
    held(error is not None and error.code in ("no_space", "limit_reached", "oom"), f"{error!r}")
    held(neighbour.answers() and ring.healthy(), "somebody does not answer")
