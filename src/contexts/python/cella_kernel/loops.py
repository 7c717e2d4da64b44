"""The event loop of a context that was copied while it lived.

A copy of a process has the loop's memory: timers, tasks and callbacks go on by themselves. Its epoll instance and its wake-up
socket are made again for the copy as a rule, with everything of its own that they watched. Where they were not, the loop
gets new ones here. Connections of the original are not the copy's: whoever waits for one waits in vain.
"""
import os
import selectors
import stat

_retired = []  # objects whose descriptor numbers may belong to others now: they must never be finalized


def _wake_up_socket(loop):
    """What tells this loop's wake-up socket from any other file, or None when it is gone."""
    try:
        return os.fstat(loop._ssock.fileno()).st_ino
    except OSError:
        return None


def _works(loop):
    """True when the loop's descriptors are what they should be: a connected pair that its epoll instance watches."""
    try:
        ends = loop._ssock.fileno(), loop._csock.fileno()
        if not all(stat.S_ISSOCK(os.fstat(end).st_mode) for end in ends):
            return False
        loop._ssock.getpeername(), loop._csock.getpeername()
        with open("/proc/self/fdinfo/%d" % loop._selector.fileno(), encoding="ascii") as f:
            watched = [line.split()[1] for line in f if line.startswith("tfd:")]
        return str(ends[0]) in watched
    except (OSError, AttributeError, ValueError):
        return False


def repair(loop):
    """Before the loop runs. Loops of other kinds (uvloop) are left alone."""
    if not hasattr(loop, "_ssock") or not hasattr(loop, "_make_self_pipe") or loop.is_closed():
        return
    known = getattr(loop, "_cella_socket", None)
    now = _wake_up_socket(loop)
    if known is None or known == now or now is not None and _works(loop):
        loop._cella_socket = now
        return
    _retired.extend((loop._selector, loop._ssock, loop._csock))
    loop._selector = selectors.DefaultSelector()
    loop._internal_fds -= 1
    loop._make_self_pipe()
    loop._cella_socket = _wake_up_socket(loop)
