"""Starts a context kernel on its own, the way a cell would: pipes at 1 and 2, the context stream at 60."""
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
#: The directory that the build makes (python/, shell/). Without CELLA_CONTEXTS the Python kernel comes from the sources
#: and the shell's, which has a compiled part, from build/.
CONTEXTS = os.environ.get("CELLA_CONTEXTS", os.path.join(HERE, "..", "..", "src", "contexts"))
BUILT = os.environ.get("CELLA_CONTEXTS", os.path.join(HERE, "..", "..", "build", "contexts"))
PYTHON = os.environ.get("CELLA_TEST_PYTHON", "/usr/bin/python3")
HEAD = struct.Struct("<IHHI")
MORE, EOF, REPLAY, SVG = 1, 2, 4, 8
EXECUTE, SETENV, TEMPENV, INPUT_REPLY, HELLO, CWD, FORKED, INSPECT = 1, 2, 3, 4, 5, 6, 7, 8
READY, DISPLAY, RESULT, ERROR, INPUT_REQUEST, DONE, STATUS, VARIABLES = 32, 33, 34, 35, 36, 37, 38, 39
PAYLOAD_MAX = 65536 - HEAD.size


def frame(kind, payload=b"", channel=0, flags=0):
    if isinstance(payload, str):
        payload = payload.encode()
    return HEAD.pack(len(payload), kind, flags, channel) + payload


class Frame:
    def __init__(self, kind, flags, channel, payload):
        self.kind, self.flags, self.channel, self.raw = kind, flags, channel, payload
        self.json = json.loads(payload.decode("utf-8"), parse_constant=self._no_constant) if kind >= READY else None

    @staticmethod
    def _no_constant(name):
        raise AssertionError("not strict JSON: %s" % name)

    def __repr__(self):
        return "Frame(%d, %#x, %d, %r)" % (self.kind, self.flags, self.channel, self.raw[:200])


class Execution:
    """What one EXECUTE answered."""

    def __init__(self):
        self.frames, self.stdout, self.stderr = [], b"", b""

    def of(self, kind):
        return [f.json for f in self.frames if f.kind == kind]

    @property
    def done(self):
        return self.of(DONE)[0]

    @property
    def status(self):
        return self.done["status"]

    @property
    def result(self):
        """MIME data of the last RESULT, or None."""
        found = self.of(RESULT)
        return found[-1]["data"] if found else None

    @property
    def text(self):
        return self.result["text/plain"] if self.result else None

    @property
    def displays(self):
        return [d["data"] for d in self.of(DISPLAY)]

    @property
    def error(self):
        found = self.of(ERROR)
        return found[-1] if found else None

    @property
    def out(self):
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self):
        return self.stderr.decode("utf-8", "replace")


def python_command():
    return [PYTHON, "-X", "utf8", os.path.join(CONTEXTS, "python", "kernel.py")]


def shell_command():
    assert os.path.exists(os.path.join(BUILT, "shell", "cella_shell.so")), "build first, or set CELLA_CONTEXTS"
    return ["/bin/bash", "--noprofile", "--norc", os.path.join(BUILT, "shell", "kernel.sh")]


