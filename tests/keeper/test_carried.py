"""What a copy of a live context has open and shares: carried, replaced by its own, or said in a note."""
import os
import secrets
import struct
import time

import keeper_client as kc
import pytest
from test_capture import Child

SOCKET, PIPE, FILE, DEVICE, MAPPING, PROCESS, TIMER = range(1, 8)


def notes_of(reply):
    """(kind, fd, text) of each note; the memory file with them is the last descriptor."""
    if not reply.notes:
        return []
    fd = reply.fds.pop()
    data = os.pread(fd, reply.notes * 128, 0)
    os.close(fd)
    assert len(data) == reply.notes * 128
    return [(kind, number, text.split(b"\0")[0].decode("utf-8", "replace")) for kind, _, number, _, text in struct.iter_unpack("<IIiI112s", data)]


@pytest.fixture
def fork(cell):
    """fork() -> (child, notes); children end with the test."""
    made = []

    def one(count=1):
        capture = secrets.randbits(31) + 1
        notes = notes_of(cell.call(kc.CAPTURE, capture=capture))
        for _ in range(count):
            reply = cell.keeper.call(kc.CAPTURE_MAKE, capture=capture, id="sbx_" + secrets.token_hex(16))
            child_notes = notes_of(reply)
            made.append(Child(cell.keeper, reply))
            made[-1].notes = notes + child_notes
        cell.keeper.call(kc.CAPTURE_DROP, capture=capture)
        return made[-1] if count == 1 else made[-count:]

    yield one
    for child in made:
        child.destroy()


def test_an_idle_context_has_nothing_to_say(fork):
    assert fork().notes == []


def test_files_at_their_offsets(cell, fork):
    cell.context.run(
        "import os, fcntl\nopen('/workspace/a', 'w').write('0123456789' * 10)\nr = open('/workspace/a', 'rb', buffering=0)\nr.seek(7)\n"
        "a = open('/workspace/log', 'a')\na.write('one\\n')\na.flush()\nw = open('/workspace/w', 'w+')\nw.write('unflushed')\n"
        "d = os.dup(r.fileno())\nhigh = fcntl.fcntl(r.fileno(), fcntl.F_DUPFD, 200)\ndirectory = os.open('/workspace', os.O_RDONLY)\nnull = open('/dev/null', 'w')\n"
        "inherited = os.open('/workspace/a', os.O_RDONLY)\nos.set_inheritable(inherited, True)\nn = os.open('/workspace/a', os.O_RDONLY | os.O_NONBLOCK)\np = os.open('/workspace', os.O_PATH)")
    child = fork()
    assert child.notes == []
    for where in (child, cell.context):
        assert where.run("print(r.read(3), os.lseek(d, 0, 1), os.lseek(high, 0, 1), sorted(os.listdir(directory)), null.write('x'))") == "b'789' 10 10 ['a', 'log', 'w'] 1\n"
        assert where.run("print(os.get_inheritable(inherited), os.get_inheritable(d), os.get_blocking(n), os.get_blocking(d), os.stat('a', dir_fd=p).st_size)") == "True False False True 100\n"
    child.run("a.write('child\\n'); a.flush(); w.flush()")
    assert child.run("print(open('/workspace/log').read(), open('/workspace/w').read())") == "one\nchild\n unflushed\n"
    assert cell.context.run("print(open('/workspace/log').read(), open('/workspace/w').read())") == "one\n \n"
    assert child.run("print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[-1] in (200, 201))") == "True\n"


def test_standard_output_redirected_and_kept(cell, fork):
    cell.context.start("import os\nkept = os.dup(1)\nf = os.open('/workspace/out', os.O_RDWR | os.O_CREAT)\nos.dup2(f, 1)\nimport time\ntime.sleep(1)\n"
                       "os.write(1, b'to the file')\nos.dup2(kept, 1)\nos.write(1, b'to the stream')")
    time.sleep(0.5)
    child = fork()
    for where in (child.contexts[0], cell.context):
        where.finish()
        assert os.read(where.out, 100) == b"to the stream"
        assert where.run("print(open('/workspace/out').read())") == "to the file\n"


