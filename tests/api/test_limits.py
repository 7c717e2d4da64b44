"""Limits of a cell: each is felt inside, told outside, and never reaches a neighbour."""

from __future__ import annotations

import threading
from typing import Callable, Iterator

import httpx
import pytest
from cella import NoSpaceError, Sandbox
from support.server import Server
from support.wait import until

pytestmark = pytest.mark.needs_isolation


@pytest.fixture
def limited(server: Server) -> Iterator[Callable[..., Sandbox]]:
    made = []

    def make(**limits: float) -> Sandbox:
        made.append(Sandbox(host=server.url, limits=limits))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


@pytest.fixture(autouse=True)
def the_neighbour_is_well(shared: Sandbox) -> Iterator[None]:
    yield
    assert shared.run_code("sum(range(10))").text == "45"
    assert shared.exec("echo well").stdout == "well\n"


def test_limits_are_shown(limited: Callable[..., Sandbox]) -> None:
    box = limited(memory_mb=300, pids=50, disk_mb=200, open_files=2048, cpus=0.5)
    limits = box.info().raw["limits"]
    assert (limits["memory_mb"], limits["pids"], limits["disk_mb"], limits["open_files"], limits["cpus"]) == (300, 50, 200, 2048, 0.5)
    assert box.stats()["memory_limit_bytes"] == 300 << 20


def test_out_of_memory_is_told_and_the_context_restarts(limited: Callable[..., Sandbox]) -> None:
    box = limited(memory_mb=300)
    box.filesystem.write("file", "stays")
    box.run_code("x = 1")
    run = box.run_code("print('filling', flush=True)\nb = []\nwhile True: b.append(bytearray(10_000_000))")
    assert run.exit == "oom" and run.context_restarted and run.stdout == "filling\n"
    fresh = box.run_code("'x' in globals(), open('file').read()")
    assert fresh.exit == "ok" and fresh.text == "(False, 'stays')"
    assert box.stats()["oom_kills"] >= 1


def test_memory_error_is_an_ordinary_error(limited: Callable[..., Sandbox]) -> None:
    box = limited(memory_mb=300)
    run = box.run_code("import numpy\nnumpy.ones(10**15)")
    assert run.exit == "error" and run.error is not None and "MemoryError" in run.error.name
    assert box.run_code("1").text == "1"


def test_a_process_out_of_memory(limited: Callable[..., Sandbox]) -> None:
    box = limited(memory_mb=300)
    box.run_code("x = 'unharmed?'")
    result = box.exec(["python3", "-c", "b = []\nwhile True: b.append(bytearray(10_000_000))"])
    assert result.exit == "oom" and result.exit_code is None


def test_memory_in_tmpfs_and_shm_counts(limited: Callable[..., Sandbox]) -> None:
    box = limited(memory_mb=300)
    result = box.exec("df -t tmpfs --output=target 2>/dev/null | tail -n +2 | while read d; do head -c 1G /dev/zero > $d/fill; done; ls /", timeout_seconds=120)
    assert result.exit in ("ok", "error", "oom", "killed")
    assert box.stats()["memory_bytes"] <= 310 << 20


FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"


def test_a_fork_bomb_is_contained(limited: Callable[..., Sandbox], shared: Sandbox) -> None:
    box = limited(pids=60)
    bomb = box.start(["python3", "-c", FORK_BOMB])
    until(lambda: box.stats()["pids"] >= 50, "the bomb to fill the cell")
    assert box.stats()["pids"] <= 60
    assert shared.run_code("import subprocess\nsubprocess.run(['echo', 'neighbour'], capture_output=True).stdout").text == "b'neighbour\\n'"
    bomb.kill()
    box.close()


def test_a_fork_bomb_in_the_context_is_interrupted_or_killed(limited: Callable[..., Sandbox]) -> None:
    box = limited(pids=60)
    run = box.run_code("import os\nfor _ in range(1000):\n    os.fork()", timeout_seconds=20)
    assert run.exit in ("error", "timeout", "killed")
    if run.error is not None:
        assert run.error.name in ("BlockingIOError", "OSError", "KeyboardInterrupt")


