"""Cells that are virtual machines, as far as the keeper has to do with them: the guest is a program without a kernel (tests/microvm/guest), which answers packets on every
connection. Needs a /dev/kvm that runs guest code at all; where there is none these tests fail, and whoever runs them chooses a host that has one."""
import errno
import os
import secrets
import signal
import struct
import time

import keeper_client as kc
import pytest
from keeper_process import BUILD, Running, layers_of, new_id, wait_until
from machine_client import (CONTROL, DISK, GUEST, HAS_KVM, LIMITS, MIB, TEMPLATE, Machine, base_of, boot, busy, copy, files, fill, groups, make, monitors, restore,
                            save)


@pytest.fixture(scope="module")
def place():
    """A keeper whose template's machine is the test guest."""
    guest = BUILD.parent / "tests/microvm/microvm-guest"
    keeper = Running()
    try:
        connection = kc.Keeper(keeper.path)
        features = connection.call(kc.HELLO).report()["features"]
        connection.close()
        if not features & HAS_KVM:
            pytest.fail("the keeper finds no usable /dev/kvm on this host: these tests cannot show anything here (its log: "
                        + (keeper.state / "keeper.log").read_text()[-500:] + ")")
        fill(keeper, guest)
        yield keeper
    finally:
        keeper.remove()


@pytest.fixture
def keeper(place):
    """A connection; whatever the test leaves is destroyed."""
    connection = kc.Keeper(place.path)
    yield connection
    connection.close()
    last = kc.Keeper(place.path)
    last.call(kc.LIST)
    for found in [e for e in last.events if e.op == kc.EVENT_FOUND]:
        for fd in found.fds:
            os.close(fd)
        last.call(kc.CELL_DESTROY, cell=found.cell, serial=found.serial)
    last.close()


@pytest.fixture(scope="module")
def baked(place):
    """A base in which the counter stands at 1 and 40 pages are written."""
    connection = kc.Keeper(place.path)
    machine = boot(connection)
    assert machine.ask(b"w40") == b"820" and machine.ask(b"c") == b"1"
    name, _ = base_of(machine)
    connection.close()
    return name


@pytest.fixture
def base(keeper, baked):
    """The template's machine stands."""
    assert keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=baked).layer == baked
    return baked


def only_monitor(place):
    found = [pids for group, pids in monitors(place).items() if group.startswith("cel_")]
    assert len(found) == 1 and len(found[0]) == 1, found
    return found[0][0]


# ---- boot ----

def test_boot_and_connect(place, keeper):
    machine = boot(keeper, vcpus=2)
    assert [machine.ask(b"c", number) for number in (CONTROL, GUEST, 0)] == [b"1", b"2", b"3"]
    assert machine.ask(b"d") == DISK[:16]
    assert machine.ask(b"Dwritten by guest") == b"written by guest"
    console = place.state / "machines" / TEMPLATE / "console-boot.log"
    assert console.read_text() == "serving\n"
    status = dict(line.split(":", 1) for line in open(f"/proc/{only_monitor(place)}/status"))
    assert 0x3FFE0000 <= int(status["Uid"].split()[0]) < 0x3FFF0000 and int(status["CapPrm"], 16) == 0 and status["Seccomp"].strip() == "2"
    machine.destroy()
    assert console.read_text() == "serving\n"


def test_a_connection_that_comes_again_takes_the_old_ones_place(keeper):
    machine = boot(keeper)
    old = machine.stream[GUEST]
    machine.connect(GUEST)
    assert machine.ask(b"c") == b"1"
    assert old.recv(10) == b""
    machine.destroy()
    with pytest.raises(kc.Refused, match="no such cell"):
        machine.connect(GUEST)


def test_monitor_has_nothing_it_should_not(place, keeper):
    machine = boot(keeper)
    pid = only_monitor(place)
    names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    known = ("socket:", "anon_inode:", "/dev/kvm", "/dev/null", "pipe:")
    files = sorted(os.path.basename(name) for name in names if not name.startswith(known))
    assert files == ["console-boot.log", "disk.img", "root.erofs"]
    assert sum(name.startswith("socket:") for name in names) == 1 + 3
    assert sum(name.startswith("pipe:") for name in names) == 1  # where it said why it would not start; nobody reads it any more
    machine.destroy()


