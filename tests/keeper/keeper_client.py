"""The keeper's binary protocol (src/wire/keeper_proto.h) in Python: what cellad says to it, and what it never would."""
import array
import os
import secrets
import socket
import struct

REQUEST = struct.Struct("<IIQIIIIiIIIQQIIII40s72s40s40sII")
HEAD = struct.Struct("<IIQiIIIIIIiIIIIQ")
REPLY_SIZE = 480
MAGIC = 0x43454C03
HELLO, LIST, ZYGOTE_START, ZYGOTE_STOP, CELL_MAKE, CELL_DESTROY, CELL_LIMITS, CELL_FREEZE, CELL_STATS, CONTEXT_MAKE, \
    CONTEXT_SIGNAL, CAPTURE, CAPTURE_MAKE, CAPTURE_DROP, CAPTURE_OPEN, ZYGOTE_OPEN, LAYER_KEEP, LAYER_LIST, LAYER_DROP, \
    THAW_BEGIN, THAW_CALLS, THAW_RUN, CELL_RENAME, MACHINE_BOOT, MACHINE_BASE, MACHINE_TEMPLATE, MACHINE_MAKE, MACHINE_CONNECT, \
    MACHINE_COPY, MACHINE_SAVE, MACHINE_RESTORE = range(1, 32)
EVENT_FOUND, EVENT_CONTEXT_EXIT, EVENT_CELL_GONE, EVENT_ZYGOTE_GONE, EVENT_LAYER = range(100, 105)
HOLD, LAST = 1, 2
PYTHON, SHELL = 1, 2
FATE_EXITED, FATE_KILLED, FATE_OOM = range(3)
MIB = 1 << 20
LIMITS = (512 * MIB, 256 * MIB, 1000, 128, 1024)  # memory, disk, cpu_millis, pids, open files


class Refused(Exception):
    def __init__(self, errno, text):
        super().__init__(text)
        self.errno, self.text = errno, text


class Reply:
    def __init__(self, data, fds):
        names = "magic op tag error cell serial slot slots fate language code cold notes machine vcpus zygote".split()
        self.__dict__.update(zip(names, HEAD.unpack(data[:72])))
        self.body, self.fds = data[72:328], fds
        self.id, self.template = data[328:368].rstrip(b"\0").decode(), data[368:440].rstrip(b"\0").decode()
        self.layer = data[440:480].rstrip(b"\0").decode()
        self.text = self.body.split(b"\0")[0].decode("utf-8", "replace") if self.error else ""

    def stats(self):
        keys = "memory_bytes memory_peak_bytes cpu_us disk_bytes oom_kills pids".split()
        return dict(zip(keys, struct.unpack("<QQQQQI", self.body[:44])))

    def report(self):
        return dict(zip("features cells zygotes landlock_abi made contexts".split(), struct.unpack("<IIIIQQ", self.body[:32])))


def request(op, tag, cell=0, serial=0, slot=0, language=0, signo=0, on=0, capture=0, flags=0, limits=LIMITS, id="", template="", layer="", files="", vcpus=0, magic=MAGIC):
    return REQUEST.pack(magic, op, tag, cell, serial, slot, language, signo, on, capture, flags, *limits, 0, id.encode(), template.encode(), layer.encode(), files.encode(), vcpus, 0)


class Keeper:
    def __init__(self, path, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.tag, self.events = 0, []

    def send(self, op, fds=(), **fields):
        self.tag += 1
        socket.send_fds(self.socket, [request(op, self.tag, **fields)], list(fds))
        return self.tag

    def receive(self):
        data, ancillary, _, _ = self.socket.recvmsg(REPLY_SIZE, socket.CMSG_SPACE(97 * 4))
        if not data:
            raise EOFError
        fds = array.array("i")
        for _, _, body in ancillary:
            fds.frombytes(body[: len(body) // 4 * 4])
        return Reply(data, list(fds))

    def call(self, op, **fields):
        return self.answer(self.send(op, **fields))

    def answer(self, tag):
        while True:
            for reply in [r for r in self.events if r.tag == tag]:
                self.events.remove(reply)
                if reply.error:
                    raise Refused(reply.error, reply.text)
                return reply
            self.events.append(self.receive())

    def event(self, op):
        """The next event of this kind, also one that came before an answer."""
        while True:
            for i, reply in enumerate(self.events):
                if reply.op == op:
                    return self.events.pop(i)
            self.events.append(self.receive())

    def make(self, template, language=PYTHON, **fields):
        return Cell(self, self.call(CELL_MAKE, id="sbx_" + secrets.token_hex(16), template=template, language=language, **fields))

    def close(self):
        self.socket.close()


def frame(kind, channel=0, payload=b"", flags=0):
    return struct.pack("<IHHI", len(payload), kind, flags, channel) + payload


def frames(packet):
    at = 0
    while at < len(packet):
        length, kind, _, channel = struct.unpack_from("<IHHI", packet, at)
        yield kind, channel, packet[at + 12 : at + 12 + length]
        at += 12 + length


class Context:
    """The daemon's ends of one context's streams."""

    def __init__(self, fds, fresh=True):
        self.control = socket.socket(fileno=fds[0])
        self.control.settimeout(20)
        self.out, self.err = fds[1], fds[2]
        self.number = 0
        if fresh:
            self.ready = next(frames(self.control.recv(65536)))[2]

    def start(self, code):
        self.number += 1
        self.control.send(frame(1, self.number, code.encode()))

    def finish(self):
        got = []
        while True:
            for kind, _, payload in frames(self.control.recv(65536)):
                got.append((kind, payload))
                if kind == 37:
                    return got

    def run(self, code):
        """What the code printed."""
        self.start(code)
        self.finish()
        printed = b""
        for fd in (self.out, self.err):
            try:
                while chunk := os.read(fd, 65536):
                    printed += chunk
            except BlockingIOError:
                pass
        return printed.decode()

    def close(self):
        self.control.close()
        os.close(self.out)
        os.close(self.err)


class Cell:
    def __init__(self, keeper, reply):
        self.keeper, self.cell, self.serial = keeper, reply.cell, reply.serial
        self.guest = socket.socket(fileno=reply.fds[0])
        self.context = Context(reply.fds[1:]) if len(reply.fds) == 4 else None

    def call(self, op, **fields):
        return self.keeper.call(op, cell=self.cell, serial=self.serial, **fields)

    def fill(self, slot, language=PYTHON):
        return Context(self.call(CONTEXT_MAKE, slot=slot, language=language).fds)

    def destroy(self):
        self.call(CELL_DESTROY)
        self.guest.close()
        if self.context:
            self.context.close()