def test_a_thread_bomb(limited: Callable[..., Sandbox]) -> None:
    box = limited(pids=60)
    run = box.run_code("import threading\ne = threading.Event()\nfor _ in range(500): threading.Thread(target=e.wait, daemon=True).start()")
    assert run.exit == "error" and run.error is not None and "thread" in run.error.value
    assert box.run_code("e.set(); 'alive'").text == "'alive'"


def test_a_full_disk_says_no_space_inside_and_outside(limited: Callable[..., Sandbox]) -> None:
    box = limited(disk_mb=60)
    run = box.run_code("f = open('fill', 'wb')\nwhile True:\n    f.write(b'\\xa5' * 1_000_000)\n    f.flush()")
    assert run.exit == "error" and run.error is not None and run.error.name == "OSError"
    assert "No space" in run.error.value or "quota" in run.error.value.lower()
    with pytest.raises(NoSpaceError) as caught:
        box.filesystem.write("more", b"\xa5" * 20_000_000)
    assert caught.value.status == 507
    assert not box.filesystem.exists("more")
    box.run_code("f.close()")
    box.filesystem.remove("fill")
    until(lambda: _written(box), "room to come back")


def _written(box: Sandbox) -> bool:
    try:
        return box.filesystem.write("again", b"x" * 1_000_000) == 1_000_000
    except NoSpaceError:
        return False


def test_a_tar_bomb_fills_only_its_own_disk(limited: Callable[..., Sandbox]) -> None:
    import gzip

    from support import tars

    box = limited(disk_mb=60)
    bomb = gzip.compress(tars.make([(f"f{i}", bytes(20_000_000), None) for i in range(10)]))
    with pytest.raises(NoSpaceError):
        box.filesystem.write_tar("bomb", bomb)
    assert box.run_code("1").text == "1"


def test_many_empty_files_end_somewhere(limited: Callable[..., Sandbox]) -> None:
    box = limited(disk_mb=60)
    result = box.exec("i=0; while : > f$i; do i=$((i+1)); [ $i -gt 400000 ] && break; done; echo made $i", timeout_seconds=120)
    assert result.exit in ("ok", "error", "timeout")
    assert box.run_code("1").text == "1"


def test_open_files(limited: Callable[..., Sandbox]) -> None:
    box = limited(open_files=1024)
    run = box.run_code("f = []\nwhile True: f.append(open('/dev/null'))")
    assert run.exit == "error" and run.error is not None and "Too many open files" in run.error.value
    assert box.run_code("n = len(f); f.clear(); n < 1024").text == "True"
    assert box.exec("ulimit -n").stdout.strip() == "1024"


def test_cpu_quota_is_kept(limited: Callable[..., Sandbox]) -> None:
    """Counted in the kernel's own account of CPU and of throttled periods, not in elapsed time here."""
    box = limited(cpus=0.25)
    run = box.run_code("import time\nw, c = time.monotonic(), time.process_time()\nwhile time.process_time() - c < 0.6: pass\n(time.process_time() - c) / (time.monotonic() - w)")
    assert run.exit == "ok" and float(run.text or 9) < 0.45, run.text


def test_output_flood_does_not_hurt(limited: Callable[..., Sandbox], shared: Sandbox) -> None:
    box = limited()
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            box.run_code("import os\nfor _ in range(2000): os.write(1, b'f' * 65536)")

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(10):
            assert shared.run_code("'served'").text == "'served'"
    finally:
        stop.set()
        thread.join(120)


def test_limits_cannot_be_raised_from_inside(limited: Callable[..., Sandbox]) -> None:
    box = limited(open_files=1024, pids=60)
    run = box.run_code("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000))")
    assert run.exit == "error"
    assert box.exec("ulimit -n 100000 2>&1; echo 1000 > /sys/fs/cgroup/pids.max; echo after", user="root").stdout.endswith("after\n")
    assert box.info().raw["limits"]["pids"] == 60


def test_more_than_the_host_gives_is_refused(server: Server, http: httpx.Client) -> None:
    answer = http.post("/v1/sandboxes", json={"limits": {"memory_mb": 100_000_000}})
    assert answer.status_code == 400 and "memory_mb" in answer.json()["error"]
