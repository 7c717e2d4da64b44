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


def new_entropy():
    """Fails (and so ends the context) when the kernel has no random bytes: never two copies with one seed."""
    loaded = sys.modules
    if "random" in loaded:
        loaded["random"].seed(os.urandom(32))
    if "numpy.random" in loaded:
        loaded["numpy.random"].seed(list(memoryview(os.urandom(64)).cast("I")))
    if "ssl" in loaded:
        # OpenSSL notices a fork by a hook that did not run here.
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
