"""SIGINT: reaches what runs, nothing else."""
import os
import signal
import time

import pytest

import harness


def wait_for_output(kernel, text, seconds=20):
    """Until the kernel has printed text: the code is then where the test wants it."""
    end = time.monotonic() + seconds
    while text not in kernel.stdout.decode():
        assert time.monotonic() < end, kernel.stdout
        kernel.drain()
        time.sleep(0.005)


def interrupted(kernel, code, timeout=20):
    """Run code that prints 'go', interrupt it then; the Execution."""
    kernel.start(code)
    wait_for_output(kernel, "go")
    time.sleep(0.05)
    kernel.interrupt()
    return kernel.finish(timeout=timeout)


@pytest.mark.parametrize(
    "code",
    [
        "import time\nprint('go')\ntime.sleep(60)",
        "print('go')\nwhile True: pass",
        "print('go')\nfor i in range(10**12):\n    try: len([i])\n    except ValueError: pass",
        "import numpy as np\na = np.random.rand(60, 60)\nprint('go')\nwhile True: a @ a",
        "import asyncio\nprint('go')\nawait asyncio.sleep(60)",
        "import asyncio\nasync def spin():\n    while True: await asyncio.sleep(0)\nprint('go')\nawait spin()",
        "import asyncio\nprint('go')\nasyncio.run(asyncio.sleep(60))",
        "print('go')\n!sleep 60",
        "import os\nprint('go')\nos.system('sleep 60')",
        "import subprocess\nprint('go')\nsubprocess.run(['sleep', '60'])",
        "%%bash\necho go\nsleep 60\n",
        "import threading\nprint('go')\nthreading.Event().wait()",
        "import queue\nprint('go')\nqueue.Queue().get()",
        "class Slow:\n    def __repr__(self):\n        print('go')\n        while True: pass\nSlow()",
        "class E(Exception):\n    def __str__(self):\n        print('go')\n        while True: pass\nraise E()",
        "import re\nprint('go')\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
        "print('go')\nimport socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); s.accept()",
        "import multiprocessing as mp, time\nprint('go')\nwith mp.get_context('fork').Pool(1) as p: p.map(time.sleep, [60])",
    ],
)
def test_interrupt_stops_it_and_keeps_the_state(py, code):
    py.run("kept = 'still here'")
    start = time.monotonic()
    e = interrupted(py, code)
    assert time.monotonic() - start < 15
    if "class E" in code:  # the error is the user's; describing it was interrupted
        assert e.status == "error" and e.error["name"] == "E"
    else:
        assert e.status == "interrupted", e.frames
        assert e.error["name"] == "KeyboardInterrupt"
        assert "cella_kernel" not in e.error["traceback"]
    assert py.run("kept").text == "'still here'"


def test_one_long_numpy_call(py):
    """The call is not interruptible; the interrupt takes effect when it returns, and not later."""
    code = "import numpy as np\nprint('go')\nx = np.sort(np.random.rand(12_000_000))\nwhile True: pass"
    assert interrupted(py, code, timeout=60).status == "interrupted"


def test_c_code_that_holds_the_gil(py):
    """C code that never looks at signals cannot be interrupted from inside: the answer comes when it returns. The
    daemon's patience is shorter than that, then it kills the context."""
    code = "import ctypes\nlibc = ctypes.PyDLL(None)\nprint('go')\nlibc.usleep(900_000)\nlibc.usleep(900_000)\nprint('passed')"
    e = interrupted(py, code)
    assert e.status == "interrupted" and "passed" not in e.out
    e = interrupted(py, "print('go')\nsum(range(10**8))\nwhile True: pass", timeout=60)
    assert e.status == "interrupted"


def test_an_ignored_interrupt_does_nothing_and_the_next_execution_is_interruptible(py):
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('go')\ntime.sleep(0.5)\n'survived'"
    assert interrupted(py, code).text == "'survived'"
    assert interrupted(py, "print('go')\ntime.sleep(60)").status == "interrupted"
    code = "got = []\nsignal.signal(signal.SIGINT, lambda *a: got.append(1))\nprint('go')\ntime.sleep(0.5)\ngot"
    assert interrupted(py, code).text == "[1]"
    py.interrupt()
    time.sleep(0.1)
    assert py.run("got").text == "[1]", "the user's handler ran while idle"
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\nprint('go')\ntime.sleep(0.5)\n'masked'"
    interrupted(py, code)
    assert interrupted(py, "print('go')\ntime.sleep(60)").status == "interrupted"


