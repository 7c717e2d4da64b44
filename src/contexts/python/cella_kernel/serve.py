"""The loop of a context: messages of the daemon in, executions out. Also the user's questions to the client."""
import builtins
import getpass
import json
import os
import sys
import threading
import time

from . import variables, wire
from .display import to_json
from .interrupt import HELD, IDLE


class Server:
    def __init__(self, stream, gate, output, executor, entropy):
        self.stream, self.gate, self.output, self.executor, self.entropy = stream, gate, output, executor, entropy
        self._hostname = None  # as it was when this process last looked
        self._temporary = []  # (name, value) for the next execution
        self._hello = False  # a daemon took over while an execution waited for input
        self._question = None  # the INPUT_REQUEST payload that waits for its reply
        self._environ = os.environ
        builtins.input = self._input
        getpass.getpass = self._getpass

    def ready(self):
        self._hostname = os.uname().nodename
        version = "%d.%d.%d" % sys.version_info[:3]
        text = b'{"language":"python","version":"%b","pid":%d}' % (version.encode(), os.getpid())
        self.stream.send([(wire.READY, 0, 0, text)])

    def run(self):
        """Serve until the stream ends (wire.Closed) or breaks the protocol (wire.Malformed)."""
        stream, gate = self.stream, self.gate
        while True:
            stream.wait()
            gate.mode = HELD  # from here a signal counts for what was just received
            stream.receive()
            if not stream.expects_execution():
                gate.mode = IDLE
                if gate.pending and not stream.readable():
                    gate.pending = False  # it came while idle; nothing to execute had been sent before it
            message = stream.take()
            while message is not None:
                self._handle(message)
                message = stream.take()

    def _handle(self, message):
        kind, flags, channel, payload = message
        if kind == wire.EXECUTE:
            self._execute(channel, flags, payload)
        elif kind == wire.SETENV:
            self._set(wire.environment_entries(payload))
        elif kind == wire.TEMPENV:
            self._temporary += wire.environment_entries(payload)
        elif kind == wire.HELLO:
            self._answer_hello()
        elif kind == wire.CWD:
            self._chdir(payload)
        elif kind == wire.FORKED:
            self._forked(payload)
        elif kind == wire.INSPECT:
            self._inspect(channel, payload)
        # INPUT_REPLY to nobody: the execution that asked was interrupted meanwhile

    def _execute(self, number, flags, source):
        self.gate.mode = HELD
        if self._temporary:
            before = [(name, self._environ.get(name)) for name, _ in self._temporary]
            self._set(self._temporary)
            self._temporary = []
            restore = lambda: self._restore(before)  # noqa: E731
        else:
            restore = None
        self.executor.run(number, flags, source, restore)
        if self._hello:
            self._answer_hello()

    def _inspect(self, number, payload):
        names, value_bytes = variables.question(payload)
        self.gate.mode = HELD
        variables.answer(self.executor, number, names, value_bytes)
        if self._hello:
            self._answer_hello()

    def _forked(self, payload):
        """This process is a copy: see entropy.py. What names the old host names the new one."""
        try:
            hostname = json.loads(payload)["hostname"]
        except (ValueError, TypeError, KeyError):
            raise wire.Malformed("FORKED without a host name") from None
        self.entropy.forked()
        if self._environ.get("HOSTNAME") == self._hostname:
            self._environ["HOSTNAME"] = str(hostname)
        self._hostname = str(hostname)
        if "platform" in sys.modules:
            sys.modules["platform"]._uname_cache = None

    def _restore(self, before):
        for name, value in reversed(before):
            if value is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = value
            if name == "TZ":
                time.tzset()

    def _set(self, pairs):
        self._environ.update(pairs)
        if any(name == "TZ" for name, _ in pairs):
            time.tzset()

    def _chdir(self, payload):
        path = payload.rstrip(b"\0")
        if not path.startswith(b"/") or b"\0" in path:
            raise wire.Malformed("working directory is not an absolute path")
        try:
            os.chdir(path)
        except OSError as e:
            self.output.error_text("cannot enter %s: %s\n" % (os.fsdecode(path), e.strerror))

    def _answer_hello(self):
        self._hello = False
        self.stream.send(self.executor.replay.messages())

    # ---- questions to the client ------------------------------------------------------------------------------

    def _input(self, prompt="", /):
        """input(prompt): asks the client of the running execution."""
        return self._ask(str(prompt), False)

    def _getpass(self, prompt="Password: ", stream=None):
        return self._ask(str(prompt), True)

    def _ask(self, prompt, password):
        executor = self.executor
        if threading.current_thread() is not threading.main_thread() or executor.in_child or not executor.running:
            raise EOFError("input() works in the main thread of a running execution only")
        self._question = to_json({"prompt": prompt, "password": password})
        with self.gate:
            self.stream.send([(wire.INPUT_REQUEST, 0, executor.number, self._question)])
        try:
            return self._reply()
        finally:
            self._question = None

    def _reply(self):
        while True:
            message = self.stream.take()
            if message is None:
                self.stream.wait()
                with self.gate:
                    self.stream.receive()
                continue
            kind, flags, channel, payload = message
            if kind == wire.INPUT_REPLY:
                if channel != self.executor.number:
                    continue  # for an earlier execution
                if flags & wire.EOF:
                    raise EOFError("end of input")
                return payload.decode("utf-8", "replace")
            if kind == wire.HELLO:
                # A new daemon learns of the question now, and gets the replay when the execution has ended.
                self._hello = True
                with self.gate:
                    self.stream.send([(wire.INPUT_REQUEST, wire.REPLAY, self.executor.number, self._question)])
            elif kind == wire.SETENV:
                self._set(wire.environment_entries(payload))
            elif kind == wire.FORKED:
                self._forked(payload)
            else:
                raise wire.Malformed("frame type %d while an execution waits for input" % kind)