def test_deleted_files_and_memory_files(cell, fork):
    cell.context.run(
        "import os, tempfile\nt = tempfile.TemporaryFile()\nt.write(b'temporary ' * 1000)\nt.flush()\nt.seek(10)\nm = os.memfd_create('mine')\nos.write(m, b'in memory')\n"
        "os.ftruncate(m, 1 << 20)\nos.pwrite(m, b'end', (1 << 20) - 3)\nbig = open('/workspace/big', 'wb')\nbig.truncate(17 << 20)\nos.unlink('/workspace/big')\ne = os.memfd_create('empty')")
    child, other = fork(2)
    assert [(kind, text) for kind, _, text in child.notes] == [(FILE, "a deleted file that is too large")]
    cell.context.run("os.pwrite(m, b'PARENT', 0); t.seek(0); t.write(b'PARENT'); t.flush()")
    other.run("os.pwrite(m, b'OTHER', 0)")
    assert child.run("print(t.read(10), len(t.read()), os.pread(m, 9, 0), os.pread(m, 5, (1 << 20) - 5), os.lseek(m, 0, 1), os.fstat(e).st_size)") == \
        "b'temporary ' 9980 b'in memory' b'\\x00\\x00end' 9 0\n"
    assert child.run("try: os.write(big.fileno(), b'x')\nexcept OSError as error: print(error.errno)") == "9\n"


def test_eventfd_timerfd_pipes_and_pairs(cell, fork):
    cell.context.run(
        "import os, socket, select, ctypes, struct\nv = os.eventfd(7, os.EFD_NONBLOCK)\nlibc = ctypes.CDLL(None)\nt = libc.timerfd_create(1, 0o2004000)\n"
        "libc.timerfd_settime(t, 0, struct.pack('4q', 0, 0, 3600, 0), None)\nr, w = os.pipe()\nos.write(w, b'waiting')\na, b = socket.socketpair()\na.send(b'from a')\n"
        "c, d = socket.socketpair(type=socket.SOCK_DGRAM)\nd.setblocking(False)")
    child = fork()
    assert child.notes == []
    code = ("print(os.eventfd_read(v), os.read(r, 100), os.get_inheritable(r), b.recv(100), a.gettimeout())\nos.write(w, b'x'); b.send(b'y'); c.send(b'z')\nprint(os.read(r, 9), a.recv(9), d.recv(9))\n"
            "old = ctypes.create_string_buffer(32)\nlibc.timerfd_gettime(t, old)\nprint(3500 < struct.unpack('4q', old)[2] <= 3600)\n"
            "try: d.recv(1)\nexcept BlockingIOError: print('not blocking')")
    for where in (child, cell.context):
        assert where.run(code) == "7 b'waiting' False b'from a' None\nb'x' b'y' b'z'\nTrue\nnot blocking\n"


LOOP = """
import asyncio, threading, time
loop = asyncio.new_event_loop()
ticks = []
async def tick():
    while True:
        await asyncio.sleep(0.005)
        ticks.append(1)
loop.create_task(tick())
thread = threading.Thread(target=loop.run_forever, daemon=True)
thread.start()
async def add(a, b):
    await asyncio.sleep(0.01)
    return a + b
def ask(a, b):
    return asyncio.run_coroutine_threadsafe(add(a, b), loop).result(20)
"""


def test_an_event_loop_in_a_thread_goes_on(cell, fork):
    cell.context.run(LOOP + "print(ask(1, 1))")
    child = fork()
    assert child.notes == []
    for where in (child, cell.context):
        assert where.run("n = len(ticks); print(ask(1, 2)); time.sleep(0.2); print(len(ticks) > n + 5, thread.is_alive())") == "3\nTrue True\n"
    grandchild_of = child.run("loop.call_soon_threadsafe(loop.stop); thread.join(10); print(thread.is_alive())")
    assert grandchild_of == "False\n"


def test_an_event_loop_that_waits_for_ever(cell, fork):
    cell.context.run("import asyncio, threading, time\nloop = asyncio.new_event_loop()\nthread = threading.Thread(target=loop.run_forever, daemon=True)\nthread.start()\ntime.sleep(0.2)")
    child = fork()
    for where in (child, cell.context):
        assert where.run("got = threading.Event(); loop.call_soon_threadsafe(got.set); print(got.wait(20))") == "True\n"


