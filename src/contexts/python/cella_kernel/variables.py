"""INSPECT: the names, types and short values of the user's variables.

It looks and leaves no trace: no history, no execution, nothing on stdout. Where a value's text or contents are code of the
user's (__repr__, __reduce__), that runs like an execution of its own: interruptible, its time limited, what it prints
thrown away. (What it would write past Python, to descriptor 1 itself, is not held back.)
"""
import json
import os
import re
import signal
import sys
import threading
import time
from types import ModuleType

from . import digest, display, errors, short, wire
from .interrupt import guarded

TEXT_SECONDS = 0.5  # for one variable's text
CONTENTS_SECONDS = 5  # for one variable's digest
ALL_SECONDS = 20  # for one INSPECT: what is left then is skipped
VALUE_BYTES = 200
VALUE_BYTES_MAX = 64 << 10
ANSWER_MAX = 8 << 20
NODES, BYTES = 10 * digest.NODES, 8 * digest.BYTES  # for the digests of one INSPECT

_MACHINERY = re.compile(r"__\w+__|_+|_i+|_i?\d+|_[iod]h|_exit_code")
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})  # no code of the user's, and quick


def question(payload):
    """(names or None, bytes of a value) of an INSPECT's payload."""
    try:
        asked = json.loads(payload) if payload else {}
        names, size = asked.get("names"), asked.get("value_bytes", VALUE_BYTES)
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError
        return names, max(4, min(int(size), VALUE_BYTES_MAX))
    except (ValueError, TypeError, AttributeError):
        raise wire.Malformed("INSPECT is not what it should be") from None


def answer(executor, number, names, size):
    """Send VARIABLES and DONE; interrupted: ERROR and DONE."""
    gate, stream = executor.gate, executor.stream
    gate.delivered = False
    count = executor.shell.execution_count - 1
    executor.output.mute()
    look = _Look(executor, size)
    try:
        variables = look.all(_chosen(executor.shell, names))
    finally:
        look.end()
        executor.output.unmute()
    if look.interrupted:
        error = {"name": "KeyboardInterrupt", "value": "", "traceback": "KeyboardInterrupt"}
        out = [(wire.ERROR, 0, number, display.to_json(error))]
    else:
        out = [(wire.VARIABLES, 0, number, b'{"variables":[%b],"skipped":%d}' % (b",".join(variables), look.skipped))]
    status = b"interrupted" if look.interrupted else b"ok"
    out.append((wire.DONE, 0, number, b'{"status":"%b","execution_count":%d}' % (status, count)))
    gate.install()
    gate.shut()
    stream.send(out)


def _chosen(shell, names):
    """(name, value) pairs: the asked ones, or the user's own."""
    space, hidden = shell.user_ns, shell.user_ns_hidden
    if names is not None:
        return [(name, space[name]) for name in dict.fromkeys(names) if name in space]
    missing = object()
    return sorted(
        (
            (name, value)
            for name, value in list(space.items())
            if type(name) is str and not _MACHINERY.fullmatch(name) and hidden.get(name, missing) is not value
            and type(value) is not ModuleType
        ),
        key=lambda pair: pair[0],
    )  # fmt: skip


class _Look:
    """One INSPECT under way."""

    def __init__(self, executor, size):
        self._executor, self._gate, self._size = executor, executor.gate, size
        self._watch = None
        self._budget = digest.Budget(NODES, BYTES)
        self.interrupted = False
        self.skipped = 0

    def all(self, pairs):
        out, left = [], ANSWER_MAX
        end = time.monotonic() + ALL_SECONDS
        for name, value in pairs:
            if time.monotonic() > end or left < 0:
                self.skipped += 1
                continue
            entry = display.to_json(self._one(name, value))
            if self.interrupted:
                break
            left -= len(entry)
            if left < 0:
                self.skipped += 1
            else:
                out.append(entry)
        return out

    def _one(self, name, value):
        kind = self._guarded(value, TEXT_SECONDS, short.type_name, value)[0]
        text, error = self._guarded(value, TEXT_SECONDS, short.text, value, self._size)
        if error is not None:
            text = short.cut("<%s>" % error, self._size)
        size = self._guarded(value, TEXT_SECONDS, _bytes, value)[0]
        budget = digest.Budget(min(self._budget.nodes, digest.NODES), min(self._budget.bytes, digest.BYTES))
        before = budget.nodes, budget.bytes
        known = self._guarded(value, CONTENTS_SECONDS, digest.digest, value, budget)[0]
        self._budget.nodes -= before[0] - max(budget.nodes, 0)
        self._budget.bytes -= before[1] - max(budget.bytes, 0)
        return {"name": name, "type": kind or "?", "value": text, "bytes": size, "digest": known}

    def _guarded(self, value, seconds, function, *args):
        """(result, None) or (None, why there is none)."""
        if self.interrupted:
            return None, "interrupted"
        watch = None if type(value) in _PLAIN else self._watching()
        if watch:
            watch.arm(seconds)
        result, error = guarded(self._gate, function, *args)
        executor = self._executor
        if executor.in_child:
            os._exit(0)  # the value's code forked, and this is the child
        if watch and watch.disarm():
            self._await_signal(error)
            return None, "takes longer than %g s" % seconds
        if self._gate.pending or self._gate.delivered and isinstance(error, KeyboardInterrupt):
            self.interrupted = True
        if error is None:
            return result, None
        said, failed = guarded(self._gate, errors.name_of, error)
        return None, "no text: %s" % (said if failed is None else "?")

    def _await_signal(self, error):
        """The watch's interrupt came, or is on its way: it must not hit anything else."""
        gate, tries = self._gate, 1000
        while not gate.pending and not isinstance(error, KeyboardInterrupt) and tries:
            time.sleep(0)
            tries -= 1
        gate.pending = gate.delivered = False

    def _watching(self):
        if self._watch is None:
            try:
                self._gate.install()
                self._watch = _Watch()
            except RuntimeError:  # no more threads: then only the client can end it
                self._watch = False
        return self._watch

    def end(self):
        if self._watch:
            self._watch.end()


class _Watch:
    """A thread that interrupts the main thread when something takes too long. It only lives during an INSPECT."""

    def __init__(self):
        self._changed = threading.Condition(threading.Lock())
        self._deadline = None
        self._ended = self._expired = False
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="cella-inspect", daemon=True)
        self._thread.start()

    def _run(self):
        with self._changed:
            while not self._ended:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._deadline, self._expired = None, True
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    self._changed.wait(left)

    def arm(self, seconds):
        """Cheap: the thread is woken only when it would wait too long."""
        with self._changed:
            self._expired = False
            asleep = self._deadline is None
            self._deadline = time.monotonic() + seconds
            if asleep or seconds < CONTENTS_SECONDS:
                self._changed.notify()

    def disarm(self):
        """True when the time was over."""
        with self._changed:
            self._deadline = None
            return self._expired

    def end(self):
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()


def _bytes(value):
    """What the value itself takes; of a frame or array its data."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, getattr(pandas, "DataFrame", ())):
        return int(value.memory_usage(index=True, deep=False).sum())
    if pandas is not None and isinstance(value, (pandas.Series, pandas.Index)):
        return int(value.memory_usage(deep=False))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
        return int(value.nbytes)
    return sys.getsizeof(value)
