"""The Python kernel as a process that forks: what a virtual machine uses (cella_kernel/forks.py). The test stands in for cella-guest."""
import os
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
from test_wake import RANDOM


class Zygote:
    def __init__(self):
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg", "CELLA_KERNEL_FORKS": "61"}

        def place():
            os.dup2(theirs.fileno(), 61, inheritable=True)

        self.process = subprocess.Popen(harness.python_command(), env=environ, stdin=subprocess.DEVNULL, preexec_fn=place, close_fds=False)
        theirs.close()
        self.link.settimeout(60)
        assert self.link.recv(16) == b"Z"

    def close(self):
        self.link.close()
        self.process.wait(10)


class Fork(harness.Kernel):
    def __init__(self, zygote, open_gate=True):
        self.wait_seconds = 60
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.out, out_w = os.pipe()
        self.err, err_w = os.pipe()
        socket.send_fds(zygote.link, [b"F"], [out_w, err_w, theirs.fileno(), gate.fileno()])
        kind, self.pid = struct.unpack("<cI", zygote.link.recv(16))
        assert kind == b"P"
        os.close(out_w), os.close(err_w), theirs.close(), gate.close()
        self.gate.settimeout(60)
        assert self.gate.recv(1) == b"W"
        self.number, self._queue, self._parts, self.stdout, self.stderr = 0, [], {}, b"", b""
        if open_gate:
            self.open_gate()

    def open_gate(self):
        self.gate.send(b"G")
        self.ready = self.next().json

    def close(self):
        self.socket.close(), self.gate.close(), os.close(self.out), os.close(self.err)


@pytest.fixture(scope="module")
def zygote():
    one = Zygote()
    yield one
    one.close()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_forks_are_contexts_of_their_own(zygote):
    a, b = Fork(zygote), Fork(zygote)
    assert a.ready["pid"] == a.pid != b.pid
    a.run("x = 'a'"), b.run("x = 'b'")
    assert (a.run("x").text, b.run("x").text) == ("'a'", "'b'")
    assert a.run("import os; os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')) ").text.startswith("(True")
    assert a.run("In, Out, _").text.startswith("(['',")
    assert a.run("import pandas as pd\npd.DataFrame({'q': [1]})").result["text/html"]
    assert a.run("!echo child").out == "child\n"
    assert a.run("print('out'); import sys; print('err', file=sys.stderr)").err == "err\n"
    a.close(), b.close()


def test_descriptors_are_those_of_a_context(zygote):
    a = Fork(zygote)
    before = set(os.listdir(f"/proc/{zygote.process.pid}/fd"))
    mine = set(os.listdir(f"/proc/{a.pid}/fd"))
    assert {"0", "1", "2", "60"} <= mine and not mine - before - {"60"}, (mine, before)
    assert "61" not in mine
    assert os.readlink(f"/proc/{a.pid}/fd/0") == "/dev/null"
    assert a.run("import subprocess; subprocess.run(['ls', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout.split()").text.find("60") < 0
    a.close()


def test_nothing_happens_before_the_gate_opens(zygote):
    a = Fork(zygote, open_gate=False)
    assert not select.select([a.socket, a.out, a.err], [], [], 0.5)[0]
    os.kill(a.pid, signal.SIGINT)  # idle: ignored
    os.kill(a.pid, signal.SIGURG)
    time.sleep(0.2)
    a.open_gate()
    assert a.run("1 + 1").text == "2"
    a.close()


def test_a_closed_gate_or_stream_ends_it(zygote):
    a = Fork(zygote, open_gate=False)
    a.gate.close()
    b = Fork(zygote)
    b.socket.close()
    end = time.monotonic() + 20
    while (alive(a.pid) or alive(b.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(a.pid) and not alive(b.pid)
    os.close(a.out), os.close(a.err), a.socket.close()
    b.gate.close(), os.close(b.out), os.close(b.err)


def test_the_zygote_has_no_children_left_and_goes_with_its_link():
    one = Zygote()
    a = Fork(one)
    end = time.monotonic() + 10
    while open(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read() and time.monotonic() < end:
        time.sleep(0.01)
    assert open(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read() == ""
    one.close()
    assert one.process.returncode == 0 and a.run("2").text == "2"
    a.close()


@pytest.mark.parametrize("what", sorted(RANDOM))
def test_randomness_differs(zygote, what):
    seen = []
    for _ in range(3):
        one = Fork(zygote)
        e = one.run(RANDOM[what])
        assert e.status == "ok" and e.text, e.error
        seen.append(e.text)
        one.close()
    assert len(set(seen)) == 3, seen
