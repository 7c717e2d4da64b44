"""The protocol itself: batching, replay, takeover, garbage. For both kernels."""
import os
import random
import subprocess
import sys

import pytest

import harness
from harness import CWD, DISPLAY, DONE, EOF, ERROR, EXECUTE, HELLO, INPUT_REPLY, INPUT_REQUEST, MORE, REPLAY, RESULT, SETENV
from harness import STATUS, TEMPENV, frame

SEED = int(os.environ.get("CELLA_TEST_SEED", "20260401"))
COMMANDS = {"python": harness.python_command, "shell": harness.shell_command}


@pytest.fixture(params=sorted(COMMANDS))
def any_kernel(request):
    kernel = harness.Kernel(COMMANDS[request.param]())
    kernel.language = request.param
    yield kernel
    kernel.close()


def replay(kernel):
    """Send HELLO; the frames before STATUS, and STATUS."""
    kernel.send(frame(HELLO))
    got = []
    while True:
        f = kernel.next()
        if f.kind == STATUS:
            return got, f.json
        got.append(f)


def test_hello_before_anything_ran(any_kernel):
    assert replay(any_kernel) == ([], {"last": 0})


def test_everything_in_one_packet(any_kernel):
    read = "import os; print(os.environ['A'], os.getcwd())" if any_kernel.language == "python" else "echo $A $PWD"
    any_kernel.number = 9
    any_kernel.send(
        frame(SETENV, b"A=1\0"), frame(TEMPENV, b"A=2\0"), frame(CWD, b"/usr\0"), frame(EXECUTE, read, 9), frame(HELLO)
    )
    e = any_kernel.finish()
    assert e.out == "2 /usr\n"
    assert any_kernel.next().flags & REPLAY
    assert any_kernel.next().json == {"last": 9}


def test_requests_that_queue_up(any_kernel):
    code = "print('one')" if any_kernel.language == "python" else "echo one"
    for n in (1, 2, 3):
        any_kernel.send(frame(EXECUTE, code, n))
    for n in (1, 2, 3):
        any_kernel.number = n
        assert any_kernel.finish().status == "ok"


def test_code_in_many_parts_and_packets(any_kernel):
    code = "print('%s')" if any_kernel.language == "python" else "echo '%s'"
    data = (code % ("b" * 150_000)).encode()
    any_kernel.number = 4
    for at in range(0, len(data), 1000):
        more = MORE if at + 1000 < len(data) else 0
        any_kernel.send(frame(EXECUTE, data[at : at + 1000], 4, more))
    assert any_kernel.finish().out == "b" * 150_000 + "\n"


def test_empty_code(any_kernel):
    assert any_kernel.run("").status == "ok"


def test_python_replay(fresh):
    e = fresh.run("display('shown')\nimport sys\nprint('text')\n'value'")
    again, status = replay(fresh)
    assert status == {"last": fresh.number}
    assert [(f.kind, f.raw) for f in again] == [(f.kind, f.raw) for f in e.frames]
    assert all(f.flags == REPLAY and f.channel == fresh.number for f in again)
    e = fresh.run("1/0")
    assert [f.kind for f in replay(fresh)[0]] == [ERROR, DONE]
    assert [f.kind for f in replay(fresh)[0]] == [ERROR, DONE]


def test_replay_of_long_frames(fresh):
    e = fresh.run("display({'text/html': 'h' * 300_000}, raw=True)\n'y' * 200_000")
    again, _ = replay(fresh)
    assert [f.raw for f in again] == [f.raw for f in e.frames]
    assert [f.kind for f in again] == [DISPLAY, RESULT, DONE]


def test_replay_says_what_it_left_out(fresh):
    e = fresh.run("for i in range(5): display({'text/html': 'h' * 2_500_000}, raw=True)\n1/0")
    assert "replay_truncated" not in e.done and len(e.displays) == 5
    again, _ = replay(fresh)
    assert [f.kind for f in again] == [DISPLAY] * 3 + [ERROR, DONE]
    assert again[-1].json == {**e.done, "replay_truncated": True}


