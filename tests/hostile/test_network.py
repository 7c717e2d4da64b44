"""Sockets: other families, the host, other cells."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Callable, Iterator, List

import pytest
from ring import Cell, Ring, denied, held


@pytest.mark.layer("seccomp", decisive=True)
def test_families(cell: Cell) -> None:
    """Every address family but local, IPv4 and IPv6: packet, netlink of all kinds, vsock, AF_ALG, Bluetooth, CAN, TIPC, XDP, SMC, RDS, QRTR, keys."""
    code = """
    got = {}
    for family in range(0, 46):
        if family in (1, 2, 10):
            continue
        for kind in (1, 2, 3, 5):
            r = name(call(41, family, kind, 0))
            if r not in ('ENOSYS', 'EAFNOSUPPORT'):
                got[f'{family}/{kind}'] = r
    for protocol in range(0, 23): # netlink: netfilter, audit, uevents, generic...
        r = name(call(41, 16, 3, protocol))
        if r not in ('ENOSYS', 'EAFNOSUPPORT'):
            got[f'netlink {protocol}'] = r
    report(got or {'all': 'ENOSYS'})
    """
    denied(cell.everywhere(code), "ENOSYS")


@pytest.mark.layer("seccomp")
def test_raw_sockets(cell: Cell) -> None:
    """Raw IPv4 and IPv6, the old packet type, DCCP."""
    code = "report([name(call(41, f, t, p)) for f in (2, 10) for t, p in ((3, 1), (3, 255), (3, 0), (10, 768), (6, 33), (4, 0))])"
    denied(cell.everywhere(code), "ENOSYS", "EPERM")


@pytest.mark.layer("seccomp", decisive=True)
def test_protocols_the_kernel_would_load(cell: Cell) -> None:
    """A socket of a protocol loads its module for whoever asks: SCTP, MPTCP, SMC, UDP-Lite, L2TP. The number is also tried with rubbish in the upper half."""
    code = "report([name(call(41, f, t, p)) for f in (2, 10) for t, p in ((1, 132), (5, 132), (1, 262), (1, 256), (2, 136), (2, 115), (1, 2**32 + 262), (1, 2**32))] + [name(call(41, 2**32 + 2, 3, 255))])"
    denied(cell.everywhere(code), "ENOSYS", "EPERM", "EPROTONOSUPPORT")


@pytest.mark.layer("namespaces")
def test_interfaces(cell: Cell) -> None:
    """Loopback and nothing else; no route, no neighbour, no name server."""
    code = """
    report([[l.split(':')[0].strip() for l in open('/proc/net/dev').read().splitlines()[2:]], open('/proc/net/route').read().splitlines()[1:], open('/proc/net/arp').read().splitlines()[1:],
            [l.split()[-1] for l in open('/proc/net/ipv6_route') if l.split()[-1] != 'lo'] if os.path.exists('/proc/net/ipv6_route') else []])
    """
    for where, got in cell.everywhere(code).items():
        held(got == [["lo"], [], [], []], f"{where}: {got}")


@pytest.mark.layer("caps")
def test_changing_the_network(cell: Cell) -> None:
    """An interface, an address, a route by ioctl; marks, priorities and filters by socket options: each would be a beginning."""
    code = """
    import fcntl
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = struct.pack('<HH4s8x', 2, 0, bytes([10, 0, 0, 1]))
    report([refusal(fcntl.ioctl, u, 0x8914, b'lo'.ljust(16, b'\\0') + struct.pack('<h', 0) + bytes(22)), refusal(fcntl.ioctl, u, 0x8916, b'lo'.ljust(16, b'\\0') + address + bytes(8)),
            refusal(fcntl.ioctl, u, 0x890b, bytes(120)), refusal(fcntl.ioctl, u, 0x8923, b'lo'.ljust(16, b'\\0') + b'x'.ljust(24, b'\\0')), refusal(fcntl.ioctl, u, 0x89a0, b'br0\\0'),
            refusal(u.setsockopt, socket.SOL_SOCKET, 36, 7), refusal(u.setsockopt, 0, 64, bytes(200)), refusal(u.setsockopt, socket.SOL_SOCKET, 33, 1 << 28)])
    """
    denied(cell.everywhere(code), "EPERM", "EACCES", "ENOPROTOOPT", "ENOPKG")


@pytest.mark.layer("seccomp", decisive=True)
def test_queues_of_netlink(fresh: Callable[..., Cell]) -> None:
    """Answers that wait in netlink sockets are memory of the host that no control group is charged for: there are no such sockets."""
    code = """
    ask = struct.pack('<IHHII', 32, 18, 0x1, 1, 0) + struct.pack('<BBHiII', 0, 0, 0, 1, 0, 0)
    kept = []
    for kind in (2, 3):
        for protocol in (0, 4, 9, 16):
            try:
                s = socket.socket(16, kind, protocol)
            except OSError as e:
                kept.append(errno.errorcode[e.errno])
                continue
            s.setblocking(False)
            kept.append(refusal(lambda: [s.send(ask) for i in range(100)]))
    report(kept)
    """
    denied(fresh().everywhere(code), "EAFNOSUPPORT", "ENOSYS", "EPERM")


@contextlib.contextmanager
def _listening(*addresses: str) -> Iterator[List[int]]:
    sockets = [socket.create_server((a, 0), family=socket.AF_INET6 if ":" in a else socket.AF_INET) for a in addresses]
    try:
        yield [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.mark.layer("namespaces")
def test_loopback_of_the_host(cell: Cell, ring: Ring) -> None:
    """The daemon and other services on the host's loopback: the cell's loopback is another one."""
    with _listening("127.0.0.1", "0.0.0.0") as ports:
        ports.append(ring.port)
        code = f"""
        def to(address, port):
            s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
            s.settimeout(2)
            return refusal(s.connect, (address, port))
        report([to(a, p) for p in {ports} for a in ('127.0.0.1', '127.1.2.3', '0.0.0.0', '::1')])
        """
        denied(cell.everywhere(code), "ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL")


@pytest.mark.layer("namespaces")
def test_addresses_outside(cell: Cell) -> None:
    """Metadata services, private networks, the host's own addresses, multicast, a name server, IPv6: unreachable, at once."""
    addresses = {"169.254.169.254", "10.0.0.1", "172.17.0.1", "192.168.0.1", "8.8.8.8", "224.0.0.1", "255.255.255.255", "fd00:ec2::254", "fe80::1%lo", "2001:4860:4860::8888", "ff02::1%lo"}
    with contextlib.suppress(OSError):
        addresses |= {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None) if not info[4][0].startswith(("127.", "::1"))}
    code = f"""
    got = {{}}
    for a in {sorted(addresses)}:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                family, _, _, _, to = socket.getaddrinfo(a, 53, type=kind)[0]
                s = socket.socket(family, kind)
                s.settimeout(2)
                if kind == socket.SOCK_DGRAM:
                    s.sendto(b'x', to)
                else:
                    s.connect(to)
                got[f'{{a}} {{kind}}'] = 'ok'
            except OSError as e:
                got[f'{{a}} {{kind}}'] = errno.errorcode.get(e.errno, str(e))
    report(got)
    """
    for where, got in cell.everywhere(code).items():
        reached = {a: r for a, r in got.items() if r not in ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EACCES", "EINVAL", "ENODEV", "ECONNREFUSED") and "lo " not in a}
        held(len(got) >= 16 and not reached, f"{where}: {reached}")


@pytest.mark.layer("namespaces")
def test_abstract_sockets_of_the_host(cell: Cell) -> None:
    """Abstract names belong to a network namespace: D-Bus, X11 and container runtimes of the host listen there."""
    label = "cella-hostile-" + secrets.token_hex(4)
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0" + label)
    server.listen()
    code = f"report([refusal(socket.socket(socket.AF_UNIX).connect, '\\0{label}'), len(open('/proc/net/unix').read().split('@'))])"
    try:
        for where, (connect, seen) in cell.everywhere(code).items():
            denied({where: connect}, "ECONNREFUSED")
            held(seen == 1, f"{where}: {seen - 1} abstract names are visible")
    finally:
        server.close()


@pytest.mark.layer("root")
def test_sockets_in_the_file_system(cell: Cell, ring: Ring) -> None:
    """The keeper's socket, container runtimes' and the system bus by path."""
    paths = [str(ring.keeper_socket), "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/systemd/private",
             "/run/cella/keeper.sock", "/var/lib/cella/run/keeper.sock"]  # fmt: skip
    denied(cell.everywhere(f"report([refusal(socket.socket(socket.AF_UNIX, t).connect, p) for p in {paths} for t in (1, 5)])"), "ENOENT", "ENOTDIR", "EACCES")


@pytest.mark.layer("limits", decisive=True)
def test_buffers_of_sockets(fresh: Callable[..., Cell], neighbour: Cell) -> None:
    """Data parked in TCP and UDP buffers is memory of the host, from a pool (tcp_mem) that all cells and the daemon share: it has to be counted."""
    cell = fresh(memory_mb=192)
    before = _tcp_pages()
    code = """
    import gc
    server = socket.create_server(('127.0.0.1', 0))
    kept, total = [], 0
    for i in range(40):
        a = socket.socket()
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        a.connect(server.getsockname())
        b = server.accept()[0]
        a.setblocking(False)
        kept += [a, b]
        try:
            while True:
                total += a.send(b'x' * 65536)
        except OSError:
            pass
    report(total >> 20)
    """
    parked = cell.attack(code)
    grown = (_tcp_pages() - before) * 4 // 1024
    held(parked < 100 and grown < 150, f"{parked} MB are parked, the host's pool grew by {grown} MB")
    held(neighbour.answers(), "the neighbour does not answer")


def _tcp_pages() -> int:
    with open("/proc/net/sockstat", encoding="ascii") as f:
        return int(next(line for line in f if line.startswith("TCP:")).split("mem")[1].split()[0])