# ---- bases and templates ----

def test_base_is_in_files_and_the_machine_ends(place, keeper):
    machine = boot(keeper)
    machine.ask(b"w10"), machine.ask(b"Don the base")
    cells = keeper.call(kc.HELLO).report()["cells"]
    name, size = base_of(machine)
    there = place.state / "machines" / TEMPLATE
    assert sorted(os.listdir(there / name)) == ["config", "memory", "root.erofs", "state"] and os.readlink(there / "newest") == name
    assert 40960 < size < 4 * MIB + 8 * MIB and (there / name / "memory").stat().st_size == 64 * MIB + 16
    assert not [n for n in os.listdir(there) if n.startswith(".")]
    assert name in layers_of(place)
    assert keeper.call(kc.HELLO).report()["cells"] == cells - 1
    with pytest.raises(kc.Refused, match="no such cell"):
        machine.call(kc.CELL_STATS)
    assert keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, limits=LIMITS).layer == name
    for other in (dict(limits=(128 * MIB, *LIMITS[1:])), dict(limits=LIMITS, vcpus=2)):
        with pytest.raises(kc.Refused, match="made with 64 MiB and 1 processors") as refused:
            keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, **other)
        assert refused.value.errno == errno.EBADMSG
    child = make(keeper, name)
    assert child.ask(b"n") == b"10" and child.ask(b"d") == b"on the base".ljust(16, b"\0")
    child.destroy()
    assert not [e for e in keeper.events if e.op == kc.EVENT_CELL_GONE]


def test_three_cells_of_a_template(place, keeper, base):
    made = [make(keeper, base) for _ in range(3)]
    for i, machine in enumerate(made):
        for k in range(i + 1):
            assert machine.ask(b"c") == str(k + 2).encode()
        assert machine.ask(b"e" + bytes([i]), 0) == b"e" + bytes([i])
        assert machine.ask(b"Dcell %d" % i)
    for i, machine in enumerate(made):
        assert machine.ask(b"n", CONTROL) == b"40"
        assert machine.ask(b"d") == (b"cell %d" % i).ljust(16, b"\0")
    users = {open(f"/proc/{pids[0]}/status").read().split("Uid:\t")[1].split()[0] for pids in busy(place).values()}
    assert len(busy(place)) == len(users) == 3
    assert len(layers_of(place)) >= 4
    consoles = [n for n in os.listdir(place.state / "machines" / TEMPLATE) if n.startswith("console-cel_")]
    assert len(consoles) == 3
    for machine in made:
        machine.destroy()
    assert busy(place) == {} and not [n for n in os.listdir(place.state / "machines" / TEMPLATE) if n.startswith("console-cel_")]


def test_make_needs_the_templates_machine(keeper, base):
    with pytest.raises(kc.Refused) as refused:
        make(keeper, new_id("bas_"))
    assert refused.value.errno == errno.EAGAIN
    with pytest.raises(kc.Refused) as refused:
        keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=new_id("bas_"))
    assert refused.value.errno == errno.ENOENT
    with pytest.raises(kc.Refused) as refused:
        keeper.call(kc.MACHINE_TEMPLATE, template="ab" * 32)
    assert refused.value.errno == errno.ENOENT


def test_a_damaged_base_is_refused(place, keeper):
    name, _ = base_of(boot(keeper))
    there = place.state / "machines" / TEMPLATE / name
    for file, damage in (("state", b"x" * 100), ("memory", b"short"), ("config", b"x" * 40)):
        whole = (there / file).read_bytes()
        (there / file).write_bytes(damage)
        with pytest.raises(kc.Refused) as refused:
            keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=name)
        assert refused.value.errno == errno.EBADMSG and len(refused.value.text) > 10, (file, refused.value.errno, refused.value.text)
        (there / file).write_bytes(whole)
    assert keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=name).layer == name
    (there / "state").unlink()
    (there / "state").symlink_to("config")
    place_of_another = new_id("bas_")
    assert place_of_another not in os.listdir(there.parent)


