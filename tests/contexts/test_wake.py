"""Copies of one template: what must differ, and what the copy must repair, when nobody called fork().

The copier here stands in for the keeper: it runs inside the template in the place of pause() and copies the process
with a bare clone system call, so no at-fork handler of libc, Python or OpenSSL runs."""
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

import harness

COPIER = r"""
import array, ctypes, os, signal, socket, sys
control = socket.socket(fileno=61)
libc = ctypes.PyDLL(None)

def pause():
    while True:
        message, ancillary, _, _ = control.recvmsg(16, 256)
        if not message:
            os._exit(0)
        fds = array.array("i")
        for _level, _kind, data in ancillary:
            fds.frombytes(data[: len(data) // 4 * 4])
        pid = libc.syscall(57)  # fork on x86-64, the bare system call
        if pid == 0:
            for got, wanted in zip(fds, (1, 2, 60)):
                os.dup2(got, wanted, inheritable=wanted != 60)
            os.closerange(3, 60)
            os.closerange(61, 4096)
            return
        for fd in fds:
            os.close(fd)
        control.send(str(pid).encode())

signal.pause = pause
sys.path[0] = %(folder)r
import runpy
runpy.run_path(%(kernel)r, run_name="__main__")
"""


class Copy(harness.Kernel):
    def __init__(self, template):
        self.wait_seconds = 60
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.out, out_w = os.pipe()
        self.err, err_w = os.pipe()
        fds = [out_w, err_w, theirs.fileno()]
        socket.send_fds(template.control, [b"fork"], fds)
        self.pid = int(template.control.recv(32))
        for fd in (out_w, err_w):
            os.close(fd)
        theirs.close()
        self.number = 0
        self._queue, self._parts = [], {}
        self.stdout = self.stderr = b""
        self.ready = self.next().json

    def interrupt(self):
        os.kill(self.pid, signal.SIGINT)

    def close(self):
        self.socket.close()
        os.close(self.out)
        os.close(self.err)


class Template:
    def __init__(self, env=None):
        folder = os.path.join(harness.CONTEXTS, "python")
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, ready_w = os.pipe()
        self.log_path = "/tmp/cella-test-template-%d.log" % os.getpid()
        log = open(self.log_path, "wb")

        def place():
            os.dup2(theirs.fileno(), 61, inheritable=True)

        code = COPIER % {"folder": folder, "kernel": os.path.join(folder, "kernel.py")}
        environ = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1",
                   "MPLBACKEND": "agg", **(env or {})}  # fmt: skip
        self.process = subprocess.Popen([harness.PYTHON, "-X", "utf8", "-c", code], env=environ, stdout=ready_w, stderr=log,
                                        stdin=subprocess.DEVNULL, preexec_fn=place, close_fds=False)  # fmt: skip
        theirs.close()
        os.close(ready_w)
        log.close()
        assert select.select([ready], [], [], 60)[0]
        self.first = os.read(ready, 100)
        os.close(ready)

    def log(self):
        return open(self.log_path).read()

    def close(self):
        self.control.close()
        self.process.wait(10)
        os.unlink(self.log_path)


@pytest.fixture(scope="module")
def template():
    t = Template()
    assert t.first == b"Z", t.log()
    yield t
    t.close()


@pytest.fixture
def copies(template):
    made = [Copy(template) for _ in range(2)]
    yield made
    for c in made:
        c.close()


def test_copies_run_code(copies):
    a, b = copies
    assert a.ready["pid"] == a.pid != b.pid
    a.run("x = 'a'")
    b.run("x = 'b'")
    assert (a.run("x").text, b.run("x").text) == ("'a'", "'b'")
    assert a.run("import pandas as pd\npd.DataFrame({'q': [1]})").result["text/html"]
    assert len(a.run("import matplotlib.pyplot as plt\nplt.plot([1])\nNone").displays) == 1
    assert a.run("!echo child").out == "child\n"
    assert a.run("1").done["execution_count"] > 1


def test_first_execution_is_number_one(copies):
    assert copies[0].run("In, Out, _").text == "(['', 'In, Out, _'], {}, '')"


RANDOM = {
    "random": "import random; random.random(), random.getrandbits(64)",
    "numpy legacy": "import numpy; numpy.random.rand(2).tolist()",
    "numpy generator": "numpy.random.default_rng().integers(2**60) if 'numpy' in dir() else __import__('numpy').random.default_rng().integers(2**60)",
    "uuid4": "import uuid; uuid.uuid4().hex",
    "tempfile": "import tempfile; tempfile.mktemp()",
    "ssl": "import ssl; ssl.RAND_bytes(16).hex()",
    "secrets": "import secrets; secrets.token_hex()",
    "multiprocessing": "import multiprocessing; bytes(multiprocessing.current_process().authkey).hex()",
    "os": "import os; os.urandom(8).hex()",
    "shell": "r = !bash -c 'echo $RANDOM$RANDOM$RANDOM'\nlist(r)",
}


