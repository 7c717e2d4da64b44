"""New entropy for a process that was copied while it lived.

A copy (a fork of the cell, or a cell that comes back from an image) goes on in the middle of whatever it computes, under
the same process and thread ids, and nobody called fork(): no at-fork hook runs, and libraries that compare process
ids notice nothing. So before the copy's first instruction it is sent SIGURG, and between two bytecodes of whatever the main
thread does every generator that two copies must not share is seeded anew:

  random            the global instance (random.random(), shuffle() ...)
  numpy.random      the global legacy generator (rand(), seed(); also what scipy and sklearn use without a seed)
  OpenSSL           RAND_add on 3.0 reseeds the primary generator from the kernel at once and mixes the bytes in; the
                    others (two per thread) see its new reseed count before they give out their next byte
  uuid, tempfile, multiprocessing    node and clock sequence, candidate names, key
  os.urandom, secrets, uuid4         come from the kernel and need nothing

What stays the same in all copies: generators that the user made (variables like any other), and the hash secret, which the
contents of every set and dict depend on.

Nothing here runs code of the user's. Without random bytes of the kernel the process ends: never two copies with one seed.
"""
import ctypes
import os
import random
import signal
import sys
from types import ModuleType

from . import commands

SIGNAL = signal.SIGURG  # CONTEXT_FORKED_SIGNAL
EXIT_CODE = 4
MT_WORDS = 624  # of the Mersenne Twister's state, followed by the position in it
_ROOM = 64  # frames more than the user's recursion limit, for the handler

_urandom, _exit, _write = os.urandom, os._exit, os.write  # not what the user may put in their place
_seed_random = random._inst.seed


def _module(name):
    """A loaded module; None also for what the user's code put in its place."""
    module = sys.modules.get(name)
    return module if type(module) is ModuleType else None


def _random_bytes(n):
    try:
        return _urandom(n)
    except Exception as e:
        _end(e)


def _end(error):
    text = "no new entropy for this copy (%s: %s): it must not run on\n" % (type(error).__name__, error)
    _write(2, text.encode("utf-8", "replace"))
    _exit(EXIT_CODE)


