"""What a fresh copy does before it may run code.

Nobody called fork(): the process was copied from outside while it stood in pause(). So the child side of a fork is
done here by hand, and everything that must differ between two copies of one template gets new entropy.
"""
import ctypes
import os
import sys
import threading


def after_copy():
    ctypes.pythonapi.PyOS_AfterFork_Child()  # GIL, import lock, at-fork hooks (random re-seeds itself there)
    main = threading.main_thread()
    if hasattr(main, "_native_id"):
        main._native_id = threading.get_native_id()


MT_WORDS = 624  # of the Mersenne Twister's state, followed by the position in it
_template = {"pid": 0, "numpy": 0}  # what prepare() found out


def prepare():
    """In the template, before the fork point."""
    _template["pid"] = os.getpid()
    if "numpy.random" in sys.modules:
        _template["numpy"] = _numpy_state(sys.modules["numpy.random"])


def _numpy_state(random):
    """Where the key of numpy's global generator lies in memory; 0 when it is not where it is expected.

    Seeding through numpy touches a hundred pages in every copy, writing the key touches one."""
    random.seed()  # also forgets a gaussian in reserve: it would be the same in all copies
    try:
        address = random.mtrand._rand._bit_generator.ctypes.state_address
        name, key, position, gauss, _ = random.get_state()
    except (AttributeError, ValueError):
        return 0
    here = ctypes.string_at(address, MT_WORDS * 4 + 4)
    expected = key.tobytes() + position.to_bytes(4, sys.byteorder)
    return address if name == "MT19937" and not gauss and here == expected else 0


def _seed_numpy(random):
    if _template["numpy"]:
        ctypes.memmove(_template["numpy"], os.urandom(MT_WORDS * 4), MT_WORDS * 4)
        ctypes.c_int.from_address(_template["numpy"] + MT_WORDS * 4).value = MT_WORDS
    else:
        random.seed(list(memoryview(os.urandom(64)).cast("I")))


def new_entropy():
    """Fails (and so ends the context) when the kernel has no random bytes: never two copies with one seed."""
    loaded = sys.modules  # `random` has seeded itself in an at-fork hook
    if "numpy.random" in loaded:
        _seed_numpy(loaded["numpy.random"])
    if "ssl" in loaded and os.getpid() == _template["pid"]:
        # OpenSSL seeds itself again when it sees another pid; the hook by which it notices other forks did not run.
        loaded["ssl"].RAND_add(os.urandom(48), 48.0)
    if "uuid" in loaded:
        loaded["uuid"]._last_timestamp = None
        loaded["uuid"]._node = None
    if "tempfile" in loaded:
        loaded["tempfile"]._name_sequence = None
        loaded["tempfile"].tempdir = None
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)


def enter_workspace(path="/workspace"):
    try:
        os.chdir(path)
    except OSError:
        pass
