"""cella-guest in a virtual machine: the files that `cella template build` makes, booted under cella-vmm, baked, copied, used. Run by ring.py."""
import os
import time
from pathlib import Path

import pytest

from machine import MIB, P, PYTHON, SHELL, boot
from vmm import N

MEMORY = 512 * MIB
BOOT_SECONDS, WARM_SECONDS = 120, 900  # emulation of an emulation


@pytest.fixture(scope="module")
def build():
    return Path(os.environ["CELLA_BUILD"]).resolve().parent


@pytest.fixture(scope="module")
def template(build, tmp_path_factory):
    """Booted and warm, then never running again: every cell is a fork of it."""
    began = time.monotonic()
    machine = boot(build, Path(os.environ["CELLA_MACHINE"]), tmp_path_factory.mktemp("template") / "disk.img", MEMORY, BOOT_SECONDS)
    booted = time.monotonic()
    try:
        machine.ask("WARM", seconds=WARM_SECONDS)
    except BaseException:
        print(machine.vmm.console())
        raise
    print(f"boot to HELLO {booted - began:.1f} s, warm {time.monotonic() - booted:.1f} s")
    machine.vmm.ask("PAUSE")
    yield machine
    machine.close()


@pytest.fixture
def cell(template, tmp_path):
    copy = template.fork(tmp_path / "disk.img")
    began = time.monotonic()
    copy.vmm.ask("RESUME")
    answer = copy.identity(os.urandom(16).hex())
    identity = time.monotonic()
    assert answer.slots == 1
    copy.contexts[0].frame(P["CONTEXT_READY"])
    print(f"identity {(identity - began) * 1000:.0f} ms, READY {(time.monotonic() - began) * 1000:.0f} ms")
    yield copy
    copy.close()


def test_pandas_in_the_warm_context(cell):
    python = cell.contexts[0]
    began = time.monotonic()
    assert python.run("import pandas as pd; print(pd.DataFrame({'a': [1, 2, 3]})['a'].sum())") == "6\n"
    print(f"pandas: {time.monotonic() - began:.2f} s")
    assert python.run("import os, pwd; print(os.getuid(), os.getcwd(), os.environ['HOME'])") == "1000 /workspace /workspace\n"


def test_exec_files_and_changes_through_the_guest_stream(cell):
    assert cell.sh("id -u; pwd; cat /proc/sys/kernel/hostname | wc -c").split() == ["1000", "/workspace", "13"]
    assert cell.sh("id -u; grep CapEff /proc/self/status", user="root").split() == ["0", "CapEff:", "000001ffffffffff"]
    cell.sh("echo hello > /workspace/f; mkdir /workspace/d; rm /etc/hostname || true; echo x > /etc/motd2", user="root")
    end, out, _ = cell.op(op="changes")
    changed = {line.split(b'"path"')[1].split(b'"')[1].decode() for line in out.splitlines()}
    assert {"/workspace/f", "/workspace/d", "/etc/motd2"} <= changed and not [path for path in changed if path.startswith("/usr")], changed
    end, out, _ = cell.op(op="write", path="/workspace/w", data=b"x" * 200000)
    assert end["bytes"] == 200000
    end, out, _ = cell.op(op="read", path="/workspace/w")
    assert out == b"x" * 200000


def test_a_copy_has_entropy_name_and_time_of_its_own(template, tmp_path):
    said = []
    for digits in ("0123456789abcdef" * 2, "fedcba9876543210" * 2):
        copy = template.fork(tmp_path / f"{digits}.img")
        copy.vmm.ask("RESUME")
        copy.identity(digits)
        code = ("import os, random, numpy, uuid, time, ssl, tempfile, multiprocessing as m\n"
                "print(random.random(), numpy.random.rand(), uuid.uuid1().node, uuid.uuid1().clock_seq, os.urandom(8).hex(), ssl.RAND_bytes(8).hex(), tempfile.mktemp(),"
                " bytes(m.current_process().authkey).hex())\nprint(os.uname().nodename, time.time())")
        values, named = copy.contexts[0].run(code).splitlines()
        name, now = named.split()
        assert name == digits[:12] and abs(float(now) - time.time()) < 60
        said.append(values.split() + [copy.sh("cat /proc/sys/kernel/random/uuid")])
        copy.close()
    assert all(a != b for a, b in zip(*said)), said