@pytest.mark.parametrize("what", sorted(RANDOM))
def test_randomness_differs(template, what):
    seen = []
    for _ in range(3):
        c = Copy(template)
        e = c.run(RANDOM[what])
        assert e.status == "ok" and e.text, e.error
        seen.append(e.text)
        c.close()
    assert len(set(seen)) == 3, seen


def test_numpy_key_is_where_it_is_expected(copies):
    """Otherwise every copy takes the slow way; and the result is a proper stream of numbers."""
    a = copies[0]
    assert a.run("import signal; signal.getsignal(signal.SIGURG).__self__._numpy is not None").text == "True"
    code = "import numpy as np; x = np.random.rand(100_000); bool(abs(x.mean() - 0.5) < 0.01 and abs(x.std() - 0.2887) < 0.01)"
    assert a.run(code).text == "True"
    assert a.run("np.random.seed(42); float(np.random.rand())").text == "0.3745401188473625"


def test_threads_and_locks_work(copies):
    a = copies[0]
    assert a.run("import threading; threading.main_thread().native_id == threading.get_native_id()").text == "True"
    assert a.run("import os; len(os.listdir('/proc/self/task'))").text == "1"
    e = a.run("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as p: r = list(p.map(str, range(5)))\nr")
    assert e.text == "['0', '1', '2', '3', '4']"
    e = a.run("import logging\nlogging.warning('logged')")
    assert "logged" in e.err
    assert a.run("import subprocess; subprocess.run(['true']).returncode").text == "0"
    assert a.run("import multiprocessing as mp\nwith mp.get_context('fork').Pool(2) as p: r = p.map(abs, [-3])\nr").text == "[3]"
    assert a.run("import asyncio\nawait asyncio.sleep(0.01, 'slept')").text == "'slept'"


def test_copies_are_interruptible(copies):
    a = copies[0]
    a.start("import time\nprint('go')\ntime.sleep(60)")
    while b"go" not in a.stdout:
        a.drain()
    a.interrupt()
    assert a.finish().status == "interrupted"


def test_only_the_own_descriptors(copies):
    e = copies[0].run("import os\nsorted(os.listdir('/proc/self/fd'), key=int)")
    fds = json.loads(e.text.replace("'", '"'))
    assert set(fds) - {"3"} == {"0", "1", "2", "60"}  # 3 is listdir's own


def test_threads_in_the_preload_are_refused(tmp_path):
    """The template says why and does not become ready."""
    folder = os.path.join(harness.CONTEXTS, "python")
    code = (
        "import sys, threading, time\nsys.path[0] = %r\nfrom cella_kernel import zygote\nzygote.LIBRARIES = ()\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "import runpy; runpy.run_path(%r, run_name='__main__')" % (folder, os.path.join(folder, "kernel.py"))
    )
    done = subprocess.run([harness.PYTHON, "-X", "utf8", "-c", code], capture_output=True, stdin=subprocess.DEVNULL,
                          env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"}, timeout=60)  # fmt: skip
    assert done.returncode == 1 and done.stdout == b"" and b"2 threads run" in done.stderr


def test_environment_file_and_preload(tmp_path):
    folder = os.path.join(harness.CONTEXTS, "python")
    (tmp_path / "environment").write_text("# comment\nFROM_FILE=a=b\n\nbroken\n")
    (tmp_path / "preload.py").write_text("import os\nloaded = os.environ['FROM_FILE']\nprint('to the log')\n")
    code = (
        "import sys\nsys.path[0] = %r\nfrom cella_kernel import zygote\nzygote.LIBRARIES = ('nosuchlibrary',)\n"
        "zygote.load_environment.__defaults__ = (%r,)\nzygote.run_preload.__defaults__ = (%r,)\n"
        "import runpy; runpy.run_path(%r, run_name='__main__')"
        % (folder, str(tmp_path / "environment"), str(tmp_path / "preload.py"), os.path.join(folder, "kernel.py"))
    )
    k = harness.Kernel([harness.PYTHON, "-X", "utf8", "-c", code])
    assert k.run("import os; os.environ['FROM_FILE'], loaded, 'broken' in os.environ").text == "('a=b', 'a=b', False)"
    k.close()


def test_shell_template(tmp_path):
    """The shell's fork point: 'Z' and pause; nothing else is printed."""
    p = subprocess.Popen(harness.shell_command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                         env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"})  # fmt: skip
    assert select.select([p.stdout], [], [], 10)[0]
    assert os.read(p.stdout.fileno(), 10) == b"Z"
    assert len(os.listdir("/proc/%d/task" % p.pid)) == 1
    time.sleep(0.2)
    with open("/proc/%d/syscall" % p.pid) as f:
        state = f.read()
    assert state.startswith("34 "), state  # pause on x86-64
    p.send_signal(signal.SIGKILL)
    _, err = p.communicate()
    assert err == b""


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
