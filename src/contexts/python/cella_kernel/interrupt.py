"""Who may be interrupted when.

SIGINT means "stop the execution that runs", and must neither be lost nor hit the next one, nor tear a message that is
half sent. The gate knows three modes:

  IDLE   waiting for the daemon: a signal is ignored, unless a packet is queued already (then it is meant for that one)
  HELD   the kernel works for an execution, its own code runs: the signal is remembered
  OPEN   code of the user runs: KeyboardInterrupt is raised there, also inside display() or input(), but not while
         a message is being sent (hold)

The handler never raises in the frame of guarded() itself, so there is no instant in which a KeyboardInterrupt could
fall between "the user's code ended" and "the gate is shut".
"""
import signal
import threading

IDLE, HELD, OPEN = 0, 1, 2


class Gate:
    def __init__(self, readable):
        self.mode = IDLE
        self.pending = False  # a signal that will be raised at the next chance
        self.delivered = False  # KeyboardInterrupt was raised in this execution
        self.holds = 0  # while it is not 0, a signal is remembered and raised by check()
        self._quiet = [guarded.__code__]
        self._readable = readable
        self._main = threading.main_thread()
        self._signal, self._mask = signal.signal, signal.pthread_sigmask
        self._ident = threading.get_ident

    def install(self):
        """Make SIGINT ours again, whatever the code that just ran did to it. Main thread only."""
        self._signal(signal.SIGINT, self._on_signal)
        self._mask(signal.SIG_UNBLOCK, (signal.SIGINT,))

    def put_off_in(self, code):
        """Never raise in a frame of this code itself: it holds the gate as soon as it runs."""
        self._quiet.append(code)

    def quiet(self, frame):
        return frame is not None and any(frame.f_code is code for code in self._quiet)

    def _on_signal(self, _number, frame):
        if self.mode == OPEN and not self.holds and not self.quiet(frame):
            self.pending = False
            self.delivered = True
            raise KeyboardInterrupt
        if self.mode != IDLE or self._readable():
            self.pending = True

    def check(self):
        """Raise the interrupt that came before the user's code began, or while a message was sent."""
        if self.pending and self.mode == OPEN and not self.holds:
            self.pending = False
            self.delivered = True
            raise KeyboardInterrupt

    # `with gate:` puts the interrupt off while a message is sent.
    def __enter__(self):
        if self._ident() == self._main.ident:
            self.holds += 1

    def __exit__(self, *_exc):
        if self._ident() == self._main.ident:
            self.holds -= 1
            self.check()

    def shut(self):
        """The execution is over: whatever is still pending was meant for it."""
        self.mode = IDLE  # first, so that no signal falls between the two and stays for the next execution
        self.pending = False
        self.holds = 0


def guarded(gate, function, *args):
    """Call a function that runs the user's code. Returns (value, None), or (None, exception): never raises."""
    try:
        gate.mode = OPEN
        try:
            return function(*args), None
        finally:
            gate.mode = HELD
    except BaseException as e:
        gate.mode = HELD
        return None, e
