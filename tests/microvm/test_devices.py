"""Every device, as the test guest's small drivers use it (guest/devices.c, guest/serve.c)."""
import os
import socket
import threading

import pytest

from vmm import N, Refused


@pytest.fixture
def disks(tmp_path):
    (tmp_path / "disk").write_bytes(b"sector one".ljust(1 << 20, b"\0"))
    (tmp_path / "ro").write_bytes(b"read only".ljust(8192, b"\0"))
    files = [(os.open(tmp_path / "disk", os.O_RDWR), False), (os.open(tmp_path / "ro", os.O_RDONLY), True)]
    yield files
    for fd, _ in files:
        os.close(fd)


def answer_frames(end):
    end.settimeout(30)
    try:
        frame = end.recv(4096)
        end.send(b"a frame from the host".ljust(100, b"\0") if frame.startswith(b"a frame from the guest") and len(frame) == 60 else b"wrong")
    except OSError:
        pass


def test_devices(start, guest, disks, tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    threading.Thread(target=answer_frames, args=(ours,), daemon=True).start()
    vmm = start().boot(guest, "devices", disks=disks, net=theirs.fileno())
    said = vmm.console_has("done").split("\n")
    assert [line for line in said if line.startswith("bad")] == []
    assert len([line for line in said if line.startswith("ok")]) == 20
    assert (tmp_path / "disk").read_bytes()[4096:8192] == b"w" * 4096
    assert (tmp_path / "ro").read_bytes().startswith(b"read only")
    ours.close(), theirs.close()


def test_a_disk_that_cannot_be_one(start, tmp_path):
    vmm = start()
    vmm.ask("CONFIG", 64 << 20, 1, 0)
    (tmp_path / "empty").write_bytes(b"")
    for path, mode, flags in ((tmp_path / "empty", os.O_RDWR, 0), ("/dev/null", os.O_RDWR, 0), (__file__, os.O_RDONLY, 0), (tmp_path, os.O_RDONLY, 1)):
        fd = os.open(path, mode)
        with pytest.raises(Refused):
            vmm.ask("DISK", 0, flags, fds=[fd])
        os.close(fd)
    with open(__file__, "rb") as good, pytest.raises(Refused):
        vmm.ask("DISK", 4, 1, fds=[good.fileno()])


def test_machine_does_not_run_without_its_disk(serving, disks):
    vmm = serving(disks=disks)
    child, _ = vmm.fork()
    with pytest.raises(Refused, match="disk"):
        child.ask("RESUME")
    child.ask("DISK", 0, 0, fds=[disks[0][0]])
    child.ask("RESUME")


def test_disk_of_another_size_is_not_swapped_in(start, guest, disks, tmp_path):
    vmm = start().boot(guest, "devices", disks=disks)
    vmm.console_has("done")
    child, _ = vmm.fork()
    with open(tmp_path / "other", "w+b") as other:
        other.truncate(2 << 20)
        with pytest.raises(Refused, match="size"):
            child.ask("DISK", 0, 0, fds=[other.fileno()])


# ---- streams ----

@pytest.mark.parametrize("size", [1, 100, 4052, 4053, 10000, 65535, 65536])
def test_packets_keep_their_bounds(serving, talk, size):
    vmm = serving()
    stream = vmm.connect(5, 1)
    text = b"e" + bytes(i * 7 % 251 for i in range(size - 1))
    assert talk(stream, text) == text
    assert talk(stream, b"e2") == b"e2"


def test_packet_too_large_closes_the_connection(serving):
    vmm = serving()
    stream = vmm.connect(5, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    stream.send(b"e" * 65537)
    with pytest.raises(ConnectionError):
        if stream.recv(1 << 17) == b"":
            raise ConnectionError
    other = vmm.connect(5, 2)
    other.send(b"c")
    assert other.recv(10) == b"1"


def test_bytes(serving):
    vmm = serving()
    stream = vmm.connect(5, 1, packets=False)
    stream.sendall(b"e some bytes")
    got = b""
    while len(got) < 12:
        got += stream.recv(100)
    assert got == b"e some bytes"


def test_many_connections_side_by_side(serving, talk):
    vmm = serving()
    streams = [vmm.connect(5, 1 + i) for i in range(8)]
    for stream in streams:
        stream.send(b"c")
    assert sorted(int(stream.recv(100)) for stream in streams) == list(range(1, 9))
    assert vmm.ask("STATUS").arg[5] == 8
    for stream in streams:
        stream.close()
    while vmm.ask("STATUS").arg[5]:
        pass
    again = vmm.connect(5, 99)
    assert talk(again, b"c") == b"9"


def test_refused_port_closes_the_end(serving):
    vmm = serving()
    stream = vmm.connect(9, 1)
    assert stream.recv(10) == b""


def test_names_of_connections(serving):
    vmm = serving()
    first = vmm.connect(5, 7)
    assert first.send(b"c") and first.recv(10) == b"1"
    with pytest.raises(Refused):
        vmm.connect(5, 0)
    with pytest.raises(Refused):
        vmm.ask("CONNECT", 5, 3, 7, fds=[first.fileno()])  # no such type: the connection stays
    assert first.send(b"c") and first.recv(10) == b"2"
    second = vmm.connect(5, 7)
    assert first.recv(10) == b""
    assert second.send(b"c") and second.recv(10) == b"3"
    assert vmm.ask("STATUS").arg[5] == 1


def test_slow_reader_gets_everything(serving):
    vmm = serving()
    stream = vmm.connect(5, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    packets = [b"e" + str(i).encode() * 200 for i in range(60)]
    sender = threading.Thread(target=lambda: [stream.send(p) for p in packets])
    sender.start()
    got = [stream.recv(1 << 17) for _ in packets]
    sender.join()
    assert got == packets


def test_slow_reader_of_bytes_gets_everything(serving):
    vmm = serving()
    stream = vmm.connect(5, 1, packets=False)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = b"".join(b"e%05d" % i + b"." * 994 for i in range(150))
    sender = threading.Thread(target=lambda: [stream.sendall(sent[i:i + 1000]) for i in range(0, len(sent), 1000)])
    sender.start()
    got = b""
    while len(got) < 1000:  # the guest answers what begins with an e; pieces may be cut anywhere
        got += stream.recv(777)
    sender.join(20)
    stream.settimeout(1)
    try:
        while piece := stream.recv(4096):
            got += piece
    except TimeoutError:
        pass
    assert got.startswith(sent[:1000]) and len(got) <= len(sent)


def test_connect_before_the_guest_listens(start, guest):
    vmm = start().boot(guest, "serve", resume=False)
    stream = vmm.connect(5, 1)
    stream.send(b"c")
    vmm.ask("RESUME")
    assert stream.recv(10) == b"1"


def test_no_more_streams_than_there_is_room_for(start, guest):
    vmm = start().boot(guest, "hello")
    kept = [vmm.connect(5, 1 + i) for i in range(N["VMM_STREAMS_MAX"])]
    with pytest.raises(Refused):
        vmm.connect(5, 1000)
    assert len(kept) == 128
