"""What a copy of a live sandbox is like: every line of docs/fork-correctness.md.

Each hazard is set up in a sandbox, then the sandbox is forked, or hibernated and woken, and the same questions are asked of what came
of it; after a fork of the parent too, which must not have noticed."""

from __future__ import annotations

import ast
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional

import httpx
import pytest
from cella import Sandbox
from support.server import Server

pytestmark = pytest.mark.needs_isolation


@dataclass
class Way:
    """How a sandbox is copied."""

    name: str
    http: httpx.Client
    made: List[str] = field(default_factory=list)
    notes: List[Dict[str, Any]] = field(default_factory=list)

    def post(self, path: str, status: int, body: Optional[Dict[str, Any]] = None) -> Any:
        answer = self.http.post(path, json=body or {})
        assert answer.status_code == status, answer.text
        return answer.json()

    def connect(self, sandbox_id: str) -> Sandbox:
        return Sandbox.connect(sandbox_id, host=str(self.http.base_url))

    def go(self, box: Sandbox) -> List[Sandbox]:
        """The sandboxes that must be as `box` was; the first is the copy."""
        path = f"/v1/sandboxes/{box.id}"
        if self.name == "fork":
            answer = self.post(path + "/fork", 201)
            assert answer["errors"] == [] and len(answer["children"]) == 1
            self.made += answer["children"]
            self.notes = answer["not_carried"]
            return [self.connect(answer["children"][0]), box]
        self.notes = self.post(path + "/hibernate", 200)["not_carried"]
        self.post(path + "/wake", 200)
        return [box]

    def twins(self, box: Sandbox, count: int = 3) -> List[Sandbox]:
        """Copies that were one at the same instant."""
        path = f"/v1/sandboxes/{box.id}"
        if self.name == "fork":
            made = self.post(path + "/fork", 201, {"n": count})["children"]
        else:
            snapshot = self.post(path + "/snapshots", 201)["id"]
            made = [self.post("/v1/sandboxes", 201, {"from_snapshot": snapshot})["id"] for _ in range(count)]
            self.http.delete(f"/v1/snapshots/{snapshot}")
        self.made += made
        return [self.connect(one) for one in made]


@pytest.fixture(params=["fork", "hibernate"])
def way(request: pytest.FixtureRequest, http: httpx.Client) -> Iterator[Way]:
    chosen = Way(request.param, http)
    yield chosen
    for sandbox_id in chosen.made:
        http.delete(f"/v1/sandboxes/{sandbox_id}")


def ok(box: Sandbox, code: str, **options: Any) -> Optional[str]:
    run = box.run_code(code, **options)
    assert run.exit == "ok", (run.exit, run.error, run.stderr)
    return run.text


def value(box: Sandbox, code: str) -> Any:
    return ast.literal_eval(ok(box, code) or "None")


