"""Giving up a call ends what it started in the sandbox: Ctrl-C in a Sandbox, cancellation in an AsyncSandbox."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Awaitable, Callable, Iterator, Optional

import cella
import pytest
from cella import AsyncSandbox, Sandbox
from support.server import Server
from support.wait import until

ENDLESS = "kept = 9\nopen('/workspace/on', 'w')\nwhile True: pass"


@pytest.fixture
def ctrl_c(server: Server) -> Iterator[Callable[[Sandbox, Callable[[], bool]], None]]:
    """Presses Ctrl-C in the main thread as soon as something is true and that thread is inside the client (the signal would end the tests elsewhere)."""
    threads = []
    package = str(Path(cella.__file__).parent)

    def in_client() -> bool:
        frame: Optional[FrameType] = sys._current_frames()[threading.main_thread().ident or 0]
        while frame and not frame.f_code.co_filename.startswith(package):
            frame = frame.f_back
        return frame is not None

    def press_when(sandbox: Sandbox, ready: Callable[[], bool]) -> None:
        def press() -> None:
            until(ready, "the time to press", 60)
            until(in_client, "the main thread to wait", 60)
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

        threads.append(threading.Thread(target=press))
        threads[-1].start()

    yield press_when
    for thread in threads:
        thread.join()


def running(sandbox: Sandbox, words: str) -> bool:
    return bool([p for p in sandbox.list_processes() if words in p["command"]])


def test_ctrl_c_interrupts_code(box: Sandbox, ctrl_c: Any) -> None:
    ctrl_c(box, lambda: box.filesystem.exists("on"))
    with pytest.raises(KeyboardInterrupt):
        box.run_code(ENDLESS)
    assert box.run_code("kept", timeout_seconds=60).text == "9"


def test_ctrl_c_interrupts_followed_code(box: Sandbox, ctrl_c: Any) -> None:
    ctrl_c(box, lambda: box.filesystem.exists("on"))
    with pytest.raises(KeyboardInterrupt):
        box.run_code(ENDLESS, on_stdout=print)
    assert box.run_code("kept", timeout_seconds=60).text == "9"


def test_ctrl_c_kills_a_command(box: Sandbox, ctrl_c: Any) -> None:
    ctrl_c(box, lambda: running(box, "sleep 320"))
    with pytest.raises(KeyboardInterrupt):
        box.exec("sleep 320")
    until(lambda: not running(box, "sleep 320"), "the command to be gone", 60)


def test_ctrl_c_while_waiting_leaves_a_background_process_alone(box: Sandbox, ctrl_c: Any) -> None:
    process = box.start("sleep 321")
    ctrl_c(box, lambda: running(box, "sleep 321"))
    with pytest.raises(KeyboardInterrupt):
        process.wait()
    assert process.result() is None


async def cancelled(call: Awaitable[Any], ready: Callable[[], Awaitable[bool]]) -> None:
    task = asyncio.ensure_future(call)
    while not await ready():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancelling_interrupts_code(server: Server) -> None:
    async def main() -> None:
        async with AsyncSandbox(host=server.url) as sandbox:
            for options in ({}, {"on_stdout": print}):
                await sandbox.filesystem.write("on", "")
                await sandbox.filesystem.remove("on")
                await sandbox.run_code("kept = None")
                await cancelled(sandbox.run_code(ENDLESS, **options), lambda: sandbox.filesystem.exists("on"))
                assert (await sandbox.run_code("kept", timeout_seconds=60)).text == "9"
        await cella.close_connections_async()

    asyncio.run(main())


def test_cancelling_kills_a_command(server: Server) -> None:
    async def main() -> None:
        async with AsyncSandbox(host=server.url) as sandbox:

            async def runs() -> bool:
                return bool([p for p in await sandbox.list_processes() if "sleep 322" in p["command"]])

            await cancelled(sandbox.exec("sleep 322"), runs)
            while await runs():
                await asyncio.sleep(0.01)
        await cella.close_connections_async()

    asyncio.run(main())


def test_a_time_limit_of_asyncio(server: Server) -> None:
    async def main() -> None:
        async with AsyncSandbox(host=server.url) as sandbox:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sandbox.run_code(ENDLESS), 0.5)
            # Whether the code got as far as its first line in that time or not, the context is free again.
            assert (await sandbox.run_code("1 + 1", timeout_seconds=60)).text == "2"
        await cella.close_connections_async()

    asyncio.run(main())


def test_runs_beside_each_other(server: Server) -> None:
    async def main() -> None:
        async with AsyncSandbox(host=server.url) as sandbox:
            contexts = await asyncio.gather(*(sandbox.create_code_context() for _ in range(3)))
            gate = "import os, time\nopen('at%d', 'w')\nwhile len([f for f in os.listdir() if f.startswith('at')]) < 3: time.sleep(0.01)\n%d"
            runs = await asyncio.gather(*(c.run_code(gate % (i, i), timeout_seconds=100) for i, c in enumerate(contexts)))
            assert [run.text for run in runs] == ["0", "1", "2"], "each waited for the others"
        await cella.close_connections_async()

    asyncio.run(main())


@pytest.mark.parametrize("what", ["create", "fork"])
@pytest.mark.needs_isolation
def test_what_is_made_for_a_cancelled_task_is_undone(server: Server, what: str) -> None:
    async def main() -> None:
        async with AsyncSandbox(host=server.url, metadata={"test": f"undone-{what}"}) as sandbox:
            for wait in (0, 0.001, 0.003, 0.01):
                making: Awaitable[Any]
                if what == "create":
                    making = AsyncSandbox.create(host=server.url, metadata={"test": f"undone-{what}"})
                else:
                    making = sandbox.fork(2)
                task = asyncio.ensure_future(making)
                await asyncio.sleep(wait)
                task.cancel()
                try:
                    made = await task
                except asyncio.CancelledError:
                    continue
                await made.close()
            left = await AsyncSandbox.list(metadata={"test": f"undone-{what}"}, host=server.url)
            assert [info.id for info in left] == [sandbox.id]
        await cella.close_connections_async()

    asyncio.run(main())


def test_async_callbacks_are_awaited(server: Server) -> None:
    async def main() -> None:
        heard = []

        async def on_stdout(text: str) -> None:
            await asyncio.sleep(0)
            heard.append(text)

        async def on_input(prompt: str) -> str:
            await asyncio.sleep(0)
            return prompt + "!"

        async with AsyncSandbox(host=server.url) as sandbox:
            run = await sandbox.run_code("print('x'); input('ask')", on_stdout=on_stdout, on_input=on_input)
            assert "".join(heard) == "x\n" and run.text == "'ask!'"
        await cella.close_connections_async()

    asyncio.run(main())
