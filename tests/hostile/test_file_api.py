"""The file API against paths that lie: links, magic links, FIFOs, devices, races. Its workers act for the user and must not be led further."""

from __future__ import annotations

import threading
import time
from typing import Callable

import pytest
from cella.errors import CellaError, FileNotFound
from ring import Cell, Ring, held


def refused(action: Callable[[], object], why: str) -> CellaError:
    """The action is refused by the file system, not carried out and not hung."""
    try:
        got = action()
    except CellaError as e:
        return e
    held(False, f"{why}: {got!r}")
    raise AssertionError


@pytest.mark.layer("guest")
def test_magic_links(cell: Cell) -> None:
    """/proc links lead wherever the reading process is: a worker of the guest must not follow them for the client."""
    cell.run_code("import os\nfor n, t in (('r', '/proc/self/root/etc/passwd'), ('c', '/proc/1/root/etc/passwd'), ('f', '/proc/self/fd/3'), ('e', '/proc/self/exe')):\n    os.symlink(t, '/workspace/' + n)")
    for path in ("/workspace/r", "/workspace/c", "/workspace/f", "/workspace/e", "/proc/self/root/etc/passwd", "/proc/1/root/etc/passwd", "/proc/self/fd/3", "/proc/1/fd/3",
                 "/proc/self/exe", "/proc/self/cwd/x", "/dev/fd/3", "/dev/stdin"):  # fmt: skip
        refused(lambda: cell.filesystem.read(path, "bytes"), f"read {path}")
        refused(lambda: cell.filesystem.write(path, b"x"), f"wrote {path}") if not path.startswith("/workspace") else None


@pytest.mark.layer("guest")
def test_the_worker_itself(cell: Cell) -> None:
    """What /proc/self tells of the worker: environment, memory, descriptors."""
    for path in ("/proc/self/environ", "/proc/self/mem", "/proc/self/auxv", "/proc/self/pagemap", "/proc/1/environ", "/proc/1/mem", "/proc/thread-self/environ", "/proc/self/task/1/environ"):
        try:
            held(cell.filesystem.read(path, "bytes") == b"", f"{path} was read")
        except CellaError:
            pass
    for entry in cell.filesystem.list("/proc/self/fd"):
        held(entry.target in (None, "/dev/null") or str(entry.target).startswith(("socket:", "/proc/")), f"the worker holds {entry.target}")
    refused(lambda: cell.filesystem.list("/proc/1/fd"), "listed the guest's descriptors")


@pytest.mark.layer("guest")
def test_loops_and_dangling_links(cell: Cell) -> None:
    """A link to itself, a chain of 60, a dangling one, one to the parent: an answer each time, within the kernel's own bound."""
    cell.run_code("""
import os
os.makedirs('/workspace/l', exist_ok=True); os.chdir('/workspace/l')
os.symlink('self', 'self'); os.symlink('b', 'a'); os.symlink('a', 'b'); os.symlink('nowhere', 'dangling'); os.symlink('..', 'up')
for i in range(60): os.symlink(f'chain{i + 1}', f'chain{i}')
open('chain60', 'w').write('end')
os.symlink('.', 'here')
os.chdir('/workspace')
""")  # fmt: skip
    for name in ("self", "a", "dangling", "chain0"):
        refused(lambda: cell.filesystem.read(f"/workspace/l/{name}"), f"read {name}")
    refused(lambda: cell.filesystem.write("/workspace/l/self", b"x"), "wrote a loop")
    held(len(cell.filesystem.list("/workspace/l", depth=20)) == 67, f"{len(cell.filesystem.list('/workspace/l', depth=20))} entries below a directory that links to itself")
    refused(lambda: cell.filesystem.read("/workspace/l/" + "here/" * 60 + "chain60"), "sixty links were followed")
    held(sum(len(piece) for piece in cell.filesystem.read_tar("/workspace/l")) > 0, "no tar")


@pytest.mark.layer("guest")
def test_fifos_devices_and_sockets(cell: Cell) -> None:
    """Opening a FIFO waits for its other end, /dev/zero never ends, /dev/tty waits for a key: no transfer may hang on them."""
    cell.run_code("import os, socket\nos.mkfifo('/workspace/fifo')\ns = socket.socket(socket.AF_UNIX); s.bind('/workspace/sock')")
    begun = time.monotonic()
    for path in ("/workspace/fifo", "/workspace/sock", "/dev/zero", "/dev/random", "/dev/tty", "/dev/full", "/dev/ptmx"):
        refused(lambda: cell.filesystem.read(path, "bytes"), f"read {path}")
    for path in ("/dev/null", "/dev/full", "/dev/tty"):
        refused(lambda: cell.filesystem.write(path, b"x" * 100000), f"wrote {path}")
    refused(lambda: cell.filesystem.write("/workspace/fifo", b"x"), "wrote a FIFO")
    held(len(b"".join(cell.filesystem.read_tar("/workspace"))) > 0, "no tar")
    held(time.monotonic() - begun < 30, "something waited")


