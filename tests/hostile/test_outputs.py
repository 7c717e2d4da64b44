"""What code prints and returns: floods, rubbish, forgeries. The daemon stays healthy, neighbours answer, and what was cut is said to be cut."""

from __future__ import annotations

import json
import threading
from typing import Callable

import pytest
from cella import _calls
from ring import Cell, Ring, held
from support import proc
from support.wait import until


def calm(ring: Ring, neighbour: Cell) -> None:
    held(ring.healthy() and neighbour.answers(), "the daemon or the neighbour does not answer")


@pytest.mark.layer("daemon")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_flood(cell: Cell, ring: Ring, neighbour: Cell, stream: str) -> None:
    """80 MB at once on stdout or stderr: bounded in the daemon, and the missing bytes are counted to the last one."""
    size = 80 << 20
    run = cell.run_code(f"import os\nfor i in range(80): os.write({1 if stream == 'stdout' else 2}, b'a' * (1 << 20))", timeout_seconds=60)
    kept = len(getattr(run, stream))
    held(run.exit == "ok" and run.truncated and run.truncated[stream]["dropped_bytes"] + kept == size, f"{run.exit} kept {kept} {run.truncated}")
    calm(ring, neighbour)


@pytest.mark.layer("daemon")
def test_flood_of_both_while_the_neighbour_works(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Two threads and two children print for a second without pause; meanwhile the neighbour is served."""
    cell = fresh()
    stream = cell.exec_stream("yes & yes >&2 & yes errors >&2 & sleep 1; kill 0", timeout_seconds=20)
    answered = 0
    for i, event in enumerate(stream):
        if i % 200 == 0:
            answered += neighbour.answers()
        if i > 1000:
            break
    stream.close()
    held(answered >= 3, f"the neighbour answered {answered} times")
    calm(ring, neighbour)


@pytest.mark.layer("daemon")
def test_flood_from_a_process(cell: Cell, ring: Ring, neighbour: Cell) -> None:
    """The same from a process, whose output goes through the guest."""
    run = cell.exec("head -c 50000000 /dev/zero | tr '\\0' b; head -c 3000000 /dev/zero | tr '\\0' c >&2", timeout_seconds=60)
    total = sum((run.truncated or {}).get(s, {}).get("dropped_bytes", 0) + len(getattr(run, s)) for s in ("stdout", "stderr"))
    held(run.exit == "ok" and total == 53000000, f"{run.exit} {total} {run.truncated}")
    calm(ring, neighbour)


@pytest.mark.layer("daemon")
def test_rubbish_instead_of_text(cell: Cell) -> None:
    """Invalid UTF-8, NUL, surrogates, cut sequences at the end, every control byte: the answer is valid JSON and says what came."""
    run = cell.run_code("import os\nos.write(1, bytes(range(256)) + b'\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xc0\\xaf\\xe2\\x82')\nos.write(2, b'\\xff\\xfe\\x00\\xf0\\x9f')")
    held(run.exit == "ok" and "\x00" in run.stdout and "\ufffd" in run.stdout and json.dumps(run.raw), f"{run.exit} {run.stdout!r}")
    process = cell.exec(["python3", "-c", "import os; os.write(1, bytes(range(256)) + b'\\xe2\\x82')"])
    held(process.exit == "ok" and "\ufffd" in process.stdout, f"{process.exit}")


@pytest.mark.layer("daemon")
def test_one_endless_line(cell: Cell, ring: Ring, neighbour: Cell) -> None:
    """Ten megabytes without a newline, then nothing: event streams and logs must not wait for its end."""
    run = cell.run_code("import os\nos.write(1, b'z' * (10 << 20))")
    held(run.exit == "ok" and run.truncated, f"{run.exit} {run.truncated}")
    held(len(cell.logs()) < 1 << 20, "the log keeps all of it")
    calm(ring, neighbour)


@pytest.mark.layer("daemon")
def test_forged_log_lines(cell: Cell, ring: Ring) -> None:
    """Terminal escapes and false log lines in output, errors, process names, paths: the daemon's and the keeper's own logs stay clean."""
    evil = "\\x1b]0;owned\\x07\\x1b[2J2026-01-01T00:00:00.000Z error cellad: forged\\n"
    cell.run_code(f"print('{evil}')\nraise RuntimeError('{evil}')")
    cell.exec(["python3", "-c", f"import sys; sys.stderr.write('{evil}'); open('/proc/self/comm')"])
    try:
        cell.filesystem.read("/tmp/\x1b[2J\nforged cellad: error")
    except Exception as e:  # noqa: BLE001: any refusal will do
        held(str(e), "no message")
    cell.run_code(f"import os; os.write(60, b'{evil}')")
    for program in ("daemon", "keeper"):
        log = ring.log(program)
        bad = [line for line in log.splitlines() if "\x1b" in line or "forged" in line.split(":", 3)[-1] and line.startswith("2026-01-01T00:00:00")]
        held(not bad and "\x1b" not in log, f"{program}: {bad[:3]}")


@pytest.mark.layer("daemon")
def test_forged_terminal_title_of_an_error(cell: Cell) -> None:
    """The traceback of a hostile exception (name, value, file name with escapes) comes as data, whole, without a crash of the formatter."""
    run = cell.run_code("""
class Evil(Exception):
    def __str__(self): raise Evil
    __repr__ = __str__
Evil.__name__ = 'E' * 100000 + '\\x1b[31m'
raise Evil
""")  # fmt: skip
    held(run.exit == "error" and run.error and "\x1b" not in run.error.traceback, f"{run.exit} {str(run.error)[:200]}")


@pytest.mark.layer("daemon")
def test_huge_results(cell: Cell, ring: Ring, neighbour: Cell) -> None:
    """A value of 40 MB, 3,000 displays, an object whose representation never ends well."""
    run = cell.run_code("'x' * (40 << 20)", timeout_seconds=60)
    held(run.exit in ("ok", "error", "killed"), f"{run.exit}")
    run = cell.run_code("for i in range(3000): display({'text/plain': 'y' * 1000}, raw=True)", timeout_seconds=60)
    held(run.exit == "ok" and len(run.results) <= 3000 and (len(run.results) == 3000 or run.truncated), f"{run.exit} {len(run.results)} {run.truncated}")
    run = cell.run_code("class R:\n    def __repr__(self): raise MemoryError\nR()")
    held(run.exit in ("ok", "error"), f"{run.exit}")
    calm(ring, neighbour)


@pytest.mark.layer("daemon")
def test_deep_and_odd_json(cell: Cell, ring: Ring, neighbour: Cell) -> None:
    """JSON nested a hundred thousand deep, NaN, infinities, huge numbers, duplicate keys, lone surrogates, as the value of a display."""
    run = cell.run_code("""
deep = None
for i in range(100000): deep = [deep]
for value in (deep, float('nan'), float('inf'), 10 ** 400, {'a': float('-inf')}, '\\ud800', {'\\ud800': 1}, 1e308, -0.0):
    try: display({'application/json': value, 'text/plain': 'p'}, raw=True)
    except BaseException as e: print(type(e).__name__)
""", timeout_seconds=60)  # fmt: skip
    text = cell._transport.send(_calls.execution(cell.id, run.id)).text
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in the answer"))
    held(run.exit in ("ok", "error", "killed", "lost"), f"{run.exit} {run.error}")
    calm(ring, neighbour)
    held(cell.answers(), "the cell does not answer")


@pytest.mark.layer("daemon")
def test_a_pipe_that_was_widened(cell: Cell) -> None:
    """Code blows its own output pipe up to a megabyte and fills it just before it ends: nothing of it may be lost without a word."""
    run = cell.run_code("import fcntl, os\nfcntl.fcntl(1, 1031, 1 << 20)\nos.write(1, b'w' * 1000000)")
    dropped = ((run.truncated or {}).get("stdout") or {}).get("dropped_bytes", 0)
    held(len(run.stdout) + dropped == 1000000, f"{len(run.stdout)} kept, {dropped} said to be dropped")


@pytest.mark.layer("daemon")
def test_streams_closed_by_the_code(fresh: Callable[..., Cell]) -> None:
    """stdout and stderr closed or replaced: the run ends with its own result, and the next has output again or says why not."""
    cell = fresh()
    run = cell.run_code("import os\nos.close(1); os.close(2)\n40 + 2")
    held(run.exit == "ok" and run.text == "42", f"{run.exit} {run.text}")
    cell.restart_context()
    held(cell.answers(), "no output after a restart")


@pytest.mark.layer("daemon")
def test_output_after_the_end(cell: Cell) -> None:
    """A child that outlives its run prints into the next one's time: it must not break it (its text is the cell's own)."""
    cell.run_code("import subprocess; subprocess.Popen(['sh', '-c', 'while :; do echo late; sleep 0.01; done'])")
    for _ in range(10):
        run = cell.run_code("print('mine')")
        held(run.exit == "ok" and "mine" in run.stdout, f"{run.exit} {run.stdout!r}")
    cell.exec("pkill -f late; true")


@pytest.mark.layer("daemon")
def test_memory_of_the_daemon(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Unfinished messages are kept until they are whole: what one context makes the daemon hold stays bounded, and is given back."""
    before = proc.status_kb(ring.daemon_pid, "VmRSS")
    cell = fresh()
    code = """
import os, socket, struct, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(60))
frame = struct.pack('<IHHI', 60000, 33, 1, 1) + b'[' * 60000
for i in range((31 << 20) // len(frame)): s.send(frame)
open('/workspace/sent', 'w').close()
time.sleep(20)
"""
    run = threading.Thread(target=lambda: cell.run_code(code, timeout_seconds=30))
    run.start()
    until(lambda: cell.filesystem.exists("/workspace/sent"), "the message is there")
    grown = (proc.status_kb(ring.daemon_pid, "VmRSS") - before) >> 10
    held(grown < 100, f"the daemon grew by {grown} MB")
    calm(ring, neighbour)
    cell.close()
    run.join()
    until(lambda: (proc.status_kb(ring.daemon_pid, "VmRSS") - before) >> 10 < 15, "the daemon gave the memory back")
