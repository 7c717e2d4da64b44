"""A live cell copied: memory of one instant, threads with their ids and registers, files, several children of one freeze."""
import os
import secrets
import time

import keeper_client as kc
import pytest


class Child:
    """A cell made from a capture, with the contexts of its parent."""

    def __init__(self, keeper, reply):
        self.keeper, self.cell, self.serial = keeper, reply.cell, reply.serial
        slots = [i for i in range(32) if reply.slots >> i & 1]
        self.guest = reply.fds[0]
        self.contexts = {slot: kc.Context(reply.fds[1 + 3 * i : 4 + 3 * i], fresh=False) for i, slot in enumerate(slots)}

    def run(self, code, slot=0):
        return self.contexts[slot].run(code)

    def destroy(self):
        self.keeper.call(kc.CELL_DESTROY, cell=self.cell, serial=self.serial)
        os.close(self.guest)
        for context in self.contexts.values():
            context.close()


def fork(cell, count=1):
    capture = secrets.randbits(31) + 1
    cell.call(kc.CAPTURE, capture=capture)
    made = [Child(cell.keeper, cell.keeper.call(kc.CAPTURE_MAKE, capture=capture, id="sbx_" + secrets.token_hex(16))) for _ in range(count)]
    cell.keeper.call(kc.CAPTURE_DROP, capture=capture)
    return made


def test_child_has_memory_and_files_and_both_go_their_own_way(cell):
    cell.context.run("x = {'a': [1, 2]}\nimport numpy as np\nm = np.arange(1000.0)\nopen('/workspace/f', 'w').write('one')\nimport os\nos.chdir('/tmp')\nos.umask(0o27)")
    (child,) = fork(cell)
    assert child.run("print(x, m.sum(), open('/workspace/f').read(), os.getcwd(), oct(os.umask(0)))") == "{'a': [1, 2]} 499500.0 one /tmp 0o27\n"
    child.run("x['a'].append('child'); open('/workspace/f', 'w').write('child')")
    cell.context.run("x['a'].append('parent')")
    assert cell.context.run("print(x, open('/workspace/f').read())") == "{'a': [1, 2, 'parent']} one\n"
    assert child.run("print(x, open('/workspace/f').read())") == "{'a': [1, 2, 'child']} child\n"
    child.destroy()


def test_one_freeze_many_children(cell):
    cell.context.run("x = 1")
    children = fork(cell, 4)
    for i, child in enumerate(children):
        child.run(f"x += {i}")
    assert [child.run("print(x)") for child in children] == ["1\n", "2\n", "3\n", "4\n"]
    assert cell.context.run("print(x)") == "1\n"
    for child in children:
        child.destroy()


def test_threads_go_on_in_both(cell):
    cell.context.run(
        "import threading, time\nticks = [0, 0]\nstop = threading.Event()\nlock = threading.Lock()\n"
        "def nap():\n  while not stop.is_set():\n    time.sleep(0.002)\n    with lock: ticks[0] += 1\n"
        "def wait():\n  while not stop.wait(0.003): ticks[1] += 1\n"
        "threads = [threading.Thread(target=nap, name='nap'), threading.Thread(target=wait, name='wait')]\n"
        "[t.start() for t in threads]\nids = [t.native_id for t in threads]")
    time.sleep(0.2)
    (child,) = fork(cell)
    for where in (cell.context, child):
        before = where.run("print(*ticks)").split()
        deadline = time.monotonic() + 20
        while True:
            now = where.run("print(*ticks)").split()
            if int(now[0]) > int(before[0]) and int(now[1]) > int(before[1]):
                break
            assert time.monotonic() < deadline, "a thread stands still"
        assert where.run("print([t.native_id for t in threads] == ids, sorted(int(t) for t in __import__('os').listdir('/proc/self/task'))[1:] == sorted(ids))") == "True True\n"
        assert where.run("stop.set(); [t.join(10) for t in threads]; print([t.is_alive() for t in threads], lock.acquire(timeout=1))") == "[False, False] True\n"
    child.destroy()


def test_a_long_computation_ends_in_both(cell):
    cell.context.start("s = 0\nfor i in range(6_000_000): s += i\nprint(s)")
    time.sleep(0.1)
    (child,) = fork(cell)
    child.contexts[0].finish()
    cell.context.finish()
    for context in (cell.context, child.contexts[0]):
        assert os.read(context.out, 100) == b"17999997000000\n"
    child.destroy()


def test_sleep_in_flight_is_not_cut_or_doubled(cell):
    cell.context.start("import time\nt = time.monotonic()\ntime.sleep(1)\nprint(0.95 < time.monotonic() - t < 3)")
    time.sleep(0.4)
    (child,) = fork(cell)
    child.contexts[0].finish()
    cell.context.finish()
    assert os.read(child.contexts[0].out, 100) == os.read(cell.context.out, 100) == b"True\n"
    child.destroy()


def test_chain_survives_the_death_of_its_ancestors(keeper, template):
    parent = keeper.make(template)
    parent.context.run("n = 0")
    current = parent
    for generation in range(6):
        (child,) = fork(current)
        child.run("n += 1")
        current.destroy()
        current = child
        current.call = lambda op, c=child, **f: keeper.call(op, cell=c.cell, serial=c.serial, **f)
    assert current.run("print(n)") == "6\n"
    current.destroy()


def test_python_and_shell_are_copied_together(cell, template):
    cell.keeper.call(kc.ZYGOTE_START, template=template, language=kc.SHELL)
    shell = cell.fill(1, kc.SHELL)
    shell.run("cd /tmp; v=shell")
    cell.context.run("v = 'python'")
    (child,) = fork(cell)
    assert child.run("echo $v; pwd", slot=1) == "shell\n/tmp\n"
    assert child.run("print(v)") == "python\n"
    shell.close()
    child.destroy()


def test_a_context_that_replaced_its_program_is_refused(keeper, template):
    cell = keeper.make(template)
    cell.context.start("import os\nos.execv('/bin/sleep', ['sleep', '60'])")
    deadline = time.monotonic() + 20
    while True:
        try:
            cell.call(kc.CAPTURE, capture=77)
            keeper.call(kc.CAPTURE_DROP, capture=77)  # not yet replaced
        except kc.Refused as refused:
            assert "replaced its program" in refused.text
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cell.destroy()


def test_the_stub_left_out_of_copies_comes_back(cell):
    said = cell.context.run("import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.madvise(ctypes.c_void_p(0x200000000000), 0x6000, 10))")
    assert said in ("0\n", "-1\n")
    (child,) = fork(cell)
    assert child.run("print('copied')") == "copied\n"
    child.destroy()


def test_a_drained_capture_is_gone(keeper, cell):
    capture = 9
    cell.call(kc.CAPTURE, capture=capture)
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    for op in (kc.CAPTURE_MAKE, kc.CAPTURE_DROP):
        with pytest.raises(kc.Refused, match="no such capture"):
            keeper.call(op, capture=capture, id="sbx_" + "ef" * 16)
