"""Exceptions as plain text: the standard traceback, without escape codes and without the frames of the machinery."""
import asyncio
import os
import traceback

from IPython.core.error import UsageError

TEXT_MAX = 1 << 20  # of one traceback, bytes after which the middle is left out
VALUE_MAX = 64 << 10  # of one exception's own text

_LOOP = os.path.dirname(asyncio.__file__) + os.sep
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MACHINERY = []  # directories and files whose frames only lead to the user's code; filled by hide()


def hide(*paths):
    """Leave frames of these files or directories out, unless the exception came from there."""
    _MACHINERY.extend(paths)


def _is_ours(frame):
    return frame.filename.startswith(_OURS)


def _is_machinery(frame):
    return any(frame.filename.startswith(path) for path in _MACHINERY)


def _trim(stack):
    """Drop our frames with the event loop's that follow them, and the machinery's before or between the user's."""
    kept, below_us = [], False
    for f in stack:
        below_us = _is_ours(f) or below_us and f.filename.startswith(_LOOP)
        if not below_us:
            kept.append(f)
    last_own = max((i for i, f in enumerate(kept) if not _is_machinery(f)), default=-1)
    return [f for i, f in enumerate(kept) if i > last_own or not _is_machinery(f)]


def _trim_all(top):
    todo, seen = [top], set()
    while todo:
        exc = todo.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        exc.stack[:] = _trim(exc.stack)
        todo += [exc.__cause__, exc.__context__, *(getattr(exc, "exceptions", None) or ())]


def shorten(text, limit):
    """Cut the middle out of a text, and say how much."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return "%s\n[... %d characters left out ...]\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def name_of(error):
    return type(error).__name__


def value_of(error):
    """str(error), which is code of the user's and may itself fail."""
    try:
        return shorten(str(error), VALUE_MAX)
    except Exception as e:
        return "<str() of the exception failed: %s>" % type(e).__name__


def traceback_of(error):
    """The text that Python itself would print, ending without a newline. Runs code of the user's (str, notes)."""
    try:
        if isinstance(error, UsageError):  # a wrong magic: only its sentence says anything
            return "UsageError: " + value_of(error)
        exc = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _trim_all(exc)
        text = "".join(exc.format())
        if not exc.stack:  # nothing of the user's below it: a syntax error, a wrong magic
            head = "Traceback (most recent call last):\n"
            text = text[len(head) :] if text.startswith(head) else text
    except RecursionError:
        text = "%s: %s\n(the traceback was too deep to print)" % (name_of(error), value_of(error))
    except Exception as e:
        text = "%s: %s\n(the traceback could not be printed: %s)" % (name_of(error), value_of(error), name_of(e))
    return shorten(text.rstrip("\n"), TEXT_MAX)
