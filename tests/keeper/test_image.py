"""Cells written to disk and made again: by another daemon, another keeper, several times at once, and refused when anything is not as it was."""
import json
import os
import secrets
import shutil
import signal
import time

import pytest
from conftest import Running
from image_client import Refused, Tool


@pytest.fixture(scope="module")
def own(template):
    keeper = Running()
    yield keeper
    keeper.remove()


@pytest.fixture
def tool(own):
    tool = Tool(own)
    yield tool
    if tool.process.poll() is None:
        tool.close()


def restart(own, how=signal.SIGKILL):
    own.stop(how)
    own.start()


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


RICH = """
import numpy as np, sqlite3, decimal, threading, time, asyncio, os, concurrent.futures, fractions, wave
from scipy import optimize
import matplotlib.pyplot as plt
x = {'a': [1, 2]}
figure = plt.figure(); figure.gca().plot([1, 2, 3])
pool = concurrent.futures.ThreadPoolExecutor(3); list(pool.map(abs, [1, 2]))
memory = sqlite3.connect(':memory:'); memory.execute('create table t(a)'); memory.execute('insert into t values(7)')
base = sqlite3.connect('/workspace/f.db'); base.execute('create table t(a)'); base.execute('insert into t values(8)'); base.commit()
f = open('/workspace/data.txt', 'w+'); f.write('hello world'); f.flush(); f.seek(3)
numbers = (i for i in range(10)); next(numbers); next(numbers)
ticks = [0]
def tick():
    while True:
        time.sleep(0.01); ticks[0] += 1
thread = threading.Thread(target=tick, daemon=True); thread.start()
async def fast(): return 5
loop = asyncio.new_event_loop(); loop.run_until_complete(fast())
os.chdir('/tmp'); os.umask(0o27)
thread_id, thread_name = thread.native_id, thread.name
"""
RICH_CHECK = """
assert x == {'a': [1, 2]} and len(figure.axes[0].lines) == 1
assert abs(optimize.brentq(lambda z: z * z - 2, 0, 2) - 2 ** 0.5) < 1e-9
assert memory.execute('select * from t').fetchall() == [(7,)] and base.execute('select * from t').fetchall() == [(8,)]
assert f.read() == 'lo world' and next(numbers) == 2
before = ticks[0]; time.sleep(0.3); assert ticks[0] > before
assert thread.native_id == thread_id and str(thread_id) in os.listdir('/proc/self/task')
assert list(pool.map(abs, [-3, 4])) == [3, 4]
assert os.getcwd() == '/tmp' and os.umask(0o27) == 0o27
f.write('!'); f.flush(); assert open('/workspace/data.txt').read() == 'hello world!'
base.execute('insert into t values(9)'); base.commit()
figure.savefig('/tmp/figure.png'); assert os.path.getsize('/tmp/figure.png') > 1000
import colorsys, mailbox
print('whole')
"""


def test_everything_of_a_cell_comes_back_under_the_next_keeper(own, tool, template):
    cell = tool.create(template)
    tool("context", cell=cell, slot=1, language="shell")
    tool.run(cell, RICH)
    tool.run(cell, "cd /var/tmp; v=shell; export E=5; f() { echo fun $1; }", slot=1)
    image, directory, said = tool.freeze(cell)
    assert said["not_carried"] == [] and 0 < said["memory_bytes"] < 64 << 20
    assert tool.run(cell, "x['a'].append(3); print('goes on')") == "goes on\n"
    for generation in range(3):
        thawed = tool.thaw(image, directory)
        assert thawed["slots"] == [0, 1] and thawed["cell"] != cell and thawed["not_carried"] == []
        assert tool.run(thawed["cell"], RICH_CHECK) == "whole\n"
        assert tool.run(thawed["cell"], "echo $v $E; pwd; f 1", slot=1) == "shell 5\n/var/tmp\nfun 1\n"
        tool("destroy", cell=thawed["cell"])
        tool.close()
        if generation:
            restart(own)
        tool.__init__(own)


def test_a_large_array(tool, template):
    cell = tool.create(template)
    tool.run(cell, "import numpy as np\na = np.random.default_rng(1).random(25_000_000); total = a.sum(); z = np.zeros(25_000_000); z[::600_000] = 1")
    image, directory, said = tool.freeze(cell)
    assert 200_000_000 < said["memory_bytes"] < 230_000_000  # what is zero takes no room
    thawed = tool.thaw(image, directory)["cell"]
    assert tool.run(thawed, "print(a.sum() == total, z.sum() == 42, len(z))") == "True True 25000000\n"
    tool("destroy", cell=thawed)
    tool("destroy", cell=cell)


