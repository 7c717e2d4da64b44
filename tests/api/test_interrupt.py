"""Stopping code: interrupts, timeouts, restarts, and code that does not want to stop."""

from __future__ import annotations

import threading
from typing import Dict, List

import pytest
from cella import ConflictError, Execution, Sandbox
from support.wait import until

SAY = "print('ready', flush=True)"  # inside a try where the signal must not come before it
READY = SAY + "\n"


class Running:
    """Code running in a thread of the test, known to have printed "ready"."""

    def __init__(self, box: Sandbox, code: str, **options: object) -> None:
        self._result: Dict[str, object] = {}
        self._printed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(box, code, options), daemon=True)
        self._thread.start()
        assert self._printed.wait(60), "the code never started"

    def _run(self, box: Sandbox, code: str, options: Dict[str, object]) -> None:
        try:
            self._result["value"] = box.run_code(code if SAY in code else READY + code, on_stdout=lambda t: self._printed.set(), **options)  # type: ignore[arg-type]
        except BaseException as e:
            self._result["raised"] = e
        finally:
            self._printed.set()

    def result(self) -> Execution:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the execution did not end"
        if "raised" in self._result:
            raise self._result["raised"]  # type: ignore[misc]
        value = self._result["value"]
        assert isinstance(value, Execution)
        return value


LOOPS = {
    "sleep": "import time\ntime.sleep(300)",
    "pure Python": "while True: pass",
    "numpy": "import numpy as np\na = np.random.rand(1500, 1500)\nwhile True:\n    a = a @ a / 1500",
    "asyncio": "import asyncio\nawait asyncio.sleep(300)",
    "lock": "import threading\nl = threading.Lock(); l.acquire(); l.acquire()",
    "subprocess": "import subprocess\nsubprocess.run(['sleep', '300'])",
    "shell escape": "!sleep 300",
}


@pytest.mark.parametrize("kind", LOOPS)
def test_interrupt_ends_the_run_and_keeps_the_state(box: Sandbox, kind: str) -> None:
    box.run_code("kept = 'state'", check=True)
    running = Running(box, LOOPS[kind])
    box.interrupt()
    run = running.result()
    assert run.exit == "interrupted" and not run.context_restarted
    assert run.stdout.startswith("ready")
    assert run.error is None or run.error.name in ("KeyboardInterrupt", "CancelledError")
    assert box.run_code("kept").text == "'state'"


def test_interrupting_nothing_is_a_conflict(box: Sandbox) -> None:
    with pytest.raises(ConflictError):
        box.interrupt()
    assert box.run_code("1").text == "1"


def test_code_may_catch_the_interrupt(box: Sandbox) -> None:
    running = Running(box, f"import time\ntry:\n    {SAY}\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    print('cleaned up')\n'survived'")
    box.interrupt()
    run = running.result()
    assert "cleaned up" in run.stdout
    assert run.exit in ("ok", "interrupted")


HOLDS_GIL = "import ctypes\nctypes.PyDLL(None).sleep(300)"
IGNORES = f"import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{SAY}\nwhile True: time.sleep(0.05)"
SWALLOWS = f"import time\nwhile True:\n    try:\n        {SAY}\n        time.sleep(300)\n    except KeyboardInterrupt:\n        pass"


@pytest.mark.parametrize("code", [HOLDS_GIL, IGNORES, SWALLOWS], ids=["C code that holds the GIL", "SIGINT ignored", "swallowed"])
def test_code_that_will_not_stop_is_killed_and_says_so(box: Sandbox, code: str) -> None:
    box.filesystem.write("file", "stays")
    box.run_code("gone = 1", check=True)
    running = Running(box, code)
    box.interrupt()
    run = running.result()
    if run.exit == "interrupted":  # sleep(3) returned on the signal: the code did stop
        assert code is HOLDS_GIL and not run.context_restarted
        return
    assert run.exit == "killed" and run.context_restarted
    assert "ready" in run.stdout
    fresh = box.run_code("'gone' in globals(), open('file').read()")
    assert fresh.text == "(False, 'stays')"
    assert next(c for c in box.list_code_contexts() if c.id == "default").restarts == 1


