"""/proc and /sys: what they tell about the host, and what can be steered through them."""

from __future__ import annotations

import base64
import os
import platform
import socket
from typing import Callable

import pytest
from ring import Cell, Ring, denied, held

MASKED = (
    "cmdline", "kcore", "keys", "key-users", "kmsg", "kallsyms", "kpagecount", "kpageflags", "kpagecgroup", "modules", "partitions", "diskstats",
    "swaps", "iomem", "ioports", "interrupts", "softirqs", "locks", "timer_list", "slabinfo", "vmallocinfo", "schedstat", "buddyinfo", "zoneinfo",
    "pagetypeinfo", "config.gz", "crypto", "consoles", "bootconfig", "cgroups", "devices", "misc", "allocinfo",
)  # fmt: skip


@pytest.mark.layer("masks", decisive=True)
def test_files_that_show_the_host(cell: Cell) -> None:
    """Boot parameters, disks, interrupts, memory map, keys, kernel symbols: empty, for the cell's root too."""
    code = f"""
    got = {{}}
    for f in {MASKED}:
        try:
            got[f] = len(open('/proc/' + f, 'rb').read(100))
        except FileNotFoundError:
            pass
        except OSError as e:
            got[f] = errno.errorcode[e.errno]
    report(got)
    """
    for where, got in cell.everywhere(code).items():
        shown = {name: n for name, n in got.items() if n != 0}
        held(len(got) > 10 and not shown, f"{where}: {shown}")


@pytest.mark.layer("masks", decisive=True)
def test_directories_that_show_the_host(cell: Cell) -> None:
    """Drivers, buses, interrupts, file systems, pressure of the host, and all of /sys."""
    code = """
    report({d: os.listdir(d) for d in ['/sys'] + ['/proc/' + n for n in ('acpi', 'bus', 'driver', 'dynamic_debug', 'fs', 'irq', 'scsi', 'tty', 'pressure', 'sysvipc')]
            if os.path.isdir(d)})
    """
    for where, got in cell.everywhere(code).items():
        shown = {name: entries for name, entries in got.items() if entries}
        held("/sys" in got and not shown, f"{where}: {shown}")


@pytest.mark.layer("masks")
def test_kernel_settings(cell: Cell) -> None:
    """/proc/sys: where the core handler, the module loader and the owner's limits are named. The cell's root owns some of these files."""
    code = """
    files = ('kernel/core_pattern', 'kernel/modprobe', 'kernel/hostname', 'kernel/ns_last_pid', 'kernel/msgmax', 'kernel/shmmax', 'kernel/sem', 'vm/overcommit_memory',
             'net/ipv4/ip_forward', 'net/ipv4/ip_unprivileged_port_start', 'net/ipv4/ping_group_range', 'net/core/somaxconn',
             'user/max_user_namespaces', 'user/max_inotify_watches', 'fs/mqueue/queues_max', 'kernel/random/boot_id', 'fs/suid_dumpable')
    report([refusal(lambda: os.write(os.open('/proc/sys/' + f, os.O_WRONLY), b'1')) for f in files if os.path.exists('/proc/sys/' + f)])
    """
    denied(cell.everywhere(code), "EACCES", "EROFS", "EPERM")


@pytest.mark.layer("masks", decisive=True)
def test_kernel_settings_are_mounted_read_only(cell: Cell) -> None:
    """The bar beneath Landlock: the mount itself refuses."""
    got = cell.attack("report(bool(os.statvfs('/proc/sys').f_flag & os.ST_RDONLY))")
    held(got, "/proc/sys is writable")