def test_a_template_whose_monitor_dies_is_restored_again(place, keeper, base):
    child = make(keeper, base)
    template = [pids[0] for group, pids in monitors(place).items() if group.startswith("tpl_")]
    for pid in template:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not [group for group in groups(place) if group.startswith("tpl_")])
    assert child.ask(b"c") == b"2"  # lives on
    with pytest.raises(kc.Refused) as refused:
        make(keeper, base)
    assert refused.value.errno == errno.EAGAIN
    keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=base)
    again = make(keeper, base)
    assert again.ask(b"c") == b"2"
    child.destroy(), again.destroy()


# ---- captures and copies ----

def test_copies_of_one_instant(place, keeper, base):
    machine = make(keeper, base)
    machine.connect(7)
    assert machine.ask(b"c") == b"2" and machine.ask(b"Dat the fork") and machine.ask(b"w10")
    number = secrets.randbits(31) + 1
    reply = machine.call(kc.CAPTURE, capture=number)
    assert 0 < struct.unpack("<I", reply.body[:4])[0] < 5_000_000
    assert machine.ask(b"c") == b"3" and machine.ask(b"Dafterwards")
    children = [copy(keeper, number) for _ in range(3)] + [copy(keeper, number, flags=kc.LAST)]
    with pytest.raises(kc.Refused, match="capture"):
        copy(keeper, number)
    for i, child in enumerate(children):
        assert sorted(child.stream) == [0, 7, CONTROL, GUEST] and child.layer == base
        assert child.ask(b"n", 7) == b"50"
        for k in range(i + 1):
            assert child.ask(b"c", 0) == str(3 + k).encode()
        assert child.ask(b"d") == b"at the fork".ljust(16, b"\0")
        child.ask(b"Dchild %d" % i)
    assert [child.ask(b"d") for child in children] == [(b"child %d" % i).ljust(16, b"\0") for i in range(4)]
    assert machine.ask(b"d") == b"afterwards".ljust(16, b"\0") and machine.ask(b"c") == b"4"
    machine.destroy()
    for i, child in enumerate(children):
        assert child.ask(b"c") == str(4 + i).encode()
        child.destroy()
    assert busy(place) == {} and not [name for name in layers_of(place) if name.startswith(("cel_", "cap_"))]


def test_a_packet_on_its_way_is_in_the_copy_too(keeper, base):
    machine = make(keeper, base)
    machine.call(kc.CELL_FREEZE, on=1)
    capture = machine.capture()
    machine.stream[GUEST].send(b"c")  # behind the capture: only the original's
    child = copy(keeper, capture)
    assert child.ask(b"c") == b"2"
    machine.call(kc.CELL_FREEZE, on=0)
    assert machine.stream[GUEST].recv(10) == b"2"
    machine.destroy(), child.destroy()
    keeper.call(kc.CAPTURE_DROP, capture=capture)


def test_what_is_not_connected_is_not_in_the_copy(keeper):
    machine = boot(keeper, numbers=(CONTROL, 3))
    machine.connect(5)
    machine.stream[5].close()
    capture = machine.capture()
    child = copy(keeper, capture, flags=kc.LAST)
    assert set(child.stream) >= {CONTROL, GUEST, 3}
    assert child.stream[GUEST].recv(10) == b"" and child.ask(b"c", 3) == b"1"
    machine.destroy(), child.destroy()


def test_chain_of_ten_with_dead_ancestors(place, keeper, base):
    machine = make(keeper, base)
    for i in range(10):
        assert machine.ask(b"c") == str(2 + i).encode()
        machine.ask(b"Dround %d" % i)
        capture = machine.capture()
        machine.destroy()
        machine = copy(keeper, capture, flags=kc.LAST if i % 2 else 0)
        if not i % 2:
            keeper.call(kc.CAPTURE_DROP, capture=capture)
        assert machine.ask(b"d") == (b"round %d" % i).ljust(16, b"\0")
    assert machine.ask(b"c") == b"12" and machine.ask(b"n") == b"40"
    assert len(busy(place)) == 1
    machine.destroy()


def test_a_held_machine_stands_until_the_capture_is_dropped(keeper, base):
    machine = make(keeper, base)
    capture = machine.capture(flags=kc.HOLD)
    machine.stream[GUEST].send(b"c")
    machine.stream[GUEST].settimeout(0.3)
    with pytest.raises(TimeoutError):
        machine.stream[GUEST].recv(10)
    with pytest.raises(kc.Refused, match="being frozen"):
        machine.capture()
    child = copy(keeper, capture)
    assert child.ask(b"c") == b"2"
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    machine.stream[GUEST].settimeout(20)
    assert machine.stream[GUEST].recv(10) == b"2"
    held = machine.capture(flags=kc.HOLD)
    machine.destroy()
    last = copy(keeper, held, flags=kc.LAST)
    assert last.ask(b"c") == b"3"
    last.destroy(), child.destroy()