def test_fork_of_a_living_cell(cell, tmp_path):
    """A context that computes, one that is idle, a process, an open file: all of them in both machines, and nothing from before twice."""
    python = cell.contexts[0]
    cell.connect(1)
    assert cell.ask("CONTEXT", slot=1, language=PYTHON).pid > 1
    cell.contexts[1].frame(P["CONTEXT_READY"])
    assert cell.contexts[1].run("x = 40; f = open('/workspace/log', 'w'); print('ok')") == "ok\n"
    cell.sh("nohup sh -c 'while :; do date +%s%N > /workspace/beat.new; mv /workspace/beat.new /workspace/beat; sleep 0.1; done' >/dev/null 2>&1 & sleep 0.3")
    python.start("import time, os\nprint('before', flush=True)\nwhile not os.path.exists('/workspace/go'): time.sleep(0.05)\nprint(open('/workspace/go').read())")
    python.take(60)  # it has begun
    began = time.monotonic()
    cell.ask("HOLD")
    print(f"hold {(time.monotonic() - began) * 1000:.0f} ms")
    cell.vmm.ask("PAUSE")
    copies = [cell.fork(tmp_path / f"copy{i}.img") for i in range(3)]
    cell.vmm.ask("RESUME")
    cell.ask("GO")
    for i, copy in enumerate(copies):
        copy.vmm.ask("RESUME")
        assert copy.identity(f"{i + 1:x}" * 32).slots == 3
    cell.sh("echo -n original > /workspace/go.new; mv /workspace/go.new /workspace/go")
    assert python.finish().split() == ["before", "original"]
    seen = None
    for i, copy in enumerate(copies):
        copy.sh(f"echo -n {i} > /workspace/go.new; mv /workspace/go.new /workspace/go")
        assert copy.contexts[0].finish() == f"{i}\n"
        assert copy.contexts[1].run(f"x += {i}; f.write('mine'); f.flush(); print(x)") == f"{40 + i}\n"
        assert copy.sh("cat /workspace/log") == "mine"
        before = copy.sh("cat /workspace/beat")
        time.sleep(2)
        assert copy.sh("cat /workspace/beat") != before  # the process goes on
        words = copy.contexts[1].run("import random, os; print(random.random(), os.urandom(4).hex())")
        assert words != seen
        seen = words
    assert cell.contexts[1].run("print(x)") == "40\n" and cell.sh("cat /workspace/log") == ""
    for copy in copies:
        copy.close()


def test_shell_context(cell):
    cell.connect(3)
    cell.ask("CONTEXT", slot=3, language=SHELL)
    shell = cell.contexts[3]
    shell.frame(P["CONTEXT_READY"])
    assert shell.run("cd /tmp; x=5; pwd; id -u") == "/tmp\n1000\n"
    assert shell.run("echo $x $PWD") == "5 /tmp\n"
    cell.ask("CONTEXT", slot=3, language=SHELL, status=17)  # taken
    cell.ask("CONTEXT", slot=4, language=SHELL, status=11)  # no connection


def test_output_order_back_pressure_and_large_packets(cell):
    python = cell.contexts[0]
    python.start("import sys\nfor i in range(3000): print('y' * 1000)\nsys.stderr.write('end')\n'z' * 200000")
    time.sleep(5)  # nobody reads: the context has to wait
    done = python.frame(P["CONTEXT_DONE"])
    assert python.printed[1] == (b"y" * 1000 + b"\n") * 3000 and python.printed[2] == b"end"
    assert done and python.order.index(("print", 2)) < len(python.order) - 1 and python.order[-1] == ("frame", P["CONTEXT_DONE"])
    code = "s = '" + "q" * 60000 + "'\nprint(len(s))"
    assert python.run(code) == "60000\n"
    assert cell.sh("head -c 3000000 /dev/zero | tr '\\0' a | wc -c") == "3000000\n"
    assert len(cell.sh("head -c 3000000 /dev/zero | tr '\\0' a")) == 3000000