def eventually(check: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- what is carried: name -> (set up, question, answer) ------------------------------------------------------------

CARRIED: Dict[str, tuple[str, str, Any]] = {
    # memory
    "variables": ("x = {'a': [1, {2}], 'me': None}; x['me'] = x\ndef f(y=[]): y.append(1); return len(y)\nf()", "x['me'] is x, x['a'], f()", (True, [1, {2}], 2)),
    "small objects": ("x = [{'n': i, 's': str(i)} for i in range(200_000)]", "sum(d['n'] == int(d['s']) for d in x)", 200_000),
    "large arrays": (
        "import numpy as np\na = np.arange(8_000_000.)\nb = np.ones((1000, 1000), order='F')[::2]",
        "bool((a == np.arange(8_000_000.)).all()), float(b.sum()), float((a + 1)[-1])", (True, 500000.0, 8000000.0)),
    "frames": ("import pandas as pd\ndf = pd.DataFrame({'g': list('aabb'), 'v': range(4)})\ngroups = df.groupby('g')", "groups['v'].sum().tolist(), df.memory_usage().sum() > 0", ([1, 5], True)),
    "generators": (
        "def g():\n    with open('/workspace/g', 'w') as f:\n        n = 0\n        while True:\n            n += (yield n) or 1\n            f.write('%d ' % n)\n"
        "it = g(); next(it); it.send(5)\nz = zip(range(9), 'abcdefghi'); next(z)", "it.send(2), next(it), next(z), it.close(), open('/workspace/g').read()", (7, 8, (1, 'b'), None, '5 7 8 ')),
    "weak references and finalizers": (
        "import weakref\nclass C: pass\nc, seen = C(), []\nw = weakref.ref(c, seen.append); weakref.finalize(c, seen.append, 'end')", "w() is c, globals().pop('c') and None, len(seen)", (True, None, 2)),
    "an exception and its frames": ("try:\n    deep = 7; 1 / 0\nexcept ZeroDivisionError as e: kept = e", "kept.__traceback__.tb_frame.f_globals['deep']", 7),
    "imported after the bake": (
        "import sqlite3, lzma, xml.etree.ElementTree as ET, scipy.optimize, scipy.sparse, decimal, PIL.ImageDraw, curses, readline\ntree = ET.fromstring('<a><b n=\"1\"/></a>')",
        "round(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2), 6), tree[0].attrib, lzma.decompress(lzma.compress(b'x')), scipy.sparse.eye(3).sum()", (1.414214, {'n': '1'}, b'x', 3.0)),
    "a module of the user's": ("open('/workspace/own.py', 'w').write('n = 1\\ndef f(): return n\\n')\nimport own; own.n = 5", "own.f(), own.__file__", (5, '/workspace/own.py')),
    "C-extension state": (
        "import zlib, hashlib, bz2, itertools, re, io, csv, random\nc = zlib.compressobj(); part = c.compress(b'x' * 100000)\nh = hashlib.sha256(b'one'); o = hashlib.blake2b(b'one')\n"
        "found = re.finditer('a', 'aXaYa'); next(found)\nrows = csv.reader(io.StringIO('a,b\\nc,d\\n')); next(rows)\nr = random.Random(1); r.random()\ncount = itertools.count(5); next(count)",
        "zlib.decompress(part + c.compress(b'y') + c.flush()) == b'x' * 100000 + b'y', (h.update(b'two'), h.hexdigest() == hashlib.sha256(b'onetwo').hexdigest())[1], "
        "(o.update(b'two'), o.digest() == hashlib.blake2b(b'onetwo').digest())[1], next(found).start(), next(rows), next(count), round(r.random(), 6)",
        (True, True, True, 2, ['c', 'd'], 6, 0.847434)),
    "callbacks from C": ("import ctypes\nf = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)\nbuffer = ctypes.create_string_buffer(b'kept')", "f(1), buffer.value", (2, b'kept')),
    "thread state of C libraries": ("import decimal, contextvars, threading\ndecimal.getcontext().prec = 50\nv = contextvars.ContextVar('v'); v.set(3)\nl = threading.local(); l.x = 4",
                                    "decimal.getcontext().prec, v.get(), l.x", (50, 3, 4)),
    "interpreter settings": ("import sys, gc, warnings\nsys.setrecursionlimit(2345); sys.setswitchinterval(0.01); gc.disable(); warnings.simplefilter('error')",
                             "sys.getrecursionlimit(), round(sys.getswitchinterval(), 4), gc.isenabled(), warnings.filters[0][0]", (2345, 0.01, False, 'error')),
    "hash secret": ("h = hash('text'); s = {'text'}", "hash('text') == h, 'text' in s", (True, True)),
    "generators of the user's": ("import random, numpy as np\nr, n = random.Random(1), np.random.default_rng(1)", "round(r.random(), 4), round(float(n.random()), 4)", (0.1344, 0.5118)),
    # matplotlib, SQLite
    "matplotlib": (
        "import matplotlib.pyplot as plt, io\nplt.rcParams['lines.linewidth'] = 7.5\nfig, ax = plt.subplots(); ax.plot([1, 2, 3]); plt.close(fig)",
        "out = io.BytesIO(); fig.savefig(out)\nax.plot([3, 1])\nplt.rcParams['lines.linewidth'], len(ax.lines), out.getvalue()[:4], plt.get_backend()", (7.5, 2, b'\x89PNG', 'agg')),
    "SQLite": (
        "import sqlite3\ndb = sqlite3.connect('/workspace/db'); db.execute('create table t (n)'); db.execute('insert into t values (1)'); db.commit()\nrows = db.execute('select 1 union select 2'); next(rows)",
        "(db.execute('insert into t values (2)'), db.commit(), next(rows), sqlite3.connect('/workspace/db').execute('select sum(n) from t').fetchone())[2:]", ((2,), (3,))),
    "SQLite mid-transaction": (
        "import sqlite3\ndb = sqlite3.connect('/workspace/db'); db.execute('create table t (n)'); db.commit(); db.execute('insert into t values (1)')",
        "import subprocess\nother = subprocess.run(['python3', '-c', \"import sqlite3; d = sqlite3.connect('/workspace/db', timeout=0.1); print(d.execute('select count(*) from t').fetchone()); d.execute('insert into t values (2)')\"], capture_output=True, text=True)\n"
        "inside = db.in_transaction; db.commit()\ninside, other.stdout, 'database is locked' in other.stderr, sqlite3.connect('/workspace/db').execute('select n from t').fetchall()", (True, '(0,)\n', True, [(1,)])),
    "SQLite, write-ahead log": (
        "import sqlite3\ndb = sqlite3.connect('/workspace/db'); db.execute('pragma journal_mode=wal'); db.execute('create table t (n)'); db.execute('insert into t values (1)'); db.commit()",
        "(db.execute('insert into t values (2)'), db.commit(), sqlite3.connect('/workspace/db').execute('select sum(n) from t').fetchone(), db.execute('pragma integrity_check').fetchone())[2:]", ((3,), ('ok',))),
    "SQLite in memory": ("import sqlite3\ndb = sqlite3.connect(':memory:'); db.execute('create table t (n)'); db.execute('insert into t values (5)')", "db.execute('select n from t').fetchall()", [(5,)]),
    # threads
    "a thread in time.sleep": (
        "import threading, time\ndone = []\nt = threading.Thread(target=lambda: (time.sleep(1), done.append(threading.get_native_id()))); t.start(); known = t.native_id",
        "t.join(20); t.is_alive(), done == [known]", (False, True)),
    "a thread that waits": (
        "import queue, threading\na, b, e, c = queue.Queue(), queue.Queue(), threading.Event(), threading.Condition()\n"
        "def work():\n    while True: b.put(a.get() * 2)\nthreading.Thread(target=work, daemon=True).start()\n"
        "def wait():\n    e.wait(); b.put('event')\nthreading.Thread(target=wait, daemon=True).start()",
        "a.put(21); first = b.get(timeout=20); e.set(); first, b.get(timeout=20)", (42, 'event')),
    "a thread that computes": (
        "import threading\nn, stop = [0], threading.Event()\ndef work():\n    while not stop.is_set(): n[0] += 1\nt = threading.Thread(target=work); t.start()",
        "import time\nbefore = n[0]; time.sleep(0.1); stop.set(); t.join(20); n[0] > before, t.is_alive()", (True, False)),
    "a timer": ("import threading, time\nseen = threading.Event(); threading.Timer(1, seen.set).start()", "seen.wait(20)", True),
    "ThreadPoolExecutor": (
        "from concurrent.futures import ThreadPoolExecutor\nimport time\npool = ThreadPoolExecutor(4); list(pool.map(abs, range(8))); f = pool.submit(lambda: (time.sleep(0.8), 42)[1])",
        "f.result(20), list(pool.map(str, range(3))), pool.submit(pow, 2, 5).result(20)", (42, ['0', '1', '2'], 32)),
    "OpenBLAS pool": (
        "import numpy as np, ctypes, os, re\npath = re.search(r'/\\S*openblas\\S*', open('/proc/self/maps').read())[0]\nblas = ctypes.CDLL(path)\nblas.openblas_set_num_threads(3)\n"
        "a = np.random.default_rng(1).random((400, 400)); expected = a @ a; tasks = len(os.listdir('/proc/self/task'))",
        "tasks >= 3, len(os.listdir('/proc/self/task')) == tasks, bool(np.allclose(a @ a, expected)), blas.openblas_get_num_threads()", (True, True, True, 3)),
    "locks that are held": ("import threading\nheld, r = threading.Lock(), threading.RLock(); held.acquire(); r.acquire()", "held.locked(), held.acquire(timeout=0.1), held.release(), r.release(), r.acquire(), r.release()", (True, False, None, None, True, None)),
    "thread ids": ("import threading\nids = threading.get_ident(), threading.get_native_id()", "ids == (threading.get_ident(), threading.get_native_id()), __import__('os').getpid() == threading.get_native_id()", (True, True)),
    # asyncio
    "asyncio tasks": (
        "import asyncio\nticks = []\nasync def tick():\n    while True:\n        ticks.append(1); await asyncio.sleep(0.01)\ntask = asyncio.get_running_loop().create_task(tick()) if False else None\n"
        "async def start():\n    global task\n    task = asyncio.ensure_future(tick()); await asyncio.sleep(0.05)\nawait start()",
        "n = len(ticks); await asyncio.sleep(0.2); later = len(ticks)\nlater > n > 1, await asyncio.get_running_loop().run_in_executor(None, lambda: 42), await asyncio.wait_for(asyncio.sleep(0, 'x'), 5)", (True, 42, 'x')),
    "asyncio primitives": (
        "import asyncio\nq, e, got = asyncio.Queue(), asyncio.Event(), []\nasync def worker():\n    while True: got.append(await q.get())\nw = asyncio.ensure_future(worker()) if False else None\n"
        "async def start():\n    global w\n    w = asyncio.ensure_future(worker()); q.put_nowait(1); await asyncio.sleep(0.05)\nawait start()",
        "q.put_nowait(2); await asyncio.sleep(0.1)\ngot, w.done()", ([1, 2], False)),
    "an asyncio loop in a thread": (
        "import asyncio, threading\nloop = asyncio.new_event_loop(); threading.Thread(target=loop.run_forever, daemon=True).start()\nasync def slow(x): await asyncio.sleep(0.8); return x\n"
        "running = asyncio.run_coroutine_threadsafe(slow(1), loop)",
        "running.result(20), asyncio.run_coroutine_threadsafe(slow(2), loop).result(20), loop.is_running()", (1, 2, True)),
    "asyncio streams over a pair of the context's own": (
        "import asyncio, socket, threading\na, b = socket.socketpair(); loop = asyncio.new_event_loop(); threading.Thread(target=loop.run_forever, daemon=True).start()\n"
        "async def echo():\n    reader, writer = await asyncio.open_connection(sock=b)\n    while data := await reader.read(100):\n        writer.write(data.upper())\n"
        "running = asyncio.run_coroutine_threadsafe(echo(), loop); a.settimeout(20); a.send(b'one'); first = a.recv(9)",
        "a.send(b'two'), a.recv(9), first", (3, b'TWO', b'ONE')),
    # multiprocessing
    "multiprocessing primitives": (
        "import multiprocessing as mp\nv, l, e, arr = mp.Value('i', 3), mp.Lock(), mp.Event(), mp.Array('d', [1.5, 2.5]); e.set()",
        "v.value = v.value + 1\ndef child(): v.value += 10\np = mp.get_context('fork').Process(target=child); p.start(); p.join(20)\nv.value, l.acquire(timeout=5), l.release(), e.is_set(), arr[:]", (14, True, None, True, [1.5, 2.5])),
    "multiprocessing queue": ("import multiprocessing as mp\nq = mp.Queue(); q.put('before')", "q.put('after'); q.get(timeout=20), q.get(timeout=20)", ('before', 'after')),
    "after a pool of processes": (
        "import multiprocessing as mp\nwith mp.get_context('fork').Pool(2) as p: first = p.map(abs, [-1, -2])",
        "with mp.get_context('fork').Pool(2) as p: r = p.map(abs, [-3])\nfirst, r", ([1, 2], [3])),
    "shared memory": ("from multiprocessing import shared_memory\nm = shared_memory.SharedMemory(create=True, size=100); m.buf[0] = 7", "again = shared_memory.SharedMemory(m.name); m.buf[1] = 8; m.buf[0], again.buf[1]", (7, 8)),
    # files
    "an open file": ("f = open('/workspace/f', 'w+'); f.write('0123456789'); f.flush(); f.seek(3)", "f.read(3), f.tell(), f.seek(0), f.write('X'), f.flush(), open('/workspace/f').read()", ('345', 6, 0, 1, None, 'X123456789')),
    "unflushed output": ("f = open('/workspace/f', 'w'); f.write('in memory')", "open('/workspace/f').read(), f.close(), open('/workspace/f').read()", ('', None, 'in memory')),
    "append mode": ("f = open('/workspace/f', 'a'); f.write('one '); f.flush(); open('/workspace/f', 'a').write('two ')", "f.write('three'), f.flush(), open('/workspace/f').read()", (5, None, 'one two three')),
    "dup'd descriptors": (
        "import os\na = os.open('/workspace/f', os.O_RDWR | os.O_CREAT); os.write(a, b'0123456789'); b = os.dup(a); c = os.open('/workspace/f', os.O_RDONLY); os.lseek(a, 5, 0)",
        "os.lseek(b, 0, 1), os.lseek(b, 7, 0), os.lseek(a, 0, 1), os.lseek(c, 0, 1)", (5, 7, 7, 0)),
    "an unlinked file": (
        "import os, tempfile\nf = open('/workspace/f', 'w+'); f.write('still here'); f.flush(); os.unlink('/workspace/f')\nt = tempfile.TemporaryFile(); t.write(b'temporary'); t.seek(0)",
        "f.seek(0), f.read(), f.write('!'), f.flush(), os.path.exists('/workspace/f'), t.read()", (0, 'still here', 1, None, False, b'temporary')),
    "a renamed file": ("import os\nf = open('/workspace/f', 'w+'); f.write('x'); f.flush(); os.rename('/workspace/f', '/workspace/g')", "f.write('y'), f.flush(), open('/workspace/g').read()", (1, None, 'xy')),
    "a directory": ("import os\nos.mkdir('/workspace/d'); d = os.open('/workspace/d', os.O_RDONLY)", "os.close(os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=d)), os.listdir('/workspace/d'), os.stat('x', dir_fd=d).st_size, os.fstat(d).st_ino == os.stat('/workspace/d').st_ino", (None, ['x'], 0, True)),
    "a file of the template": ("f = open('/etc/passwd'); line = f.readline()", "len(f.readline()) > 5, line.split(':')[0]", (True, 'root')),
    "locks on files": (
        "import fcntl\nf = open('/workspace/f', 'w'); fcntl.flock(f, fcntl.LOCK_EX); g = open('/workspace/g', 'w'); fcntl.lockf(g, fcntl.LOCK_EX)",
        "import subprocess\nsubprocess.run(['flock', '-n', '/workspace/f', 'true']).returncode, subprocess.run(['python3', '-c', \"import fcntl; f = open('/workspace/g', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\"], stderr=subprocess.DEVNULL).returncode", (1, 1)),
    "files on the disk": ("import os\nopen('/workspace/a', 'w').write('a'); os.symlink('a', '/workspace/l'); os.chmod('/workspace/a', 0o640); open('/tmp/t', 'w').write('t')",
                          "open('/workspace/l').read(), oct(os.stat('/workspace/a').st_mode), open('/tmp/t').read()", ('a', '0o100640', 't')),
    # shared memory and things inside the context
    "a shared file mapping": (
        "import mmap\nf = open('/workspace/m', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[0:3] = b'abc'",
        "now = m[0:3]; m[4096:4099] = b'def'; m.flush()\nnow, open('/workspace/m', 'rb').read()[4096:4099]", (b'abc', b'def')),
    "an array on a file": ("import numpy as np\nm = np.memmap('/workspace/mm', 'i4', 'w+', shape=1000); m[:] = 7", "m[5] = 9; m.flush()\nint(m.sum()), int(np.fromfile('/workspace/mm', 'i4').sum())", (7002, 7002)),
    "an anonymous shared mapping": (
        "import mmap, os\nm = mmap.mmap(-1, 4096); m[0] = 5", "pid = os.fork()\nif pid == 0:\n    m[1] = m[0] + 1; os._exit(0)\nos.waitpid(pid, 0)\nm[0], m[1]", (5, 6)),
    "a pipe of its own": ("import os\nr, w = os.pipe(); os.write(w, b'waits')", "os.write(w, b'!'), os.read(r, 9)", (1, b'waits!')),
    "a socket pair of its own": ("import socket\na, b = socket.socketpair(); a.send(b'waits')", "b.send(b'back'), b.recv(9), a.recv(9)", (4, b'waits', b'back')),
    "epoll": ("import os, select\nr, w = os.pipe(); p = select.epoll(); p.register(r, select.EPOLLIN)", "first = p.poll(0); os.write(w, b'x')\nfirst, p.poll(5) == [(r, select.EPOLLIN)]", ([], True)),
    # the process
    "signal handlers": (
        "import os, signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda n, f: seen.append(n)); signal.signal(signal.SIGUSR2, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        "os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGUSR2)\nseen == [signal.SIGUSR1], signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])", (True, True)),
    "an interval timer": ("import signal\nseen = []\nsignal.signal(signal.SIGALRM, lambda n, f: seen.append(n)); signal.setitimer(signal.ITIMER_REAL, 1, 0.05)",
                          "import time\nend = time.monotonic() + 20\nwhile len(seen) < 3 and time.monotonic() < end: time.sleep(0.01)\nsignal.setitimer(signal.ITIMER_REAL, 0)\nlen(seen) >= 3", True),
    "environment": ("import os, subprocess\nos.environ['OWN'] = 'é'; os.environ.pop('LANG', None)", "os.environ['OWN'], subprocess.run('echo $OWN', shell=True, capture_output=True).stdout.decode(), 'LANG' in os.environ", ('é', 'é\n', False)),
    "working directory": ("import os\nos.mkdir('/workspace/d'); os.chdir('/workspace/d')", "os.getcwd(), open('here', 'w').close(), os.path.exists('/workspace/d/here')", ('/workspace/d', None, True)),
    "umask": ("import os\nos.umask(0o027)", "open('/workspace/u', 'w').close(), oct(os.stat('/workspace/u').st_mode & 0o777)", (None, '0o640')),
    "resource limits": ("import resource\nresource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])); before = resource.getrlimit(resource.RLIMIT_CORE)",
                        "resource.getrlimit(resource.RLIMIT_STACK)[0], resource.getrlimit(resource.RLIMIT_CORE) == before", (4 << 20, True)),
    "redirected output": ("import os, sys\nkept = os.dup(1); f = os.open('/workspace/o', os.O_RDWR | os.O_CREAT); os.dup2(f, 1)", "os.write(1, b'x'), os.dup2(kept, 1), open('/workspace/o').read()", (1, 1, 'x')),
    "history": ("41 + 1", "Out[1], In[1], _", (42, '41 + 1', 42)),
}  # fmt: skip


