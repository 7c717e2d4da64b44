"""Fixtures for both clients: every test that takes `client` runs with Sandbox and with AsyncSandbox."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from both import Client  # noqa: E402
from support.packages import python_tree  # noqa: E402
from support.server import Server  # noqa: E402


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    client = Client(request.param)
    yield client
    client.close()


@pytest.fixture
def sandbox(client: Client) -> Iterator[Any]:
    """A sandbox of the test's own."""
    with client.Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def websockets() -> None:
    """The package that terminals need, in its place of what Debian has, which is too old."""
    packages = next((python_tree(HERE / "requirements-terminal.txt").parents[1] / "lib").glob("python*/site-packages"))
    for name in [name for name in sys.modules if name.split(".")[0] == "websockets"]:
        del sys.modules[name]
    sys.path.insert(0, str(packages))


@pytest.fixture(scope="session")
def tools() -> Path:
    """A python with mypy and what builds a wheel."""
    return python_tree(HERE / "requirements-tools.txt")
