"""Speaks to cella-guest in a virtual machine (src/wire/machine_proto.h, guest_proto.h, context_proto.h) over connections of a cella-vmm."""
from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import List, Optional, Tuple

from vmm import N, Vmm, numbers

LINE = "console=ttyS0 reboot=t panic=-1 pci=off tsc=reliable quiet cella.machine"
MESSAGE = struct.Struct("<IIiIIIiiiIIIQQQ160s")
IDENTITY = struct.Struct("<40s64sQQQIIII")
HEAD = struct.Struct("<IHHI")
PYTHON, SHELL = 1, 2
MIB = 1 << 20


P = numbers("machine_proto", "guest_proto", "context_proto")


class Answer:
    def __init__(self, packet: bytes):
        assert len(packet) == MESSAGE.size, f"{len(packet)} bytes on the control connection"
        (self.type, self.tag, self.status, self.slot, self.language, self.slots, self.signo, self.fate, self.code, self.pid, self.pids, _, self.value, self.memory_bytes,
         self.oom_kills, rest) = MESSAGE.unpack(packet)
        self.text = rest.split(b"\0")[0].decode("utf-8", "replace") if self.status else ""


class Context:
    """One context's connection: frames of the stream, and what it printed, in order."""

    def __init__(self, end: socket.socket):
        self.end, self.joined, self.frames, self.printed, self.number = end, b"", [], {1: b"", 2: b""}, 0
        self.order: List[Tuple[str, int]] = []

    def take(self, seconds: float) -> None:
        self.end.settimeout(seconds)
        packet = self.end.recv(1 << 17)
        if not packet:
            raise EOFError("the context's connection is closed")
        tag, rest = packet[0], packet[1:]
        if tag in (1, 2):
            self.printed[tag] += rest
            self.order.append(("print", tag))
            return
        self.joined += rest
        if tag & 0x80:
            return
        at = 0
        while at < len(self.joined):
            length, kind, flags, channel = HEAD.unpack_from(self.joined, at)
            at += HEAD.size
            self.frames.append((kind, flags, channel, self.joined[at:at + length]))
            self.order.append(("frame", kind))
            at += length
        self.joined = b""

    def frame(self, kind: int, seconds: float = 120) -> Tuple[int, int, int, bytes]:
        deadline = time.monotonic() + seconds
        while True:
            for i, frame in enumerate(self.frames):
                if frame[0] == kind:
                    del self.frames[:i + 1]
                    return frame
            self.take(max(0.1, deadline - time.monotonic()))

    def send(self, kind: int, payload: bytes = b"", channel: int = 0) -> None:
        packet = HEAD.pack(len(payload), kind, 0, channel) + payload
        for at in range(0, len(packet), 65535):
            piece = packet[at:at + 65535]
            self.end.send(bytes([0x80 if at + len(piece) < len(packet) else 0]) + piece)

    def start(self, code: str) -> int:
        self.number += 1
        self.printed = {1: b"", 2: b""}
        self.send(P["CONTEXT_EXECUTE"], code.encode(), self.number)
        return self.number

    def run(self, code: str, seconds: float = 180) -> str:
        """stdout of the code, or what went wrong."""
        self.start(code)
        return self.finish(seconds)

    def finish(self, seconds: float = 180) -> str:
        done = json.loads(self.frame(P["CONTEXT_DONE"], seconds)[3])
        return self.printed[1].decode() if done["status"] in ("ok", "exit") else f"{done}: {self.printed}"


