"""The event loop of a context that was forked while it lived.

A copy of a process has the loop's memory, but not its epoll instance and not its wake-up socket: those descriptors are
closed, or were opened anew as something fresh. Timers, tasks and callbacks live in memory, so the loop only needs new
descriptors to go on with them. Connections of the parent are not the copy's: whoever waits for one waits in vain.
"""
import os
import selectors

_retired = []  # objects whose descriptor numbers may belong to others now: they must never be finalized


def _wake_up_socket(loop):
    """What tells this loop's wake-up socket from any other file, or None when it is gone."""
    try:
        return os.fstat(loop._ssock.fileno()).st_ino
    except OSError:
        return None


def repair(loop):
    """Before the loop runs. Loops of other kinds (uvloop) are left alone."""
    if not hasattr(loop, "_ssock") or not hasattr(loop, "_make_self_pipe") or loop.is_closed():
        return
    known = getattr(loop, "_cella_socket", None)
    now = _wake_up_socket(loop)
    if known is None or known == now:
        loop._cella_socket = now
        return
    _retired.extend((loop._selector, loop._ssock, loop._csock))
    loop._selector = selectors.DefaultSelector()
    loop._internal_fds -= 1
    loop._make_self_pipe()
    loop._cella_socket = _wake_up_socket(loop)