@pytest.mark.layer("masks")
def test_sysrq_and_memory(cell: Cell) -> None:
    """sysrq-trigger reboots the host, kcore is its memory, kmsg its log."""
    code = """
    got = []
    for f, m in (('/proc/sysrq-trigger', 'wb'), ('/proc/kcore', 'rb'), ('/dev/mem', 'rb'), ('/dev/kmsg', 'rb'), ('/proc/kmsg', 'rb'), ('/proc/timer_stats', 'wb')):
        try:
            with open(f, m) as h:
                if m == 'wb':
                    h.write(b'\\n') # the null device, or nothing at all
                    got.append('null' if os.major(os.fstat(h.fileno()).st_rdev) == 1 and os.minor(os.fstat(h.fileno()).st_rdev) == 3 else 'written')
                else:
                    got.append('null' if h.read(10) == b'' else 'read')
        except OSError as e:
            got.append(errno.errorcode[e.errno])
    report(got)
    """
    denied(cell.everywhere(code), "ENOENT", "null", "EACCES", "EPERM")


@pytest.mark.layer("landlock", decisive=True)
def test_files_of_the_own_process(cell: Cell) -> None:
    """/proc/self is the user's own: only Landlock keeps it from being written (mem, oom_score_adj, comm, clear_refs, coredump_filter)."""
    code = """
    report([refusal(os.open, '/proc/self/' + f, os.O_WRONLY) for f in ('oom_score_adj', 'comm', 'clear_refs', 'coredump_filter', 'timerslack_ns', 'mem', 'autogroup')])
    """
    denied(cell.everywhere(code), "EACCES", "EPERM")


@pytest.mark.layer("landlock", decisive=True)
def test_writing_own_memory_past_its_protection(cell: Cell) -> None:
    """/proc/self/mem ignores page protection: it would write read-only pages."""
    code = """
    import mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
    where = [int(l.split('-')[0], 16) for l in open('/proc/self/maps') if ' r--p ' in l][0]
    def write():
        fd = os.open('/proc/self/mem', os.O_RDWR)
        os.pwrite(fd, os.pread(fd, 1, where), where)
    report(refusal(write))
    """
    denied(cell.everywhere(code), "EACCES", "EPERM")


@pytest.mark.layer("namespaces")
def test_pid_1(cell: Cell) -> None:
    """/proc/1 is the guest: root, working directory, descriptors, memory, environment, namespaces, what it waits in. (The cell's
    root owns /proc/1/fd and sees the numbers in it; where they lead it does not.)"""
    code = """
    got = [refusal(os.readlink, '/proc/1/' + f) for f in ('root', 'cwd', 'exe', 'fd/3', 'fd/200', 'fd/1', 'ns/mnt', 'ns/user')]
    got += [refusal(os.listdir, '/proc/1/' + f) for f in ('root', 'map_files', 'cwd', 'fdinfo', 'task/1/cwd') + (('fd', 'task/1/fd') if os.getuid() else ())]
    got += [refusal(lambda: open('/proc/1/' + f, 'rb').read(10)) for f in ('environ', 'mem', 'auxv', 'pagemap', 'syscall', 'stack', 'io', 'personality')]
    report(got)
    """
    denied(cell.everywhere(code), "EACCES", "EPERM")


@pytest.mark.layer("namespaces")
def test_layout_of_pid_1(cell: Cell) -> None:
    """The addresses of the guest would help whoever found a hole in it."""
    code = """
    def first(path):
        try:
            return open(path, 'rb').read(64).decode()
        except OSError as e:
            return errno.errorcode[e.errno]
    report([first('/proc/1/maps'), first('/proc/1/smaps'), first('/proc/1/numa_maps')])
    """
    denied(cell.everywhere(code), "EACCES", "EPERM", "")


@pytest.mark.layer("namespaces")
def test_no_process_of_the_host(cell: Cell, ring: Ring) -> None:
    """Every pid that /proc shows or that answers a signal belongs to the cell."""
    host = [ring.keeper_pid, ring.daemon_pid, os.getpid()]
    code = f"""
    shown = [int(p) for p in os.listdir('/proc') if p.isdigit()]
    lines = ' '.join(open(f'/proc/{{p}}/cmdline', 'rb').read().decode('utf-8', 'replace') for p in shown if p != os.getpid())
    report([max(shown), 'keeper' in lines or 'cellad' in lines or 'pytest' in lines, [refusal(os.kill, p, 0) for p in {host}],
            [refusal(os.listdir, f'/proc/{{p}}') for p in {host}], [name(call(434, p, 0)) for p in {host}]])
    """
    for where, (highest, seen, kills, looks, pidfds) in cell.everywhere(code).items():
        held(highest < min(host) and not seen, f"{where}: pid {highest}, host seen {seen}")
        denied({"kill": kills, "look": looks, "pidfd": pidfds}, "ESRCH", "ENOENT")


