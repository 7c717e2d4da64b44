"""Copies of the shell's template, made as in test_wake.py: with nobody calling fork()."""
import os
import select
import signal
import socket
import subprocess
import time

import pytest

import harness
from test_wake import Copy


class ShellTemplate:
    def __init__(self, shim):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, ready_w = os.pipe()
        self.process = subprocess.Popen(
            harness.shell_command(), stdin=subprocess.DEVNULL, stdout=ready_w, stderr=subprocess.PIPE, close_fds=False,
            env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LD_PRELOAD": str(shim)},
            preexec_fn=lambda: os.dup2(theirs.fileno(), 61, inheritable=True),
        )  # fmt: skip
        theirs.close()
        os.close(ready_w)
        assert select.select([ready], [], [], 20)[0]
        assert os.read(ready, 100) == b"Z"
        os.close(ready)
        assert len(os.listdir("/proc/%d/task" % self.process.pid)) == 1

    def close(self):
        self.control.close()
        assert self.process.wait(10) == 0
        assert self.process.stderr.read() == b""


class ShellCopy(Copy):
    def __init__(self, template):
        class Control:
            """Copy wants the pid as text."""

            fileno = template.control.fileno
            sendmsg = template.control.sendmsg
            recv = staticmethod(lambda n: str(int.from_bytes(template.control.recv(n), "little")).encode())

        template_view = type("View", (), {"control": Control})
        super().__init__(template_view)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    shim = tmp_path_factory.mktemp("shim") / "copier.so"
    source = os.path.join(harness.HERE, "copier_pause.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), source], check=True)
    t = ShellTemplate(shim)
    yield t
    t.close()


@pytest.fixture
def copies(template):
    made = [ShellCopy(template) for _ in range(3)]
    yield made
    for c in made:
        c.close()


def test_copies_are_shells_of_their_own(copies):
    for c in copies:
        c.run("x=%d" % c.pid)
    for c in copies:
        assert c.run("echo $x $$ $BASHPID").out.split() == [str(c.pid)] * 3
        assert c.run("ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat").out.split()[0] == str(c.pid)
        assert c.run("echo $SECONDS").out in ("0\n", "1\n", "2\n", "3\n")
        assert c.run("echo $(hostname)-$HOSTNAME").out == "%s-%s\n" % (socket.gethostname(), socket.gethostname())
        assert c.run("true | cat; (exit 4); echo $?").out == "4\n"


def test_random_numbers_differ(copies):
    assert len({c.run("echo $RANDOM $RANDOM $RANDOM $SRANDOM").out for c in copies}) == 3
    assert len({c.run("(echo $RANDOM $RANDOM $RANDOM)").out for c in copies}) == 3
    assert len({c.run("mktemp -u").out for c in copies}) == 3


def test_parent_pid_is_true(copies, template):
    assert copies[0].run("echo $PPID").out == "%d\n" % template.process.pid


def test_interrupts_reach_copies(copies):
    for code in ("echo go; sleep 60", "echo go; x=$(sleep 60); echo after", "echo go; while :; do :; done"):
        c = copies[0]
        c.start(code)
        end = time.monotonic() + 10
        while b"go" not in c.stdout:
            assert time.monotonic() < end
            c.drain()
        time.sleep(0.1)
        c.interrupt()
        e = c.finish(timeout=20)
        assert e.status == "interrupted" and "after" not in e.out, code
    assert copies[0].run("echo alive").out == "alive\n"


def test_only_the_own_descriptors(copies):
    fds = copies[0].run("ls /proc/$$/fd").out.split()
    assert fds == ["0", "1", "2", "60"]


def test_a_killed_copy_leaves_the_template_alone(copies, template):
    os.kill(copies[0].pid, signal.SIGKILL)
    c = ShellCopy(template)
    assert c.run("echo new").out == "new\n"
    c.close()
