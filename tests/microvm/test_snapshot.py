"""Snapshots: files that a machine comes back from, in another process."""
import os

import pytest

from vmm import N, Refused

MEMORY = 64 << 20


def back(start, tmp_path, name, base=None, memory=MEMORY, vcpus=1, attach=True):
    vmm = start()
    vmm.ask("CONFIG", memory, vcpus, N["VMM_CONFIG_TRACK"])
    answer = vmm.restore(tmp_path, name, base)
    stream = vmm.attach(1) if attach else None
    vmm.ask("RESUME")
    return vmm, stream, answer


@pytest.fixture
def pair(serving, talk):
    vmm = serving()
    stream = vmm.connect(5, 1)
    assert talk(stream, b"w40") == b"820" and talk(stream, b"c") == b"1"
    return vmm, stream


def test_back_after_the_vmm_is_gone(pair, start, talk, tmp_path):
    vmm, stream = pair
    answer = vmm.snapshot(tmp_path, "a")
    assert 40 < answer.arg[0] < 600
    assert talk(stream, b"c") == b"2"
    vmm.close()
    _, again, _ = back(start, tmp_path, "a")
    assert talk(again, b"n") == b"40" and talk(again, b"c") == b"2" and len(talk(again, b"r")) == 16
    _, third, _ = back(start, tmp_path, "a")
    assert talk(third, b"c") == b"2"


def test_memory_file_is_sparse(pair, tmp_path):
    pair[0].snapshot(tmp_path, "a")
    st = os.stat(tmp_path / "a.memory")
    assert st.st_size == MEMORY + 16 and st.st_blocks * 512 < 3 << 20


def test_only_what_changed(pair, start, talk, tmp_path):
    vmm, stream = pair
    full = vmm.snapshot(tmp_path, "base", N["VMM_SNAPSHOT_BASE"])
    none = vmm.snapshot(tmp_path, "none", N["VMM_SNAPSHOT_CHANGED"])
    assert talk(stream, b"w25") and talk(stream, b"c") == b"2"
    some = vmm.snapshot(tmp_path, "some", N["VMM_SNAPSHOT_CHANGED"])
    assert none.arg[0] < 12 and 25 <= some.arg[0] < 50 < full.arg[0]
    vmm.close()
    _, again, answer = back(start, tmp_path, "some", "base")
    assert answer.arg[0] == some.arg[0]
    assert talk(again, b"n") == b"65" and talk(again, b"c") == b"3"
    _, before, _ = back(start, tmp_path, "none", "base")
    assert talk(before, b"n") == b"40" and talk(before, b"c") == b"2"


def test_changes_of_a_fork_and_of_a_restored_machine_count_from_the_base(pair, start, talk, tmp_path):
    vmm, stream = pair
    vmm.snapshot(tmp_path, "base", N["VMM_SNAPSHOT_BASE"])
    talk(stream, b"w10")
    child, _ = vmm.fork()
    other = child.attach(1)
    child.ask("RESUME")
    talk(other, b"w10")
    child.snapshot(tmp_path, "one", N["VMM_SNAPSHOT_CHANGED"])
    vmm.close(), child.close()
    again, stream, _ = back(start, tmp_path, "one", "base")
    talk(stream, b"w10"), talk(stream, b"c")
    again.snapshot(tmp_path, "two", N["VMM_SNAPSHOT_CHANGED"])
    again.close()
    last, stream, _ = back(start, tmp_path, "two", "base")
    assert talk(stream, b"n") == b"70" and talk(stream, b"c") == b"3"


def test_long_runs_are_mapped_and_forked_again(pair, start, talk, tmp_path):
    vmm, stream = pair
    vmm.snapshot(tmp_path, "base", N["VMM_SNAPSHOT_BASE"])
    talk(stream, b"w300")
    vmm.snapshot(tmp_path, "a", N["VMM_SNAPSHOT_CHANGED"])
    vmm.close()
    again, stream, answer = back(start, tmp_path, "a", "base")
    assert answer.arg[1] >= 2
    child, _ = again.fork()
    other = child.attach(1)
    child.ask("RESUME")
    assert talk(other, b"n") == b"340" and talk(stream, b"n") == b"340"


def test_a_zeroed_page_comes_back_as_zero(start, guest, tmp_path):
    """Written since the base, and zero again: a hole in the file would show the base's bytes. Pages of the base are never zero here."""
    vmm = start().boot(guest, "tick 200")
    vmm.console_has(".")
    vmm.snapshot(tmp_path, "base", N["VMM_SNAPSHOT_BASE"])
    answer = vmm.snapshot(tmp_path, "a", N["VMM_SNAPSHOT_CHANGED"])
    assert os.stat(tmp_path / "a.memory").st_blocks * 512 >= answer.arg[0] * 4096


