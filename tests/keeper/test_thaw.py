"""A context put together from outside: what the keeper lets a daemon do with a copy of the zygote before it runs."""
import os
import secrets
import socket
import struct
import time

import keeper_client as kc
import pytest

CALL = struct.Struct("<Q6QqQ")
CALLS_MAX, SCRATCH_MAX, SCRATCH = 160, 8192, 0x200000004000
MMAP, MPROTECT, MUNMAP, BRK, MREMAP, MADVISE, CLOSE, OPENAT2 = 9, 10, 11, 12, 25, 28, 3, 437


def with_fd(keeper, op, fd, **fields):
    """A request with a descriptor; the reply."""
    keeper.tag += 1
    socket.send_fds(keeper.socket, [kc.request(op, keeper.tag, **fields)], [fd])
    tag = keeper.tag
    while True:
        reply = keeper.receive()
        if reply.tag != tag:
            keeper.events.append(reply)
            continue
        if reply.error:
            raise kc.Refused(reply.error, reply.text)
        return reply


def memory_file(data):
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


@pytest.fixture
def state(keeper, cell):
    """The state of an idle context, as the keeper wrote it."""
    cell.call(kc.CAPTURE, capture=101)
    opened = keeper.call(kc.CAPTURE_OPEN, capture=101, slot=0)
    keeper.call(kc.CAPTURE_DROP, capture=101)
    data = os.pread(opened.fds[3], 1 << 20, 0)
    for fd in opened.fds:
        os.close(fd)
    return data


@pytest.fixture
def empty(keeper, template):
    made = keeper.make(template, language=0)
    yield made
    try:
        made.destroy()
    except (kc.Refused, OSError):
        pass


class Waiting:
    """A context that waits for its memory."""

    def __init__(self, keeper, cell, state, slot=0):
        self.keeper, self.cell, self.slot = keeper, cell, slot
        fd = memory_file(state)
        reply = with_fd(keeper, kc.THAW_BEGIN, fd, cell=cell.cell, serial=cell.serial, slot=slot, language=kc.PYTHON)
        os.close(fd)
        self.control, self.out, self.err, self.memory, self.maps = reply.fds
        self.zygote = reply.zygote

    def areas(self):
        return os.pread(self.maps, 1 << 20, 0).decode()

    def calls(self, *calls, scratch=b""):
        """Each (nr, args…, ignore=…) -> results, or Refused with .results."""
        table = struct.pack("<II", len(calls), len(scratch))
        for call in calls:
            ignore, args = (call[-1]["ignore"], call[1:-1]) if isinstance(call[-1], dict) else (0, call[1:])
            table += CALL.pack(call[0], *(list(args) + [0] * (6 - len(args))), 0, ignore)
        table += bytes(CALL.size * (CALLS_MAX - len(calls))) + scratch + bytes(SCRATCH_MAX - len(scratch))
        fd = memory_file(table)
        try:
            with_fd(self.keeper, kc.THAW_CALLS, fd, cell=self.cell.cell, serial=self.cell.serial, slot=self.slot)
        finally:
            self.results = [CALL.unpack(os.pread(fd, CALL.size, 8 + i * CALL.size))[7] for i in range(len(calls))]
            os.close(fd)
        return self.results


def test_areas_can_be_made_filled_and_unmapped(keeper, empty, state):
    waiting = Waiting(keeper, empty, state)
    at = 0x300000000000
    assert waiting.zygote and "cella-stub" in waiting.areas()
    how = struct.pack("<QQQ", os.O_RDONLY, 0, 2)  # RESOLVE_NO_MAGICLINKS
    path = b"/etc/passwd\0"
    got = waiting.calls((MMAP, at, 8192, 3, 0x32, 2**64 - 1, 0), (OPENAT2, 2**64 - 100, SCRATCH + 24, SCRATCH, 24), (MMAP, at + 8192, 4096, 1, 0x12, 3, 0), (CLOSE, 3),
                        (MUNMAP, 0x1000, 4096), (MPROTECT, 0x1000, 4096, 1, {"ignore": 1}), (MPROTECT, at, 4096, 1), (MADVISE, at, 4096, 4), (BRK, 0), scratch=how + path)
    assert got[:5] == [at, 3, at + 8192, 0, 0] and got[5] == -12 and got[6:8] == [0, 0] and got[8] > 0
    assert f"{at + 8192:x}-{at + 12288:x} r--p 00000000" in waiting.areas() and "/etc/passwd" in waiting.areas()
    os.pwrite(waiting.memory, b"written", at + 4096)
    assert os.pread(waiting.memory, 7, at + 4096) == b"written"
    assert b"root:" in os.pread(waiting.memory, 4096, at + 8192)


def test_the_first_failure_stops_a_table_and_is_told(keeper, empty, state):
    waiting = Waiting(keeper, empty, state)
    with pytest.raises(kc.Refused) as caught:
        waiting.calls((MMAP, 0x300000000000, 4096, 3, 0x32, 2**64 - 1, 0), (MPROTECT, 0x5000, 4096, 1), (MUNMAP, 0x300000000000, 4096))
    assert caught.value.errno == 12 and waiting.results[:2] == [0x300000000000, -12]
    assert f"{0x300000000000:x}-" in waiting.areas()


