"""Cells of the microVM driver, over HTTP: on this machine's KVM, or (linux/ring.py) with the daemon inside an emulated machine."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from host import Host, Machine  # noqa: E402
from support.server import Server  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "core: part of the set that CI runs")


@pytest.fixture(scope="session")
def host(server: Server) -> Host:
    return Host(server)


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., Machine]]:
    """Makes cells that end with the test."""
    made: List[Machine] = []

    def one(**spec: object) -> Machine:
        made.append(Machine(server.url, **spec))
        return made[-1]

    yield one
    for cell in made:
        cell.__exit__(None, None, None)


@pytest.fixture
def cell(make: Callable[..., Machine]) -> Machine:
    return make()


@pytest.fixture(scope="module")
def steady(server: Server) -> Iterator[Machine]:
    """One cell for the tests of a module that leave it as it was."""
    with Machine(server.url) as one:
        yield one