def test_interrupt_and_exit_of_a_context(cell):
    python = cell.contexts[0]
    python.start("import time; print('go', flush=True)\nwhile True: time.sleep(0.01)")
    python.take(60)
    cell.ask("SIGNAL", slot=0, signo=2)
    assert "interrupted" in python.finish()
    python.start("import os; print('last words', flush=True); os._exit(7)")
    gone = cell.event("CONTEXT_EXIT")
    assert (gone.slot, gone.fate, gone.code) == (0, 0, 7)
    with pytest.raises((EOFError, ConnectionError)):
        python.frame(P["CONTEXT_DONE"], 30)
    assert python.printed[1] == b"last words\n"
    cell.connect(0)
    cell.ask("CONTEXT", slot=0, language=PYTHON)
    cell.contexts[0].frame(P["CONTEXT_READY"])
    assert cell.contexts[0].run("import pandas; print(1)") == "1\n"
    cell.ask("SIGNAL", slot=0, signo=9)
    gone = cell.event("CONTEXT_EXIT")
    assert (gone.slot, gone.fate, gone.code) == (0, 1, 9)


@pytest.mark.parametrize("limit", [200 * MIB, 4096 * MIB], ids=["the cell's limit", "the machine's memory"])
def test_out_of_memory(cell, limit):
    cell.limits(memory=limit)
    cell.contexts[0].start("x = [b'x' * (50 << 20) for i in range(20)]")
    gone = cell.event("CONTEXT_EXIT", 300)
    assert (gone.slot, gone.fate, gone.code) == (0, 2, 9)
    assert cell.ask("STATS").oom_kills >= 1
    assert cell.sh("echo alive") == "alive\n"


def test_limits_of_processes_and_open_files(cell):
    cell.limits(pids=20, files=64)
    end, out, err = cell.op(op="exec", cmd="for i in $(seq 40); do sleep 5 & done; wait")
    assert b"fork" in err, (end, err)
    assert cell.sh("ulimit -n") == "64\n"
    assert cell.contexts[0].run("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))") == "(64, 64)\n"
    stats = cell.ask("STATS")
    assert 0 < stats.pids <= 20 and stats.memory_bytes > 0


def test_disk_full(cell):
    cell.limits(disk=64 * MIB)
    assert cell.reply(op="disk")["total_bytes"] == 64 * MIB
    end, out, err = cell.op(op="exec", cmd="dd if=/dev/zero of=/workspace/big bs=1M count=100; sync", user="root", seconds=300)
    assert b"No space left" in err, err
    assert 50 * MIB < int(cell.sh("stat -c %s /workspace/big")) <= 64 * MIB
    cell.limits(disk=200 * MIB)
    assert cell.sh("rm -f /workspace/big; dd if=/dev/zero of=/workspace/big2 bs=1M count=100 2>&1; stat -c %s /workspace/big2", user="root", seconds=300).split()[-1] == str(100 * MIB)


def test_root_of_the_cell_is_root(cell):
    assert cell.sh("mkdir -p /mnt/t && mount -t tmpfs t /mnt/t && echo x > /mnt/t/x && cat /mnt/t/x; umount /mnt/t; chown 5:5 /etc/motd 2>/dev/null; /usr/sbin/chroot / id -u", user="root").split() == ["x", "0"]
    end, _, err = cell.op(op="exec", cmd="mount -t tmpfs t /mnt")
    assert end["exit_code"] != 0


def test_processes_and_ports_are_the_cells(cell):
    cell.contexts[0].run("import socket; s = socket.create_server(('127.0.0.1', 4567))")
    cell.sh("sleep 1000 >/dev/null 2>&1 &")
    commands = [one["command"] for one in cell.reply(op="processes")["processes"]]
    assert sum(command.startswith("/usr/bin/python3") for command in commands) == 1 and any("sleep 1000" in command for command in commands), commands
    assert not any("kthread" in command or "rcu" in command for command in commands), commands
    assert [one["port"] for one in cell.reply(op="ports")["ports"]] == [4567]


def test_a_new_driver_takes_over(cell):
    python = cell.contexts[0]
    python.start("import time\nfor i in range(2000): print(i)\ntime.sleep(3); print('end')")
    cell.connect_control(60)
    assert cell.ask("RESET").slots == 1
    assert python.finish().split()[-1] == "end" and cell.ask("STATS").pids == 1
