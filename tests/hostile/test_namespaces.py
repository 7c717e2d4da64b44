"""Namespaces, mounts, identities and capabilities: becoming more than the cell's user, or being somewhere else."""

from __future__ import annotations

import pytest
from ring import Cell, denied, held

NAMESPACES = "(0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80)"


@pytest.mark.layer("seccomp")
def test_unshare(cell: Cell) -> None:
    """A new user namespace has all capabilities; so have the others made along with it."""
    denied(cell.everywhere(f"report([name(call(272, f)) for f in {NAMESPACES}] + [name(call(272, 0x7e020000))])"), "EPERM")


@pytest.mark.layer("seccomp")
def test_clone_with_namespaces(cell: Cell) -> None:
    """clone(2) with each namespace flag, and with all of them."""
    code = f"""
    def child(flags):
        got = call(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
        if got == 0:
            os._exit(0)
        return name(got)
    report([child(f) for f in {NAMESPACES} if f != 0x80] + [child(0x7e020000)])
    """
    denied(cell.everywhere(code), "EPERM", "ENOSYS")


@pytest.mark.layer("seccomp", decisive=True)
def test_clone3(cell: Cell) -> None:
    """clone3 hides its flags in memory where no filter can look: refused as unknown, so that C libraries fall back to clone."""
    code = """
    got = call(435, ctypes.create_string_buffer(struct.pack('<QQQQQ', 0, 0, 0, 0, 17) + bytes(48)), 88)
    if got == 0:
        os._exit(0)
    report(name(got))
    """
    denied(cell.everywhere(code), "ENOSYS")


@pytest.mark.layer("userlimits", decisive=True)
def test_no_namespace_is_left_in_the_budget(cell: Cell) -> None:
    """Behind the filter stands a second bar: the cell's own user namespace may hold no further namespaces."""
    names = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time")
    got = cell.attack(f"report([open(f'/proc/sys/user/max_{{n}}_namespaces').read().strip() for n in {names}])")
    held(got == ["0"] * len(names), f"{dict(zip(names, got))}")


@pytest.mark.layer("seccomp")
def test_setns(cell: Cell) -> None:
    """Entering namespaces by descriptor: one's own, those of PID 1, through a pidfd."""
    code = """
    got = []
    for n in ('user', 'mnt', 'pid', 'net', 'uts'):
        fd = os.open(f'/proc/self/ns/{n}', os.O_RDONLY)
        got.append(name(call(308, fd, 0)))
    got.append(name(call(308, call(434, os.getpid(), 0), 0x20000)))
    got.append(name(call(308, call(434, 1, 0), 0x20000)))
    report(got)
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_mount(cell: Cell) -> None:
    """tmpfs, bind, proc, a writable /proc/sys, the root made shared."""
    code = """
    report([name(call(165, *a)) for a in (
        (b'x\\0', b'/mnt\\0', b'tmpfs\\0', 0, None), (b'/proc\\0', b'/mnt\\0', None, 4096, None), (b'proc\\0', b'/mnt\\0', b'proc\\0', 0, None),
        (None, b'/proc/sys\\0', None, 32, None), (None, b'/\\0', None, 1 << 20, None), (b'none\\0', b'/mnt\\0', b'cgroup2\\0', 0, None),
        (b'none\\0', b'/sys\\0', b'sysfs\\0', 0, None))])
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_umount(cell: Cell) -> None:
    """Taking the masks off."""
    code = "report([name(call(166, p.encode() + b'\\0', 2)) for p in ('/proc/kcore', '/proc/cmdline', '/proc/sys', '/sys', '/dev', '/proc', '/')])"
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_new_mount_calls(cell: Cell) -> None:
    """fsopen, fsconfig, fsmount, fspick, open_tree, move_mount, mount_setattr: the same powers by other names."""
    code = """
    report([name(call(428, -100, b'/\\0', 1)), name(call(429, -100, b'/tmp\\0', -100, b'/mnt\\0', 0)), name(call(430, b'tmpfs\\0', 0)),
            name(call(431, 3, 6, None, None, 0)), name(call(432, 3, 0, 0)), name(call(433, -100, b'/\\0', 0)),
            name(call(442, -100, b'/\\0', 0, bytes(32), 32))])
    """
    denied(cell.everywhere(code), "EPERM")


