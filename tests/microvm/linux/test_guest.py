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
