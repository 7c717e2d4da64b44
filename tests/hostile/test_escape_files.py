"""Files: devices, the way out of the root, the overlay's own marks, the template below."""

from __future__ import annotations

import pytest
from ring import Cell, denied, held


@pytest.mark.layer("landlock", decisive=True)
def test_making_device_nodes(cell: Cell) -> None:
    """Memory, disks, loop control and the overlay's whiteout, in every directory that can be written."""
    code = """
    import stat
    got = []
    for d in ('/tmp', '/dev/shm', '/workspace', '/var/tmp'):
        for kind, a, b in ((stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 7, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 237), (stat.S_IFCHR, 0, 0)):
            got.append(refusal(os.mknod, f'{d}/node{os.getpid()}', kind | 0o666, os.makedev(a, b)))
    report(got)
    """
    denied(cell.everywhere(code), "EACCES", "EPERM")


@pytest.mark.layer("root")
def test_set_of_devices(cell: Cell) -> None:
    """/dev holds six nodes and nothing else; no block device anywhere in the tree."""
    code = """
    import stat
    nodes = {}
    for top, dirs, files in os.walk('/dev'):
        for f in files:
            s = os.lstat(os.path.join(top, f))
            if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
                nodes[os.path.join(top, f)] = [stat.S_ISBLK(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev)]
    nodes = {k: v for k, v in nodes.items() if not k.startswith('/dev/pts/')}
    report(nodes)
    """
    expected = {"/dev/null": [False, 1, 3], "/dev/zero": [False, 1, 5], "/dev/full": [False, 1, 7], "/dev/random": [False, 1, 8],
                "/dev/urandom": [False, 1, 9], "/dev/tty": [False, 5, 0]}  # fmt: skip
    for where, got in cell.everywhere(code).items():
        held(got == expected, f"{where}: {got}")


@pytest.mark.layer("root")
def test_devices_cannot_be_replaced(cell: Cell) -> None:
    """/dev/null replaced by a file would collect what the cell's root throws away; renamed, removed, chmod'ed."""
    code = """
    report([refusal(os.unlink, '/dev/null'), refusal(os.rename, '/dev/null', '/dev/old'), refusal(os.chmod, '/dev/null', 0o600), refusal(open, '/dev/evil', 'w'),
            refusal(os.symlink, '/tmp', '/dev/evil'), refusal(os.mkdir, '/dev/evil'), refusal(os.link, '/dev/null', '/dev/shm/null')])
    """
    denied(cell.everywhere(code), "EROFS", "EACCES", "EPERM", "EXDEV")


@pytest.mark.layer("caps")
def test_random_device(cell: Cell) -> None:
    """RNDADDENTROPY, RNDCLEARPOOL and RNDRESEEDCRNG steer the host's generator."""
    code = """
    import fcntl
    fd = os.open('/dev/urandom', os.O_RDWR)
    report([refusal(fcntl.ioctl, fd, r, struct.pack('<ii', 8, 1) + b'x') for r in (0x40085203, 0x5204, 0x5206, 0x5207, 0x40045201)])
    """
    denied(cell.everywhere(code), "EPERM", "EINVAL", "ENOTTY")


@pytest.mark.layer("landlock", decisive=True)
def test_writing_beside_the_known_directories(cell: Cell) -> None:
    """The cell's root owns /: without Landlock it could lay new directories and links there."""
    code = "report([refusal(os.mkdir, '/evil'), refusal(open, '/evil.txt', 'w'), refusal(os.symlink, '/proc', '/evil2'), refusal(os.rename, '/srv', '/evil3')])"
    denied(cell.attack_process(code, "root"), "EACCES", "EPERM", "EXDEV")


@pytest.mark.layer("root")
def test_marks_of_the_overlay(cell: Cell) -> None:
    """user.overlay.redirect and .opaque steer where an overlay looks below: set from inside they must not act (a way to other trees)."""
    code = """
    os.makedirs(base := f'/tmp/redirected{os.getpid()}', exist_ok=True)
    marks = [refusal(os.setxattr, base, f'user.overlay.{n}', v) for n, v in
             (('redirect', b'/../../../../etc'), ('opaque', b'y'), ('origin', b'x'), ('metacopy', b''), ('upper', b'x'), ('whiteout', b'y'))]
    after = sorted(os.listdir(base))
    os.rename(base, base + 'x')
    report([after, os.listdir(base + 'x'), marks, refusal(os.setxattr, base + 'x', 'trusted.overlay.redirect', b'/etc')])
    os.rmdir(base + 'x')
    """
    for where, (before, after, marks, trusted) in {"context": cell.attack(code), "root": cell.attack_process(code, "root")}.items():
        held(before == [] and after == [], f"{where}: the mark acted: {before} {after} ({marks})")
        held(trusted in ("EPERM", "EOPNOTSUPP"), f"{where}: trusted.overlay.redirect {trusted}")