#: What is said about them all the same: memory that is shared in the copy too, but not with the original; a helper process of multiprocessing,
#: and the pipes to processes that have ended.
SAID = {
    "multiprocessing primitives": {"mapping"}, "multiprocessing queue": {"mapping"}, "after a pool of processes": {"mapping", "pipe"},
    "shared memory": {"mapping", "process", "pipe"}, "an anonymous shared mapping": {"mapping"},
}  # fmt: skip


@pytest.mark.parametrize("hazard", list(CARRIED))
def test_carried(way: Way, box: Sandbox, hazard: str) -> None:
    setup, question, answer = CARRIED[hazard]
    run = box.run_code(setup)
    assert run.exit == "ok", run.error
    for one in way.go(box):
        assert value(one, question) == answer, one.id
    assert {n["kind"] for n in way.notes} <= SAID.get(hazard, set()), way.notes


@pytest.mark.parametrize("hazard", ["variables", "an open file", "SQLite", "ThreadPoolExecutor", "an asyncio loop in a thread"])
def test_carried_through_several_copies(way: Way, box: Sandbox, hazard: str) -> None:
    """A copy of a copy of a copy."""
    setup, question, answer = CARRIED[hazard]
    ok(box, setup)
    for _ in range(3):
        box = way.go(box)[0]
    assert value(box, question) == answer


