"""What cells write: an image that grows before it is full, a host's disk that is full, layers as plain directories."""
import errno
import os
import secrets
import subprocess
import tempfile
import time

import keeper_client as kc
import pytest
from conftest import Running
from test_branches import capture_of, child_of, keep, kept, layers_of

MIB = 1 << 20
LARGE = (512 * MIB, 4096 * MIB) + kc.LIMITS[2:]


@pytest.fixture
def own(request, template):
    """A keeper with the options of the test's parameter, and a connection with a warm Python."""
    options, place = getattr(request, "param", ()), None
    if "small disk" in options:
        place = tempfile.mkdtemp(prefix="cella-small-disk-")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "small", place], check=True)
    keeper = Running(*(o for o in options if o != "small disk"), place=place)
    connection = kc.Keeper(keeper.path, timeout=60)
    connection.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
    yield keeper, connection
    connection.close()
    keeper.remove()
    if place:
        subprocess.run(["umount", "-l", place], check=True)
        os.rmdir(place)


def image_bytes(keeper):
    return (keeper.state / "layers.btrfs").stat().st_size


@pytest.mark.parametrize("own", [("--layers-reserve", "96")], indirect=True)
def test_the_image_grows_before_it_is_full(own, template):
    keeper, connection = own
    first = image_bytes(keeper)
    assert first < 256 * MIB
    cell = connection.make(template, limits=LARGE)
    said = cell.context.run(
        "import os, time, hashlib\nh = hashlib.md5()\nwith open('/workspace/big', 'wb', 0) as f:\n  for i in range(60):\n    d = os.urandom(8 << 20)\n"
        "    h.update(d)\n    f.write(d)\n    os.fsync(f.fileno())\n    time.sleep(0.03)\nprint(h.hexdigest() == hashlib.md5(open('/workspace/big', 'rb').read()).hexdigest())")
    assert said == "True\n"
    assert image_bytes(keeper) > max(first, 480 * MIB)
    assert (keeper.state / "layers.btrfs").stat().st_blocks * 512 >= image_bytes(keeper) * 0.95  # its blocks are its own
    cell.destroy()


@pytest.mark.parametrize("own", [("small disk", "--layers-reserve", "64")], indirect=True)
def test_a_full_host_is_no_space_in_the_cell_and_nothing_breaks(own, template):
    keeper, connection = own
    cell = connection.make(template, limits=LARGE)
    fill = ("import os, hashlib, time\nwritten = []\ntry:\n  for i in range(200):\n    d = os.urandom(4 << 20)\n    with open(f'/workspace/{i}', 'wb', 0) as f:\n"
            "      n = f.write(d)\n      os.fsync(f.fileno())\n    if n < len(d): raise OSError(28, 'short')\n    written.append(hashlib.md5(d).hexdigest())\n    time.sleep(0.02)\n"
            "except OSError as e: print(e.errno)")
    assert int(cell.context.run(fill)) in (errno.ENOSPC, errno.EDQUOT)
    check = "print(len(written) > 20, all(hashlib.md5(open(f'/workspace/{i}', 'rb').read()).hexdigest() == w for i, w in enumerate(written)))"
    assert cell.context.run(check) == "True True\n"
    try:  # another cell is made, or refused with the reason
        other = connection.make(template)
        assert other.context.run("print('alive')") == "alive\n"
        other.destroy()
    except kc.Refused as refused:
        assert refused.errno == errno.ENOSPC
    cell.context.run("[os.remove(f'/workspace/{i}') for i in range(len(written))]\nos.path.exists(f'/workspace/{len(written)}') and os.remove(f'/workspace/{len(written)}')\nos.sync()")
    deadline = time.monotonic() + 30
    while cell.context.run("try:\n  with open('/workspace/again', 'wb', 0) as f:\n    f.write(os.urandom(8 << 20)); os.fsync(f.fileno())\n  print('written')\nexcept OSError: os.sync()") != "written\n":
        assert time.monotonic() < deadline, "deleted files give no space back"
        time.sleep(0.5)
    cell.destroy()
    time.sleep(1)
    cell = connection.make(template)
    assert cell.context.run("print('alive')") == "alive\n"
    cell.destroy()


PLAIN = pytest.mark.parametrize("own", [("--plain-layers",)], indirect=True)