@pytest.mark.layer("landlock")
def test_proc_and_sys_by_the_file_api(cell: Cell) -> None:
    """Writes, moves, directories and removals below /proc, /sys and /dev."""
    for action in (
        lambda: cell.filesystem.write("/proc/sys/kernel/core_pattern", b"|/x"), lambda: cell.filesystem.write("/proc/self/oom_score_adj", b"-1000"),
        lambda: cell.filesystem.write("/sys/x", b""), lambda: cell.filesystem.mkdir("/proc/x"), lambda: cell.filesystem.mkdir("/dev/x"),
        lambda: cell.filesystem.remove("/dev/null"), lambda: cell.filesystem.move("/dev/null", "/workspace/null"), lambda: cell.filesystem.remove("/proc/1"),
        lambda: cell.filesystem.move("/workspace", "/proc/x"), lambda: cell.filesystem.remove("/", recursive=True), lambda: cell.filesystem.write("/evil", b"x"),
        lambda: cell.filesystem.write("/etc/passwd", b"root::0:0::/:/bin/sh\n"), lambda: cell.filesystem.remove("/usr", recursive=True),
    ):  # fmt: skip
        refused(action, "it was done")
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("guest")
def test_odd_paths(cell: Cell) -> None:
    """Names of 255 and 256 bytes, paths of 4,096 and 100,000, NUL, newline, invalid UTF-8, percent signs, dots."""
    for path in ("", "\0", "a\0b", "x" * 256, "a/" * 2100 + "b", "y" * 20000, "/workspace/../../../../proc/1/environ", "//proc//1//mem", "/workspace/.", "/workspace/..", "."):
        refused(lambda: cell.filesystem.write(path, b"x"), f"wrote {path[:40]!r}")
    for path in ("x" * 255, "with\nnewline", "\x1b[2J", "%2e%2e%2f", "..x", " ", "back\\slash", "\u202e.txt", "-rf"):
        held(cell.filesystem.write("/workspace/odd/" + path, b"odd") == 3 and cell.filesystem.read("/workspace/odd/" + path, "bytes") == b"odd", f"{path!r}")
    cell.run_code("import os\nfor n in (b'\\xff\\xfe', b'a\\xc3', b'\\xed\\xa0\\x80'): open(b'/workspace/odd/' + n, 'w').close()")
    held(len(cell.filesystem.list("/workspace/odd")) >= 9, "names that are no UTF-8 break the listing")


@pytest.mark.layer("guest")
def test_race_of_links_and_files(fresh: Callable[..., Cell], ring: Ring) -> None:
    """A directory turns into a link to /etc and back, thousands of times a second, while the API writes below it as the user: nothing ever lands outside."""
    cell = fresh()
    process = cell.start(["python3", "-c", """
import os
os.chdir('/workspace')
os.mkdir('real'); os.symlink('/etc', 'link')
while True:
    try:
        os.rename('real', 'd'); os.rename('d', 'real')
        os.rename('link', 'd'); os.rename('d', 'link')
    except OSError: pass
"""])  # fmt: skip
    done = 0
    for i in range(60):
        try:
            cell.filesystem.write("/workspace/d/passwd", b"evil")
            done += 1
        except CellaError:
            pass
        try:
            cell.filesystem.remove("/workspace/d/hostname")
        except CellaError:
            pass
    process.kill()
    held("evil" not in cell.exec(["cat", "/etc/passwd"]).stdout, "/etc/passwd was written through the race")
    held(cell.answers() and ring.healthy(), "somebody does not answer")


@pytest.mark.layer("guest")
def test_race_while_a_tree_is_read(fresh: Callable[..., Cell]) -> None:
    """Directories change places with links to / while listing and tar walk them: they never leave the tree, and they end."""
    cell = fresh()
    process = cell.start(["python3", "-c", """
import os
os.makedirs('/workspace/t/a/b/c'); os.chdir('/workspace/t')
open('a/b/c/file', 'w').write('x'); os.symlink('/', 'root')
while True:
    try:
        os.rename('a', 'x'); os.rename('root', 'a'); os.rename('a', 'root'); os.rename('x', 'a')
    except OSError: pass
"""])  # fmt: skip
    time.sleep(0.2)
    import io
    import tarfile

    for _ in range(12):
        try:
            names = [e.path for e in cell.filesystem.list("/workspace/t", depth=10)]
            held(not any("/etc" in n or "/proc" in n or "/usr" in n for n in names), f"the listing left the tree: {names[:5]}")
            raw = b"".join(cell.filesystem.read_tar("/workspace/t"))
            held(len(raw) < 1 << 20, f"the tar has {len(raw)} bytes")
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                held(not any("passwd" in n for n in tar.getnames()), "the tar left the tree")
        except CellaError:
            pass
    process.kill()