def test_a_child_and_its_parent_go_apart(http: httpx.Client, box: Sandbox) -> None:
    """Nothing is shared any more: memory, files, offsets, mappings, transactions."""
    way = Way("fork", http)
    ok(box, "import mmap, sqlite3\nx = [0]; f = open('/workspace/f', 'w+'); f.write('0123456789'); f.flush(); f.seek(2)\n"
            "m = mmap.mmap(f.fileno(), 10); a = mmap.mmap(-1, 4096)\ndb = sqlite3.connect('/workspace/db', isolation_level=None); db.execute('create table t (n)'); db.execute('begin immediate')")  # fmt: skip
    child = way.go(box)[0]
    ok(child, "x.append('child'); f.read(3); m[9:10] = b'C'; m.flush(); a[0:1] = b'C'; db.execute('insert into t values (1)'); db.execute('commit')")
    question = "x, f.tell(), open('/workspace/f').read(), a[0:1], db.in_transaction, db.execute('select count(*) from t').fetchone()"
    assert value(child, question) == ([0, "child"], 5, "012345678C", b"C", False, (1,))
    assert value(box, question) == ([0], 2, "0123456789", b"\0", True, (0,))
    http.delete(f"/v1/sandboxes/{child.id}")


# ---- entropy, clock, names ------------------------------------------------------------------------------------------

