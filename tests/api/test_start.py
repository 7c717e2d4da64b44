"""The first moments of a daemon: everything is cold, and several clients want it at once."""

from __future__ import annotations

import threading
from typing import Callable, List

import httpx
import pytest
from cella import Sandbox
from support.server import Server
from support.wait import until

pytestmark = pytest.mark.own_server


def at_once(n: int, work: Callable[[int], object]) -> List[object]:
    """Results (or exceptions) of work(0…n-1), started together."""
    results: List[object] = [None] * n
    gate = threading.Barrier(n)

    def run(i: int) -> None:
        gate.wait()
        try:
            results[i] = work(i)
        except Exception as e:  # noqa: BLE001
            results[i] = e

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(90)
        assert not t.is_alive(), "a client never got its answer"
    return results


def test_first_creates_at_once(new_server: Callable[..., Server]) -> None:
    server = new_server()

    def life(i: int) -> object:
        with Sandbox(host=server.url) as box:
            return box.run_code(f"{i} * 2").text

    assert at_once(8, life) == [str(i * 2) for i in range(8)]


def test_first_shell_contexts_at_once(new_server: Callable[..., Server]) -> None:
    server = new_server()
    boxes = [Sandbox(host=server.url) for _ in range(6)]
    assert at_once(6, lambda i: boxes[i].run_code(f"echo {i}", language="bash").stdout) == [f"{i}\n" for i in range(6)]
    for box in boxes:
        box.close()


def test_several_contexts_of_one_cell_at_once(new_server: Callable[..., Server]) -> None:
    server = new_server()
    with Sandbox(host=server.url) as box:
        results = at_once(6, lambda i: box.create_code_context(["python", "bash"][i % 2]).run_code("echo 1" if i % 2 else "1").exit)
        assert results == ["ok"] * 6


def test_a_create_says_that_it_was_cold(new_server: Callable[..., Server]) -> None:
    server = new_server(arguments=["--warm", ""])
    modes = []
    for _ in range(2):
        answer = httpx.post(server.url + "/v1/sandboxes", timeout=120)
        assert answer.status_code == 201, answer.text
        modes.append(answer.json()["boot_mode"])
    if server.driver == "process":
        assert modes[0] == "cold"
    assert modes[1] in ("filled", "empty", "made")


def test_without_pools_it_works_too(new_server: Callable[..., Server]) -> None:
    server = new_server(arguments=["--pool-filled", "0", "--pool-empty", "0"])
    for _ in range(3):
        with Sandbox(host=server.url) as box:
            assert box.run_code("1").text == "1"
            assert server.driver == "plain" or box.info().raw["boot_mode"] in ("made", "cold")


def test_cells_max_is_told(new_server: Callable[..., Server]) -> None:
    server = new_server(arguments=["--cells-max", "2"])
    with Sandbox(host=server.url), Sandbox(host=server.url) as second:
        answer = httpx.post(server.url + "/v1/sandboxes", timeout=60)
        assert answer.status_code == 429 and answer.json()["code"] == "limit_reached"
        second.close()
        third = until(lambda: httpx.post(server.url + "/v1/sandboxes", timeout=60).status_code == 201, "room for another")
        assert third
