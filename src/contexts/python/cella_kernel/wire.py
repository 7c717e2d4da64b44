"""Frames and packets of the context stream. The manual is src/wire/frame.h and src/wire/context_proto.h.

One thread of this process reads (the main one); any thread may send, a lock keeps the frames of one message together.
"""
import os
import select
import struct
import threading
from collections import deque

CONTEXT_FD = 60
PACKET_MAX = 65536
HEAD = struct.Struct("<IHHI")
PAYLOAD_MAX = PACKET_MAX - HEAD.size
JSON_MAX = 32 << 20  # CONTEXT_JSON_MAX: one joined payload, either direction
REPLAY_MAX = 8 << 20  # bytes of frames kept of the newest execution

MORE, EOF, REPLAY, SVG = 0x1, 0x2, 0x4, 0x8
FLAGS_KNOWN = MORE | EOF | REPLAY | SVG

EXECUTE, SETENV, TEMPENV, INPUT_REPLY, HELLO, CWD, FORKED, INSPECT = 1, 2, 3, 4, 5, 6, 7, 8
READY, DISPLAY, RESULT, ERROR, INPUT_REQUEST, DONE, STATUS, VARIABLES = 32, 33, 34, 35, 36, 37, 38, 39
INTERRUPTIBLE = (EXECUTE, INSPECT)


class Closed(Exception):
    """The daemon's end of the stream is gone."""


class Malformed(Exception):
    """The peer sent bytes that the protocol does not allow."""


class Stream:
    def __init__(self, fd=CONTEXT_FD):
        self.fd = fd
        self.lock = threading.RLock()
        self._frames = deque()  # received, not yet asked for
        self._partial = None  # (type, channel, [payload, ...], bytes) while FRAME_MORE goes on
        # Bound now, so that code which replaces os.read or select.poll does not reach the loop.
        self._read, self._write = os.read, os.write
        self._waiting = select.poll()
        self._waiting.register(fd, select.POLLIN)
        self._poll = select.poll

    def wait(self):
        """Block until there is a packet to read (or the stream ended)."""
        self._waiting.poll()

    def readable(self):
        """True when a packet is queued. Safe inside a signal handler."""
        peek = self._poll()  # a fresh one: a handler may interrupt another call of this
        peek.register(self.fd, select.POLLIN)
        events = peek.poll(0)
        return bool(events) and bool(events[0][1] & select.POLLIN)

    def expects_execution(self):
        """True when something that can be interrupted is among what was received and not taken, whole or its first part."""
        if self._partial is not None and self._partial[0] in INTERRUPTIBLE:
            return True
        return any(frame[0] in INTERRUPTIBLE for frame in self._frames)

    def take(self):
        """The next whole message that is here already: (type, flags, channel, payload), or None."""
        return self._frames.popleft() if self._frames else None

    def receive(self):
        """Read one packet and queue its messages."""
        try:
            packet = self._read(self.fd, PACKET_MAX + 1)
        except BlockingIOError:
            return
        except OSError as e:
            raise Closed(str(e)) from None
        if not packet:
            raise Closed("end of stream")
        if len(packet) > PACKET_MAX:
            raise Malformed("packet longer than %d bytes" % PACKET_MAX)
        at, end = 0, len(packet)
        while at < end:
            if end - at < HEAD.size:
                raise Malformed("half a frame head")
            length, kind, flags, channel = HEAD.unpack_from(packet, at)
            at += HEAD.size
            if length > end - at:
                raise Malformed("frame longer than its packet")
            self._add(kind, flags, channel, packet[at : at + length])
            at += length

    def _add(self, kind, flags, channel, payload):
        if not EXECUTE <= kind <= INSPECT or flags & ~FLAGS_KNOWN:
            raise Malformed("unknown frame type %d or flags %#x" % (kind, flags))
        if kind == FORKED:
            self._partial = None  # the rest of it went to the original; the daemon sends it again to this copy
        if self._partial is not None:
            started, its_channel, parts, size = self._partial
            if (kind, channel) != (started, its_channel):
                raise Malformed("another frame in the middle of a long one")
            if size + len(payload) > JSON_MAX:
                raise Malformed("joined payload longer than %d bytes" % JSON_MAX)
            parts.append(payload)
            self._partial = (kind, channel, parts, size + len(payload))
            if flags & MORE:
                return
            self._partial, payload = None, b"".join(parts)
        elif flags & MORE:
            self._partial = (kind, channel, [payload], len(payload))
            return
        self._frames.append((kind, flags, channel, payload))

    def send(self, messages):
        """Send messages [(type, flags, channel, payload)] in order, as few packets as they fit in; blocks."""
        with self.lock:
            packet, size = [], 0
            for kind, flags, channel, payload in messages:
                for piece, piece_flags in cut(payload, flags):
                    if size + HEAD.size + len(piece) > PACKET_MAX:
                        self._put(b"".join(packet))
                        packet, size = [], 0
                    packet.append(HEAD.pack(len(piece), kind, piece_flags, channel))
                    packet.append(piece)
                    size += HEAD.size + len(piece)
            if packet:
                self._put(b"".join(packet))

    def _put(self, packet):
        while True:
            try:
                self._write(self.fd, packet)
                return
            except BlockingIOError:  # somebody made the stream non-blocking
                select.select([], [self.fd], [])
            except OSError as e:
                raise Closed(str(e)) from None


def cut(payload, flags):
    """The pieces of a payload as (bytes, flags)."""
    if len(payload) <= PAYLOAD_MAX:
        return ((payload, flags),)
    view = memoryview(payload)
    starts = range(0, len(payload), PAYLOAD_MAX)
    return [(view[s : s + PAYLOAD_MAX], flags | (MORE if s != starts[-1] else 0)) for s in starts]


class Replay:
    """What the newest execution sent, kept for a daemon that takes over: whole messages, REPLAY_MAX bytes.

    ERROR and DONE are always kept (both are bounded); of the others those that no longer fit are left out, and the
    replayed DONE says so with "replay_truncated": true."""

    def __init__(self):
        self.number = 0  # of the newest execution; 0 = none yet
        self.begin(0)

    def begin(self, number):
        self.number = number
        self._kept, self._bytes, self._dropped = [], 0, False

    def keep(self, kind, channel, payload):
        if kind not in (ERROR, DONE) and self._bytes + len(payload) > REPLAY_MAX:
            self._dropped = True
            return
        self._bytes += len(payload)
        self._kept.append((kind, channel, payload))

    def messages(self):
        out = []
        for kind, channel, payload in self._kept:
            if kind == DONE and self._dropped:
                payload = payload[:-1] + b',"replay_truncated":true}'
            out.append((kind, REPLAY, channel, payload))
        out.append((STATUS, 0, 0, b'{"last":%d}' % self.number))
        return out


def environment_entries(payload):
    """The (name, value) pairs of a SETENV or TEMPENV payload."""
    if not payload:
        return []
    if not payload.endswith(b"\0"):
        raise Malformed("environment entry without its final NUL")
    pairs = []
    for entry in payload[:-1].split(b"\0"):
        name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
        if not name or not equals:
            raise Malformed("environment entry is not NAME=VALUE")
        pairs.append((name, value))
    return pairs