class Kernel:
    """One kernel in direct mode. wait_seconds bounds every wait, so that a kernel that hangs is a failed test."""

    def __init__(self, command=None, env=None, cwd=None, wait_seconds=60):
        self.wait_seconds = wait_seconds
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.out, out_w = os.pipe()
        self.err, err_w = os.pipe()
        environ = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": cwd or "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg", "CELLA_KERNEL_DIRECT": "1",
            **(env or {}),
        }  # fmt: skip
        environ.pop("PYTHONPATH", None)

        def place():
            os.dup2(out_w, 1)
            os.dup2(err_w, 2)
            os.dup2(theirs.fileno(), 60, inheritable=True)
            import fcntl

            os.closerange(3, 60)
            fcntl.fcntl(60, fcntl.F_SETFD, 0)

        self.process = subprocess.Popen(
            command or python_command(), stdin=subprocess.DEVNULL, env=environ, cwd=cwd, preexec_fn=place,
            close_fds=False,
        )  # fmt: skip
        theirs.close()
        os.close(out_w)
        os.close(err_w)
        self.number = 0
        self._queue, self._parts = [], {}
        self.stdout = self.stderr = b""
        self.ready = self.next().json

    def send(self, *frames):
        self.socket.send(b"".join(frames))

    def _drain(self, fd):
        data = b""
        while select.select([fd], [], [], 0)[0]:
            piece = os.read(fd, 65536)
            if not piece:
                break
            data += piece
        return data

    def drain(self):
        self.stdout += self._drain(self.out)
        self.stderr += self._drain(self.err)

    def next(self, timeout=None):
        """The next whole frame; pipes are drained meanwhile. None when the stream ended."""
        end = time.monotonic() + (timeout or self.wait_seconds)
        open_fds = [self.socket, self.out, self.err]
        while not self._queue:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("no frame; stdout %r stderr %r" % (self.stdout[-2000:], self.stderr[-2000:]))
            ready = select.select(open_fds, [], [], left)[0]
            for fd, name in ((self.out, "stdout"), (self.err, "stderr")):
                if fd in ready:
                    data = os.read(fd, 65536)
                    setattr(self, name, getattr(self, name) + data)
                    if not data:
                        open_fds.remove(fd)
            if self.socket in ready:
                packet = self.socket.recv(65536 + 1)
                if not packet:
                    return None
                self._parse(packet)
        return self._queue.pop(0)

    def _parse(self, packet):
        assert len(packet) <= 65536
        at = 0
        while at < len(packet):
            length, kind, flags, channel = HEAD.unpack_from(packet, at)
            at += HEAD.size
            payload = packet[at : at + length]
            assert len(payload) == length
            at += length
            self._parts.setdefault((kind, channel), []).append(payload)
            if not flags & MORE:
                whole = b"".join(self._parts.pop((kind, channel)))
                self._queue.append(Frame(kind, flags, channel, whole))

    def start(self, code, flags=0, before=b""):
        """Send an EXECUTE and do not wait."""
        self.number += 1
        data = code.encode() if isinstance(code, str) else code
        packet = before
        pieces = [data[i : i + 60000] for i in range(0, len(data), 60000)] or [b""]
        for i, piece in enumerate(pieces):
            more = MORE if i < len(pieces) - 1 else 0
            self.socket.send(packet + frame(EXECUTE, piece, self.number, flags | more))
            packet = b""
        return self.number

    def finish(self, answer=None, timeout=None):
        """Collect until DONE. answer(request) -> str or None (end of input)."""
        got = Execution()
        while True:
            f = self.next(timeout)
            assert f is not None, "the kernel ended: %r" % self.stderr[-2000:]
            assert f.channel == self.number, f
            got.frames.append(f)
            if f.kind == INPUT_REQUEST:
                reply = answer(f.json)
                self.send(frame(INPUT_REPLY, reply or "", self.number, EOF if reply is None else 0))
            if f.kind == DONE:
                break
        self.drain()
        got.stdout, got.stderr, self.stdout, self.stderr = self.stdout, self.stderr, b"", b""
        return got

    def run(self, code, flags=0, answer=None, before=b"", timeout=None):
        self.start(code, flags, before)
        return self.finish(answer, timeout)

    def start_look(self, **asked):
        """Send an INSPECT and do not wait."""
        self.number += 1
        self.send(frame(INSPECT, json.dumps(asked), self.number))

    def look(self, *names, timeout=None, **asked):
        """INSPECT: {name: variable} of its VARIABLES."""
        if names:
            asked["names"] = list(names)
        self.start_look(**asked)
        e = self.finish(timeout=timeout)
        assert e.status == "ok", e.error
        (answer,) = e.of(VARIABLES)
        self.skipped = answer["skipped"]
        return {v["name"]: v for v in answer["variables"]}

    def forked(self, hostname, sandbox_id="sbx_0"):
        self.send(frame(FORKED, json.dumps({"sandbox_id": sandbox_id, "hostname": hostname})))

    def copied(self):
        """The signal that a copy gets before its first instruction."""
        os.kill(self.ready["pid"], signal.SIGURG)

    def interrupt(self):
        os.kill(self.ready["pid"], signal.SIGINT)  # not self.process: that may be a wrapper

    def close(self):
        self.socket.close()
        os.close(self.out)
        os.close(self.err)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.returncode


def wait_exit(kernel, seconds=20):
    """The exit code of a kernel that is expected to end by itself."""
    return kernel.process.wait(seconds)


if __name__ == "__main__":
    k = Kernel(shell_command() if sys.argv[1:] == ["shell"] else None)
    print(k.ready)
    for line in sys.stdin.read().split("\n---\n"):
        e = k.run(line)
        print(e.frames, e.stdout, e.stderr)