def test_sqlite_in_the_middle_of_a_transaction(cell, fork):
    cell.context.run("import sqlite3\ndb = sqlite3.connect('/workspace/db', check_same_thread=False)\ndb.execute('create table t (x)')\ndb.commit()\n"
                     "[db.execute('insert into t values (?)', (i,)) for i in range(1000)]")
    child = fork()
    assert child.notes == []
    other = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', \"import sqlite3\\ntry: sqlite3.connect('/workspace/db', timeout=0).execute('begin immediate')\\nexcept sqlite3.OperationalError as e: print(e)\"], capture_output=True, text=True).stdout)"
    assert child.run(other) == "database is locked\n\n"  # its lock came along
    child.run("db.execute('insert into t values (-1)'); db.commit()")
    cell.context.run("db.rollback()")
    count = "print(sqlite3.connect('/workspace/db').execute('select count(*), min(x) from t').fetchone())"
    assert child.run(count) == "(1001, -1)\n"
    assert cell.context.run(count) == "(0, None)\n"


def test_no_memory_is_shared_between_cells(cell, fork):
    cell.context.run(
        "import mmap, multiprocessing, os\nanonymous = mmap.mmap(-1, 1 << 16)\nanonymous[:5] = b'start'\nopen('/workspace/m', 'wb').write(b'file.' * 2000)\n"
        "f = open('/workspace/m', 'r+b')\nmapped = mmap.mmap(f.fileno(), 0)\nopen('/workspace/gone', 'wb').write(b'gone.' * 1000)\ng = open('/workspace/gone', 'r+b')\n"
        "deleted = mmap.mmap(g.fileno(), 0)\ng.close()\nos.unlink('/workspace/gone')\nvalue = multiprocessing.Value('i', 41)\narray = multiprocessing.RawArray('d', 1000)\narray[7] = 7.5\n"
        "r = open('/workspace/m', 'rb')\nreadonly = mmap.mmap(r.fileno(), 0, access=mmap.ACCESS_READ)\n")
    child, other = fork(2)
    assert {kind for kind, _, _ in child.notes} == {MAPPING}
    cell.context.run("anonymous[:5] = mapped[:5] = deleted[:5] = b'PAREN'; value.value = 1; array[7] = 1")
    other.run("anonymous[:5] = mapped[:5] = deleted[:5] = b'OTHER'; value.value = 2; array[7] = 2")
    look = "print(anonymous[:5], mapped[:5], deleted[:5], readonly[:5], value.value, array[7], open('/workspace/m', 'rb').read(5), len(mapped), len(deleted))"
    assert child.run(look) == "b'start' b'file.' b'gone.' b'file.' 41 7.5 b'file.' 10000 5000\n"
    assert cell.context.run(look) == "b'PAREN' b'PAREN' b'PAREN' b'PAREN' 1 1.0 b'PAREN' 10000 5000\n"
    assert other.run(look) == "b'OTHER' b'OTHER' b'OTHER' b'OTHER' 2 2.0 b'OTHER' 10000 5000\n"


def test_shared_memory_is_still_shared_inside_the_copy(cell, fork):
    cell.context.run("import mmap, multiprocessing, os, warnings\nwarnings.simplefilter('ignore')  # the tracker of resources is another process, and gone\nfrom multiprocessing import shared_memory\nvalue = multiprocessing.Value('i', 5)\nanonymous = mmap.mmap(-1, 4096)\n"
                     "s = shared_memory.SharedMemory(create=True, size=8192)\ns.buf[:3] = b'abc'\ntwice = shared_memory.SharedMemory(s.name)\n"
                     "def work():\n  with value.get_lock(): value.value += 1\n  anonymous[0] += 1\n  s.buf[0] += 1\n"
                     "def both():\n  for i in range(3):\n    p = multiprocessing.get_context('fork').Process(target=work)\n    p.start(); p.join(20)\n  return value.value, anonymous[0], bytes(s.buf[:3]), bytes(twice.buf[:3])")
    child = fork()
    for where in (child, cell.context):
        assert where.run("print(both())") == "(8, 3, b'dbc', b'dbc')\n"
    for where in (child, cell.context):
        assert where.run("again = shared_memory.SharedMemory(s.name); print(bytes(again.buf[:3])); again.close(); twice.close(); s.close(); s.unlink(); print(os.listdir('/dev/shm'))") == "b'dbc'\n[]\n"


