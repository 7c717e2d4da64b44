"""Renamed cells, held and used-up captures, kept layers, what belongs to the daemon's connection."""
import errno
import os
import secrets
import signal
import struct
import time

import keeper_client as kc
import pytest
from keeper_process import layers_of, new_id
from test_capture import Child
from test_keeper import groups_of, settled, wait_until


def close_all(*replies):
    for reply in replies:
        for fd in reply.fds:
            os.close(fd)
        reply.fds.clear()


def listed(keeper):
    """Id of every living cell by its number."""
    keeper.events.clear()
    keeper.call(kc.LIST)
    found = [e for e in keeper.events if e.op == kc.EVENT_FOUND]
    close_all(*found)
    keeper.events.clear()
    return {(e.cell, e.serial): e.id for e in found}


def kept(keeper):
    keeper.events.clear()
    keeper.call(kc.LAYER_LIST)
    found = {e.id: struct.unpack("<Q", e.body[:8])[0] for e in keeper.events if e.op == kc.EVENT_LAYER}
    keeper.events.clear()
    return found


def capture_of(cell, **fields):
    number = secrets.randbits(31) + 1
    cell.call(kc.CAPTURE, capture=number, **fields)
    return number


def child_of(keeper, capture, **fields):
    return Child(keeper, keeper.call(kc.CAPTURE_MAKE, capture=capture, id=new_id(), **fields))


# ---- rename ----

def test_rename_puts_the_child_in_its_parents_place(running, keeper, template):
    parent, other = keeper.make(template), keeper.make(template)
    ids = listed(keeper)
    name = ids[parent.cell, parent.serial]
    parent.context.run("x = 'parent'")
    capture = capture_of(parent)
    child = child_of(keeper, capture)
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    child.run("x = 'child'")
    hosts = child.run("import socket; print(socket.gethostname())")
    cells = keeper.call(kc.HELLO).report()["cells"]
    groups = settled(lambda: len(groups_of(running)))
    keeper.call(kc.CELL_RENAME, cell=child.cell, serial=child.serial, id=name)
    assert keeper.call(kc.HELLO).report()["cells"] == cells - 1
    now = listed(keeper)
    assert now[child.cell, child.serial] == name and (parent.cell, parent.serial) not in now
    assert now[other.cell, other.serial] == ids[other.cell, other.serial]
    assert hosts != child.run("print(socket.gethostname())") == name[4:16] + "\n"
    assert child.run("print(x, open('/proc/sys/kernel/hostname').read().strip())") == f"child {name[4:16]}\n"
    with pytest.raises(kc.Refused, match="no such cell"):
        parent.call(kc.CELL_STATS)
    assert parent.context.control.recv(100) == b""  # the old cell is gone, not silent
    assert not [e for e in keeper.events if e.op == kc.EVENT_CELL_GONE]
    wait_until(lambda: len(groups_of(running)) == groups - 1)
    assert not [e for e in keeper.events if e.op == kc.EVENT_CELL_GONE]
    parent.guest.close()
    parent.context.close()
    other.destroy()
    child.destroy()


def test_rename_to_a_free_id_to_its_own_and_to_nonsense(keeper, cell):
    name = new_id()
    cell.call(kc.CELL_RENAME, id=name)
    cell.call(kc.CELL_RENAME, id=name)
    for bad in ("", "sbx_", "img_" + "0" * 32, "sbx_" + "G" * 32, "sbx_../../../../../../../../../../../.."):
        with pytest.raises(kc.Refused, match="id"):
            cell.call(kc.CELL_RENAME, id=bad)
    with pytest.raises(kc.Refused, match="no such cell"):
        keeper.call(kc.CELL_RENAME, cell=cell.cell, serial=cell.serial + 1, id=name)
    assert listed(keeper)[cell.cell, cell.serial] == name
    assert cell.context.run("print(1)") == "1\n"


def test_an_id_names_one_cell(keeper, template, cell):
    name = listed(keeper)[cell.cell, cell.serial]
    with pytest.raises(kc.Refused, match="called"):
        keeper.call(kc.CELL_MAKE, id=name, template=template)
    capture = capture_of(cell)
    with pytest.raises(kc.Refused, match="called"):
        keeper.call(kc.CAPTURE_MAKE, capture=capture, id=name)
    keeper.call(kc.CAPTURE_DROP, capture=capture)


# ---- hold ----