DRAWS = {
    "random": ("import random; random.random()", "random.random()"),
    "random, second gaussian": ("import random; random.gauss(0, 1)", "random.gauss(0, 1)"),
    "random, seeded": ("import random; random.seed(1)", "random.random()"),
    "numpy": ("import numpy; numpy.random.rand()", "numpy.random.rand()"),
    "numpy, second gaussian": ("import numpy; numpy.random.seed(1); numpy.random.randn()", "numpy.random.randn()"),
    "scipy": ("import scipy.stats; scipy.stats.norm.rvs()", "float(scipy.stats.norm.rvs())"),
    "ssl": ("import ssl; ssl.RAND_bytes(8)", "ssl.RAND_bytes(8)"),
    "ssl in a thread": (
        "import ssl; from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(1); pool.submit(ssl.RAND_bytes, 8).result()", "pool.submit(ssl.RAND_bytes, 8).result()"),
    "secrets": ("import secrets; secrets.token_hex()", "secrets.token_hex()"),
    "uuid1": ("import uuid; uuid.uuid1()", "uuid.uuid1().hex"),
    "uuid node": ("import uuid; uuid.uuid1()", "uuid.getnode()"),
    "uuid4": ("import uuid; uuid.uuid4()", "uuid.uuid4().hex"),
    "tempfile": ("import tempfile; tempfile.mkdtemp()", "tempfile.mkdtemp()"),
    "authkey": ("import multiprocessing as mp; mp.current_process()", "bytes(mp.current_process().authkey)"),
    "new generators": ("import numpy, random", "float(numpy.random.default_rng().random()), random.Random().random()"),
    "os.urandom": ("import os", "os.urandom(8)"),
}  # fmt: skip


