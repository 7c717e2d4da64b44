"""What the keeper does for its daemon: cells, contexts, signals, limits, taking over, and what it refuses."""
import errno
import os
import random
import signal
import time

import keeper_client as kc
import pytest
from keeper_process import wait_until


def settled(number):
    """Its value once it stands still: what the keeper makes ahead and a cell used up is made again a moment later."""
    before, since = number(), time.monotonic()
    while time.monotonic() - since < 0.5:
        now = number()
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.02)
    return before


def groups_of(running):
    """Names of the groups below the instance's own in the v2 hierarchy: of its cells and its zygotes."""
    mount = next(line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2")
    for child in open(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read().split():
        try:
            own = [line.split("::")[1].strip() for line in open(f"/proc/{child}/cgroup") if line.startswith("0::")][0]
            return [d.name for d in os.scandir(mount + os.path.dirname(os.path.dirname(own))) if d.is_dir()]
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended
    raise AssertionError("the keeper has no children")


def test_a_cell_runs_code(cell):
    assert cell.context.run("x = 6 * 7\nprint(x)") == "42\n"
    assert cell.context.run("print(x + 1)") == "43\n"


def test_context_has_nothing_it_should_not(cell):
    status = cell.context.run("print(open('/proc/self/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert fields["Uid"].split() == ["1000"] * 4 and fields["Groups"].strip() == ""
    assert int(fields["SigBlk"], 16) == 0
    assert cell.context.run("import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))").startswith("[0, 1, 2, ")
    assert cell.context.run("print(os.readlink('/proc/self/fd/0'))") == "/dev/null\n"


def test_thread_ids_are_the_copys_own(cell):
    code = "import threading, os; m = threading.main_thread(); print(m.native_id == os.getpid() == threading.get_native_id())"
    assert cell.context.run(code) == "True\n"
    assert cell.context.run("t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()") == "thread\n"


def test_copies_differ_in_entropy(keeper, template):
    code = "import random, numpy, uuid, secrets, ssl, tempfile\n" \
           "print(random.random(), numpy.random.rand(), uuid.uuid4(), secrets.token_hex(8), ssl.RAND_bytes(8), next(tempfile._get_candidate_names()))"
    said = []
    for _ in range(2):
        one = keeper.make(template)
        said.append(one.context.run(code).split())
        one.destroy()
    assert len(said[0]) >= 6
    assert all(a != b for a, b in zip(*said))


def test_several_contexts_are_apart(cell):
    second, shell = cell.fill(1), None
    cell.context.run("v = 'first'")
    assert "NameError" in str([p for k, p in run_raw(second, "v")])
    cell.keeper.call(kc.ZYGOTE_START, template=template_of(cell), language=kc.SHELL)
    shell = cell.fill(2, kc.SHELL)
    assert shell.run("cd /tmp; pwd; id -u") == "/tmp\n1000\n"
    assert shell.run("pwd") == "/tmp\n"
    second.close()
    shell.close()


def run_raw(context, code):
    context.start(code)
    return context.finish()


def template_of(cell):
    listed = cell.keeper
    listed.call(kc.LIST)
    for reply in listed.events:
        if reply.op == kc.EVENT_FOUND and (reply.cell, reply.serial) == (cell.cell, cell.serial):
            found = reply.template
    for reply in listed.events:
        for fd in reply.fds:
            os.close(fd)
    listed.events.clear()
    return found


def test_slot_is_taken_once(cell):
    with pytest.raises(kc.Refused, match="taken"):
        cell.call(kc.CONTEXT_MAKE, slot=0, language=kc.PYTHON)


def test_signal_interrupts(cell):
    cell.context.start("import time\ntime.sleep(60)")
    time.sleep(0.3)
    cell.call(kc.CONTEXT_SIGNAL, slot=0, signo=signal.SIGINT)
    assert b'"interrupted"' in cell.context.finish()[-1][1]
    assert cell.context.run("print('alive')") == "alive\n"


def test_killed_context_is_told_and_replaced(cell):
    cell.call(kc.CONTEXT_SIGNAL, slot=0, signo=signal.SIGKILL)
    event = cell.keeper.event(kc.EVENT_CONTEXT_EXIT)
    assert (event.cell, event.serial, event.slot) == (cell.cell, cell.serial, 0)
    assert (event.fate, event.code) == (kc.FATE_KILLED, signal.SIGKILL)
    assert cell.fill(0).run("print('again')") == "again\n"


def test_exit_code_is_told(cell):
    cell.context.start("import os\nos._exit(7)")
    event = cell.keeper.event(kc.EVENT_CONTEXT_EXIT)
    assert (event.fate, event.code) == (kc.FATE_EXITED, 7)


def test_out_of_memory_is_told(keeper, template):
    limits = (96 * kc.MIB,) + kc.LIMITS[1:]
    cell = keeper.make(template, limits=limits)
    cell.context.start("b = bytearray(512 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1")
    event = keeper.event(kc.EVENT_CONTEXT_EXIT)
    assert (event.fate, event.code) == (kc.FATE_OOM, signal.SIGKILL)
    assert cell.call(kc.CELL_STATS).stats()["oom_kills"] >= 1
    assert cell.fill(0).run("print('again')") == "again\n"
    cell.destroy()


def test_disk_limit_and_use(keeper, template):
    cell = keeper.make(template, limits=(kc.LIMITS[0], 32 * kc.MIB) + kc.LIMITS[2:])
    said = cell.context.run(
        "try:\n with open('/workspace/big', 'wb', 0) as f:\n  for i in range(256): f.write(b'x' * (1 << 20))\n"
        "except OSError as e: print(e.errno)")
    assert int(said) in (errno.EDQUOT, errno.ENOSPC)
    cell.call(kc.CELL_LIMITS, limits=(kc.LIMITS[0], 128 * kc.MIB) + kc.LIMITS[2:])
    assert cell.context.run("import os\nos.remove('/workspace/big')\nopen('/workspace/ok', 'wb').write(b'y' * (8 << 20))\nprint('written')") == "written\n"
    cell.destroy()


def test_freeze_and_thaw(cell):
    cell.context.run("import threading, time\nn = [0]\ndef f():\n  while True: n[0] += 1; time.sleep(0.001)\n"
                     "threading.Thread(target=f, daemon=True).start()")
    cell.call(kc.CELL_FREEZE, on=1)
    cell.context.start("print(n[0])")
    time.sleep(0.5)
    with pytest.raises(BlockingIOError):
        os.read(cell.context.out, 100)
    cell.call(kc.CELL_FREEZE, on=0)
    cell.context.finish()
    assert int(os.read(cell.context.out, 100)) > 0


def test_next_daemon_gets_everything(running, keeper, template):
    cell = keeper.make(template)
    cell.context.run("kept = 'yes'")
    keeper.socket.close()  # the daemon is gone, and with it nothing
    following = kc.Keeper(running.path)
    following.call(kc.LIST)
    found = [e for e in following.events if e.op == kc.EVENT_FOUND and e.cell == cell.cell and e.serial == cell.serial]
    assert len(found) == 1 and found[0].slots == 1 and len(found[0].fds) == 4 and found[0].template == template
    context = kc.Context(found[0].fds[1:], fresh=False)
    assert context.run("print(kept)") == "yes\n"
    following.call(kc.CELL_DESTROY, cell=cell.cell, serial=cell.serial)
    following.close()


@pytest.mark.parametrize("fields, word", [
    (dict(id="sbx_../../etc"), "id"), (dict(id=""), "id"), (dict(template="../" + "a" * 61), "digits"), (dict(template="0" * 64), "warm|template"),
    (dict(limits=(1,) + kc.LIMITS[1:]), "memory"), (dict(limits=kc.LIMITS[:1] + (1,) + kc.LIMITS[2:]), "disk"),
    (dict(limits=kc.LIMITS[:2] + (0,) + kc.LIMITS[3:]), "cpu"), (dict(limits=kc.LIMITS[:3] + (1,) + kc.LIMITS[4:]), "pids"),
    (dict(limits=kc.LIMITS[:4] + (1,)), "open files")])
def test_a_bad_cell_is_refused_and_leaves_nothing(running, keeper, template, fields, word):
    before = keeper.call(kc.HELLO).report()["cells"]
    asked = dict(id="sbx_" + "ab" * 16, template=template, language=0)
    asked.update(fields)
    with pytest.raises(kc.Refused, match=word):
        keeper.call(kc.CELL_MAKE, **asked)
    assert keeper.call(kc.HELLO).report()["cells"] == before
    assert not [g for g in groups_of(running) if g.startswith("sbx_" + "ab" * 16)]


def test_wrong_numbers_are_refused(keeper, cell):
    for op in (kc.CELL_DESTROY, kc.CELL_LIMITS, kc.CELL_FREEZE, kc.CELL_STATS, kc.CONTEXT_MAKE, kc.CONTEXT_SIGNAL):
        for index, serial in ((cell.cell, cell.serial + 1), (2**32 - 1, 1), (8192, 1), (cell.cell + 1, cell.serial)):
            with pytest.raises(kc.Refused, match="no such cell"):
                keeper.call(op, cell=index, serial=serial, language=kc.PYTHON)
    with pytest.raises(kc.Refused, match="slot"):
        cell.call(kc.CONTEXT_MAKE, slot=32, language=kc.PYTHON)
    with pytest.raises(kc.Refused, match="signal"):
        cell.call(kc.CONTEXT_SIGNAL, slot=0, signo=65)
    with pytest.raises(kc.Refused, match="operation"):
        cell.call(77)
    with pytest.raises(kc.Refused, match="language"):
        keeper.call(kc.ZYGOTE_START, template=template_of(cell), language=9)
    assert cell.context.run("print(1)") == "1\n"


def test_garbage_ends_the_connection_not_the_keeper(running, keeper, template):
    """Fixed seed: the same garbage every time."""
    cell = keeper.make(template)
    rng = random.Random(7)
    for size in (0, 1, 183, 185, 4096):
        bad = kc.Keeper(running.path)
        if size:
            bad.socket.send(rng.randbytes(size))
            with pytest.raises((EOFError, ConnectionError)):
                bad.receive()
        bad.close()
    fuzz = kc.Keeper(running.path)
    for tag in range(1, 400):  # well-formed requests with random numbers: each gets its answer
        fields = [rng.getrandbits(32) for _ in range(3)]
        fuzz.socket.send(kc.request(rng.choice([1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99]), tag, cell=fields[0], serial=fields[1],
                                    slot=fields[2], language=0, signo=rng.randrange(-9, 99), id=rng.choice(["", "sbx_", "x" * 39]),
                                    template=rng.choice(["", "f" * 64, "/" * 60])))
        assert fuzz.receive().tag == tag
    fuzz.close()
    assert cell.context.run("print('untouched')") == "untouched\n"
    again = kc.Keeper(running.path)
    again.call(kc.CELL_DESTROY, cell=cell.cell, serial=cell.serial)
    again.close()


def test_everything_is_given_back(running, keeper, template):
    def count():
        return len(os.listdir(f"/proc/{running.process.pid}/fd"))

    def children():
        return len(open(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read().split())

    keeper.make(template).destroy()
    fds, tasks, groups = settled(lambda: (count(), children(), len(groups_of(running))))
    for _ in range(20):
        cell = keeper.make(template)
        cell.context.run("open('/workspace/f', 'w').write('x')")
        cell.destroy()
    wait_until(lambda: count() == fds and children() == tasks)
    wait_until(lambda: len(groups_of(running)) == groups)


def test_death_of_the_keeper_ends_its_cells_and_the_next_one_starts_clean(template):
    from conftest import Running

    own = Running()
    try:
        connection = kc.Keeper(own.path)
        connection.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        cells = [connection.make(template) for _ in range(3)]
        pids = [int(p) for p in open(f"/proc/{own.process.pid}/task/{own.process.pid}/children").read().split()]
        assert len(pids) >= 10  # zygote; guest, sentinel and context of each
        own.stop(signal.SIGKILL)
        wait_until(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids))
        for cell in cells:
            assert cell.context.control.recv(100) == b""  # the end, not silence
        own.start()
        fresh = kc.Keeper(own.path)
        assert fresh.call(kc.HELLO).report()["cells"] == 0
        fresh.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        cell = fresh.make(template)
        assert cell.context.run("print('clean')") == "clean\n"
        assert cell.call(kc.CELL_STATS).stats()["disk_bytes"] < 8 * kc.MIB
        cell.destroy()
        fresh.close()
    finally:
        own.remove()