def test_a_held_cell_stands_until_the_capture_is_dropped(keeper, cell):
    cell.context.run("import threading, time\nn = [0]\ndef f():\n  while True: n[0] += 1; time.sleep(0.001)\n"
                     "threading.Thread(target=f, daemon=True).start()")
    capture = capture_of(cell, flags=kc.HOLD)
    cell.context.start("print(n[0])")
    time.sleep(0.3)
    with pytest.raises(BlockingIOError):
        os.read(cell.context.out, 100)
    with pytest.raises(kc.Refused, match="frozen"):
        capture_of(cell)
    child = child_of(keeper, capture)
    before = int(child.run("print(n[0])"))
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    cell.context.finish()
    assert abs(int(os.read(cell.context.out, 100)) - before) < 250  # it did not count while it stood
    child.destroy()


def test_a_held_cell_can_be_destroyed(running, keeper, template):
    cell = keeper.make(template)
    cell.context.run("import threading, time\n[threading.Thread(target=time.sleep, args=(1000,), daemon=True).start() for _ in range(5)]\nx = 5")
    capture = capture_of(cell, flags=kc.HOLD)
    cell.destroy()
    assert cell.serial not in [serial for _, serial in listed(keeper)]
    child = child_of(keeper, capture, flags=kc.LAST)
    assert child.run("print(x, threading.active_count() >= 6)") == "5 True\n"
    child.destroy()
    with pytest.raises(kc.Refused, match="no such capture"):
        keeper.call(kc.CAPTURE_DROP, capture=capture)


def test_a_paused_cell_is_copied_and_stays_paused(keeper, cell):
    cell.context.run("x = 'paused'")
    cell.call(kc.CELL_FREEZE, on=1)
    child = child_of(keeper, capture_of(cell), flags=kc.LAST)
    assert child.run("print(x)") == "paused\n"
    cell.context.start("print(x)")
    time.sleep(0.3)
    with pytest.raises(BlockingIOError):
        os.read(cell.context.out, 100)
    cell.call(kc.CELL_FREEZE, on=0)
    cell.context.finish()
    assert os.read(cell.context.out, 100) == b"paused\n"
    child.destroy()


# ---- last ----

def test_the_last_child_uses_the_capture_up(running, keeper, cell):
    cell.context.run("x = 1\nopen('/workspace/f', 'w').write('one')")
    capture = capture_of(cell)
    first, last = child_of(keeper, capture), child_of(keeper, capture, flags=kc.LAST)
    for op in (kc.CAPTURE_MAKE, kc.CAPTURE_DROP):
        with pytest.raises(kc.Refused, match="no such capture"):
            keeper.call(op, capture=capture, id=new_id())
    assert not [name for name in layers_of(running) if name.startswith("cap_")]
    for i, child in enumerate((first, last)):
        assert child.run(f"x += {i}; open('/workspace/f', 'a').write('{i}'); print(x, open('/workspace/f').read())") == f"{1 + i} one{i}\n"
        grandchild = child_of(keeper, capture_of(child_as_cell(child)), flags=kc.LAST)
        assert grandchild.run("print(x)") == f"{1 + i}\n"
        grandchild.destroy()
        child.destroy()
    assert cell.context.run("print(x, open('/workspace/f').read())") == "1 one\n"


def child_as_cell(child):
    child.call = lambda op, **f: child.keeper.call(op, cell=child.cell, serial=child.serial, **f)
    return child