def test_what_was_given_back_stays_given_back(tool, template):
    """Pages that the interpreter had and the program dropped or unmapped are not there again; the heap is as small or large as it was."""
    cell = tool.create(template)
    tool.run(cell, "import ctypes, gc, mmap\nlibc = ctypes.CDLL(None)\nm = [mmap.mmap(-1, 1 << 20) for _ in range(50)]\n[p.write(b'x' * 1000) for p in m]\n"
             "for p in m[::2]: p.close()\nbig = [bytes(500) for _ in range(300_000)]\ndel big; gc.collect(); libc.malloc_trim(0)\n"
             "hole = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); hole.write(b'y' * (8 << 20)); hole.madvise(mmap.MADV_DONTNEED, 4096, 4096 * 100)\n"
             "guard = libc.mmap; guard.restype = ctypes.c_void_p\nat = guard(None, 1 << 20, 0, 0x22, -1, 0)\n"
             "lines = [l.split()[:2] for l in open('/proc/self/maps')]")
    image, directory, _ = tool.freeze(cell)
    thawed = tool.thaw(image, directory)["cell"]
    assert tool.run(thawed, "print(hole[:4096] == b'y' * 4096, hole[4096:4096 * 101] == bytes(4096 * 100), hole[4096 * 101:] == b'y' * ((8 << 20) - 4096 * 101))\n"
                    "print(all(p[:1000] == b'x' * 1000 for p in m[1::2]))") == "True True True\nTrue\n"
    assert tool.run(thawed, "new = [l.split()[:2] for l in open('/proc/self/maps')]\ndef total(a): return sum(int(e, 16) - int(s, 16) for s, e in (x[0].split('-') for x in a))\n"
                    "print(abs(total(lines) - total(new)) < 8 << 20, [l for l in new if int(l[0].split('-')[0], 16) <= at < int(l[0].split('-')[1], 16)][0][1])") == "True ---p\n"
    assert tool.run(thawed, "big = [bytes(500) for _ in range(300_000)]; print(len(big))") == "300000\n"  # the break moves on
    tool("destroy", cell=thawed)
    tool("destroy", cell=cell)


def test_a_file_that_is_gone_and_shared_memory_keep_their_contents(tool, template):
    cell = tool.create(template)
    tool.run(cell, "import mmap, os, multiprocessing\nopen('/workspace/m', 'wb').write(b'a' * 8192)\nf = open('/workspace/m', 'r+b'); private = mmap.mmap(f.fileno(), 8192, mmap.MAP_PRIVATE)\n"
             "private[0:1] = b'P'\nos.remove('/workspace/m')\nshared = mmap.mmap(-1, 1 << 16); shared[100:105] = b'hello'\n"
             "open('/workspace/s', 'wb').write(bytes(8192))\ng = open('/workspace/s', 'r+b'); mapped = mmap.mmap(g.fileno(), 8192); mapped[5000:5003] = b'map'")
    image, directory, _ = tool.freeze(cell)
    thawed = tool.thaw(image, directory)["cell"]
    assert tool.run(thawed, "print(private[:3], private[8191:], shared[100:105], mapped[5000:5003])\nmapped[5000:5003] = b'new'; mapped.flush(); print(open('/workspace/s', 'rb').read()[5000:5003])\n"
                    "import os\nif os.fork() == 0:\n  shared[100:105] = b'child'; os._exit(0)\nos.wait(); print(shared[100:105])") == \
        "b'Paa' b'a' b'hello' b'map'\nb'new'\nb'child'\n"
    tool("destroy", cell=thawed)
    tool("destroy", cell=cell)


def test_an_image_of_an_image(tool, template):
    cell = tool.create(template)
    tool.run(cell, "n = 0")
    for generation in range(4):
        tool.run(cell, "n += 1; import colorsys")
        image, directory, said = tool.freeze(cell)
        assert said["memory_bytes"] < 16 << 20
        tool("destroy", cell=cell)
        cell = tool.thaw(image, directory)["cell"]
    assert tool.run(cell, "print(n)") == "4\n"
    tool("destroy", cell=cell)