def test_captures_go_with_the_connection(place, keeper, base):
    machine = make(keeper, base)
    machine.capture(), machine.capture(flags=kc.HOLD)
    assert len([g for g in busy(place) if g.startswith("cap_")]) == 2
    keeper.socket.close()
    other = kc.Keeper(place.path)
    wait_until(lambda: not [g for g in groups(place) if g.startswith("cap_")])
    assert machine.ask(b"c") == b"2"  # goes on
    assert not [name for name in layers_of(place) if name.startswith("cap_")]
    other.close()


def test_disks_where_there_are_no_snapshots(keeper):
    """Layers as plain directories: their copies are files."""
    plain = Running("--plain-layers")
    try:
        fill(plain, BUILD.parent / "tests/microvm/microvm-guest")
        connection = kc.Keeper(plain.path)
        first = boot(connection)
        first.ask(b"Dbase")
        name, _ = base_of(first)
        connection.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, limits=LIMITS)
        machine = make(connection, name)
        capture = machine.capture()
        machine.ask(b"Dother")
        child, last = copy(connection, capture), copy(connection, capture, flags=kc.LAST)
        child.ask(b"Dchild")
        assert [m.ask(b"d").rstrip(b"\0") for m in (machine, child, last)] == [b"other", b"child", b"base"]
        for one in (machine, child, last):
            one.destroy()
        assert layers_of(plain) == [name]
        connection.close()
    finally:
        plain.remove()


# ---- files ----

def keep(keeper, capture):
    name = new_id("img_")
    keeper.call(kc.LAYER_KEEP, capture=capture, id=name)
    return name


def test_saved_and_restored_after_everything_ended_and_after_a_restart(place, keeper, base, tmp_path):
    machine = make(keeper, base)
    machine.connect(9)
    assert machine.ask(b"w25") and machine.ask(b"c") == b"2" and machine.ask(b"Dsaved")
    capture = machine.capture(flags=kc.HOLD)
    reply = save(keeper, capture, tmp_path)
    kept = keep(keeper, capture)
    assert reply.layer == base and reply.vcpus == 1 and 25 * 4096 <= struct.unpack("<Q", reply.body[:8])[0] < MIB
    machine.destroy()
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    again = restore(keeper, tmp_path, base, kept)
    assert sorted(again.stream) == [0, 9, CONTROL, GUEST]
    assert again.ask(b"c", 9) == b"3" and again.ask(b"n") == b"65" and again.ask(b"d") == b"saved".ljust(16, b"\0")
    assert again.ask(b"Dother") and again.ask(b"w1")
    # a copy of a restored one, and saved once more
    second = again.capture()
    save(keeper, second, tmp_path, "two")
    kept_two = keep(keeper, second)
    child = copy(keeper, second)
    assert child.ask(b"c") == b"4" and child.ask(b"n") == b"66"
    again.destroy(), child.destroy()
    keeper.close()
    place.stop(signal.SIGKILL)
    wait_until(lambda: monitors(place) == {})
    place.start()
    fresh = kc.Keeper(place.path)
    assert {kept, kept_two, base} <= set(layers_of(place)) and not [n for n in layers_of(place) if n.startswith(("cel_", "cap_"))]
    one, two = restore(fresh, tmp_path, base, kept), restore(fresh, tmp_path, base, kept_two, "two")
    assert one.ask(b"n") == b"65" and one.ask(b"d") == b"saved".ljust(16, b"\0")
    assert two.ask(b"n") == b"66" and two.ask(b"d") == b"other".ljust(16, b"\0")
    assert fresh.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=base).layer == base
    third = make(fresh, base)
    assert third.ask(b"c") == b"2"
    for machine in (one, two, third):
        machine.destroy()
    for name in (kept, kept_two):
        fresh.call(kc.LAYER_DROP, id=name)
    fresh.close()