def test_entropy_of_python(way: Way, box: Sandbox) -> None:
    for name, (setup, _) in DRAWS.items():
        assert box.run_code(setup).exit == "ok", name
    question = "{%s}" % ", ".join("%r: (%s)" % (name, draw) for name, (_, draw) in DRAWS.items())
    seen = [value(one, question) for one in [*way.twins(box), box]]
    assert {name: len({repr(s[name]) for s in seen}) for name in DRAWS} == dict.fromkeys(DRAWS, 4)


def test_entropy_of_what_computes(way: Way, box: Sandbox) -> None:
    """The copies are in the middle of an execution: the next number they draw is their own."""
    ok(box, "import random, ssl, time, threading, os")
    run = box.run_code(
        "def draw():\n    random.seed(1)\n    while not os.path.exists('/workspace/go'): time.sleep(0.01)\n    drawn.append((random.random(), ssl.RAND_bytes(8)))\n"
        "drawn = []\nt = threading.Thread(target=draw); t.start()")
    assert run.exit == "ok"
    twins = way.twins(box)
    for one in twins:
        one.run_code("open('/workspace/go', 'w').close(); t.join(20)")
    assert len({ok(one, "drawn") for one in twins}) == len(twins)


def test_entropy_of_the_shell(way: Way, box: Sandbox) -> None:
    box.run_code("RANDOM=1; echo $RANDOM", language="bash")
    twins = [*way.twins(box), box]
    assert len({one.run_code("echo $RANDOM $RANDOM", language="bash").stdout for one in twins}) == 4
    assert len({one.run_code("echo $SRANDOM $(mktemp -u)", language="bash").stdout for one in twins}) == 4


def test_clock(way: Way, box: Sandbox) -> None:
    ok(box, "import time, datetime; m, w = time.monotonic(), time.time()")
    for one in way.go(box):
        got = value(one, "time.monotonic() >= m, time.time()")
        assert got[0] and abs(got[1] - time.time()) < 5


def test_a_deadline_that_passed_meanwhile(way: Way, box: Sandbox) -> None:
    """Monotonic time goes on while a sandbox is put away: what it waited for is over when it comes back."""
    ok(box, "import threading, time, asyncio\ndone = threading.Event()\nthreading.Thread(target=lambda: (time.sleep(0.3), done.set())).start()\ne = threading.Event()")
    copies = way.go(box)
    time.sleep(0.4)
    for one in copies:
        assert value(one, "done.wait(20), e.wait(0.05), await asyncio.wait_for(asyncio.sleep(0.05, 1), 10)") == (True, False, 1)