def test_default_action_does_not_stay(py):
    py.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)")
    py.interrupt()
    time.sleep(0.1)
    assert py.run("1+1").text == "2"


def test_caught_interrupt_is_the_users(py):
    e = interrupted(py, "import time\nprint('go')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: r = 'caught'\nr")
    assert (e.status, e.text) == ("ok", "'caught'")


def test_second_interrupt_reaches_cleanup_code(py):
    # Not `while True: pass`: CPython 3.11 has no handler for the jump of such a loop, the finally would be skipped.
    py.start("import time\nprint('go')\ntry:\n    while True: time.sleep(0.01)\nfinally:\n"
             "    print('cleaning')\n    while True: time.sleep(0.01)")  # fmt: skip
    wait_for_output(py, "go")
    time.sleep(0.05)
    py.interrupt()
    wait_for_output(py, "cleaning")
    time.sleep(0.05)
    py.interrupt()
    assert py.finish().status == "interrupted"


def test_raised_by_the_code_itself_is_an_error(py):
    e = py.run("raise KeyboardInterrupt('by hand')")
    assert e.status == "error" and e.error["name"] == "KeyboardInterrupt"


def test_idle_interrupts_are_ignored(py):
    for _ in range(20):
        py.interrupt()
        time.sleep(0.002)
    time.sleep(0.05)
    e = py.run("1+1")
    assert (e.status, e.text) == ("ok", "2")


def test_interrupt_right_after_the_request_is_not_lost(py):
    """The signal may arrive before, while or after the kernel reads the request: it must stop that execution."""
    for i in range(200):
        py.start("while True: pass")
        for _ in range(i % 7 * 20):
            pass
        py.interrupt()
        e = py.finish(timeout=20)
        assert e.status == "interrupted", i
    assert py.run("1").text == "1"


def test_interrupts_at_random_moments_never_break_the_stream(py):
    """Whatever the moment, each execution gets exactly one DONE and the next one works."""
    import random

    rng = random.Random(5)
    code = "for i in range(30):\n    display(i)\n    print(i)\n{'big': 'x' * 100_000}"
    ends = set()
    for _ in range(150):
        py.start(code)
        time.sleep(rng.random() * 0.02)
        py.interrupt()
        e = py.finish(timeout=20)
        ends.add(e.status)
        assert len(e.of(harness.DONE)) == 1
        # A late signal is spent before the next request: that is what STATUS after HELLO proves to a daemon.
        py.send(harness.frame(harness.HELLO))
        while py.next(20).kind != harness.STATUS:
            pass
        assert py.run("40 + 2").text == "42"
    assert "interrupted" in ends


def test_interrupt_while_waiting_for_input(py):
    py.start("input('? ')")
    assert py.next().kind == harness.INPUT_REQUEST
    time.sleep(0.05)
    py.interrupt()
    assert py.finish().status == "interrupted"


def test_interrupt_a_background_task_goes_on(py):
    py.run("import asyncio\nn = 0\nasync def count():\n    global n\n    while True:\n        n += 1\n        await asyncio.sleep(0.01)\n"
           "bg = asyncio.create_task(count())\nawait asyncio.sleep(0)")  # fmt: skip
    assert interrupted(py, "print('go')\nawait asyncio.sleep(60)").status == "interrupted"
    before = int(py.run("n").text)
    assert int(py.run("await asyncio.sleep(0.1)\nn").text) > before
    py.run("bg.cancel()")


def test_os_exit_and_crashes_end_the_process(fresh):
    fresh.start("import os; os._exit(7)")
    assert fresh.next() is None and harness.wait_exit(fresh) == 7


def test_segfault_ends_the_process(fresh):
    fresh.start("import ctypes; ctypes.string_at(1)")
    assert fresh.next() is None and harness.wait_exit(fresh) == -signal.SIGSEGV


def test_sigterm_ends_the_process(fresh):
    os.kill(fresh.ready["pid"], signal.SIGTERM)
    assert fresh.next() is None and harness.wait_exit(fresh) == -signal.SIGTERM