def test_signal_handlers_limits_and_timer(cell, fork):
    cell.context.run("import signal, resource, time\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *a: got.append(a[0]))\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                     "signal.signal(signal.SIGALRM, lambda *a: got.append('alarm'))\nresource.setrlimit(resource.RLIMIT_FSIZE, (12345 << 10, resource.RLIM_INFINITY))\n"
                     "resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))\nimport os\nos.sched_setaffinity(0, {0})\nsignal.setitimer(signal.ITIMER_REAL, 1.5)")
    child = fork()
    for where in (child, cell.context):
        assert where.run("os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05); print(got, resource.getrlimit(resource.RLIMIT_FSIZE)[0] >> 10, "
                         "resource.getrlimit(resource.RLIMIT_STACK)[0] >> 20, os.sched_getaffinity(0))") == "[10] 12345 4 {0}\n"
    for where in (child, cell.context):
        assert where.run("end = time.monotonic() + 20\nwhile len(got) < 2 and time.monotonic() < end: time.sleep(0.02)\nprint(got)") == "[10, 'alarm']\n"


def test_a_copy_is_told_and_the_original_is_not(cell, fork):
    cell.context.run("import signal\ntold = []\nsignal.signal(signal.SIGURG, lambda *a: told.append(1))")
    child = fork()
    assert child.run("print(told)") == "[1]\n"
    assert cell.context.run("print(told)") == "[]\n"


def test_pools_generators_and_libraries(cell, fork):
    cell.context.run("import concurrent.futures, numpy as np, itertools\npool = concurrent.futures.ThreadPoolExecutor(4)\nprint(sum(pool.map(abs, range(-9, 0))))\n"
                     "def numbers():\n  n = 0\n  while True:\n    n += 1\n    yield n\ng = numbers(); next(g); next(g)\nm = np.random.default_rng(1).random((400, 400)); p = (m @ m).sum()")
    child = fork()
    for where in (child, cell.context):
        assert where.run("print(sum(pool.map(abs, range(-9, 0))), next(g), np.isclose((m @ m).sum(), p))") == "45 3 True\n"