def test_processors_and_paused_state(serving, start, talk, tmp_path):
    vmm = serving(vcpus=4)
    stream = vmm.connect(5, 1)
    talk(stream, b"c")
    vmm.ask("PAUSE")
    vmm.snapshot(tmp_path, "a")
    assert vmm.ask("STATUS").arg[0] == N["VMM_PAUSED"]
    _, again, _ = back(start, tmp_path, "a", vcpus=4)
    assert talk(again, b"c") == b"2"


def test_disk_is_part_of_the_machine(start, guest, tmp_path):
    (tmp_path / "disk").write_bytes(b"sector one".ljust(1 << 20, b"\0"))
    disk = os.open(tmp_path / "disk", os.O_RDWR)
    vmm = start().boot(guest, "devices", disks=[(disk, False)])
    vmm.console_has("done")
    vmm.snapshot(tmp_path, "a")
    other = start()
    other.ask("CONFIG", MEMORY, 1, 0)
    with pytest.raises(Refused, match="devices"):
        other.restore(tmp_path, "a")
    third = start()
    third.ask("CONFIG", MEMORY, 1, 0)
    third.attach_disks([(disk, False)])
    third.restore(tmp_path, "a")
    third.ask("RESUME")
    os.close(disk)


@pytest.mark.parametrize("memory,vcpus", [(128 << 20, 1), (MEMORY, 2)])
def test_another_machine_is_refused(pair, start, tmp_path, memory, vcpus):
    pair[0].snapshot(tmp_path, "a")
    with pytest.raises(Refused, match="the state is of a machine with"):
        back(start, tmp_path, "a", memory=memory, vcpus=vcpus)


def test_foreign_files_are_refused(pair, start, talk, tmp_path):
    vmm, stream = pair
    vmm.snapshot(tmp_path, "base", N["VMM_SNAPSHOT_BASE"])
    vmm.snapshot(tmp_path, "a", N["VMM_SNAPSHOT_CHANGED"])
    vmm.snapshot(tmp_path, "other", N["VMM_SNAPSHOT_BASE"])
    with pytest.raises(Refused, match="base's memory file is not the one"):
        back(start, tmp_path, "a", "other")
    with pytest.raises(Refused, match="needs the memory of its base"):
        back(start, tmp_path, "a")
    os.rename(tmp_path / "other.memory", tmp_path / "a.memory")
    with pytest.raises(Refused, match="memory file is not the one"):
        back(start, tmp_path, "a", "base")
    os.truncate(tmp_path / "a.memory", 1 << 20)
    with pytest.raises(Refused, match="size"):
        back(start, tmp_path, "a", "base")


def damage(tmp_path, at, with_):
    state = bytearray((tmp_path / "a.state").read_bytes())
    state[at:at + len(with_)] = with_
    (tmp_path / "a.state").write_bytes(state)


@pytest.mark.parametrize("at,with_,text", [(0, b"X", "no state"), (24, b"\x63", "format 99"), (72, b"\xff", "damaged")], ids=["magic", "version", "section"])
def test_damaged_state_is_refused(pair, start, tmp_path, at, with_, text):
    pair[0].snapshot(tmp_path, "a")
    damage(tmp_path, at, with_)
    with pytest.raises(Refused, match=text):
        back(start, tmp_path, "a")


def test_another_processor_is_refused(pair, start, tmp_path):
    pair[0].snapshot(tmp_path, "a")
    state = (tmp_path / "a.state").read_bytes()
    damage(tmp_path, state.index(b"enti" if b"enti" in state[:4096] else b"ntel"), b"XXXX")
    with pytest.raises(Refused, match="another kind of processor"):
        back(start, tmp_path, "a")


@pytest.mark.parametrize("cut", [0, 10, 100, -1])
def test_cut_state_is_refused(pair, start, tmp_path, cut):
    pair[0].snapshot(tmp_path, "a")
    state = (tmp_path / "a.state").read_bytes()
    (tmp_path / "a.state").write_bytes(state[:cut])
    with pytest.raises(Refused):
        back(start, tmp_path, "a")


def test_disk_full_is_said(pair, tmp_path):
    vmm, stream = pair
    full = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(Refused):
        vmm.ask("SNAPSHOT", 0, fds=[full, full])
    os.close(full)
    stream.send(b"c")
    assert stream.recv(10) == b"2"


def test_a_base_that_was_not_written_is_none(pair, tmp_path):
    vmm, _ = pair
    good, full = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT, 0o600), os.open("/dev/full", os.O_RDWR)
    with pytest.raises(Refused):
        vmm.ask("SNAPSHOT", N["VMM_SNAPSHOT_BASE"], fds=[good, full])
    os.close(good), os.close(full)
    with pytest.raises(Refused, match="base"):
        vmm.snapshot(tmp_path, "a", N["VMM_SNAPSHOT_CHANGED"])


def test_changes_need_a_base(pair, tmp_path):
    with pytest.raises(Refused, match="base"):
        pair[0].snapshot(tmp_path, "a", N["VMM_SNAPSHOT_CHANGED"])