def test_images_that_are_refused(keeper, base, tmp_path):
    machine = make(keeper, base)
    capture = machine.capture()
    save(keeper, capture, tmp_path)
    kept = keep(keeper, capture)
    keeper.call(kc.CAPTURE_DROP, capture=capture)

    def refused(number, **fields):
        with pytest.raises(kc.Refused) as caught:
            restore(keeper, tmp_path, **{"layer": base, "kept": kept, **fields})
        assert caught.value.errno == number and caught.value.text, (caught.value.errno, caught.value.text)

    refused(errno.EBADMSG, layer=new_id("bas_"))
    refused(errno.EINVAL, kept="bas_" + kept[4:])
    refused(errno.ENOENT, kept=new_id("img_"))
    refused(errno.EBADMSG, vcpus=2)
    state = (tmp_path / "one.state").read_bytes()
    (tmp_path / "one.state").write_bytes(state[:-40])
    refused(errno.EBADMSG)
    (tmp_path / "one.state").write_bytes(state)
    with pytest.raises(kc.Refused) as caught:
        keeper.call(kc.MACHINE_RESTORE, template=TEMPLATE, layer=base, files=kept, id=new_id(), limits=LIMITS)
    assert caught.value.errno == errno.EINVAL
    good = restore(keeper, tmp_path, base, kept)
    assert good.ask(b"c") == b"2"
    good.destroy(), machine.destroy()
    keeper.call(kc.LAYER_DROP, id=kept)


def test_others_are_served_while_a_machine_is_written(keeper, base, tmp_path):
    machine = make(keeper, base)
    machine.ask(b"w3000")
    capture = machine.capture()
    fds = files(tmp_path, "one")
    tag = keeper.send(kc.MACHINE_SAVE, capture=capture, fds=fds)
    hello = keeper.call(kc.HELLO)
    assert hello.tag == tag + 1
    assert struct.unpack("<Q", keeper.answer(tag).body[:8])[0] >= 3000 * 4096
    tag = keeper.send(kc.MACHINE_SAVE, capture=capture, fds=files(tmp_path, "two"))
    keeper.send(kc.CAPTURE_DROP, capture=capture)
    try:
        keeper.answer(tag)  # it was done already
    except kc.Refused as refused:
        assert "not written" in refused.text
    machine.destroy()


# ---- limits, freeze, stats, rename ----

def read_group(name, kind, file):
    """Of the v1 hierarchy of this controller, or of v2 where it is there."""
    for line in open("/proc/mounts"):
        _, mount, fstype, options = line.split()[:4]
        if fstype == "cgroup" and kind in options.split(",") or fstype == "cgroup2":
            for root, directories, found in os.walk(mount):
                if os.path.basename(root) == name and file in found:
                    return open(os.path.join(root, file)).read().strip()
    raise AssertionError(f"no {file} of {name}")


def test_limits_of_the_group(place, keeper, base):
    machine = make(keeper, base)
    group = next(iter(busy(place)))
    features = keeper.call(kc.HELLO).report()["features"]
    on_v1 = any(line.split()[2] == "cgroup" and "memory" in line.split()[3].split(",") for line in open("/proc/mounts"))
    assert features & 0x10
    name = "memory.limit_in_bytes" if on_v1 else "memory.max"
    assert int(read_group(group, "memory", name)) == (64 + 320) * MIB
    assert int(read_group(group, "pids", "pids.max")) == 4
    machine.call(kc.CELL_LIMITS, limits=(128 * MIB, 128 * MIB, 500, 64, 1024))
    assert int(read_group(group, "memory", name)) == (128 + 320) * MIB
    stats = machine.call(kc.CELL_STATS).stats()
    assert 1 <= stats["pids"] <= 4 and stats["cpu_us"] > 0
    with pytest.raises(kc.Refused, match="memory"):
        machine.call(kc.CELL_LIMITS, limits=(1, 1, 1, 1, 1))
    child = copy(keeper, machine.capture(), flags=kc.LAST)
    other = next(g for g in busy(place) if g != group)
    assert int(read_group(other, "memory", name)) == (128 + 320) * MIB
    machine.destroy(), child.destroy()