def test_one_image_three_cells_at_once(own, tool, template):
    cell = tool.create(template)
    tool.run(cell, "x = 'same'; open('/workspace/f', 'w').write('one')")
    image, directory, _ = tool.freeze(cell)
    cells = [tool.thaw(image, directory)["cell"] for _ in range(3)]
    assert len(set(cells)) == 3
    for i, one in enumerate(cells):
        tool.run(one, f"x = {i}; open('/workspace/f', 'w').write('{i}')")
    assert [tool.run(one, "print(x, open('/workspace/f').read())") for one in cells] == ["0 0\n", "1 1\n", "2 2\n"]
    for one in [*cells, cell]:
        tool("destroy", cell=one)


def test_a_running_execution_goes_on(tool, template):
    cell = tool.create(template)
    tool("start", cell=cell, slot=0, code="import time\nfor i in range(40): time.sleep(0.05)\nprint('counted', i)")
    time.sleep(0.3)
    image, directory, _ = tool.freeze(cell)
    assert tool("finish", cell=cell, slot=0)["output"] == "counted 39\n"
    thawed = tool.thaw(image, directory)["cell"]
    assert tool("finish", cell=thawed, slot=0)["output"] == "counted 39\n"
    tool("destroy", cell=thawed)
    tool("destroy", cell=cell)


def test_hold_and_release(tool, template):
    cell = tool.create(template)
    tool.run(cell, "import threading, time\nn = [0]\ndef f():\n  while True: n[0] += 1; time.sleep(0.001)\nthreading.Thread(target=f, daemon=True).start()")
    image, directory, _ = tool.freeze(cell, hold=True)
    tool("start", cell=cell, slot=0, code="print('went on', n[0])")
    time.sleep(0.3)
    tool("release", cell=cell)
    ran = int(tool("finish", cell=cell, slot=0)["output"].split()[-1])
    thawed = tool.thaw(image, directory)["cell"]
    assert abs(int(tool.run(thawed, "print(n[0])")) - ran) < 2000
    image, directory, _ = tool.freeze(thawed, hold=True)
    tool("destroy", cell=thawed)  # held until its end
    tool("destroy", cell=cell)


def test_requested_id_and_limits(tool, template):
    cell = tool.create(template)
    image, directory, _ = tool.freeze(cell)
    tool("destroy", cell=cell)
    thawed = tool.thaw(image, directory, id=cell, memory_bytes=256 << 20)
    assert thawed["cell"] == cell
    assert tool.run(cell, "print(1)") == "1\n"
    with pytest.raises(Refused, match="not the id"):
        tool.thaw(image, directory, id="sbx_../../x")
    tool("destroy", cell=cell)


def test_too_little_memory_is_said_and_leaves_nothing(own, tool, template):
    cell = tool.create(template)
    tool.run(cell, "import numpy as np\na = np.ones(20_000_000)")
    image, directory, _ = tool.freeze(cell)
    with pytest.raises(Refused):
        tool.thaw(image, directory, memory_bytes=64 << 20)
    assert tool.run(tool.thaw(image, directory)["cell"], "print(a.sum())") == "20000000.0\n"


# ---- refusals ----

@pytest.fixture(scope="module")
def image(own, template):
    tool = Tool(own)
    cell = tool.create(template)
    tool.run(cell, "import decimal; x = list(range(100_000))")
    image, directory, _ = tool.freeze(cell)
    tool("destroy", cell=cell)
    tool.close()
    return image, directory


@pytest.fixture
def copy(own, image):
    """A copy of the image's directory that may be damaged."""
    to = own.state / ("copy-" + secrets.token_hex(4))
    shutil.copytree(image[1], to)
    return to


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def refused(tool, image, directory, word):
    with pytest.raises(Refused, match=word) as caught:
        tool.thaw(image, directory)
    assert caught.value.code == "image_refused" and caught.value.hint


@pytest.mark.parametrize("where", [0, 30, 64, 65, 200, -1])
def test_a_changed_manifest_is_refused(tool, image, copy, where):
    flip(copy / "manifest", where)
    refused(tool, image[0], copy, "installation|damaged")


@pytest.mark.parametrize("where", [0, 4096, 4096 + 70_000, -1, -40, -3000])
def test_a_changed_byte_of_memory_is_refused(tool, image, copy, where):
    flip(copy / "memory-0", where)
    refused(tool, image[0], copy, "damaged")


