"""Code writes to the context's own stream (descriptor 60): forged ends and results, lengths that lie, garbage. It may fool itself, never the daemon."""

from __future__ import annotations

from typing import Callable

import pytest
from ring import PRELUDE, Cell, Ring, held
from support.wait import until

FRAMES = """
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(60))
READY, DISPLAY, RESULT, ERROR, INPUT, DONE, STATUS = range(32, 39)
def frame(kind, number, payload=b'{}', flags=0, length=None):
    return struct.pack('<IHHI', len(payload) if length is None else length, kind, flags, number) + payload
def send(*frames):
    return refusal(s.send, b''.join(frames))
"""


def survives(ring: Ring, cell: Cell, neighbour: Cell, code: str) -> None:
    """Run it; whatever becomes of the run has a word; the cell, the daemon and the neighbour go on."""
    run = cell.run_code(PRELUDE + FRAMES + code, timeout_seconds=10)
    held(run.exit in ("ok", "error", "killed", "lost", "timeout", "interrupted"), f"exit {run.exit}")
    held(ring.healthy() and neighbour.answers(), "the daemon or the neighbour does not answer")
    until(cell.answers, "the cell answers again")


@pytest.mark.layer("daemon")
def test_forged_end(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """DONE and RESULT in the middle of the code, with every number around the right one: executions of others, earlier and later, are untouched."""
    cell = fresh()
    first = cell.run_code("print('first')")
    forged = cell.run_code(PRELUDE + FRAMES + """
for n in range(0, 40):
    send(frame(RESULT, n, b'{"data": {"text/plain": "forged"}, "metadata": {}}'), frame(DONE, n, b'{"status": "ok", "execution_count": 99}'))
print('after')
""", timeout_seconds=10)  # fmt: skip
    held(first.stdout == "first\n" and not first.results, "an earlier answer changed")
    held(forged.exit in ("ok", "killed", "lost", "error"), f"exit {forged.exit}")
    until(cell.answers, "the cell answers again")
    later = cell.run_code("print('later')\n7")
    held(later.stdout == "later\n" and later.text == "7", f"a forged result reached a later run: {later.stdout!r} {later.text!r}")
    held(neighbour.answers(), "the neighbour does not answer")


@pytest.mark.layer("daemon")
def test_lengths_that_lie(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """A frame that says four gigabytes, one longer than its packet, one shorter, an empty packet, a head cut in two."""
    for code in (
        "send(frame(DISPLAY, 1, b'{}', 0, 0xffffffff))", "send(frame(DISPLAY, 1, b'{}', 0, 65525))", "send(frame(DISPLAY, 1, b'{}{}{}', 0, 2))",
        "send(b'')", "send(b'\\0' * 11)", "send(frame(DISPLAY, 1)[:5])", "send(b'\\xff' * 65536)", "send(b'x' * 200000)",
    ):  # fmt: skip
        survives(ring, fresh(), neighbour, code)


@pytest.mark.layer("daemon")
def test_types_that_are_none(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Types of the other direction, unknown ones, READY again and again, STATUS unasked, flags nobody knows."""
    code = "send(frame({0}, 1)); send(frame({0}, 1, b'{{\"status\": 1}}', 0xffff)); time.sleep(0.1)"
    cell = fresh()
    for kind in (0, 1, 4, 5, 31, "READY", "STATUS", 39, 0xFFFF):
        survives(ring, cell, neighbour, code.format(kind))


@pytest.mark.layer("daemon")
def test_payloads_of_the_wrong_shape(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Right types with wrong JSON: arrays, numbers, null, missing and wrong fields, deep nesting, invalid UTF-8, a result that is no object."""
    payloads = [b"", b"[]", b"1", b"null", b'"x"', b"{", b"{}", b'{"data": 1}', b'{"data": {"text/plain": {}}}', b'{"data": []}', b'{"status": []}', b'{"status": "nonsense"}',
                b'{"status": "exit", "exit_code": "x"}', b'{"status": "ok", "execution_count": 1e400}', b'{"name": 1, "value": [], "traceback": {}}', b'{"prompt": 5, "password": "no"}',
                b"[" * 50000, b'{"a":' * 10000, b'{"\xff": "\xfe"}', b'{"data": {"\\u0000": "\\ud800"}}', b'{"data": {}, "data": {}}', b"NaN", b'{"status": "ok"} trailing']  # fmt: skip
    cell = fresh()
    for kind in ("DISPLAY", "RESULT", "ERROR", "INPUT", "DONE", "STATUS", "READY"):
        code = f"""
number = 1
for p in {payloads!r}:
    for number in range(1, 4):
        send(frame({kind}, number, p))
time.sleep(0.05)
"""
        survives(ring, cell, neighbour, code)


@pytest.mark.layer("daemon")
def test_a_hundred_thousand_frames(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Frames as fast as they go, small and large, for this run and for none."""
    code = """
small = b''.join(frame(DISPLAY, 1, b'{"data": {"text/plain": "x"}, "metadata": {}}') for i in range(900))
for i in range(110):
    send(small)
    send(frame(DISPLAY, 77, b'{"data": {"text/plain": "' + b'y' * 60000 + b'"}}'))
"""
    survives(ring, fresh(), neighbour, code)


@pytest.mark.layer("daemon")
def test_a_message_without_end(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Pieces marked "more" for 64 MB, then two messages interleaved."""
    survives(ring, fresh(), neighbour, "for i in range(1100): send(frame(DISPLAY, 1, b'[' * 60000, 1))")
    survives(ring, fresh(), neighbour, "send(frame(DISPLAY, 1, b'{', 1)); send(frame(DONE, 1, b'{\"status\": \"ok\"}')); send(frame(DISPLAY, 2, b'}', 0))")


@pytest.mark.layer("daemon")
def test_closing_the_stream(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """Descriptor 60 closed, shut down in both directions, replaced by a file: the run gets a word, the context a new life."""
    for code in (
        "os.close(60); os.close(s.fileno())", "s.shutdown(socket.SHUT_RDWR)", "s.shutdown(socket.SHUT_WR)", "s.shutdown(socket.SHUT_RD)",
        "os.dup2(os.open('/dev/null', 2), 60); s.close()", "os.closerange(0, 1000)",
    ):  # fmt: skip
        survives(ring, fresh(), neighbour, code + "\ntime.sleep(0.05)")


@pytest.mark.layer("daemon")
def test_a_stream_that_is_not_read(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """A context that stops reading: what is sent to it is bounded, and the others are served."""
    cell = fresh()
    code = cell.run_code("import time, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfor i in range(3):\n    time.sleep(0.5)", timeout_seconds=1)
    held(code.exit in ("timeout", "killed"), f"{code.exit}")
    run = cell.run_code("print(len('" + "x" * (3 << 20) + "'))", timeout_seconds=30)
    held(run.exit == "ok" and run.stdout == f"{3 << 20}\n", f"{run.exit}")
    held(neighbour.answers(), "the neighbour does not answer")


@pytest.mark.layer("daemon")
def test_stealing_what_is_sent_to_the_context(fresh: Callable[..., Cell], ring: Ring, neighbour: Cell) -> None:
    """A thread reads the stream in the kernel's place and swallows the next requests: their runs end with a word, not never."""
    cell = fresh()
    cell.run_code(PRELUDE + FRAMES + "threading.Thread(target=lambda: [s.recv(65536) for i in range(5)], daemon=True).start()")
    run = cell.run_code("print('heard')", timeout_seconds=1)
    held(run.exit in ("ok", "timeout", "killed", "lost"), f"exit {run.exit}")
    cell.restart_context()
    held(cell.answers() and neighbour.answers(), "somebody does not answer")