@pytest.mark.layer("root")
def test_operations_of_the_file_system_below(cell: Cell) -> None:
    """btrfs subvolumes, snapshots, quotas and trees; immutable flags; project ids: through the overlay none is reached."""
    code = """
    import fcntl
    fd = os.open('/tmp', os.O_RDONLY)
    f = os.open(f'/tmp/flags{os.getpid()}', os.O_RDWR | os.O_CREAT)
    report([refusal(fcntl.ioctl, fd, r, bytearray(n)) for r, n in ((0x5000940e, 4096), (0x5000940f, 4096), (0x50009401, 4096), (0xc4009420, 1024), (0x40109428, 16), (0x8030942b, 48),
                                                                 (0xd0009411, 4096), (0xd0009412, 4096))] +
           [refusal(fcntl.ioctl, f, 0x40086602, struct.pack('<Q', 0x10)), refusal(fcntl.ioctl, f, 0x401c5820, struct.pack('<IIIII8x', 8, 0, 0, 7, 0))])
    """
    denied(cell.everywhere(code), "ENOTTY", "EPERM", "EOPNOTSUPP", "EINVAL", "EACCES")


@pytest.mark.layer("root")
def test_climbing_out_by_dots(cell: Cell) -> None:
    """.. above the root, the root's magic links, descriptors of directories: always the cell's own root."""
    code = """
    here = os.stat('/')
    tries = ['/..' * 30, '/proc/self/root/../../..', '/proc/self/cwd/' + '../' * 20, '/proc/thread-self/root/..', '/dev/fd/../../..', '/proc/self/task/%d/root' % os.getpid()]
    fd = os.open('/', os.O_RDONLY)
    for i in range(20):
        fd = os.open('..', os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    same = [(os.stat(t).st_dev, os.stat(t).st_ino) == (here.st_dev, here.st_ino) for t in (tries[0], tries[1], tries[2], tries[3], tries[5])]
    report(same + [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) == (here.st_dev, here.st_ino)])
    """
    for where, got in cell.everywhere(code).items():
        held(all(got), f"{where}: {got}")


@pytest.mark.layer("root")
def test_the_executable_of_the_original(cell: Cell) -> None:
    """/proc/self/exe of a context is a file of the warm interpreter's mounts: it cannot be written, and leads to no directory."""
    code = """
    got = [refusal(os.open, '/proc/self/exe', os.O_RDWR), refusal(os.open, '/proc/self/exe', os.O_WRONLY | os.O_TRUNC), refusal(os.chmod, '/proc/self/exe', 0o777),
           refusal(os.utime, '/proc/self/exe')]
    got += [refusal(os.open, '/proc/self/exe', os.O_RDONLY)] # under no Landlock rule: it lies in other mounts
    fd = os.open('/proc/self/exe', os.O_PATH)
    got += [refusal(os.open, f'/proc/self/fd/{fd}', os.O_RDONLY), refusal(os.open, '..', os.O_RDONLY, dir_fd=fd), refusal(os.link, f'/proc/self/fd/{fd}', '/tmp/exe', follow_symlinks=True)]
    links = [f'/proc/self/map_files/{l.split()[0]}' for l in open('/proc/self/maps') if '/usr/' in l][:3]
    got += [refusal(os.open, l, os.O_RDONLY) for l in links]
    report(got)
    """
    denied(cell.attack(code), "EACCES", "EPERM", "ENOTDIR", "ETXTBSY", "EROFS", "EXDEV", "ENOENT")


@pytest.mark.layer("root")
def test_template_stays_as_it_is(cell: Cell, neighbour: Cell) -> None:
    """The cell's root rewrites programs of the template: its own copy changes, the neighbour's does not."""
    code = """
    open('/usr/bin/env', 'wb').write(b'#!/bin/sh\\necho evil\\n')
    os.unlink('/usr/bin/tac')
    open('/etc/cella-was-here', 'w').close()
    report([os.path.getsize('/usr/bin/env'), os.path.exists('/usr/bin/tac')])
    """
    held(cell.attack_process(code, "root") == [20, False], "the set-up did not work")
    got = neighbour.attack("report([os.path.getsize('/usr/bin/env') > 1000, os.path.exists('/usr/bin/tac'), os.path.exists('/etc/cella-was-here')])")
    held(got == [True, True, False], f"the neighbour sees {got}")


@pytest.mark.layer("root")
def test_layer_is_out_of_reach_on_the_host(cell: Cell, ring) -> None:
    """A set-user-id program of the cell's root lies in the layer as the host's root's: no user of the host may get there, nor may the mount honour it."""
    cell.attack_process("import shutil; shutil.copy('/usr/bin/id', '/tmp/rootkit'); os.chmod('/tmp/rootkit', 0o4755); report(1)", "root")
    layers = ring.state / "layers"
    held(layers.stat().st_mode & 0o077 == 0 and layers.stat().st_uid == 0, f"{layers} has mode {layers.stat().st_mode:o}")
    image = ring.state / "layers.btrfs"
    held(not image.exists() or image.stat().st_mode & 0o077 == 0, f"{image} can be read")
    flags = [line.split() for line in open(f"/proc/{ring.keeper_pid}/mountinfo", encoding="utf-8") if str(layers) in line]
    held(flags and all("nosuid" in f[5] and "nodev" in f[5] for f in flags), f"layers are mounted {flags}")
