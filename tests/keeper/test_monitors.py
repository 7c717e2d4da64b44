"""Monitors that a guest has taken over: the keeper beside another cella-vmm (tests/support/fake_vmm.c), which says what it should not. Needs a /dev/kvm that opens and makes a
virtual machine, or the keeper starts no monitors at all."""
import errno
import os
import shutil
import time

import keeper_client as kc
import pytest
from keeper_process import BUILD, Running, layers_of, new_id, wait_until
from machine_client import GUEST, HAS_KVM, TEMPLATE, Machine, boot, fill, groups, instance
from test_keeper import settled


class Place:
    def __init__(self, tmp):
        self.programs = tmp / "programs"
        self.programs.mkdir()
        shutil.copy(BUILD / "cella-keeper", self.programs)
        shutil.copy(BUILD.parent / "tests/support/fake_vmm", self.programs / "cella-vmm")
        self.mode("")
        self.running = Running(program=self.programs / "cella-keeper")
        fill(self.running, self.programs / "cella-vmm")

    def mode(self, name):
        (self.programs / "new").write_text(name)
        (self.programs / "new").rename(self.programs / "mode")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("monitors"))
    yield made
    made.running.remove()


@pytest.fixture
def keeper(place):
    place.mode("")
    connection = kc.Keeper(place.running.path)
    assert connection.call(kc.HELLO).report()["features"] & HAS_KVM, "the keeper finds no usable /dev/kvm on this host: these tests cannot show anything here"
    mine, pid1 = group_of(place.running.process.pid), group_of(1)
    fds = settled(lambda: descriptors(place))  # cells of processes are made ahead
    yield connection
    connection.close()
    last = kc.Keeper(place.running.path)
    last.call(kc.LIST)
    for found in [e for e in last.events if e.op == kc.EVENT_FOUND]:
        for fd in found.fds:
            os.close(fd)
        last.call(kc.CELL_DESTROY, cell=found.cell, serial=found.serial)
    wait_until(lambda: monitors(place) == [])
    assert (group_of(place.running.process.pid), group_of(1)) == (mine, pid1)  # nobody else was moved
    wait_until(lambda: descriptors(place) <= fds)
    wait_until(lambda: not [g for g in groups(place.running) if g.startswith(("cap_", "tpl_"))] and layers_of(place.running) == [])
    assert last.call(kc.HELLO).report()["cells"] == 0
    last.close()


def group_of(pid):
    return open(f"/proc/{pid}/cgroup").read()


def descriptors(place):
    return len([fd for fd in os.listdir(f"/proc/{place.running.process.pid}/fd")])


def monitors(place):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read() == "cella-vmm\n" and instance(place.running) in group_of(pid) and ") Z " not in open(f"/proc/{pid}/stat").read():
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def refused(call, *args, **fields):
    with pytest.raises(kc.Refused) as caught:
        call(*args, **fields)
    assert caught.value.text and caught.value.text.isprintable() or "\ufffd" in caught.value.text
    return caught.value


def test_it_can_behave(place, keeper):
    machine = boot(keeper)
    copy = Machine(keeper, keeper.call(kc.MACHINE_COPY, capture=machine.capture(), id=new_id(), flags=kc.LAST))
    assert len(monitors(place)) == 2
    machine.destroy(), copy.destroy()


@pytest.mark.parametrize("mode, text", [("start-says", "the reason why"), ("start-noise", "monitor"), ("start-version", "77")])
def test_a_start_that_fails_says_why(place, keeper, mode, text):
    place.mode(mode)
    assert text in refused(boot, keeper).text


def test_a_start_that_hangs(place, keeper):
    place.mode("start-hangs")
    start = time.monotonic()
    assert refused(boot, keeper).errno == errno.ETIMEDOUT and 8 < time.monotonic() - start < 20


@pytest.mark.parametrize("how", ["short", "lies", "large", "other", "dies"])
def test_an_answer_that_is_none_ends_the_machine(place, keeper, how):
    other = boot(keeper)
    place.mode("connect-" + how)
    machine = boot(keeper, numbers=())
    refused(machine.connect, GUEST)
    gone = keeper.event(kc.EVENT_CELL_GONE)
    assert (gone.cell, gone.serial, gone.fate) == (machine.cell, machine.serial, kc.FATE_KILLED)
    other.connect(GUEST)
    other.destroy()


def test_noise_in_a_refusal_is_only_that(place, keeper):
    place.mode("connect-noise")
    machine = boot(keeper, numbers=())
    assert refused(machine.connect, GUEST).errno == errno.EIO
    machine.call(kc.CELL_STATS)
    machine.destroy()


def test_descriptors_that_come_along_are_thrown_away(place, keeper):
    place.mode("connect-gifts")
    machine = boot(keeper, numbers=())
    before = descriptors(place)
    for _ in range(20):
        machine.connect(GUEST).stream[GUEST].close()
    assert descriptors(place) <= before + 1
    machine.destroy()


@pytest.mark.parametrize("how", ["silent", "flood"])
def test_no_answer_has_a_limit(place, keeper, how):
    place.mode("connect-" + how)
    machine = boot(keeper, numbers=())
    start = time.monotonic()
    assert refused(machine.connect, GUEST).errno == errno.ETIMEDOUT and 3 < time.monotonic() - start < 12
    assert keeper.event(kc.EVENT_CELL_GONE).serial == machine.serial


def test_an_end_that_is_told_before_anything(place, keeper):
    place.mode("resume-ends")
    machine = boot(keeper, numbers=())
    assert keeper.event(kc.EVENT_CELL_GONE).serial == machine.serial


@pytest.mark.parametrize("mode", ["fork-init", "fork-keeper", "fork-parent", "fork-forged"])
def test_a_fork_that_names_somebody_else(place, keeper, mode):
    """Nobody is moved or killed on its word; it is killed itself."""
    place.mode(mode)
    machine = boot(keeper)
    assert "not the process" in refused(machine.capture).text
    assert keeper.event(kc.EVENT_CELL_GONE).serial == machine.serial
    assert place.running.process.poll() is None


@pytest.mark.parametrize("mode", ["fork-nobody", "fork-mute"])
def test_a_fork_that_says_nothing(place, keeper, mode):
    place.mode(mode)
    machine = boot(keeper)
    assert refused(machine.capture).errno == errno.ETIMEDOUT
    machine.call(kc.CELL_STATS)
    machine.destroy()


def test_a_base_that_is_never_written(place, keeper):
    place.mode("snapshot-dies")
    machine, name = boot(keeper), new_id("bas_")
    assert "not written" in refused(machine.call, kc.MACHINE_BASE, layer=name).text
    assert keeper.event(kc.EVENT_CELL_GONE).serial == machine.serial
    there = place.running.state / "machines" / TEMPLATE
    assert not [n for n in os.listdir(there) if "bas_" in n or n == "newest"]


def test_a_machine_that_is_destroyed_while_it_is_written(place, keeper):
    place.mode("snapshot-silent")
    machine, name = boot(keeper), new_id("bas_")
    tag = keeper.send(kc.MACHINE_BASE, cell=machine.cell, serial=machine.serial, layer=name)
    refused(machine.connect, 3)
    refused(machine.capture)
    refused(machine.call, kc.CELL_FREEZE, on=1)
    machine.destroy()
    assert "not written" in refused(keeper.answer, tag).text
    assert not [n for n in os.listdir(place.running.state / "machines" / TEMPLATE) if "bas_" in n]