def test_takeover_while_input_is_asked(fresh):
    fresh.start("name = input('who ')\ndisplay(name)")
    assert fresh.next().kind == INPUT_REQUEST
    fresh.send(frame(HELLO))
    f = fresh.next()
    assert f.kind == INPUT_REQUEST and f.flags == REPLAY and f.json["prompt"] == "who "
    fresh.send(frame(INPUT_REPLY, "me", fresh.number))
    kinds = []
    while True:
        f = fresh.next()
        kinds.append((f.kind, bool(f.flags & REPLAY)))
        if f.kind == STATUS:
            break
    assert kinds == [(DISPLAY, False), (DONE, False), (DISPLAY, True), (DONE, True), (STATUS, False)]


def test_takeover_while_code_runs(any_kernel):
    code = "import time; time.sleep(0.5)" if any_kernel.language == "python" else "sleep 0.5"
    any_kernel.start(code)
    any_kernel.send(frame(HELLO))
    e = any_kernel.finish()
    again, status = [], None
    while status is None:
        f = any_kernel.next()
        again.append(f) if f.kind != STATUS else (status := f.json)
    assert [f.raw for f in again] == [f.raw for f in e.frames] and status == {"last": any_kernel.number}


def test_stale_input_reply_is_harmless(any_kernel):
    any_kernel.send(frame(INPUT_REPLY, "nobody asked", 1, EOF))
    code = "print(2)" if any_kernel.language == "python" else "echo 2"
    assert any_kernel.run(code).out == "2\n"


def test_end_of_stream_ends_the_kernel(any_kernel):
    any_kernel.socket.close()
    assert harness.wait_exit(any_kernel) == 0


def malformed():
    head = harness.HEAD
    return {
        "half a head": b"\x01\x00\x00",
        "longer than its packet": head.pack(100, EXECUTE, 0, 1) + b"short",
        "unknown type": frame(99, b"x"),
        "type zero": frame(0, b""),
        "the other direction's type": frame(DONE, b"{}"),
        "unknown flags": frame(EXECUTE, b"1", 1, 0x8000),
        "second frame torn": frame(HELLO) + b"\0" * 5,
        "another frame inside a long one": frame(EXECUTE, b"a", 1, MORE) + frame(HELLO),
        "another channel inside a long one": frame(EXECUTE, b"a", 1, MORE) + frame(EXECUTE, b"a", 2),
        "environment without NUL": frame(SETENV, b"A=1"),
        "environment without =": frame(SETENV, b"A\0"),
        "environment without name": frame(TEMPENV, b"=x\0"),
        "relative directory": frame(CWD, b"tmp\0"),
        "directory with NUL inside": frame(CWD, b"/a\0b\0"),
        "length near 2^32": head.pack(0xFFFFFFFF, EXECUTE, 0, 1),
        "packet too long": frame(EXECUTE, b"#" * 65536, 1),
    }


@pytest.mark.parametrize("what", sorted(malformed()))
@pytest.mark.parametrize("language", sorted(COMMANDS))
def test_malformed_packets_end_the_kernel_with_3(language, what):
    if language == "python":
        kernel = light_python()
    else:
        kernel = harness.Kernel(harness.shell_command())
    try:
        kernel.send(malformed()[what])
        while kernel.next(20) is not None:
            pass
        assert harness.wait_exit(kernel) == 3
        kernel.drain()
        assert b"context stream" in kernel.stderr
    finally:
        kernel.close()


def test_a_message_without_end_is_bounded(any_kernel):
    """More than the joined maximum: the kernel stops, it does not grow for ever."""
    piece = b"#" * 60_000
    try:
        for _ in range(700):
            any_kernel.socket.send(frame(EXECUTE, piece, 1, MORE))
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert harness.wait_exit(any_kernel) == 3


# The heavy libraries play no part in the protocol: kernels that are started by the dozen do without.
LIGHT = """
import runpy, sys
sys.path[0] = %r
from cella_kernel import zygote
zygote.LIBRARIES = ()
runpy.run_path(%r, run_name="__main__")
"""


def light_python():
    folder = os.path.join(harness.CONTEXTS, "python")
    run = LIGHT % (folder, os.path.join(folder, "kernel.py"))
    return harness.Kernel([harness.PYTHON, "-X", "utf8", "-c", run])