def test_freeze_and_thaw(keeper, base):
    machine = make(keeper, base)
    machine.call(kc.CELL_FREEZE, on=1)
    machine.call(kc.CELL_FREEZE, on=1)
    capture = machine.capture()  # a frozen one can be copied, and stays frozen
    machine.stream[GUEST].send(b"c")
    machine.stream[GUEST].settimeout(0.3)
    with pytest.raises(TimeoutError):
        machine.stream[GUEST].recv(10)
    with pytest.raises(kc.Refused, match="frozen"):
        machine.connect(4)
    child = copy(keeper, capture, flags=kc.LAST)
    assert child.ask(b"n") == b"40"
    held = machine.capture(flags=kc.HOLD)
    machine.call(kc.CELL_FREEZE, on=0)
    with pytest.raises(TimeoutError):
        machine.stream[GUEST].recv(10)
    keeper.call(kc.CAPTURE_DROP, capture=held)
    machine.stream[GUEST].settimeout(20)
    assert machine.stream[GUEST].recv(10) == b"2"
    machine.call(kc.CELL_FREEZE, on=1)
    machine.destroy(), child.destroy()


def test_rename(keeper, base):
    parent = make(keeper, base)
    name = next(e.id for e in found(keeper) if e.serial == parent.serial)
    child = copy(keeper, parent.capture(), flags=kc.LAST)
    child.call(kc.CELL_RENAME, id=name)
    assert [e.id for e in found(keeper)] == [name]
    assert parent.stream[GUEST].recv(10) == b"" and child.ask(b"c") == b"2"
    child.destroy()


# ---- ends ----

def found(keeper):
    keeper.events = [e for e in keeper.events if e.op != kc.EVENT_FOUND]
    keeper.call(kc.LIST)
    return [e for e in keeper.events if e.op == kc.EVENT_FOUND]


def test_a_monitor_that_is_killed(place, keeper, base):
    other, machine = make(keeper, base), None
    before = set(busy(place))
    machine = make(keeper, base)
    group = (set(busy(place)) - before).pop()
    os.kill(busy(place)[group][0], signal.SIGKILL)
    gone = keeper.event(kc.EVENT_CELL_GONE)
    assert (gone.cell, gone.serial, gone.fate) == (machine.cell, machine.serial, kc.FATE_KILLED)
    assert machine.stream[GUEST].recv(10) == b""
    with pytest.raises(kc.Refused, match="no such cell"):
        machine.call(kc.CELL_STATS)
    wait_until(lambda: group not in groups(place) and group not in layers_of(place))
    assert other.ask(b"c") == b"2"
    other.destroy()


def test_a_guest_that_ends_by_itself(place, keeper, base):
    machine = make(keeper, base)
    child = copy(keeper, machine.capture(), flags=kc.LAST)
    machine.stream[GUEST].send(b"x")
    gone = keeper.event(kc.EVENT_CELL_GONE)
    assert (gone.cell, gone.serial, gone.fate) == (machine.cell, machine.serial, kc.FATE_KILLED)
    assert child.ask(b"c") == b"2"
    child.destroy()
    wait_until(lambda: busy(place) == {})


def test_a_monitor_that_does_not_answer(place, keeper, base):
    other, before = make(keeper, base), set(busy(place))
    machine = make(keeper, base)
    pid = busy(place)[(set(busy(place)) - before).pop()][0]
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(kc.Refused) as refused:
        machine.connect(3)
    assert refused.value.errno == errno.ETIMEDOUT and 3 < time.monotonic() - start < 15
    gone = keeper.event(kc.EVENT_CELL_GONE)
    assert (gone.cell, gone.serial) == (machine.cell, machine.serial)
    assert other.ask(b"c") == b"2"
    other.destroy()
    wait_until(lambda: busy(place) == {})


def test_memory_beyond_the_limit(place, keeper):
    """The group's limit strikes: the machine is larger than its cell may be."""
    machine = boot(keeper, limits=(1024 * MIB, 64 * MIB, 2000, 128, 1024))
    machine.call(kc.CELL_LIMITS, limits=(16 * MIB, 64 * MIB, 2000, 128, 1024))
    machine.stream[GUEST].send(b"w120000")  # 469 MiB
    gone = keeper.event(kc.EVENT_CELL_GONE)
    assert (gone.serial, gone.fate) == (machine.serial, kc.FATE_OOM)