def test_cut_and_missing_files_are_refused(tool, image, copy):
    with open(copy / "memory-0", "r+b") as f:
        f.truncate(os.path.getsize(copy / "memory-0") - 4096)
    refused(tool, image[0], copy, "size")
    (copy / "memory-0").unlink()
    refused(tool, image[0], copy, "missing")
    (copy / "manifest").unlink()
    refused(tool, image[0], copy, "missing")
    refused(tool, image[0], copy / "nowhere", "missing")


def test_an_image_of_another_installation_is_refused(own, tool, image):
    key = own.state / "image.key"
    was = key.read_bytes()
    assert len(was) == 32 and key.stat().st_mode & 0o777 == 0o600
    try:
        key.write_bytes(secrets.token_bytes(32))
        refused(tool, *image, "installation")
    finally:
        key.write_bytes(was)
    assert "cell" in tool.thaw(*image)


def test_exchanged_files_are_refused(tool, image, template):
    cell = tool.create(template)
    other, directory, _ = tool.freeze(cell)
    refused(tool, other, image[1], "another image")
    tool("destroy", cell=cell)


def forged(own, directory, change):
    """The manifest changed by somebody who has the key: what an older or newer version, or another machine, would have written."""
    import hashlib
    import hmac

    text = (directory / "manifest").read_text()
    data = json.loads(text[65:])
    change(data)
    body = json.dumps(data, separators=(",", ":"))
    mac = hmac.new((own.state / "image.key").read_bytes(), body.encode(), hashlib.sha256).hexdigest()
    (directory / "manifest").write_text(mac + "\n" + body)


@pytest.mark.parametrize("change, word", [
    (lambda m: m.update(format=2), "format 2"), (lambda m: m["processor"]["features"].__setitem__(2, 0xFFFFFFFF), "processor"),
    (lambda m: m["processor"].update(state_bytes=64), "processor"), (lambda m: m["contexts"][0].update(base="0" * 64), "base"),
    (lambda m: m["contexts"][0].update(slot=99), "damaged"), (lambda m: m["contexts"].append(m["contexts"][0]), "damaged"),
    (lambda m: m["contexts"][0].update(language="perl"), "damaged"), (lambda m: m["contexts"][0].update(index_offset=4096), "damaged"),
    (lambda m: m.pop("limits"), "damaged"), (lambda m: m.update(template="../" + "a" * 61), "damaged")])
def test_what_does_not_fit_here_is_refused(own, tool, image, copy, change, word):
    forged(own, copy, change)
    refused(tool, image[0], copy, word)


def test_a_template_that_is_not_here_is_refused(own, tool, image, copy):
    forged(own, copy, lambda m: m.update(template="0" * 64))
    with pytest.raises(Refused):
        tool.thaw(image[0], copy)


def test_the_layer_of_an_image_goes_when_it_is_dropped(own, tool, template, image):
    kept = image[0]
    cell = tool.create(template)
    image, directory, _ = tool.freeze(cell)
    tool("drop", image=image)
    tool("drop", image=image)  # not there: success
    refused(tool, image, directory, "")
    image, directory, _ = tool.freeze(cell)
    other, elsewhere, _ = tool.freeze(cell)
    tool("keep", images=[image, kept])
    assert tool.thaw(image, directory)["cell"]
    refused(tool, other, elsewhere, "")
    tool("destroy", cell=cell)


def test_a_failed_freeze_leaves_nothing(own, tool, template):
    cell = tool.create(template)
    image = "img_" + secrets.token_hex(16)
    with pytest.raises(Refused):
        tool("freeze", cell=cell, image=image, dir=str(own.state / "nowhere"))
    directory = own.state / image
    directory.mkdir()
    (directory / "memory-0").write_text("in the way")
    with pytest.raises(Refused) as caught:
        tool("freeze", cell=cell, image=image, dir=str(directory))
    assert "memory-0" in caught.value.text and not (directory / "manifest").exists()
    refused(tool, image, directory, "")
    assert tool.run(cell, "print('unharmed')") == "unharmed\n"
    tool("destroy", cell=cell)


def test_a_damaged_base_refuses_its_images_and_a_new_one_is_made(own, image, template):
    restart(own)
    (base,) = (own.state / "bases").glob(f"{template}-python-*.base")
    was = base.read_bytes()
    flip(base, 5_000_000)
    tool = Tool(own)
    refused(tool, *image, "damaged")
    base.write_bytes(was)
    tool.close()
    tool = Tool(own)
    assert tool.run(tool.thaw(*image)["cell"], "print(len(x))") == "100000\n"
    tool.close()
