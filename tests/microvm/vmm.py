"""Drives a cella-vmm through its control socket (src/wire/vmm_proto.h)."""
from __future__ import annotations

import fcntl
import os
import re
import resource
import select
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
RECORD = struct.Struct("<IIiI6Q")
UID = 64321  # nobody else's, on a machine that runs tests


def numbers(*headers: str) -> Dict[str, int]:
    """The protocols' numbers, from the headers themselves: defines and enums of src/wire/NAME.h."""
    found: Dict[str, int] = {}
    for name in headers:
        text = re.sub(r"/\*.*?\*/", "", (ROOT / f"src/wire/{name}.h").read_text(), flags=re.S)
        found.update({k: int(v, 0) for k, v in re.findall(r"#define (\w+) (0x[0-9a-fA-F]+|\d+)u?\b", text)})
        for body in re.findall(r"enum \w+ \{(.*?)\}", text, re.S):
            value = -1
            for key, given in re.findall(r"([A-Za-z]\w*)(?: = (\d+))?", body):
                value = int(given) if given else value + 1
                found[key] = value
    return found


N = numbers("vmm_proto")


class Refused(Exception):
    def __init__(self, number: int, text: str):
        super().__init__(f"{os.strerror(number)}: {text}")
        self.errno, self.text = number, text


class Answer:
    def __init__(self, packet: bytes):
        self.type, self.seq, self.status, size, *self.arg = RECORD.unpack_from(packet)
        self.text = packet[RECORD.size:]
        assert len(self.text) == size


class Vmm:
    """One VMM process, started or forked from another."""

    def __init__(self, control: socket.socket, process: Optional[subprocess.Popen] = None):
        self.control, self.process, self.seq, self.events, self.early = control, process, 0, [], {}
        self.mine: List[socket.socket] = []
        control.settimeout(60)
        ready = self.receive()
        assert ready.type == N["VMM_READY"], ready.type
        if ready.status:
            raise Refused(ready.status, ready.text.decode())
        self.pid = ready.arg[0]

    @classmethod
    def start(cls, build: Path, *extra: str, uid: int = UID, stderr=None, tasks: Optional[int] = None) -> "Vmm":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        def places() -> None:
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (theirs.fileno(), kvm)]
            os.dup2(high[0], 3), os.dup2(high[1], 4)
            if tasks:
                resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))

        process = subprocess.Popen([str(build / "src/vmm/cella-vmm"), "--user", f"{uid}:{uid}", *extra], preexec_fn=places, pass_fds=[3, 4],
                                   stdin=subprocess.DEVNULL, stderr=stderr)
        theirs.close()
        os.close(kvm)
        try:
            return cls(ours, process)
        except BaseException:
            process.kill()
            process.wait()
            raise

    # ---- messages ----

    def receive(self) -> Answer:
        packet = self.control.recv(1 << 17)
        if not packet:
            raise EOFError("the VMM is gone")
        return Answer(packet)

    def send(self, name: str, *arg: int, text: bytes = b"", fds: Iterable[int] = ()) -> int:
        self.seq += 1
        record = RECORD.pack(N["VMM_" + name], self.seq, 0, len(text), *(list(arg) + [0] * (6 - len(arg))))
        socket.send_fds(self.control, [record + text], list(fds))
        return self.seq

    def wait(self, seq: int) -> Answer:
        while seq not in self.early:
            answer = self.receive()
            if answer.seq:
                self.early[answer.seq] = answer
            else:
                self.events.append(answer)
        answer = self.early.pop(seq)
        if answer.status:
            raise Refused(answer.status, answer.text.decode())
        return answer

    def ask(self, name: str, *arg: int, text: bytes = b"", fds: Iterable[int] = ()) -> Answer:
        return self.wait(self.send(name, *arg, text=text, fds=fds))

    def event(self, seconds: float = 30) -> Answer:
        if not self.events:
            self.control.settimeout(seconds)
            try:
                answer = self.receive()
            finally:
                self.control.settimeout(60)
            assert not answer.seq
            self.events.append(answer)
        return self.events.pop(0)

    # ---- what tests do ----

    def boot(self, kernel: Path, line: str = "", memory: int = 64 << 20, vcpus: int = 1, track: bool = True, disks: Iterable[Tuple[int, bool]] = (),
             net: Optional[int] = None, initrd: Optional[Path] = None, resume: bool = True) -> "Vmm":
        self.ask("CONFIG", memory, vcpus, N["VMM_CONFIG_TRACK"] if track else 0)
        self.attach_disks(disks)
        if net is not None:
            self.ask("NET", 0x665544332202, fds=[net])
        files = [os.open(kernel, os.O_RDONLY)] + ([os.open(initrd, os.O_RDONLY)] if initrd else [])
        try:
            self.ask("BOOT", text=line.encode(), fds=files)
        finally:
            for fd in files:
                os.close(fd)
        if resume:
            self.ask("RESUME")
        return self

    def attach_disks(self, disks: Iterable[Tuple[int, bool]]) -> None:
        for i, (fd, read_only) in enumerate(disks):
            self.ask("DISK", i, N["VMM_DISK_READ_ONLY"] if read_only else 0, fds=[fd])

    def fork(self, flags: int = 0, uid: int = 0) -> Tuple["Vmm", Answer]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        seq = self.send("FORK", flags, uid, uid, fds=[theirs.fileno()])
        theirs.close()
        answer = self.wait(seq)
        return Vmm(ours), answer

    def console(self) -> str:
        return self.ask("CONSOLE").text.decode("latin-1")

    def console_has(self, text: str, seconds: float = 30) -> str:
        end = time.monotonic() + seconds
        while True:
            said = self.console()
            if text in said:
                return said
            if time.monotonic() > end:
                raise AssertionError(f"no {text!r} on the console after {seconds} s: {said[-2000:]!r}")
            time.sleep(0.02)

    def connect(self, guest_port: int, host_port: int, packets: bool = True) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
        self.ask("CONNECT", guest_port, N["VMM_STREAM_PACKETS" if packets else "VMM_STREAM_BYTES"], host_port, fds=[theirs.fileno()])
        theirs.close()
        ours.settimeout(30)
        return ours

    def attach(self, host_port: int, packets: bool = True) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
        self.ask("ATTACH", host_port, fds=[theirs.fileno()])
        theirs.close()
        ours.settimeout(30)
        return ours

    def snapshot(self, directory: Path, name: str, flags: int = 0) -> Answer:
        files = [os.open(directory / f"{name}.{kind}", os.O_RDWR | os.O_CREAT, 0o600) for kind in ("state", "memory")]
        try:
            return self.ask("SNAPSHOT", flags, fds=files)
        finally:
            for fd in files:
                os.close(fd)

    def restore(self, directory: Path, name: str, base: Optional[str] = None) -> Answer:
        paths = [directory / f"{name}.state", directory / f"{name}.memory"] + ([directory / f"{base}.memory"] if base else [])
        files = [os.open(path, os.O_RDONLY) for path in paths]
        try:
            return self.ask("RESTORE", fds=files)
        finally:
            for fd in files:
                os.close(fd)

    def gone(self, seconds: float = 10) -> bool:
        """True when the VMM closed its control socket, which it does only by ending."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.control], [], [], 0.1)[0]:
                try:
                    if not self.control.recv(1 << 17):
                        return True
                except ConnectionError:
                    return True
        return False

    def close(self) -> Optional[int]:
        """End it; the exit status of one that was started here."""
        self.control.close()
        return self.process.wait(20) if self.process else None
