"""The jail: what /proc says of a running VMM, and test_jail.c, which tries from inside."""
import os
import subprocess
import time

from vmm import UID

NAMESPACES = ("mnt", "net", "ipc", "uts", "cgroup")


def status(pid, task=None):
    path = f"/proc/{pid}/status" if task is None else f"/proc/{pid}/task/{task}/status"
    return {key: value.strip() for key, value in (line.split(":", 1) for line in open(path))}


def check(pid, uid=UID):
    for task in os.listdir(f"/proc/{pid}/task"):
        s = status(pid, task)
        if s["Name"].startswith("kvm-"):
            continue  # the kernel's own worker
        assert s["Uid"].split() == [str(uid)] * 4 and s["Gid"].split() == [str(uid)] * 4 and s["Groups"].strip() == ""
        assert all(int(s[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2"
        filters, deadline = (2 if int(task) != pid else 1), time.monotonic() + 10
        while int(status(pid, task)["Seccomp_filters"]) < filters and time.monotonic() < deadline:
            pass  # a vCPU's thread adds its own before it runs the guest
        assert int(status(pid, task)["Seccomp_filters"]) == filters
    assert os.listdir(f"/proc/{pid}/root") == []
    for name in NAMESPACES:
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    limits = open(f"/proc/{pid}/limits").read()
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    mounts = open(f"/proc/{pid}/mounts").read().splitlines()
    assert len(mounts) == 1 and mounts[0].split()[1:3] == ["/", "tmpfs"] and "ro" in mounts[0].split()[3].split(",")


def test_a_running_vmm_and_its_fork(serving, tmp_path):
    vmm = serving(vcpus=2)
    check(vmm.pid)
    child, _ = vmm.fork()
    child.ask("RESUME")
    check(child.pid)
    grandchild, _ = child.fork()
    grandchild.ask("RESUME")
    check(grandchild.pid)


def test_descriptors_are_few(serving):
    vmm = serving()
    names = [os.readlink(f"/proc/{vmm.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{vmm.pid}/fd") if int(fd) > 2]
    kinds = sorted("socket" if name.startswith("socket") else name for name in names)
    assert kinds == ["/dev/kvm", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vm", "socket"]


def test_from_inside(build):
    done = subprocess.run([build / "tests/microvm/test_vmm_jail"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