@pytest.mark.layer("seccomp")
def test_root_changes(cell: Cell) -> None:
    """pivot_root and chroot: the beginning of every jail break."""
    denied(cell.everywhere("report([name(call(155, b'/tmp\\0', b'/tmp\\0')), name(call(161, b'/tmp\\0')), refusal(os.chroot, '/')])"), "EPERM")


@pytest.mark.layer("landlock")
def test_rewriting_the_id_maps(cell: Cell) -> None:
    """uid_map, gid_map and setgroups of the own process and of PID 1."""
    code = """
    got = []
    for f in ('self/uid_map', 'self/gid_map', 'self/projid_map', 'self/setgroups', '1/uid_map', '1/gid_map'):
        got.append(refusal(lambda: open('/proc/' + f, 'w').write('0 0 1\\n')))
    report(got)
    """
    denied(cell.everywhere(code), "EACCES", "EPERM")


@pytest.mark.layer("caps", decisive=True)
def test_becoming_somebody_else(cell: Cell) -> None:
    """setuid and setgid to root, to the guest's id, to a neighbour's host id."""
    code = """
    report([refusal(f, i) for i in (0, 65533, 65534, 33) if i != os.getuid() for f in (os.setuid, os.setgid, os.setegid, os.seteuid)]
           + [refusal(os.setgroups, [0, 4, 6]), refusal(os.setresuid, 1073741824, 1073741824, 1073741824)])
    """
    denied({"context": cell.attack(code), "process": cell.attack_process(code)}, "EPERM", "EINVAL")


@pytest.mark.layer("caps")
def test_root_of_the_cell_becoming_somebody_else(cell: Cell) -> None:
    """The cell's root has no CAP_SETUID: it cannot become the guest (65533) either."""
    denied(cell.attack_process("report([refusal(os.setuid, 65533), refusal(os.setuid, 1000), refusal(os.setgid, 65533), refusal(os.setgroups, [4])])", "root"), "EPERM")


@pytest.mark.layer("caps", decisive=True)
def test_no_capability_anywhere(cell: Cell) -> None:
    """All five capability sets are empty, no_new_privs is set, the filter is on: code, processes, the cell's root."""
    code = """
    report({k: v.strip() for k, v in (l.split(':', 1) for l in open('/proc/self/status')) if k.startswith('Cap') or k in ('NoNewPrivs', 'Seccomp', 'Groups')})
    """
    for where, got in cell.everywhere(code).items():
        held(all(got[k] == "0" * 16 for k in got if k.startswith("Cap")), f"{where}: {got}")
        held(got["NoNewPrivs"] == "1" and got["Seccomp"] == "2" and not got["Groups"], f"{where}: {got}")


@pytest.mark.layer("caps")
def test_raising_capabilities(cell: Cell) -> None:
    """capset, the ambient set, secure bits, keep_caps, and taking no_new_privs back."""
    code = """
    head = struct.pack('<Ii', 0x20080522, 0)
    full = struct.pack('<6I', *[0xffffffff] * 6)
    report([name(call(126, head, full)), name(call(157, 47, 2, 21, 0, 0)), name(call(157, 28, 0, 0, 0, 0)), name(call(157, 8, 1, 0, 0, 0)),
            name(call(157, 38, 0, 0, 0, 0))])
    """
    denied(cell.everywhere(code), "EPERM", "EINVAL")


