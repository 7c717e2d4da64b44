"""What a fresh copy does before it may run code.

Nobody called fork(): the process was copied from outside while it stood in pause(). So the child side of a fork is
done here by hand; new entropy is entropy.py's.
"""
import ctypes
import os
import sys
import threading


def after_copy():
    ctypes.pythonapi.PyOS_AfterFork_Child()  # GIL, import lock, at-fork hooks (random re-seeds itself there)
    after_fork()


def after_fork():
    """What Python's own fork leaves as it was."""
    main = threading.main_thread()
    if hasattr(main, "_native_id"):
        main._native_id = threading.get_native_id()
    if "platform" in sys.modules:
        sys.modules["platform"]._uname_cache = None  # a library that is imported may have asked for the host's name


def enter_workspace(path="/workspace"):
    try:
        os.chdir(path)
    except OSError:
        pass
