"""A live copy takes new entropy: by the signal that it gets before its first instruction, or by the FORKED frame.

Copies are made in the kernel itself with the bare system call and an unchanged getpid(), so that nothing notices them
but the signal."""
import json
import os
import signal
import subprocess

import pytest

import harness

COPIES = """
import ctypes, os, signal, sys
def copies(what, signalled=True, number=2):
    libc, seen = ctypes.PyDLL(None), []
    for _ in range(number):
        r, w = os.pipe()
        if libc.syscall(57) == 0:
            try:
                if signalled:
                    os.kill(libc.syscall(186), signal.SIGURG)  # gettid: the true process id
                os.write(w, repr(what()).encode())
            finally:
                os._exit(0)
        os.close(w)
        seen.append(os.read(r, 4000).decode())
        os.close(r)
        os.wait()
    assert all(seen), seen
    return seen
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    shim = tmp_path_factory.mktemp("shim") / "same_pid.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), os.path.join(harness.HERE, "same_pid.c")], check=True)
    k = harness.Kernel(env={"LD_PRELOAD": str(shim)})
    assert k.run(COPIES).status == "ok"
    yield k
    k.close()


def same(kernel, expression, setup="", signalled=True):
    e = kernel.run("%s\nseen = copies(lambda: %s, %s) + [repr(%s)]\nlen(set(seen))" % (setup, expression, signalled, expression))
    assert e.status == "ok", e.error
    return e.text == "1"


# What two copies and their parent would share without the signal, and what brings it into that state.
SHARED = {
    "random": ("random.random()", "import random; random.random()"),
    "random.gauss": ("random.gauss(0, 1)", "import random; random.seed(5); random.gauss(0, 1)"),
    "numpy": ("numpy.random.rand()", "import numpy; numpy.random.rand()"),
    "numpy second gaussian": ("numpy.random.randn()", "import numpy; numpy.random.seed(1); numpy.random.randn()"),
    "numpy, another generator": (
        "numpy.random.rand()", "import numpy; numpy.random.mtrand.set_bit_generator(numpy.random.PCG64(1))"),
    "ssl": ("ssl.RAND_bytes(16)", "import ssl; ssl.RAND_bytes(16)"),
    "authkey": ("bytes(mp.current_process().authkey)", "import multiprocessing as mp; mp.current_process().authkey"),
    "node": ("uuid.getnode()", "import uuid; uuid.uuid1()"),
    "tempfile": ("next(tempfile._get_candidate_names())", "import tempfile; tempfile.mktemp()"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(SHARED))
def test_copies_share_without_and_differ_with_the_signal(kernel, what):
    expression, setup = SHARED[what]
    # The control: copies that nobody told agree, so the test sees what it is for. (The parent has drawn once more by then.)
    e = kernel.run("%s\nlen(set(copies(lambda: %s, False)))" % (setup, expression))
    assert e.text == "1", e.error
    e = kernel.run("%s\nlen(set(copies(lambda: %s, True, 3)))" % (setup, expression))
    assert e.text == "3", e.error
    kernel.run("import numpy; numpy.random.mtrand.set_bit_generator(numpy.random.MT19937(1))")


@pytest.mark.parametrize("expression", ["secrets.token_hex()", "uuid.uuid4().hex", "uuid.uuid1().hex", "os.urandom(8)",
                                        "tempfile.mkdtemp()", "secrets.SystemRandom().random()"])  # fmt: skip
def test_what_comes_from_the_kernel_differs_anyway(kernel, expression):
    setup = "import secrets, uuid, os, tempfile"
    assert kernel.run("%s\nlen(set(copies(lambda: %s, True, 3)))" % (setup, expression)).text == "3"


def test_other_threads_generators_of_openssl(kernel):
    """Each thread has its own; they follow the one that is reseeded."""
    code = (
        "import ssl\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def both():\n    return ssl.RAND_bytes(8)\n"
        "both()\n"
        "def in_copy():\n    import threading\n    out = []\n    t = threading.Thread(target=lambda: out.append(both()))\n"
        "    t.start(); t.join()\n    return out\n"
        "len(set(copies(in_copy, True, 3)))"
    )
    assert kernel.run(code).text == "3"


def test_own_generators_and_the_hash_secret_stay(kernel):
    """They are variables, and contents of sets and dicts depend on the hashes."""
    setup = "import random, numpy; mine, theirs = random.Random(3), numpy.random.default_rng(3); b'hash me'; hash('text')"
    e = kernel.run(setup + "\nlen(set(copies(lambda: (mine.random(), theirs.random(), hash('text'), hash(b'x')), True, 3)))")
    assert e.text == "1", e.error


def test_during_sleep(fresh):
    """The handler runs at once, and the sleep goes on for what is left of it."""
    code = "import random, time\nrandom.seed(1)\nstart = time.monotonic()\nprint('go')\n%s\n(random.random(), time.monotonic() - start)"
    wait_for = "end = start + 5\nstate = random.getstate()\ntime.sleep(0.8)"
    fresh.start(code % wait_for)
    until(fresh, b"go")
    fresh.copied()
    value, seconds = json.loads(fresh.finish().text.replace("(", "[").replace(")", "]"))
    assert value != 0.13436424411240122 and seconds >= 0.8


def until(kernel, word):
    import time

    end = time.monotonic() + 20
    while word not in kernel.stdout:
        assert time.monotonic() < end
        kernel.drain()
        time.sleep(0.01)


def test_threads_draw_anew_while_the_main_thread_waits_for_them(fresh):
    fresh.start(
        "import random, threading, time\nrandom.seed(1)\nbefore = random.getstate()\nseen = []\n"
        "def work():\n    end = time.monotonic() + 20\n    print('go')\n"
        "    while time.monotonic() < end and not seen:\n"
        "        if random.getstate() != before: seen.append(True)\n"
        "        time.sleep(0.01)\n"
        "t = threading.Thread(target=work)\nt.start(); t.join()\nseen"
    )
    until(fresh, b"go")
    fresh.copied()
    assert fresh.finish().text == "[True]"


def test_in_a_loop_of_c(fresh):
    fresh.start("import random\nrandom.seed(1)\nprint('go')\nx = sum(range(60_000_000))\nx, random.random() != 0.13436424411240122")
    until(fresh, b"go")
    fresh.copied()
    assert fresh.finish().text == "(1799999970000000, True)"


def test_numpy_lock_held_by_what_is_interrupted(fresh):
    """shuffle() of a list holds the generator's lock while it calls the list's methods: no second attempt to take it."""
    e = fresh.run(
        "import numpy, os, signal\n"
        "class L(list):\n    def __setitem__(self, at, value):\n"
        "        os.kill(os.getpid(), signal.SIGURG)\n        list.__setitem__(self, at, value)\n"
        "x = L(range(20))\nnumpy.random.shuffle(x)\nsorted(x) == list(range(20))",
        timeout=20,
    )
    assert e.text == "True"


def test_nothing_of_it_is_seen(fresh):
    e = fresh.run(
        "import ctypes, os, signal, sys\n"
        "ctypes.set_errno(7)\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
        "    os.kill(os.getpid(), signal.SIGURG)\n    kept = sys.exc_info()[1] is e\n"
        "kept, ctypes.get_errno(), [n for n in ('last_type', 'last_value', 'last_traceback') if hasattr(sys, n)]"
    )
    assert e.text == "(True, 7, [])" and e.out == "" and e.err == "" and e.status == "ok"


def test_just_below_the_recursion_limit(fresh):
    """The handler has room of its own: the code gets as deep as without it, and keeps its limit."""
    e = fresh.run(
        "import os, signal, sys\nlimit = sys.getrecursionlimit()\n"
        "def deep(n, last):\n    return deep(n - 1, last) if n else last()\n"
        "def deepest(last):\n    for n in range(limit, 0, -1):\n"
        "        try:\n            deep(n, last)\n            return n\n        except RecursionError:\n            pass\n"
        "without = deepest(lambda: os.kill(os.getpid(), 0))\n"
        "without - deepest(lambda: os.kill(os.getpid(), signal.SIGURG))"
    )
    assert int(e.text) in (0, 1, 2)  # calling a handler takes two
    fresh.forked("other")
    assert fresh.run("sys.getrecursionlimit() == limit").text == "True"


def test_together_with_an_interrupt(fresh):
    """Neither is lost, whichever comes first."""
    for i in range(20):
        fresh.start("import random\nrandom.seed(1)\nprint('go%d.')\nwhile True: pass" % i)
        until(fresh, b"go%d." % i)
        fresh.copied()
        fresh.interrupt()
        assert fresh.finish().status == "interrupted"
        assert fresh.run("random.random() != 0.13436424411240122").text == "True"


def test_an_exception_of_another_handler_does_not_lose_it(fresh):
    e = fresh.run(
        "import os, random, signal\n"
        "entropy = signal.getsignal(signal.SIGURG).__self__\n"
        "real, calls = entropy.take, []\n"
        "def take():\n    calls.append(1)\n    if len(calls) == 1: raise KeyError('of an alarm')\n    real()\n"
        "entropy.take = take\nrandom.seed(1)\n"
        "try:\n    os.kill(os.getpid(), signal.SIGURG)\n    for _ in range(100): pass\nexcept KeyError: calls.append('raised')\n"
        "calls, random.random() != 0.13436424411240122"
    )
    assert e.text == "([1, 1, 'raised'], True)"


def test_without_entropy_the_context_ends(fresh):
    e = fresh.run("import sys\ndef none(n): raise OSError('none left')\nsys.modules['cella_kernel.entropy']._urandom = none")
    assert e.status == "ok"
    fresh.start("while True: pass")
    fresh.copied()
    assert harness.wait_exit(fresh) == 4
    fresh.drain()
    assert b"none left" in fresh.stderr


def test_replaced_modules_and_functions_do_not_matter(fresh):
    e = fresh.run(
        "import os, random, signal, sys\nstate = random.getstate()\n"
        "os.urandom = lambda n: bytes(n)\nrandom.seed = None\nsys.modules['uuid'] = None\nsys.modules['tempfile'] = 3\n"
        "os.kill(os.getpid(), signal.SIGURG)\nrandom.getstate() != state"
    )
    assert e.text == "True" and e.status == "ok"


# ---- the FORKED frame ---------------------------------------------------------------------------------------------


def test_the_users_handler_is_respected(fresh):
    """Then the frame does it."""
    fresh.run("import os, random, signal\nseen = []\nsignal.signal(signal.SIGURG, lambda n, f: seen.append(n))\nrandom.seed(1)")
    fresh.copied()
    assert fresh.run("seen == [signal.SIGURG], random.getstate() == random.Random(1).getstate()").text == "(True, True)"
    fresh.forked("other")
    assert fresh.run("random.getstate() == random.Random(1).getstate(), callable(signal.getsignal(signal.SIGURG)), len(seen)").text == "(False, True, 1)"


@pytest.mark.parametrize("how", ["SIG_IGN", "SIG_DFL"])
def test_an_ignored_signal(fresh, how):
    fresh.run("import random, signal\nsignal.signal(signal.SIGURG, signal.%s)\nrandom.seed(1)" % how)
    fresh.copied()
    assert fresh.run("random.getstate() == random.Random(1).getstate()").text == "True"
    fresh.forked("other")
    assert fresh.run("random.getstate() == random.Random(1).getstate()").text == "False"


def test_the_frame_does_not_do_it_twice(fresh):
    """What ran on in the copy may have seeded on purpose before the frame is read."""
    fresh.start("import random, time\nprint('go')\ntime.sleep(0.3)\nrandom.seed(1)")
    until(fresh, b"go")
    fresh.copied()
    fresh.forked("other")
    fresh.finish()
    assert fresh.run("random.getstate() == random.Random(1).getstate()").text == "True"
    fresh.forked("another")  # the next fork, whose signal did not come
    assert fresh.run("random.getstate() == random.Random(1).getstate()").text == "False"


def test_host_name(fresh):
    old = os.uname().nodename
    fresh.run("import os, platform\nplatform.node()\nos.environ['HOSTNAME'] = os.uname().nodename")
    fresh.forked("second")
    assert fresh.run("os.environ['HOSTNAME'], platform._uname_cache").text == "('second', None)"
    fresh.forked("third")
    assert fresh.run("os.environ['HOSTNAME']").text == "'third'"
    fresh.run("os.environ['HOSTNAME'] = 'mine'")
    fresh.forked(old)
    assert fresh.run("os.environ['HOSTNAME']").text == "'mine'"
    fresh.run("del os.environ['HOSTNAME']")
    fresh.forked("fourth")
    assert fresh.run("'HOSTNAME' in os.environ").text == "False"


def test_while_it_waits_for_input(fresh):
    fresh.start("import random\nrandom.seed(1)\nx = input('?')\nx, random.getstate() == random.Random(1).getstate()")
    request = fresh.next()
    assert request.kind == harness.INPUT_REQUEST
    fresh.forked("other")
    fresh.send(harness.frame(harness.INPUT_REPLY, "answer", fresh.number))
    assert fresh.finish().text == "('answer', False)"


def test_a_malformed_frame_ends_the_context(fresh):
    fresh.send(harness.frame(harness.FORKED, "{}"))
    assert harness.wait_exit(fresh) == 3


def test_template_copies(fresh):
    """The handler is there in direct mode and in every copy of a template alike; test_wake.py has the copies."""
    assert fresh.run("import signal\ntype(signal.getsignal(signal.SIGURG).__self__).__name__").text == "'Entropy'"
    assert signal.SIGURG == 23


def test_children_that_were_not_copied_did_not_end_well(kernel):
    """subprocess would say 0 of a child that cannot be waited for."""
    code = (
        "import subprocess\np, q, r = (subprocess.Popen(['sleep', '60']) for _ in range(3))\n"
        "def ask():\n    return p.poll(), q.wait(), r.wait(5)\n"
        "without, told = copies(ask, False, 1), copies(ask, True, 1)\n"
        "for one in (p, q, r): one.kill()\n"
        "without, told, (p.wait(), q.wait(), r.wait()), subprocess.run(['false']).returncode"
    )
    assert kernel.run(code).text == "(['(0, 0, 0)'], ['(-9, -9, -9)'], (-9, -9, -9), 1)"
