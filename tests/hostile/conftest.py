"""Fixtures of the hostile ring: one daemon for all of it, a cell to attack from, a neighbour that must never notice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ring import Cell, Ring, forget_test_keeper  # noqa: E402


#: Attacks that a kernel shared with others has to refuse; a machine of its own lets root do them, to itself.
PROCESS_ONLY = {"test_layers.py", "test_sentinel.py", "test_ptrace.py", "test_syscalls.py", "test_namespaces.py", "test_kernel_objects.py", "test_keeper.py",
                "test_proc.py", "test_descriptors.py", "test_escape_files.py"}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "layer(name): the layer of defence that denies this attack")


@pytest.fixture(scope="session")
def ring() -> Iterator[Ring]:
    """The daemon everything here attacks."""
    server = Ring().start()
    yield server
    server.stop()
    forget_test_keeper()


@pytest.fixture(scope="module")
def cell(ring: Ring) -> Iterator[Cell]:
    """One cell for the attacks of a module that leave it usable."""
    with ring.cell() as made:
        yield made


@pytest.fixture
def fresh(ring: Ring) -> Iterator[Callable[..., Cell]]:
    """Makes cells for one test, with limits of its own."""
    made: List[Cell] = []

    def make(**limits: float) -> Cell:
        made.append(ring.cell(**limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def neighbour(ring: Ring) -> Iterator[Cell]:
    """Another tenant's cell."""
    with ring.cell() as made:
        yield made


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.name in PROCESS_ONLY:
        item.add_marker("process_only")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """The look at what is left comes last, in whatever order the files were named."""
    items.sort(key=lambda item: item.path.name == "test_zz_aftermath.py")