@pytest.mark.parametrize("call", [(59, 0, 0, 0), (1, 1, SCRATCH, 5), (41, 2, 1, 0), (56, 0x11, 0), (101, 0), (257, 0, SCRATCH, 0), (2**64 - 1,), (2**32 + 9, 0, 4096, 3, 0x22)])
def test_no_other_call(keeper, empty, state, call):
    waiting = Waiting(keeper, empty, state)
    with pytest.raises(kc.Refused, match="not permitted"):
        waiting.calls(call)


@pytest.mark.parametrize("call", [
    (MUNMAP, 0x200000000000, 0x6000), (MUNMAP, 0x1FFFFFFFF000, 0x2000), (MUNMAP, 0x100000000000, 0x200000000000), (MPROTECT, 0x200000000000, 0x1000, 7),
    (MMAP, 0x200000001000, 0x1000, 7, 0x32, 2**64 - 1, 0), (MADVISE, 0x200000001000, 0x1000, 4), (MREMAP, 0x200000000000, 0x1000, 0x1000, 3, 0x300000000000),
    (MREMAP, 0x300000000000, 0x1000, 0x1000, 3, 0x200000000000), (MUNMAP, 0x1FFFFFFFF000, 2**64 - 1)])
def test_the_keepers_own_pages_are_not_touched(keeper, empty, state, call):
    waiting = Waiting(keeper, empty, state)
    with pytest.raises(kc.Refused, match="not permitted"):
        waiting.calls(call)
    assert "200000000000-200000001000 r-xs" in waiting.areas()


def test_bad_tables_are_refused(keeper, empty, state):
    waiting = Waiting(keeper, empty, state)
    whole = CALLS_MAX * CALL.size + SCRATCH_MAX
    fields = dict(cell=empty.cell, serial=empty.serial, slot=0)
    for data in (b"", b"x" * 100, struct.pack("<II", 0, 0) + bytes(whole), struct.pack("<II", 161, 0) + bytes(whole), struct.pack("<II", 2**32 - 1, 0) + bytes(whole),
                 struct.pack("<II", 1, SCRATCH_MAX + 1) + bytes(whole)):
        with pytest.raises(kc.Refused):
            with_fd(keeper, kc.THAW_CALLS, memory_file(data), **fields)
    with open("/etc/passwd") as file:
        with pytest.raises(kc.Refused, match="memory file"):
            with_fd(keeper, kc.THAW_CALLS, file.fileno(), **fields)
        with pytest.raises(kc.Refused):
            keeper.call(kc.THAW_CALLS, **fields)
    assert waiting.calls((BRK, 0))[0] > 0


def test_bad_states_are_refused_and_the_slot_stays_free(keeper, empty, state):
    wrong = [b"", b"\0", state[:-8], state + bytes(8), b"x" + state[1:], bytes(len(state)), secrets.token_bytes(len(state))]
    for data in wrong:
        with pytest.raises(kc.Refused):
            Waiting(keeper, empty, data)
    with pytest.raises(kc.Refused):
        keeper.call(kc.THAW_BEGIN, cell=empty.cell, serial=empty.serial, slot=0, language=kc.PYTHON)
    with pytest.raises(kc.Refused, match="slot"):
        Waiting(keeper, empty, state, slot=32)
    assert Waiting(keeper, empty, state).areas()


def test_only_what_waits_can_be_changed_or_run(keeper, cell, empty, state):
    fields = dict(cell=empty.cell, serial=empty.serial, slot=3)
    with pytest.raises(kc.Refused, match="waits"):
        keeper.call(kc.THAW_RUN, **fields)
    with pytest.raises(kc.Refused, match="waits"):
        with_fd(keeper, kc.THAW_CALLS, memory_file(bytes(CALLS_MAX * CALL.size + SCRATCH_MAX + 8)), **fields)
    with pytest.raises(kc.Refused, match="waits"):  # a context that runs
        cell.call(kc.THAW_RUN, slot=0)
    with pytest.raises(kc.Refused, match="taken"):
        Waiting(keeper, cell, state)
    assert cell.context.run("print('untouched')") == "untouched\n"


def test_what_was_not_run_ends_with_the_connection(running, keeper, empty, state):
    waiting = Waiting(keeper, empty, state)
    keeper.socket.close()
    following = kc.Keeper(running.path)
    keeper.socket = following.socket  # for the fixtures' end
    deadline = time.monotonic() + 20
    while True:
        try:
            if not os.pread(waiting.maps, 10, 0):
                break
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while True:  # dead is not yet reaped
        try:
            again = Waiting(keeper, empty, state)  # the slot is free
            break
        except kc.Refused as refused:
            assert "taken" in refused.text and time.monotonic() < deadline
            time.sleep(0.02)
    assert again.areas()
    assert not [e for e in keeper.events if e.op == kc.EVENT_CONTEXT_EXIT]


def test_a_cell_with_a_waiting_context_can_be_destroyed(keeper, template, state):
    cell = keeper.make(template, language=0)
    Waiting(keeper, cell, state)
    cell.destroy()
    assert not [e for e in keeper.events if e.op == kc.EVENT_CONTEXT_EXIT]