def test_host_name_and_id(way: Way, box: Sandbox) -> None:
    ok(box, "import os, socket, platform, subprocess; platform.node(); os.environ['HOSTNAME'] = socket.gethostname()")
    box.run_code("x=1", language="bash")
    names = set()
    copies = way.go(box)
    for one in copies:
        seen = value(one, "socket.gethostname(), platform.node(), os.environ['HOSTNAME'], subprocess.check_output('hostname').decode().strip()")
        shell = one.run_code("echo $HOSTNAME; hostname", language="bash").stdout.split()
        assert len({*seen, *shell}) == 1, (seen, shell)
        names.add(seen[0])
    assert len(names) == len(copies)


# ---- shells, several contexts, executions under way -----------------------------------------------------------------


def test_what_runs_goes_on_in_both(http: httpx.Client, box: Sandbox) -> None:
    """A long computation: the parent's caller gets the parent's result, the child has an execution of its own with the same."""
    way = Way("fork", http)
    ok(box, "0")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(box.run_code, "print('before')\nopen('/workspace/go', 'w').close()\nx = sum(i * i for i in range(5_000_000))\nprint('after')\nx")
        eventually(lambda: box.exec("ls /workspace").stdout == "go\n")
        child = way.go(box)[0]
        assert ok(child, "x") == "41666654166667500000"
        path = f"/v1/sandboxes/{child.id}/executions"
        (copied,) = [e for e in (http.get(f"{path}/{e['id']}").json() for e in http.get(path).json()) if e.get("forked_from")]
        assert copied["exit"] == "ok" and copied["text"] == "41666654166667500000" and copied["stdout"] == "after\n", copied
        mine = running.result()
        assert mine.exit == "ok" and mine.text == "41666654166667500000" and mine.stdout == "before\nafter\n"
    http.delete(f"/v1/sandboxes/{child.id}")


def test_a_shell(way: Way, box: Sandbox) -> None:
    setup = (
        "x='a b'; export E=1; list=(1 'two 2'); declare -A map=([k]=v); f() { echo \"f:$1\"; }; alias g='f alias'; shopt -s nullglob; set -u; mkdir -p /workspace/d; cd /workspace/d\n"
        "trap 'echo trapped' USR1; umask 027; exec 7<>/workspace/file; echo text >&7; readonly R=2; ulimit -Ss 4096"
    )
    question = 'echo "$x" $E "${list[1]}" ${map[k]} $R; f 1; g; pwd; umask; shopt -q nullglob && echo nullglob; echo $-; kill -USR1 $$; echo more >&7; cat /workspace/file; printenv E; ulimit -Ss'
    assert box.run_code(setup, language="bash").exit == "ok"
    for one in way.go(box):
        run = one.run_code(question, language="bash")
        lines = run.stdout.split("\n")
        assert lines[:6] == ["a b 1 two 2 v 2", "f:1", "f:alias", "/workspace/d", "0027", "nullglob"], run
        assert "u" in lines[6] and lines[7:] == ["trapped", "text", "more", "1", "4096", ""], run


def test_several_contexts(way: Way, box: Sandbox) -> None:
    made = {c.id: c for c in (box.create_code_context(language=language) for language in ("python", "bash"))}
    for c in made.values():
        box.run_code("own=%s" % (1 if c.language == "python" else "2"), context=c)
    ok(box, "own = 0")
    for one in way.go(box):
        assert ok(one, "own") == "0"
        for c in made.values():
            assert one.run_code("print(own)" if c.language == "python" else "echo $own", context=c.id).stdout.strip() == ("1" if c.language == "python" else "2")


# ---- what is not carried, and said ----------------------------------------------------------------------------------

#: name -> (set up; leaves the descriptor in `fd` and a pid in `pid` where there is one, kinds of notes, question, answer)
NOT_CARRIED: Dict[str, tuple[str, set[str], str, Any]] = {
    "a connection": (
        "import socket\nl = socket.create_server(('127.0.0.1', 0)); s = socket.create_connection(l.getsockname()); c, _ = l.accept(); c.send(b'x'); fd = s.fileno()", {"socket"},
        "try: s.send(b'x'); said = ''\nexcept OSError as e: said = 'an error'\nsaid", 'an error'),
    "a listening socket": ("import socket\nl = socket.create_server(('127.0.0.1', 0)); fd = l.fileno()", {"socket"}, "socket.create_server(('127.0.0.1', 0)).close()", None),
    "a child process": (
        "import subprocess\np = subprocess.Popen(['sleep', '1000'], stdout=subprocess.PIPE, stdin=subprocess.PIPE); fd, pid = p.stdout.fileno(), p.pid", {"pipe", "process"},
        "import os\ntry: os.kill(pid, 0); said = 'there'\nexcept ProcessLookupError: said = 'gone'\nsaid, subprocess.run(['echo', 'new'], capture_output=True).stdout", ("gone", b"new\n")),
    "a running pool of processes": (
        "import multiprocessing as mp\npool = mp.get_context('fork').Pool(2); pool.map(abs, [1]); fd, pid = pool._inqueue._writer.fileno(), pool._pool[0].pid", {"process"},
        "with mp.get_context('fork').Pool(2) as p: r = p.map(abs, [-3])\nr", [3]),
    "a terminal": ("import os, pty\nmaster, slave = os.openpty(); fd = master", {"device"}, "a, b = os.openpty(); os.write(b, b'x'), os.read(a, 9)", (1, b"x")),
}  # fmt: skip