@pytest.mark.layer("guest")
def test_file_that_grows_and_shrinks_while_it_is_read(fresh: Callable[..., Cell], ring: Ring) -> None:
    """A download whose file is cut off: an error, never a body that looks whole."""
    cell = fresh()
    cell.run_code("open('/workspace/f', 'wb').write(b'x' * (20 << 20))")
    pieces = cell.filesystem.read("/workspace/f", "stream")
    total = len(next(pieces))
    cell.run_code("open('/workspace/f', 'wb').close()")
    try:
        for piece in pieces:
            total += len(piece)
        held(total == 20 << 20, f"{total} bytes came and looked whole")
    except CellaError:
        pass
    held(ring.healthy(), "the daemon does not answer")


@pytest.mark.layer("limits")
def test_upload_larger_than_the_disk(fresh: Callable[..., Cell]) -> None:
    """60 MB into a disk of 16: no_space, nothing left of it, and the old file is still there."""
    cell = fresh(disk_mb=16)
    cell.filesystem.write("/workspace/f", b"old")
    error = refused(lambda: cell.filesystem.write("/workspace/f", (b"x" * (1 << 20) for _ in range(60))), "it fitted")
    held(error.code == "no_space", f"{error.code}")
    held(cell.filesystem.read("/workspace/f") == "old", "the old file is gone")
    held(cell.filesystem.write("/workspace/g", b"y" * (4 << 20)) == 4 << 20, "the space was not given back")


@pytest.mark.layer("guest")
def test_hidden_files_of_uploads(fresh: Callable[..., Cell]) -> None:
    """While an upload runs, its unfinished file is replaced by a link, removed, filled by the cell's code: only the client's bytes get the name."""
    cell = fresh()
    started, go = threading.Event(), threading.Event()

    def body() -> object:
        yield b"first"
        started.set()
        go.wait(20)
        yield b"second"

    result: list = []
    upload = threading.Thread(target=lambda: result.append(_try(lambda: cell.filesystem.write("/workspace/up/file", body()))))
    upload.start()
    started.wait(20)
    cell.run_code("""
import os, time
for i in range(50):
    if os.path.isdir('/workspace/up') and os.listdir('/workspace/up'): break
    time.sleep(0.02)
for n in os.listdir('/workspace/up'):
    p = '/workspace/up/' + n
    try: open(p, 'w').write('evil')
    except OSError: pass
    os.unlink(p); os.symlink('/etc/passwd', p)
""")  # fmt: skip
    go.set()
    upload.join()
    try:
        content = cell.filesystem.read("/workspace/up/file")
    except FileNotFound:
        content = None
    held(content in (None, "firstsecond") or isinstance(result[0], CellaError), f"{content!r} {result}")
    held("root:x:0:0" in cell.exec(["cat", "/etc/passwd"]).stdout, "/etc/passwd was written")


def _try(action: Callable[[], object]) -> object:
    try:
        return action()
    except CellaError as e:
        return e


@pytest.mark.layer("guest")
def test_deep_and_wide_trees(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Directories nested 1,500 deep and one of 20,000 entries: listed, walked and removed without end of stack or memory."""
    cell = fresh(disk_mb=256, memory_mb=256)
    run = cell.run_code("""
import os
os.chdir('/workspace')
for i in range(1500): os.mkdir('d'); os.chdir('d')
os.chdir('/workspace')
os.mkdir('wide')
for i in range(20000): os.close(os.open(f'wide/{i:0100}', os.O_CREAT | os.O_WRONLY))
""", timeout_seconds=60)  # fmt: skip
    held(run.exit == "ok", f"the set-up did not work: {run.error}")
    for action in (
        lambda: cell.filesystem.list("/workspace", depth=5000), lambda: cell.filesystem.list("/workspace/wide"),
        lambda: sum(len(p) for p in cell.filesystem.read_tar("/workspace")), lambda: cell.filesystem.remove("/workspace/d", recursive=True),
        lambda: cell.filesystem.remove("/workspace/wide", recursive=True),
    ):  # fmt: skip
        _try(action)
        held(ring.healthy() and neighbour.answers(), "somebody does not answer")
    held(cell.answers(), "the cell does not answer")