def test_what_is_not_carried_is_said(cell, fork):
    cell.context.run(
        "import socket, subprocess, os, ctypes, signal, pty\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\nc = socket.create_connection(s.getsockname())\n"
        "u = socket.socket(socket.AF_UNIX); u.bind('/workspace/u.sock'); u.listen()\np = subprocess.Popen(['sleep', '100'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "i = ctypes.CDLL(None).inotify_init1(0)\nmaster, slave = pty.openpty()\nos.mkfifo('/workspace/fifo')\nfifo = os.open('/workspace/fifo', os.O_RDWR)")
    child = fork()
    by_fd = {fd: (kind, text) for kind, fd, text in child.notes if fd >= 0}
    numbers = [int(n) for n in cell.context.run("print(s.fileno(), c.fileno(), u.fileno(), p.stdin.fileno(), p.stdout.fileno(), i, master, slave, fifo)").split()]
    assert [by_fd[n][0] for n in numbers] == [SOCKET, SOCKET, SOCKET, PIPE, PIPE, DEVICE, DEVICE, DEVICE, PIPE]
    assert by_fd[numbers[8]][1] == "/workspace/fifo" and by_fd[numbers[5]][1] == "anon_inode:inotify"
    # each number stays taken, so that no other file gets what is meant for it; what is tried fails as when the other end is gone
    tried = child.run(f"import errno\nfor n in {numbers}:\n  try: print(os.read(n, 1))\n  except OSError as e: print(errno.errorcode[e.errno])\n"
                      "for f in (lambda: c.send(b'x'), lambda: os.write(p.stdin.fileno(), b'x'), lambda: os.write(master, b'x')):\n  try: f()\n  except OSError as e: print(errno.errorcode[e.errno])")
    assert tried.split() == ["b''", "b''", "b''", "EBADF", "b''", "EBADF", "EBADF", "EBADF", "b''", "EPIPE", "EPIPE", "EBADF"]
    assert cell.context.run("c.send(b'x'); print(p.poll()); p.kill(); p.wait()") == "None\n"


def test_processes_and_posix_timers_are_said(cell, fork):
    cell.context.run("import subprocess, ctypes, time\np = subprocess.Popen(['sleep', '100'])\nt = ctypes.c_void_p()\nprint(ctypes.CDLL(None).timer_create(1, None, ctypes.byref(t)))")
    child = fork()
    kinds = {kind: text for kind, _, text in child.notes}
    assert kinds[PROCESS] == "sleep" and TIMER in kinds
    cell.context.run("p.kill(); p.wait()")


# ---- contexts that mean harm ----

def test_a_table_full_of_descriptors(cell, fork):
    assert cell.context.run("import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\nopen('/workspace/f', 'w').write('x' * 5000)\nfds = []\ntry:\n  while True: fds.append(os.open('/workspace/f', os.O_RDONLY)); os.lseek(fds[-1], len(fds), 0)\n"
                            "except OSError: print(len(fds) > 900)\nos.close(fds.pop())") == "True\n"
    child = fork()
    assert child.run("print(all(os.lseek(fd, 0, 1) == i + 1 for i, fd in enumerate(fds)))") == "True\n"
    assert child.notes == []


def test_thousands_of_mappings(cell, fork):
    cell.context.run("import mmap\nmaps = [mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=1 + 2 * (i % 2)) for i in range(5000)]")
    assert fork().notes == []
    cell.context.run("shared = [mmap.mmap(-1, 4096) for i in range(200)]\nfor i, m in enumerate(shared): m[0] = i")
    child = fork()
    assert len(child.notes) == 200
    cell.context.run("for m in shared: m[0] = 255")
    assert child.run("print(all(m[0] == i for i, m in enumerate(shared)))") == "True\n"
    cell.context.run("shared += [mmap.mmap(-1, 4096, prot=1 + 2 * (i % 2)) for i in range(2000)]")
    with pytest.raises(kc.Refused, match="shares more than 1024 pieces"):
        fork()
    assert cell.context.run("print('unharmed')") == "unharmed\n"


def test_hostile_paths(cell, fork):
    cell.context.run(
        "import os\ndeep = '/workspace'\nos.chdir('/workspace')\nfor i in range(20):\n  os.mkdir('n\\n' + 'd' * 240); os.chdir('n\\n' + 'd' * 240)\n"
        "far = open('far', 'w+'); far.write('far'); far.flush()\nos.chdir('/workspace')\nodd = open('pos:\\t5\\nflags:\\t01 (deleted)', 'w+'); odd.write('odd'); odd.flush(); odd.seek(1)\n"
        "deeper = open('/workspace/' + ('n\\n' + 'd' * 240 + '/') * 15 + 'f', 'w+'); deeper.write('deep'); deeper.flush()")
    child = fork()
    assert [(kind, text) for kind, _, text in child.notes] == [(FILE, "its path is too long")]
    assert child.run("print(odd.read(), os.fstat(deeper.fileno()).st_size)") == "dd 4\n"


def test_a_path_that_means_something_else_by_now(cell, keeper):
    """Changed between capture and copy, in the layer that the child gets."""
    cell.context.run("import os, ctypes\nfor n in 'abcd': open('/workspace/' + n, 'w').write(n)\nkept = [open('/workspace/' + n) for n in 'abcd']\n"
                     "os.rename('/workspace/a', '/workspace/A'); os.symlink('/proc/self/status', '/workspace/a')\nos.unlink('/workspace/b'); os.mkfifo('/workspace/b')\n"
                     "os.unlink('/workspace/c'); open('/workspace/c', 'w').write('another c')\nos.mkdir('/workspace/e'); os.rename('/workspace/d', '/workspace/e/d'); os.symlink('e', '/workspace/link')")
    capture = 4711
    notes = notes_of(cell.call(kc.CAPTURE, capture=capture))
    reply = keeper.call(kc.CAPTURE_MAKE, capture=capture, id="sbx_" + secrets.token_hex(16))
    notes += notes_of(reply)
    child = Child(keeper, reply)
    assert child.run("print([f.read() for f in kept])") == "['a', 'b', 'c', 'd']\n"  # renamed or deleted: still the same files
    assert notes == []
    keeper.call(kc.CAPTURE_DROP, capture=capture)
    child.destroy()


def test_a_thread_inside_vfork(cell, fork):
    """It stops only when its child ends: the fork waits no longer than a second, and the cell goes on."""
    cell.context.start("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.posix_spawn.argtypes = [ctypes.c_void_p] * 6\nimport os\nos.mkfifo('/workspace/block')\n"
                       "import subprocess\nactions = ctypes.create_string_buffer(256)\nlibc.posix_spawn_file_actions_init(actions)\n"
                       "libc.posix_spawn_file_actions_addopen(actions, 9, b'/workspace/block', 0, 0)\npid = ctypes.c_int()\nargv = (ctypes.c_char_p * 2)(b'true', None)\n"
                       "import time\nprint(libc.posix_spawn(ctypes.byref(pid), b'/bin/true', actions, None, argv, None))")
    time.sleep(0.5)
    started = time.monotonic()
    with pytest.raises(kc.Refused, match="did not stop in time"):
        fork()
    assert time.monotonic() - started < 10


def test_paths_that_change_while_copies_are_made(cell, keeper, template):
    """The first context of a copy runs already when the files of the second are opened again: what it puts at their paths is not opened."""
    second = cell.fill(1)
    cell.context.run(
        "import os, threading\nos.makedirs('/workspace/d', exist_ok=True)\nopen('/workspace/d/t', 'w').write('target')\nstop = threading.Event()\n"
        "def swap():\n  while not stop.is_set():\n    for make in (lambda: os.mkfifo('/workspace/d/n'), lambda: os.symlink('/proc/self/mem', '/workspace/d/n'), lambda: open('/workspace/d/n', 'w').write('new')):\n"
        "      make(); os.rename('/workspace/d/n', '/workspace/d/t')\n"
        "      try: os.mkfifo('/dev/shm/swapped'); os.unlink('/dev/shm/swapped')\n      except OSError: pass\n")
    second.run("import os\nf = open('/workspace/d/t')\nm = open('/dev/shm/swapped', 'w+'); m.write('shm'); m.flush(); m.seek(0)")
    cell.context.run("thread = threading.Thread(target=swap, daemon=True); thread.start()")
    for _ in range(10):
        capture = secrets.randbits(31) + 1
        cell.call(kc.CAPTURE, capture=capture)
        child = Child(keeper, keeper.call(kc.CAPTURE_MAKE, capture=capture, id="sbx_" + secrets.token_hex(16)))
        keeper.call(kc.CAPTURE_DROP, capture=capture)
        assert child.run("try: print(f.read())\nexcept OSError as error: print(error.errno)", slot=1) in ("target\n", "9\n")
        assert child.run("print(thread.is_alive())") == "True\n"
        child.destroy()
    second.close()


def test_a_stream_number_in_other_hands(cell, fork):
    """Whatever the code does with the numbers of its streams, the copy's own streams work."""
    cell.context.run("import os, socket\nsaved = os.dup(60)\nos.close(0)\nzero = socket.socketpair()\nos.set_inheritable(60, True)")
    child = fork()
    for where in (child, cell.context):
        assert where.run("zero[0].send(b'x'); print(zero[1].recv(1), zero[0].fileno(), os.fstat(saved).st_ino == os.fstat(60).st_ino)") == "b'x' 0 True\n"


def test_copies_of_copies_carry_the_same(keeper, template):
    """Each generation has its files, shared memory and event loop from the one before, and outlives it."""
    current = keeper.make(template)
    current.context.run(LOOP + "import multiprocessing, tempfile\nvalue = multiprocessing.Value('i', 0)\nlog = open('/workspace/log', 'a')\nt = tempfile.TemporaryFile()\nt.write(b'kept'); t.flush()")
    for generation in range(1, 5):
        capture = secrets.randbits(31) + 1
        keeper.call(kc.CAPTURE, cell=current.cell, serial=current.serial, capture=capture)
        child = Child(keeper, keeper.call(kc.CAPTURE_MAKE, capture=capture, flags=kc.LAST, id="sbx_" + secrets.token_hex(16)))
        current.destroy()
        current = child
        assert current.run(f"value.value += 1; log.write('{generation}\\n'); log.flush(); t.seek(0); print(value.value, ask(1, 2), t.read())") == f"{generation} 3 b'kept'\n"
    assert current.run("print(open('/workspace/log').read().split())") == "['1', '2', '3', '4']\n"
    current.destroy()