def test_the_next_daemon_finds_machines_and_their_connections(place, keeper, base):
    machine = make(keeper, base)
    machine.connect(11)
    assert machine.ask(b"c") == b"2"
    half = boot(keeper, numbers=())
    machine.close()
    keeper.close()
    other = kc.Keeper(place.path)
    events = {e.serial: e for e in found(other)}
    again, bare = Machine(other, events[machine.serial]), Machine(other, events[half.serial])
    assert events[machine.serial].template == TEMPLATE and again.layer == base and bare.layer == "" and again.vcpus == 1
    assert sorted(again.stream) == [0, 11, CONTROL, GUEST] and sorted(bare.stream) == [CONTROL, GUEST]
    assert again.ask(b"c", 11) == b"3" and again.ask(b"c", CONTROL) == b"4"
    assert bare.stream[GUEST].recv(10) == b""  # it never had one
    bare.connect(GUEST)
    assert bare.ask(b"c") == b"1"
    again.destroy(), bare.destroy()
    other.close()


def test_a_machine_whose_keeper_dies_ends(place, keeper, base):
    make(keeper, base).capture()
    boot(keeper)
    assert len(monitors(place)) >= 4
    keeper.close()
    place.stop(signal.SIGKILL)
    wait_until(lambda: monitors(place) == {})
    place.start()
    assert groups(place) == [] and not [n for n in os.listdir(place.state / "machines" / TEMPLATE) if n.startswith("console-cel_")]


def test_half_a_base_is_none(place, keeper, base):
    """What a keeper that died in the middle leaves: files without their name, a disk without files."""
    there, half, orphan = place.state / "machines" / TEMPLATE, new_id("bas_"), new_id("bas_")
    newest = os.readlink(there / "newest")
    (there / f".new-{half}").mkdir()
    (there / f".new-{half}" / "state").write_bytes(b"half")
    os.makedirs(f"/proc/{place.process.pid}/root{place.state}/layers/{orphan}") if "layers.btrfs" not in os.listdir(place.state) else \
        __import__("subprocess").run(["btrfs", "-q", "subvolume", "create", f"/proc/{place.process.pid}/root{place.state}/layers/{orphan}"], check=True)
    keeper.close()
    place.stop()
    place.start()
    assert orphan not in layers_of(place) and base in layers_of(place)
    assert f".new-{half}" not in os.listdir(there) and os.readlink(there / "newest") == newest


# ---- refusals ----

def test_requests_of_processes_are_refused(keeper, base):
    machine = make(keeper, base)
    for op in (kc.CONTEXT_MAKE, kc.CONTEXT_SIGNAL, kc.THAW_BEGIN, kc.THAW_CALLS, kc.THAW_RUN):
        with pytest.raises(kc.Refused, match="virtual machine") as refused:
            machine.call(op, slot=0, language=1, signo=2)
        assert refused.value.errno == errno.EOPNOTSUPP
    capture = machine.capture()
    for op in (kc.CAPTURE_OPEN, kc.CAPTURE_MAKE):
        with pytest.raises(kc.Refused, match="virtual machine"):
            keeper.call(op, capture=capture, id=new_id())
    assert machine.ask(b"c") == b"2"
    machine.destroy()