@pytest.mark.layer("namespaces")
def test_set_user_id_programs(cell: Cell) -> None:
    """A copy of python3, owned by the cell's root, with the set-user-id bit: it runs as who started it."""
    code = """
    import shutil
    shutil.copy('/usr/bin/python3', '/tmp/suid')
    os.chmod('/tmp/suid', 0o6755)
    report([os.stat('/tmp/suid').st_uid, oct(os.stat('/tmp/suid').st_mode & 0o7777)])
    """
    held(cell.attack_process(code, "root") == [0, "0o6755"], "the set-up did not work")
    run = "report(json.loads(subprocess.run(['/tmp/suid', '-I', '-S', '-c', 'import os; print(list(os.getresuid() + os.getresgid()))'], stdout=subprocess.PIPE).stdout))"
    held(cell.attack(run) == [1000] * 6, "the set-user-id bit worked")
    held(cell.attack_process(run) == [1000] * 6, "the set-user-id bit worked")


@pytest.mark.layer("namespaces")
def test_set_user_id_programs_of_the_template(cell: Cell) -> None:
    """su, mount and their like come with every Debian root: none of them gives anything."""
    code = """
    got = {}
    for p in ('/usr/bin/su', '/usr/bin/mount', '/usr/bin/umount', '/usr/bin/newgrp', '/usr/bin/passwd', '/usr/bin/chsh'):
        if os.path.exists(p) and os.stat(p).st_mode & 0o4000:
            pid = os.fork()
            if pid == 0:
                null = os.open('/dev/null', os.O_RDWR)
                [os.dup2(null, i) for i in (1, 2)]
                r, w = os.pipe(); os.dup2(r, 0) # blocks on reading: time to look
                os.execv(p, [p, '-c', 'id'] if p.endswith('su') else [p])
            time.sleep(0.05)
            try:
                got[p] = [l.split()[1:] for l in open(f'/proc/{pid}/status') if l.startswith('Uid')][0]
            except (OSError, IndexError):
                got[p] = ['1000'] * 4
            os.kill(pid, 9); os.waitpid(pid, 0)
    report(got)
    """
    for program, ids in cell.attack_process(code).items():
        held(ids == ["1000"] * 4, f"{program} ran with {ids}")


@pytest.mark.layer("caps")
def test_file_capabilities(cell: Cell) -> None:
    """security.capability on a program, in every version of its format."""
    code = """
    open('/tmp/capped', 'w').close()
    forms = [struct.pack('<5I', 0x02000001, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff), struct.pack('<6I', 0x03000001, 0xffffffff, 0, 0xffffffff, 0, 0),
             struct.pack('<3I', 0x01000001, 0xffffffff, 0)]
    report([refusal(os.setxattr, '/tmp/capped', 'security.capability', f) for f in forms] + [refusal(os.setxattr, '/tmp/capped', 'trusted.x', b'1')])
    """
    denied({"context": cell.attack(code), "root": cell.attack_process(code.replace("capped", "capped2"), "root")}, "EPERM", "EINVAL", "EOPNOTSUPP")


@pytest.mark.layer("caps", decisive=True)
def test_files_of_others(cell: Cell) -> None:
    """Reading what only the cell's root may read, taking files over, changing their mode."""
    cell.attack_process("open('/root/secret', 'w').write('s'); os.chmod('/root/secret', 0o600); report(1)", "root")
    code = """
    mine = f'/tmp/mine{os.getpid()}'
    open(mine, 'w').close()
    report([refusal(open, '/root/secret'), refusal(open, '/etc/shadow'), refusal(os.chown, mine, 0, 0), refusal(os.chmod, '/etc/passwd', 0o777),
            refusal(os.unlink, '/etc/passwd'), refusal(open, '/usr/bin/evil', 'w')])
    """
    denied({"context": cell.attack(code), "process": cell.attack_process(code)}, "EPERM", "EACCES")


@pytest.mark.layer("seccomp", decisive=True)
def test_children_for_the_keeper(cell: Cell) -> None:
    """CLONE_PARENT makes a sibling: in a context, whose parent is the keeper, a child of the keeper, to be reaped by it at any rate the code likes."""
    code = """
    def child(flags):
        got = call(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
        if got == 0:
            os._exit(0)
        return name(got)
    report([child(0x8000), child(0x2000), child(0x8000 | 0x2000)])
    """
    denied({"context": cell.attack(code), "process": cell.attack_process(code)}, "EPERM", "ENOSYS")
