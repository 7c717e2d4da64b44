"""sys.stdout and sys.stderr on the real descriptors 1 and 2.

Every write goes to the pipe at once. That costs a system call per write and buys what matters here: prints, children
and C code appear in the order they happened, a progress dot shows when it is printed, and os._exit or a crash loses
nothing that was printed.
"""
import ctypes
import io
import os
import select
import sys
import threading

_write, _ident = os.write, threading.get_ident
_muted = 0  # the thread whose writes are thrown away; 0: none


class Descriptor(io.RawIOBase):
    """A descriptor that is written completely or raises: also when a child made it non-blocking, or a signal cut a
    write short. Closing it leaves the descriptor open: the next execution needs it."""

    def __init__(self, fd, name):
        self._fd = fd
        self.name = name
        self.mode = "wb"

    def writable(self):
        return True

    def fileno(self):
        return self._fd

    def write(self, data):
        try:
            size = len(data) if type(data) is bytes else memoryview(data).nbytes
            if _muted and _muted == _ident():
                return size
            done = _write(self._fd, data)
            if done == size:
                return size
        except BlockingIOError:
            done = 0
        return self._rest(memoryview(data).cast("B"), done)

    def _rest(self, view, done):
        while done < len(view):
            try:
                done += _write(self._fd, view[done:])
            except BlockingIOError:
                select.select([], [self._fd], [])
        return done


def text_stream(fd, name):
    # backslashreplace: text with lone surrogates is shown as escapes instead of failing the program.
    return io.TextIOWrapper(
        Descriptor(fd, name), encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True
    )


class Muffled:
    """In the place of a stream of the user's: what the muted thread writes is thrown away."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return len(text) if _muted == _ident() else self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


class Output:
    """Keeps the two streams alive across executions and flushes what else could hold bytes back."""

    def __init__(self):
        libc = ctypes.CDLL(None)
        self._fflush = libc.fflush
        self._c_stdout = ctypes.c_void_p.in_dll(libc, "stdout")
        libc.setvbuf(self._c_stdout, None, 2, 0)  # _IONBF: printf of C libraries in order with everything else
        self.out = self.err = None
        self.open()

    def open(self):
        """Point sys.stdout and sys.stderr at the descriptors; again after the code closed one of them."""
        if self.out is None or self.out.closed:
            replaced = self.out is None or sys.stdout is self.out
            self.out = sys.__stdout__ = text_stream(1, "<stdout>")
            if replaced:
                sys.stdout = self.out
        if self.err is None or self.err.closed:
            replaced = self.err is None or sys.stderr is self.err
            self.err = sys.__stderr__ = text_stream(2, "<stderr>")
            if replaced:
                sys.stderr = self.err

    def flush(self):
        """What C code buffered, and what a stream object of the user's own holds. May run the user's code."""
        self._fflush(self._c_stdout)
        for stream, ours in ((sys.stdout, self.out), (sys.stderr, self.err)):
            if stream is not ours and stream is not None:
                try:
                    stream.flush()
                except Exception:
                    pass  # a broken stream of the user's is the user's; ours has nothing to flush

    def mute(self):
        """Throw away what this thread prints, until unmute()."""
        global _muted
        self.open()
        _muted = _ident()
        self._put_aside = (sys.stdout, sys.stderr)
        ours = (self.out, self.err, None)
        sys.stdout, sys.stderr = (s if s in ours else Muffled(s) for s in self._put_aside)

    def unmute(self):
        global _muted
        _muted = 0
        sys.stdout, sys.stderr = self._put_aside

    def error_text(self, text):
        """Write a line of the kernel's own to stderr; if even that is closed there is nobody to tell."""
        try:
            self.err.write(text)
        except (OSError, ValueError):
            pass