def test_nonsense_is_refused(keeper, base, tmp_path):
    def refused(number, op, **fields):
        with pytest.raises(kc.Refused) as caught:
            keeper.call(op, **{"limits": LIMITS, "id": new_id(), "template": TEMPLATE, "vcpus": 1, **fields})
        assert caught.value.errno == number and caught.value.text, (caught.value.errno, caught.value.text)

    refused(errno.EINVAL, kc.MACHINE_BOOT, vcpus=0)
    refused(errno.EINVAL, kc.MACHINE_BOOT, vcpus=9)
    refused(errno.EINVAL, kc.MACHINE_BOOT, id="nobody")
    refused(errno.EINVAL, kc.MACHINE_BOOT, template="../" * 10)
    refused(errno.ENOENT, kc.MACHINE_BOOT, template="00" * 32)
    refused(errno.EINVAL, kc.MACHINE_BOOT, limits=(MIB,) + LIMITS[1:])
    machine = make(keeper, base)
    name = next(e.id for e in found(keeper) if e.serial == machine.serial)
    refused(errno.EEXIST, kc.MACHINE_MAKE, layer=base, id=name)
    refused(errno.ENOENT, kc.MACHINE_CONNECT, cell=machine.cell, serial=machine.serial + 1)
    refused(errno.EINVAL, kc.MACHINE_CONNECT, cell=machine.cell, serial=machine.serial, slot=34)
    refused(errno.EBUSY, kc.MACHINE_BASE, cell=machine.cell, serial=machine.serial, layer=new_id("bas_"))
    refused(errno.ENOENT, kc.MACHINE_COPY, capture=12345)
    refused(errno.ENOENT, kc.MACHINE_SAVE, capture=12345)
    capture = machine.capture()
    refused(errno.EINVAL, kc.MACHINE_SAVE, capture=capture)
    reading = os.open(os.devnull, os.O_RDWR)
    refused(errno.EINVAL, kc.MACHINE_SAVE, capture=capture, fds=[reading, reading])
    os.close(reading)
    refused(errno.EINVAL, kc.CAPTURE, cell=machine.cell, serial=machine.serial, capture=capture)
    refused(errno.EINVAL, kc.MACHINE_COPY, capture=capture, id="sbx_")
    booted = boot(keeper)
    refused(errno.EINVAL, kc.MACHINE_BASE, cell=booted.cell, serial=booted.serial, layer="bas_../../x")
    refused(errno.EEXIST, kc.MACHINE_BASE, cell=booted.cell, serial=booted.serial, layer=base)
    bare = booted.capture()
    fds = files(tmp_path, "x")
    refused(errno.EBUSY, kc.MACHINE_SAVE, capture=bare, fds=fds)
    for fd in fds:
        os.close(fd)
    assert booted.ask(b"c") == b"1" and machine.ask(b"c") == b"2"
    booted.destroy(), machine.destroy()


def test_a_base_keeps_the_root_it_was_booted_with(place, keeper):
    there = place.state / "machines" / TEMPLATE
    before = (there / "root.erofs").read_bytes()

    def another_root(content):
        (there / "new").write_bytes(content)
        (there / "new").rename(there / "root.erofs")

    another_root(before[::-1])
    first, second = boot(keeper), boot(keeper)
    name, _ = base_of(first)
    assert (there / name / "root.erofs").samefile(there / "root.erofs")
    another_root(before)
    assert (there / name / "root.erofs").read_bytes() == before[::-1]
    other, _ = base_of(second)  # the file that it has is still there: in the other base
    assert (there / other / "root.erofs").samefile(there / name / "root.erofs")
    another_root(before[::-1])
    third = boot(keeper)
    another_root(before)
    with pytest.raises(kc.Refused, match="replaced") as refused:
        third.call(kc.MACHINE_BASE, layer=new_id("bas_"))
    assert refused.value.errno == errno.EBUSY
    assert third.ask(b"c") == b"1"  # goes on
    third.destroy()


def test_links_are_not_followed(place, keeper, tmp_path):
    there, other = place.state / "machines" / TEMPLATE, place.state / "machines" / ("5a" * 32)
    other.mkdir()
    for name in ("initrd", "root.erofs", "disk.img"):
        (other / name).write_bytes((there / name).read_bytes())
    (other / "kernel").symlink_to(there / "kernel")
    with pytest.raises(kc.Refused) as refused:
        keeper.call(kc.MACHINE_BOOT, id=new_id(), template=other.name, limits=LIMITS, vcpus=1)
    assert refused.value.errno == errno.ELOOP
    (other / "newest").symlink_to("../" + TEMPLATE)
    with pytest.raises(kc.Refused) as refused:
        keeper.call(kc.MACHINE_TEMPLATE, template=other.name)
    assert refused.value.errno == errno.ENOENT
    assert not [n for n in layers_of(place) if n.startswith("cel_")]


def test_nothing_is_left(place, keeper):
    """After all the others: no process but templates', no layer but bases and kept ones, no group, no descriptor."""
    wait_until(lambda: not [g for g in groups(place) if g.startswith("cap_")] and len(groups(place)) <= 5 + len(monitors(place)))  # 5 cells of processes are made ahead
    assert busy(place) == {}
    assert not [name for name in layers_of(place) if not name.startswith("bas_")]
    for fd in os.listdir(f"/proc/{place.process.pid}/fd"):
        try:
            assert "console-" not in os.readlink(f"/proc/{place.process.pid}/fd/{fd}")
        except FileNotFoundError:
            pass