@PLAIN
def test_plain_layers_are_copied(own, template):
    keeper, connection = own
    assert not connection.call(kc.HELLO).report()["features"] & 0x4
    assert not (keeper.state / "layers.btrfs").exists()
    cell = connection.make(template)
    cell.context.run(
        "import os\nos.chdir('/workspace')\nopen('f', 'w').write('one')\nos.link('f', 'linked')\nos.symlink('/etc/passwd', 'l')\nos.mkfifo('p', 0o640)\n"
        "os.makedirs('d/e')\nos.chmod('d', 0o1750)\nopen('d/e/big', 'wb').write(os.urandom(3 << 20))\nos.setxattr('f', 'user.mark', b'here')\nos.utime('f', (1, 2))\n"
        "with open('sparse', 'wb') as f: f.truncate(1 << 34); f.seek(1 << 30); f.write(b'middle')\nos.chmod('f', 0o4711)\n"
        "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('sock')\nx = 1")
    gone = cell.context.run("print([p for p in ('/home/user/x', '/var/tmp') if os.access(p, os.W_OK)])")
    look = ("import os, hashlib; print(os.path.samefile('f', 'linked'), os.readlink('l'), oct(os.stat('p').st_mode), oct(os.stat('d').st_mode), "
            "hashlib.md5(open('d/e/big', 'rb').read()).hexdigest(), os.getxattr('f', 'user.mark'), os.stat('f').st_mtime, os.stat('sparse').st_size, "
            "os.stat('sparse').st_blocks < 4096, oct(os.stat('f').st_mode), os.stat('f').st_uid, os.pread(os.open('sparse', 0), 6, 1 << 30))")
    before = cell.context.run(look)
    assert before.startswith("True /etc/passwd 0o10640 0o41750 "), before + gone
    capture = capture_of(cell)
    children = [child_of(connection, capture), child_of(connection, capture, flags=kc.LAST)]
    for i, child in enumerate(children):
        assert child.run(look) == before
        child.run(f"open('f', 'a').write('{i}')")
        assert child.run("print(open('linked').read(), os.path.exists('sock'))") == f"one{i} False\n"
    assert cell.context.run("print(open('f').read())") == "one\n"
    for child in children:
        child.destroy()
    cell.destroy()
    assert layers_of(keeper) == []


@PLAIN
def test_what_was_deleted_from_the_template_stays_deleted_in_a_plain_copy(own, template):
    keeper, connection = own
    cell = connection.make(template)
    name, capture, size = keep(cell)
    upper = f"/proc/{keeper.process.pid}/root{keeper.state}/layers/{name}/u"
    os.makedirs(f"{upper}/usr/share")
    os.mknod(f"{upper}/usr/share/doc", 0o20000, 0)  # as overlayfs marks a deleted directory
    connection.call(kc.CAPTURE_DROP, capture=capture)
    fresh = connection.make(template, layer=name)
    assert fresh.context.run("import os; print(os.path.exists('/usr/share/doc'), os.path.exists('/usr/share'))") == "False True\n"
    fresh.destroy()
    cell.destroy()
    assert kept(connection) == {name: size} and layers_of(keeper) == [name]
    connection.call(kc.LAYER_DROP, id=name)
    assert layers_of(keeper) == []


@PLAIN
def test_a_plain_layer_that_is_too_large_is_refused_and_the_cell_goes_on(own, template):
    keeper, connection = own
    cell = connection.make(template)
    cell.context.run("import os\np = '/workspace'\nfor i in range(230):\n  p += '/d'\n  os.mkdir(p)\nx = 'unharmed'")
    with pytest.raises(kc.Refused, match="deep"):
        capture_of(cell)
    assert cell.context.run("print(x)") == "unharmed\n"
    assert len(layers_of(keeper)) == 1
    cell.destroy()


def test_a_hundred_children(own, template):
    keeper, connection = own
    cell = connection.make(template)
    cell.context.run("x = 1\nopen('/workspace/f', 'w').write('shared')")
    number = secrets.randbits(31) + 1
    sent = [connection.send(kc.CAPTURE, cell=cell.cell, serial=cell.serial, capture=number)]
    children = []
    for i in range(100):
        children.append(child_of(connection, number, flags=kc.LAST if i == 99 else 0) if i else None)
        if not i:
            assert connection.receive().tag == sent[0]
            children[0] = child_of(connection, number)
    for i in (0, 50, 99):
        assert children[i].run(f"x += {i}; print(x, open('/workspace/f').read())") == f"{1 + i} shared\n"
    used = [connection.call(kc.CELL_STATS, cell=c.cell, serial=c.serial).stats()["memory_bytes"] for c in children]
    assert max(used) < 8 * MIB  # pages of its own: the rest is the parent's
    for child in children:
        child.destroy()
    assert cell.context.run("print(x)") == "1\n"
    cell.destroy()
    assert connection.call(kc.HELLO).report()["cells"] == 0