class Entropy:
    """One per process. take() runs in the main thread."""

    def __init__(self, gate):
        self._gate = gate
        self._taken = False  # since the last FORKED frame
        self._owed = 0  # the recursion limit that could not be put back
        self._numpy = None  # (bit generator, address of its key, address of the legacy generator's has_gauss)
        self._pid = 0
        gate.put_off_in(self._on_signal.__func__.__code__)

    def prepare(self):
        """In the template, before the fork point: what is the same in all copies, and the signal's handler."""
        self._pid = os.getpid()
        numpy = _module("numpy.random")
        if numpy:
            self._numpy = _find_numpy(numpy)
        signal.signal(SIGNAL, self._on_signal)

    def _on_signal(self, _number, frame):
        # An interrupt waits from the first line on (Gate.put_off_in); handlers of the user's may still raise in here.
        gate = self._gate
        gate.holds += 1
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _ROOM)  # the user's code may stand just below it
        try:
            try:
                self.take()
            except BaseException:
                self._again()
                raise
            finally:
                gate.holds -= 1
            if not gate.quiet(frame):
                gate.check()
        finally:
            self._put_back(limit)

    def _put_back(self, limit):
        try:
            sys.setrecursionlimit(limit)
        except RecursionError:  # the user's code stands at the limit itself: when the FORKED frame is read
            self._owed = limit

    def _again(self):
        try:
            self.take()
        except BaseException as e:
            _end(e)

    def forked(self):
        """The FORKED frame: the same for a context whose handler is another one now, or that never saw the signal."""
        if not self._taken or signal.getsignal(SIGNAL) != self._on_signal:
            self.take()
        self._taken = False
        if self._owed and sys.getrecursionlimit() == self._owed + _ROOM:
            self._put_back(self._owed)
        self._owed = 0

    def take(self):
        """All of it. Costs some 0.3 ms in a fresh copy, most of that for some eighty pages written to."""
        _seed_random(_random_bytes(64))
        numpy, ssl = _module("numpy.random"), _module("_ssl")
        if numpy:
            self._seed_numpy(numpy)
        if ssl:
            ssl.RAND_add(_random_bytes(48), 0.0)
        self._small_things()
        self._taken = True
        commands.copied()

    def first(self):
        """The same in a fresh copy of the template, where the process id is another one as a rule: OpenSSL sees that, and
        its pages stay untouched. (`random` seeded itself in an at-fork hook.)"""
        numpy, ssl, tempfile = _module("numpy.random"), _module("_ssl"), _module("tempfile")
        if numpy:
            self._seed_numpy(numpy)
        if ssl and os.getpid() == self._pid:
            ssl.RAND_add(_random_bytes(48), 0.0)
        self._small_things()
        if tempfile:
            tempfile.tempdir = None

    def behind_gate(self):
        """The same in a fork of the template that stood still while its machine was copied: what its at-fork hooks seeded is in every
        copy."""
        self.take()
        self._taken = False
        tempfile = _module("tempfile")
        if tempfile:
            tempfile.tempdir = None

    def _small_things(self):
        uuid, tempfile, process = (_module(name) for name in ("uuid", "tempfile", "multiprocessing.process"))
        if uuid:
            uuid._last_timestamp = None
            uuid._node = int.from_bytes(_random_bytes(6), "big") | 1 << 40  # the multicast bit: no network card has it
            uuid._generate_time_safe = None  # libuuid keeps a node and a clock sequence that cannot be reached
        if tempfile:
            tempfile._name_sequence = None
        if process:
            process._current_process._config["authkey"] = process.AuthenticationString(_random_bytes(32))

    def _seed_numpy(self, module):
        generator = module.mtrand._rand._bit_generator
        if self._numpy is not None and generator is self._numpy[0]:
            _, key, has_gauss = self._numpy
            # Written in place: seeding through numpy touches a hundred pages, and takes locks that the interrupted
            # code may hold.
            ctypes.memmove(key, _random_bytes(MT_WORDS * 4), MT_WORDS * 4)
            ctypes.c_int.from_address(key + MT_WORDS * 4).value = MT_WORDS
            ctypes.c_int.from_address(has_gauss).value = 0
        else:
            state = module.mtrand._rand.get_state(legacy=False)
            fresh = type(generator)(list(memoryview(_random_bytes(32)).cast("I"))).state
            module.mtrand._rand.set_state({**state, **fresh, "has_gauss": 0, "gauss": 0.0})


def _find_numpy(module):
    """Where the global generator's key lies in memory, and its mark that a second gaussian is in reserve. None when either
    is not where it is expected: then numpy's own, slower way is taken."""
    legacy = module.mtrand._rand
    generator = legacy._bit_generator
    try:
        address = generator.ctypes.state_address
        start, size = id(legacy), type(legacy).__basicsize__
        gauss = 1.2345678e-200
        key = memoryview(_random_bytes(MT_WORDS * 4)).cast("I")
        module.set_state(("MT19937", key, 77, 1, gauss))
        expected = key.tobytes() + (77).to_bytes(4, sys.byteorder)
        at = ctypes.string_at(start, size).find(bytes(ctypes.c_double(gauss)))
        has_gauss = start + at - 8  # struct: generator, int has_gauss, double gauss
        if ctypes.string_at(address, MT_WORDS * 4 + 4) != expected or at < 8:
            return None
        if ctypes.c_int.from_address(has_gauss).value != 1:
            return None
        ctypes.c_int.from_address(has_gauss).value = 0
        right = module.get_state(legacy=False)["has_gauss"] == 0
        return (generator, address, has_gauss) if right else None
    except (AttributeError, ValueError, TypeError):
        return None
    finally:
        module.seed()
