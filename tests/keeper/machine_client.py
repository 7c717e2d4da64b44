"""The keeper's requests for virtual machines, whose guest is the program without a kernel (tests/microvm/guest/serve.c)."""
import os
import secrets
import socket
import struct

import keeper_client as kc
from keeper_process import new_id

MIB = 1 << 20
LIMITS = (64 * MIB, 64 * MIB, 1000, 128, 1024)
TEMPLATE = "7e" * 32
CONTROL, GUEST = 32, 33
HAS_KVM = 0x100
DISK = b"a fresh disk....".ljust(4 * MIB, b"\0")


def fill(keeper, guest):
    there = keeper.state / "machines" / TEMPLATE
    there.mkdir(parents=True)
    (there / "kernel").write_bytes(guest.read_bytes())
    (there / "initrd").write_bytes(b"nothing that this kernel reads")
    (there / "root.erofs").write_bytes(b"root".ljust(MIB, b"\0"))
    (there / "disk.img").write_bytes(DISK)


class Machine:
    """A cell, and the connections that came with it."""

    def __init__(self, keeper, reply):
        assert reply.machine == 1 or reply.op == kc.MACHINE_BOOT
        self.keeper, self.cell, self.serial, self.vcpus, self.layer = keeper, reply.cell, reply.serial, reply.vcpus, reply.layer
        numbers = [CONTROL, GUEST] + [slot for slot in range(32) if reply.slots >> slot & 1]
        assert not reply.fds or len(reply.fds) == len(numbers)
        self.stream = {number: wrap(fd) for number, fd in zip(numbers, reply.fds)}

    def call(self, op, **fields):
        return self.keeper.call(op, cell=self.cell, serial=self.serial, **fields)

    def connect(self, number):
        fds = self.call(kc.MACHINE_CONNECT, slot=number).fds
        assert len(fds) == 1
        self.stream[number] = wrap(fds[0])
        return self

    def ask(self, text, number=GUEST):
        self.stream[number].send(text)
        return self.stream[number].recv(1 << 17)

    def capture(self, **fields):
        number = secrets.randbits(31) + 1
        self.call(kc.CAPTURE, capture=number, **fields)
        return number

    def destroy(self):
        self.call(kc.CELL_DESTROY)
        self.close()

    def close(self):
        for stream in self.stream.values():
            stream.close()


def boot(keeper, vcpus=1, limits=LIMITS, numbers=(CONTROL, GUEST, 0)):
    machine = Machine(keeper, keeper.call(kc.MACHINE_BOOT, id=new_id(), template=TEMPLATE, limits=limits, vcpus=vcpus))
    for number in numbers:
        machine.connect(number)
    return machine


def base_of(machine):
    name = new_id("bas_")
    reply = machine.call(kc.MACHINE_BASE, layer=name)
    machine.close()
    assert reply.layer == name
    return name, struct.unpack("<Q", reply.body[:8])[0]


def make(keeper, base, limits=LIMITS):
    machine = Machine(keeper, keeper.call(kc.MACHINE_MAKE, template=TEMPLATE, layer=base, id=new_id(), limits=limits))
    assert sorted(machine.stream) == [0, CONTROL, GUEST] and machine.layer == base
    return machine


def copy(keeper, capture, **fields):
    return Machine(keeper, keeper.call(kc.MACHINE_COPY, capture=capture, id=new_id(), **fields))


def wrap(fd):
    stream = socket.socket(fileno=fd)
    stream.settimeout(20)
    return stream


def monitors(place):
    """Pids of the monitors of this keeper, by the group they are in."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read() != "cella-vmm\n":
                continue
            group = next(line.split("::")[1].strip() for line in open(f"/proc/{pid}/cgroup") if line.startswith("0::"))
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z" and instance(place) in group:
            found.setdefault(group.split("/")[-2], []).append(int(pid))
    return found


def instance(place):
    number = 2166136261
    for byte in os.fsencode(place.state):
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    return f"cella-{number:08x}"


def groups(place):
    mount = next(line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2")
    own = next(line.split("::")[1].strip() for line in open(f"/proc/{place.process.pid}/cgroup") if line.startswith("0::"))
    return sorted(d.name for d in os.scandir(os.path.join(mount, own.strip("/"), instance(place))) if d.is_dir() and d.name[:4] in ("cel_", "cap_", "tpl_"))


def busy(place):
    """Groups that have a monitor: of cells, without those of templates."""
    return {group: pids for group, pids in monitors(place).items() if group.startswith(("cel_", "cap_"))}


def files(tmp_path, name):
    return [os.open(tmp_path / f"{name}.{kind}", os.O_RDWR | os.O_CREAT, 0o600) for kind in ("state", "memory")]


def save(keeper, capture, tmp_path, name="one"):
    fds = files(tmp_path, name)
    try:
        return keeper.call(kc.MACHINE_SAVE, capture=capture, fds=fds)
    finally:
        for fd in fds:
            os.close(fd)


def restore(keeper, tmp_path, layer, kept, name="one", vcpus=1, limits=LIMITS, id=None):
    fds = [os.open(tmp_path / f"{name}.{kind}", os.O_RDONLY) for kind in ("state", "memory")]
    try:
        return Machine(keeper, keeper.call(kc.MACHINE_RESTORE, fds=fds, template=TEMPLATE, layer=layer, files=kept, id=id or new_id(), limits=limits, vcpus=vcpus))
    finally:
        for fd in fds:
            os.close(fd)