@pytest.mark.process_only
@pytest.mark.parametrize("hazard", list(NOT_CARRIED))
def test_not_carried_and_said(way: Way, box: Sandbox, hazard: str) -> None:
    setup, kinds, question, answer = NOT_CARRIED[hazard]
    ok(box, "fd = pid = None")
    ok(box, setup)
    fd, pid = value(box, "fd, pid")
    copies = way.go(box)
    found = {n["kind"] for n in way.notes}
    assert kinds <= found, way.notes
    if fd is not None and hazard != "a running pool of processes":
        assert fd in [n["fd"] for n in way.notes], way.notes
    if pid is not None:
        assert pid in [n["pid"] for n in way.notes], way.notes
    assert all(n["text"] for n in way.notes)
    assert value(copies[0], question) == answer


@pytest.mark.process_only
def test_a_process_of_the_sandbox_is_said(way: Way, box: Sandbox) -> None:
    box.exec("sleep 1000 & echo $!")
    pid = int(box.exec("pgrep sleep").stdout)
    copies = way.go(box)
    assert [n["pid"] for n in way.notes if n["kind"] == "process"] == [pid]
    assert copies[0].exec("pgrep sleep; true").stdout == ""
    assert [n for n in way.notes if "sleep" in n["text"]]


WAITING = [
    ("bash", "echo go; sleep 3 && echo well"), ("bash", "echo go; x=$(sleep 3; echo text) && echo well"), ("bash", "echo go; sleep 3 | cat && echo well"),
    ("bash", "echo go; sleep 3 & wait $! && echo well"), ("bash", "echo go; read x < <(sleep 3; echo text) && echo well"),
    ("python", "import subprocess\nprint('go')\nsubprocess.run(['sleep', '3'], check=True)\nprint('well')"),
    ("python", "import subprocess\nprint('go')\np = subprocess.Popen(['sleep', '3'])\nif p.wait(20) == 0: print('well')\nelse: 1 / 0"),
    ("python", "import os\nprint('go')\nif os.system('sleep 3') == 0: print('well')\nelse: 1 / 0"),
    ("python", "print('go')\n!sleep 3\nif _exit_code == 0: print('well')\nelse: 1 / 0"),
]  # fmt: skip


@pytest.mark.process_only
@pytest.mark.parametrize(("language", "code"), WAITING)
def test_the_programs_that_it_waits_for_are_not_there(http: httpx.Client, box: Sandbox, language: str, code: str) -> None:
    """A copy does not wait for ever, and never takes what it lost for something that went well."""
    way = Way("fork", http)
    ok(box, "0")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(box.run_code, code, language=language)
        eventually(lambda: box.exec("pgrep -x sleep; true").stdout != "")
        child = way.go(box)[0]
        assert child.run_code("1" if language == "python" else "echo next", language=language).exit == "ok"  # behind the one that ran
        path = f"/v1/sandboxes/{child.id}/executions"
        (copied,) = [e for e in (http.get(f"{path}/{e['id']}").json() for e in http.get(path).json()) if e.get("forked_from")]
        assert "well" not in copied["stdout"] and copied["exit"] == "error", copied
        assert running.result().stdout == "go\nwell\n"
    assert [n["kind"] for n in way.notes if n["kind"] == "process"]
    http.delete(f"/v1/sandboxes/{child.id}")


def test_every_line_of_the_document_has_its_test() -> None:
    """The table names tests that exist, and every hazard above is in it."""
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "docs" / "fork-correctness.md").read_text("utf-8")
    named = set(re.findall(r"`(?:test_\w+)(?:\[([^\]`]+)\])?`", text))
    rows = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    assert len(rows) > 40
    known = {name for name in globals() if name.startswith("test_")}
    elsewhere = {name for path in ("contexts", "keeper", "hostile", "api") for p in (Path(__file__).resolve().parents[1] / path).glob("test_*.py")
                 for name in re.findall(r"^def (test_\w+)", p.read_text("utf-8"), re.M)}  # fmt: skip
    for test in re.findall(r"`(test_\w+)", text):
        assert test in known | elsewhere, test
    missing = [h for h in [*CARRIED, *NOT_CARRIED] if h not in named]
    assert missing == [], missing
    unknown = named - {""} - set(CARRIED) - set(NOT_CARRIED)
    assert unknown == set(), unknown