def test_a_failed_last_child_leaves_nothing(running, keeper, cell):
    def children():
        return len(open(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read().split())

    name = listed(keeper)[cell.cell, cell.serial]
    before = settled(children)
    capture = capture_of(cell)
    with pytest.raises(kc.Refused, match="called"):
        keeper.call(kc.CAPTURE_MAKE, capture=capture, id=name, flags=kc.LAST)
    with pytest.raises(kc.Refused, match="no such capture"):
        keeper.call(kc.CAPTURE_DROP, capture=capture)
    wait_until(lambda: children() <= before)
    assert not [name for name in layers_of(running) if name.startswith("cap_")]


# ---- what belongs to the connection ----

def test_captures_go_with_the_connection_and_held_cells_go_on(running, keeper, template):
    first = kc.Keeper(running.path)
    cell = first.make(template)
    cell.context.run("x = 'on'")
    capture, name = capture_of(cell, flags=kc.HOLD), new_id("img_")
    first.call(kc.LAYER_KEEP, capture=capture, id=name)
    other = first.make(template)
    second = capture_of(other)
    first.close()
    following = kc.Keeper(running.path)
    assert cell.context.run("print(x)") == "on\n"
    for number in (capture, second):
        with pytest.raises(kc.Refused, match="no such capture"):
            following.call(kc.CAPTURE_MAKE, capture=number, id=new_id())
    assert not [name for name in layers_of(running) if name.startswith("cap_")]
    assert name in kept(following)
    following.call(kc.LAYER_DROP, id=name)
    for one in (cell, other):
        following.call(kc.CELL_DESTROY, cell=one.cell, serial=one.serial)
    following.close()


# ---- kept layers ----

def keep(cell, **fields):
    name, capture = new_id("img_"), capture_of(cell, **fields)
    reply = cell.keeper.call(kc.LAYER_KEEP, capture=capture, id=name)
    return name, capture, struct.unpack("<Q", reply.body[:8])[0]


def test_a_kept_layer_gives_its_files_to_new_cells(running, keeper, template, cell):
    cell.context.run("import os\nopen('/workspace/f', 'wb').write(os.urandom(3 << 20))\nos.remove('/etc/hostname') if os.access('/etc', os.W_OK) else None\n"
                     "os.symlink('f', '/workspace/l')\nos.mkdir('/workspace/d', 0o700)\nh = __import__('hashlib').md5(open('/workspace/f', 'rb').read()).hexdigest()")
    before = cell.context.run("print(h)")
    name, capture, size = keep(cell)
    assert 3 << 20 <= size < 8 << 20 and kept(keeper)[name] == size
    cell.context.run("os.remove('/workspace/f')")
    child = child_of(keeper, capture)  # the capture can still be used
    assert child.run("print(h == __import__('hashlib').md5(open('/workspace/f', 'rb').read()).hexdigest())") == "True\n"
    child.destroy()
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    assert name in kept(keeper)
    look = "import hashlib, os; print(hashlib.md5(open('/workspace/l', 'rb').read()).hexdigest(), oct(os.stat('/workspace/d').st_mode), os.stat('/workspace/f').st_uid)"
    for _ in range(2):
        fresh = keeper.make(template, layer=name)
        assert fresh.context.run(look) == before.strip() + " 0o40700 1000\n"
        fresh.context.run("os.remove('/workspace/f')")
        fresh.destroy()
    keeper.call(kc.LAYER_DROP, id=name)
    assert name not in kept(keeper) and name not in layers_of(running)
    with pytest.raises(kc.Refused, match="layer"):
        keeper.make(template, layer=name)


def test_last_child_of_a_kept_capture_leaves_the_kept_layer(keeper, template, cell):
    cell.context.run("open('/workspace/f', 'w').write('kept')")
    name, capture, _ = keep(cell, flags=kc.HOLD)
    child = child_of(keeper, capture, flags=kc.LAST)
    child.run("open('/workspace/f', 'w').write('other')")
    child.destroy()
    fresh = keeper.make(template, layer=name)
    assert fresh.context.run("print(open('/workspace/f').read())") == "kept\n"
    fresh.destroy()
    keeper.call(kc.LAYER_DROP, id=name)


def test_kept_layer_dropped_before_its_capture(running, keeper, cell):
    cell.context.run("open('/workspace/f', 'w').write('x')")
    name, capture, _ = keep(cell)
    keeper.call(kc.LAYER_DROP, id=name)
    assert name not in kept(keeper)
    child = child_of(keeper, capture)
    assert child.run("print(open('/workspace/f').read())") == "x\n"
    child.destroy()
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    assert not [name for name in layers_of(running) if name.startswith("cap_")]


@pytest.mark.parametrize("name", ["", "sbx_" + "0" * 32, "img_" + "0" * 31 + "/", "img_../../../etc/passwd", "..", "img_" + "A" * 32])
def test_bad_names_of_kept_layers_are_refused(running, keeper, template, cell, name):
    before, capture = sorted(layers_of(running)), capture_of(cell)
    with pytest.raises(kc.Refused, match="id"):
        keeper.call(kc.LAYER_KEEP, capture=capture, id=name)
    with pytest.raises(kc.Refused, match="id"):
        keeper.call(kc.LAYER_DROP, id=name)
    if name:
        with pytest.raises(kc.Refused, match="id"):
            keeper.make(template, layer=name)
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    assert sorted(layers_of(running)) == before


def test_a_taken_name_is_not_overwritten(keeper, template, cell):
    cell.context.run("open('/workspace/f', 'w').write('first')")
    name, capture, _ = keep(cell)
    second = capture_of(cell)
    with pytest.raises(kc.Refused):
        keeper.call(kc.LAYER_KEEP, capture=second, id=name)
    with pytest.raises(kc.Refused, match="kept already"):
        keeper.call(kc.LAYER_KEEP, capture=capture, id=new_id("img_"))
    for number in (capture, second):
        keeper.call(kc.CAPTURE_DROP, capture=number)
    fresh = keeper.make(template, layer=name)
    assert fresh.context.run("print(open('/workspace/f').read())") == "first\n"
    fresh.destroy()
    keeper.call(kc.LAYER_DROP, id=name)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_kept_layers_outlive_the_keeper(template, how):
    from conftest import Running

    own = Running()
    try:
        connection = kc.Keeper(own.path)
        connection.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        cell = connection.make(template)
        cell.context.run("open('/workspace/f', 'w').write('tomorrow')")
        name, _, size = keep(cell)
        own.stop(how)
        own.start()
        fresh = kc.Keeper(own.path)
        assert kept(fresh) == {name: size}
        assert layers_of(own) == [name]  # and nothing else is left
        fresh.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        again = fresh.make(template, layer=name)
        assert again.context.run("print(open('/workspace/f').read())") == "tomorrow\n"
        again.destroy()
        fresh.call(kc.LAYER_DROP, id=name)
        assert kept(fresh) == {}
        fresh.close()
    finally:
        own.remove()


# ---- memory of a stopped copy ----

def whole(fd):
    os.lseek(fd, 0, os.SEEK_SET)  # this kind of file gives a page at a time
    return b"".join(iter(lambda: os.read(fd, 1 << 16), b"")).decode()


def opened(reply):
    """Read a marker's page through the descriptors and close them."""
    memory, pagemap, maps = reply.fds[:3]
    text = whole(maps)
    heap = next(line for line in text.splitlines() if line.endswith("[heap]"))
    start, end = (int(x, 16) for x in heap.split()[0].split("-"))
    data = os.pread(memory, min(end - start, 64 << 20), start)
    assert len(os.pread(pagemap, 8, start // 4096 * 8)) == 8
    with pytest.raises(OSError):
        os.pwrite(memory, b"x", start)
    return data


def test_memory_of_capture_and_zygote_can_be_read_not_written(keeper, template, cell):
    marker = secrets.token_hex(20)
    cell.context.run(f"m = '{marker}'")
    capture = capture_of(cell)
    reply = keeper.call(kc.CAPTURE_OPEN, capture=capture, slot=0)
    assert reply.language == kc.PYTHON and len(reply.fds) == 4
    text = whole(reply.fds[2])
    assert "[stack]" in text
    memory = b""
    for line in text.splitlines():  # small strings lie in arenas, not in the heap
        span, mode = line.split()[:2]
        start, end = (int(x, 16) for x in span.split("-"))
        if mode.startswith("rw") and end - start <= 64 << 20:
            memory += os.pread(reply.fds[0], end - start, start)
    assert marker.encode() in memory
    assert struct.unpack_from("<I", os.pread(reply.fds[3], 4, 0))[0] == 0x54534C43
    opened(reply)
    zygote = keeper.call(kc.ZYGOTE_OPEN, template=template, language=kc.PYTHON)
    assert zygote.zygote and zygote.zygote == reply.zygote and len(zygote.fds) == 3
    opened(zygote)
    close_all(reply, zygote)
    for slot in (1, 31, 32, 2**32 - 1):
        with pytest.raises(kc.Refused, match="slot"):
            keeper.call(kc.CAPTURE_OPEN, capture=capture, slot=slot)
    keeper.call(kc.CAPTURE_DROP, capture=capture)


def test_a_zygotes_number_is_never_used_again(running, template):
    from conftest import Running

    own = Running()
    try:
        keeper = kc.Keeper(own.path)
        keeper.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        cell = keeper.make(template)
        first = keeper.call(kc.ZYGOTE_OPEN, template=template, language=kc.PYTHON)
        keeper.call(kc.ZYGOTE_STOP, template=template, language=kc.PYTHON)
        keeper.event(kc.EVENT_ZYGOTE_GONE)
        capture = capture_of(cell)
        orphan = keeper.call(kc.CAPTURE_OPEN, capture=capture, slot=0)
        assert first.zygote and orphan.zygote == 0
        keeper.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
        second = keeper.call(kc.ZYGOTE_OPEN, template=template, language=kc.PYTHON)
        still = keeper.call(kc.CAPTURE_OPEN, capture=capture, slot=0)
        assert second.zygote not in (0, first.zygote) and still.zygote == 0
        close_all(first, orphan, second, still)
        keeper.close()
    finally:
        own.remove()