class Machine:
    def __init__(self, vmm: Vmm, disk: Path, ends: Optional[dict] = None):
        self.vmm, self.disk, self.tag, self.early, self.contexts = vmm, disk, 0, [], {}
        self.channel, self.control, self.guest = 0, None, None

    def close(self) -> None:
        self.vmm.close()

    # ---- control ----

    def message(self, kind: str, slot=0, language=0, signo=0, rest: bytes = b"") -> int:
        self.tag += 1
        self.control.send(MESSAGE.pack(P["MACHINE_" + kind], self.tag, 0, slot, language, 0, signo, 0, 0, 0, 0, 0, 0, 0, 0, rest))
        return self.tag

    def answer(self, tag: int, seconds: float = 120) -> Answer:
        self.control.settimeout(seconds)
        while True:
            got = Answer(self.control.recv(1 << 16))
            if got.tag == tag:
                return got
            self.early.append(got)

    def ask(self, kind: str, *, seconds: float = 120, status: int = 0, **fields) -> Answer:
        got = self.answer(self.message(kind, **fields), seconds)
        assert got.status == status, (kind, got.status, got.text)
        return got

    def event(self, kind: str, seconds: float = 120) -> Answer:
        deadline = time.monotonic() + seconds
        while True:
            for i, one in enumerate(self.early):
                if one.type == P["MACHINE_" + kind]:
                    return self.early.pop(i)
            self.control.settimeout(max(0.1, deadline - time.monotonic()))
            self.early.append(Answer(self.control.recv(1 << 16)))

    def identity(self, digits: str, memory=400 * MIB, disk=2048 * MIB, pids=256, files=1024, status=0) -> Answer:
        rest = IDENTITY.pack(f"sbx_{digits}".encode(), os.urandom(64), time.time_ns(), memory, disk, 1000, pids, files, 0)
        got = self.ask("IDENTITY", rest=rest, status=status)
        for end in [self.guest, *(context.end for context in self.contexts.values())] if not status else []:
            end.send(bytes([P["MACHINE_PIECE_FRESH"]]))
        return got

    def limits(self, memory=400 * MIB, disk=2048 * MIB, pids=256, files=1024) -> Answer:
        return self.ask("LIMITS", rest=IDENTITY.pack(b"sbx_0", b"", 0, memory, disk, 1000, pids, files, 0))

    # ---- guest stream ----

    def op(self, seconds: float = 120, data: Optional[bytes] = None, **request) -> Tuple[dict, bytes, bytes]:
        """→ END, DATA, DATA_ERR. self.replied: REPLY."""
        self.replied = b""
        self.channel += 1
        channel = self.channel
        text = json.dumps(request).encode()
        self.guest.send(HEAD.pack(len(text), P["GUEST_OPEN"], 0, channel) + text)
        if data is not None:
            for at in range(0, len(data) or 1, 60000):
                piece = data[at:at + 60000]
                self.guest.send(HEAD.pack(len(piece), P["GUEST_DATA"], 2 if at + 60000 >= len(data) else 0, channel) + piece)
        out, err, end = b"", b"", b""
        self.guest.settimeout(seconds)
        while True:
            packet = self.guest.recv(1 << 17)
            assert packet, "the guest stream is closed"
            at = 0
            while at < len(packet):
                length, kind, flags, number = HEAD.unpack_from(packet, at)
                payload = packet[at + HEAD.size:at + HEAD.size + length]
                at += HEAD.size + length
                if number != channel:
                    continue
                if kind == P["GUEST_DATA"]:
                    out += payload
                elif kind == P["GUEST_DATA_ERR"]:
                    err += payload
                elif kind == P["GUEST_REPLY"]:
                    self.replied += payload
                elif kind == P["GUEST_END"]:
                    end += payload
                    if not flags & 1:
                        return json.loads(end), out, err
                if kind in (P["GUEST_DATA"], P["GUEST_DATA_ERR"]):
                    self.guest.send(HEAD.pack(4, P["GUEST_CREDIT"], 0, channel) + struct.pack("<I", length))

    def reply(self, **request) -> dict:
        self.op(**request)
        return json.loads(self.replied)

    def sh(self, cmd: str, user: str = "user", seconds: float = 120) -> str:
        end, out, err = self.op(seconds, op="exec", cmd=cmd, user=user)
        assert end.get("exit_code") == 0, (cmd, end, out, err)
        return out.decode()

    # ---- copies ----

    def attach(self, slots: int) -> None:
        self.control = self.vmm.attach(P["MACHINE_HOST_CONTROL"])
        self.guest = self.vmm.attach(P["MACHINE_HOST_GUEST"])
        for slot in range(32):
            if slots >> slot & 1:
                self.contexts[slot] = Context(self.vmm.attach(P["MACHINE_HOST_CONTEXT"] + slot))

    def fork(self, name: Path) -> "Machine":
        """A copy of a machine that stands still or is held, with a copy of its disk; not running yet."""
        child, _ = self.vmm.fork()
        subprocess.run(["cp", "--sparse=always", str(self.disk), str(name)], check=True)
        copy = Machine(child, name)
        child.attach_disks([])
        fd = os.open(name, os.O_RDWR)
        child.ask("DISK", 1, 0, fds=[fd])
        os.close(fd)
        copy.attach(sum(1 << slot for slot in self.contexts))
        for slot, context in self.contexts.items():
            copy.contexts[slot].number = context.number
        return copy

    def connect_control(self, seconds: float) -> None:
        """Asked for too early it waits in the monitor; until the guest listens, or while it has an older one open, it is refused: again, then."""
        deadline = time.monotonic() + seconds
        while True:
            self.control = self.vmm.connect(P["MACHINE_PORT"], P["MACHINE_HOST_CONTROL"])
            self.control.settimeout(seconds)
            try:
                packet = self.control.recv(1 << 16)
            except TimeoutError:
                packet, deadline = b"", 0
            except ConnectionError:
                packet = b""
            if packet:
                hello = Answer(packet)
                assert hello.type == P["MACHINE_HELLO"] and hello.value == P["MACHINE_PROTO_VERSION"]
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"no HELLO after {seconds} s; the console: {self.vmm.console()[-3000:]}")
            time.sleep(0.1)

    def connect(self, slot: int) -> None:
        self.contexts[slot] = Context(self.vmm.connect(P["MACHINE_PORT"], P["MACHINE_HOST_CONTEXT"] + slot))


def boot(build: Path, files: Path, disk: Path, memory: int, seconds: float) -> Machine:
    """A machine that said HELLO and has its guest stream and the connection of slot 0."""
    subprocess.run(["cp", "--sparse=always", str(files / "disk.img"), str(disk)], check=True)
    vmm = Vmm.start(build)
    disks = [(os.open(files / "root.erofs", os.O_RDONLY), True), (os.open(disk, os.O_RDWR), False)]
    machine = Machine(vmm, disk)
    vmm.boot(files / "kernel", LINE, memory=memory, initrd=files / "initrd", disks=disks)
    for fd, _ in disks:
        os.close(fd)
    machine.connect_control(seconds)
    machine.guest = vmm.connect(P["MACHINE_PORT"], P["MACHINE_HOST_GUEST"])
    machine.connect(0)
    return machine