HARMLESS = {
    "python": [b"1", b"x = [1, 2]", b"1/0", b"print('t')", b"display(3)", b"(", b"await 1", b"%magic", b"!true", b"\xff"],
    "shell": [b"true", b"x=(1 2)", b"false", b"echo t", b"if", b"(", b"exit 3", b"$((1/0))", b"\xff", b"echo $(", b"[["],
}  # fmt: skip


def random_packet(rng, language):
    """Half plausible, half broken."""
    out = b""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice([EXECUTE, EXECUTE, EXECUTE, SETENV, TEMPENV, INPUT_REPLY, HELLO, CWD])
        payload = {
            EXECUTE: lambda: rng.choice(HARMLESS[language]),
            SETENV: lambda: rng.choice([b"", b"A=1\0", b"B=\0C=\xff\xfe\0", b"bad-name=1\0"]),
            TEMPENV: lambda: rng.choice([b"", b"A=2\0", b"PATH=/usr/bin:/bin\0"]),
            CWD: lambda: rng.choice([b"/\0", b"/nonexistent\0", b"/tmp\0"]),
        }.get(kind, lambda: bytes(rng.randrange(256) for _ in range(rng.randrange(20))))()
        flags = rng.choice([0] * 12 + [EOF, REPLAY, harness.SVG, MORE])
        piece = frame(kind, payload, rng.randrange(4), flags)
        out += piece
    if rng.random() < 0.02:  # damage
        data = bytearray(out)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(min(len(data), 12))] = rng.randrange(256)
        out = bytes(data)
    if rng.random() < 0.01:
        out = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200)))
    return out[:65536]


def push(kernel, packet):
    """Send without ever blocking on a kernel that is itself blocked on us."""
    end = harness.time.monotonic() + 30
    while True:
        kernel.drain()
        while harness.select.select([kernel.socket], [], [], 0)[0]:
            if not kernel.socket.recv(65537):
                raise BrokenPipeError
        try:
            kernel.socket.send(packet, harness.socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            assert harness.time.monotonic() < end, "the kernel hangs"
            harness.time.sleep(0.001)


@pytest.mark.parametrize("language", sorted(COMMANDS))
def test_random_packets(language):
    """2,000 random packets: the kernel goes on, or ends with 0 or 3, and never hangs or crashes."""
    rng = random.Random(SEED)
    sent = starts = 0
    kernel = None
    ends = {}
    while sent < 2000:
        if kernel is None:
            kernel = light_python() if language == "python" else harness.Kernel(harness.shell_command())
            starts += 1
        packet = random_packet(rng, language)
        try:
            push(kernel, packet)
            sent += 1
        except (BrokenPipeError, ConnectionResetError):
            code = harness.wait_exit(kernel)
            ends[code] = ends.get(code, 0) + 1
            assert code == 3, (code, packet[:200], kernel.stderr[-500:])
            kernel.close()
            kernel = None
    if kernel is not None:
        # Alive: either it still answers, or what it has queued ends it properly.
        try:
            kernel.send(frame(HELLO))
            while True:
                f = kernel.next(30)
                if f is None or f.kind == STATUS:
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
        kernel.socket.close()
        assert harness.wait_exit(kernel) in (0, 3)
        kernel.close()
    print("starts %d, ends %s" % (starts, ends), file=sys.stderr)


def test_user_code_that_writes_to_the_stream_is_its_own_problem(fresh):
    """The stream's descriptor is reachable from inside: the daemon validates; the kernel survives."""
    fresh.start("import os\nos.write(60, b'junk')")
    assert fresh.socket.recv(65536) == b"junk"
    fresh.finish()
    fresh.start("os.close(60)")
    assert fresh.next() is None
    assert harness.wait_exit(fresh) == 0


def test_children_do_not_hold_the_stream(any_kernel):
    """A background process must not keep the stream open when the context is gone."""
    code = "import subprocess; subprocess.Popen(['sleep', '30'], stdout=-3, stderr=-3)" if any_kernel.language == "python" else "sleep 30 >/dev/null 2>&1 &"
    any_kernel.run(code)
    any_kernel.process.kill()
    assert any_kernel.next(5) is None
    subprocess.run(["pkill", "-P", str(any_kernel.process.pid)], check=False)