def test_c_loop_that_never_returns_is_killed(box: Sandbox) -> None:
    box.run_code(
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xeb\\xfe')\n"  # jmp to itself, with the GIL held
        "spin = ctypes.PYFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))",
        check=True,
    )
    running = Running(box, "spin()")
    cpu = lambda: max(p["cpu_ms"] for p in box.list_processes())  # noqa: E731
    before = cpu()
    until(lambda: cpu() > before + 200, "the loop to turn")
    box.interrupt()
    run = running.result()
    assert run.exit == "killed" and run.context_restarted
    assert box.run_code("'again'").text == "'again'"


def test_timeout_keeps_the_state(box: Sandbox) -> None:
    box.run_code("kept = 'state'", check=True)
    run = box.run_code("print('before')\nimport time\ntime.sleep(300)", timeout_seconds=1)
    assert run.exit == "timeout" and run.stdout == "before\n" and not run.context_restarted
    assert box.run_code("kept").text == "'state'"


def test_timeout_of_code_that_will_not_stop(box: Sandbox) -> None:
    run = box.run_code(SWALLOWS, timeout_seconds=1)
    assert run.exit in ("timeout", "killed") and run.context_restarted
    assert box.run_code("1").text == "1"


def test_timeout_counts_from_the_start_not_from_the_queue(box: Sandbox) -> None:
    running = Running(box, "import time\ntime.sleep(2)")
    queued = box.run_code("'ran'", timeout_seconds=1)
    assert running.result().exit == "ok"
    assert queued.exit == "ok" and queued.text == "'ran'"


def test_a_timeout_does_not_leak_into_the_next_run(box: Sandbox) -> None:
    assert box.run_code("1", timeout_seconds=1).exit == "ok"
    run = box.run_code("import time\ntime.sleep(1.5)\n'slept'")
    assert run.exit == "ok" and run.text == "'slept'"


@pytest.mark.parametrize("bad", [0, -1, "soon", True, 1e18])
def test_nonsense_timeouts_are_refused(box: Sandbox, http, bad: object) -> None:  # type: ignore[no-untyped-def]
    answer = http.post(f"/v1/sandboxes/{box.id}/execute", json={"code": "1", "timeout_seconds": bad})
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request", answer.text
    assert "timeout_seconds" in answer.json()["error"]


def test_restart_gives_a_fresh_context(box: Sandbox) -> None:
    box.run_code("x = 1", check=True)
    box.filesystem.write("file", "stays")
    box.restart_context()
    assert box.run_code("'x' in globals(), open('file').read()").text == "(False, 'stays')"


def test_restart_while_running_kills_what_ran(box: Sandbox) -> None:
    running = Running(box, "while True: pass")
    box.restart_context()
    assert running.result().exit == "killed"
    assert box.run_code("'fresh'").text == "'fresh'"


def test_deleting_the_sandbox_ends_what_runs(server, box: Sandbox) -> None:  # type: ignore[no-untyped-def]
    sandbox = Sandbox(host=server.url)
    running = Running(sandbox, "while True: pass")
    sandbox.close()
    try:
        assert running.result().exit == "killed"
    except Exception as e:  # noqa: BLE001 - an error answer is as true as an Execution, a hang or an "ok" is not
        assert getattr(e, "code", None) in ("gone", "lost", None)


def test_executions_of_a_context_follow_each_other(box: Sandbox) -> None:
    box.run_code("order = []", check=True)
    threads: List[threading.Thread] = []
    for i in range(5):
        threads.append(threading.Thread(target=box.run_code, args=(f"order.append({i}); import time; time.sleep(0.05)",)))
        threads[-1].start()
    for t in threads:
        t.join(60)
    assert box.run_code("sorted(order)").text == "[0, 1, 2, 3, 4]"


def test_a_client_that_hangs_up_interrupts_its_code(box: Sandbox) -> None:
    stream = box.run_code_stream(f"import time\ntry:\n    {SAY}\n    time.sleep(300)\nfinally:\n    open('ended', 'w').close()")
    for event in stream:
        if event.type == "stdout":
            break
    stream.close()  # type: ignore[attr-defined]
    until(lambda: box.filesystem.exists("ended"), "the code to be interrupted", 60)
    assert box.run_code("'next'").text == "'next'"