@pytest.mark.layer("root")
def test_no_path_of_the_host(cell: Cell, ring: Ring) -> None:
    """Mounts, maps, cgroups, environment and links of the process: no directory of the host, no control group's name."""
    words = [base64.b64encode(w.encode()).decode() for w in (str(ring.state), ring.state.name, "/var/lib/cella", "cella-test", "sbx_", "cel_", "img_", "/layers/", ring.marker, socket.gethostname() + "\n")]
    code = f"""
    text = ''
    for f in ('mountinfo', 'mounts', 'mountstats', 'maps', 'smaps', 'cgroup', 'environ', 'cmdline', 'limits', 'status', 'attr/current', 'cpuset'):
        try:
            text += open('/proc/self/' + f, 'rb').read().decode('utf-8', 'replace') + '\\n'
        except OSError:
            pass
    for f in ('exe', 'cwd', 'root') + tuple('fd/' + n for n in os.listdir('/proc/self/fd')):
        try:
            text += os.readlink('/proc/self/' + f) + '\\n'
        except OSError:
            pass
    import base64
    text += str(dict(os.environ)) + os.uname().nodename + ' '
    report([len(text), [w for w in (base64.b64decode(w).decode() for w in {words}) if w in text]])
    """
    for where, (size, found) in cell.everywhere(code).items():
        held(size > 1000 and not found, f"{where}: {found}")


@pytest.mark.layer("namespaces")
def test_names_of_the_host(cell: Cell) -> None:
    """Host name, domain and machine id are the cell's own; /etc is the template's."""
    got = cell.attack("report([os.uname().nodename, socket.gethostname(), open('/etc/passwd').read(), open('/etc/hostname').read() if os.path.exists('/etc/hostname') else ''])")
    held(platform.node() not in got[:2] and got[0] == got[1] and len(got[0]) == 12, f"host name {got[:2]}")
    with open("/etc/passwd", encoding="utf-8") as own:
        held(got[2] != own.read(), "/etc/passwd is the host's")


@pytest.mark.layer("namespaces")
def test_no_memory_is_shared_with_other_copies(fresh: Callable[..., Cell]) -> None:
    """Contexts are copies of one interpreter: a writable shared mapping in it would be one memory of all cells."""
    code = """
    shared, mapping = [], ''
    for line in open('/proc/self/smaps'):
        if line.startswith('VmFlags:'):
            if ' sh' in line and ' mw' in line:
                shared.append(mapping)
        elif '-' in line.split(' ')[0]:
            mapping = line.strip()
    report(shared)
    """
    held(fresh().attack(code) == [], "a mapping that all copies could write")


@pytest.mark.layer("namespaces")
def test_copy_knows_nothing_of_its_original(cell: Cell) -> None:
    """Ids that the interpreter remembers are the cell's, not those of the warm interpreter on the host."""
    got = cell.attack("report([threading.main_thread().native_id, threading.get_native_id(), os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)])")
    held(got[0] == got[1] == got[2] and got[3] == 0 and got[4] == got[2] and got[5] == got[2], f"{got}")


@pytest.mark.layer("root")
def test_control_groups(cell: Cell) -> None:
    """No cgroup file system is mounted, and the names of groups say nothing."""
    code = "report([open('/proc/self/cgroup').read(), 'cgroup' in open('/proc/self/mountinfo').read().replace('kpagecgroup', '').replace('/proc/cgroups', '')])"
    for where, (groups, mounted) in cell.everywhere(code).items():
        names = {line.split(":", 2)[2] for line in groups.splitlines()}
        held(names == {"/"} and not mounted, f"{where}: {names}")
