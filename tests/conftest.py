"""Fixtures and switches of the black-box rings. support/server.py says what starts, and the environment that decides."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "api"))
sys.path.insert(0, str(HERE.parent / "sdk" / "python"))

import httpx  # noqa: E402
from cella import Sandbox  # noqa: E402
from support.server import Server, chosen, wanted_driver  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--driver", choices=("process", "microvm", "plain"), help="what isolates the cells of the daemons that tests start (CELLA_TEST_DRIVER)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--driver", None):
        os.environ["CELLA_TEST_DRIVER"] = config.getoption("--driver")
    add = config.addinivalue_line
    add("markers", "needs_isolation: asks for limits or isolation, which the plain driver does not have")
    add("markers", "process_only: says what the process driver does and a machine of one's own does not: not carried by a fork, refused to root")
    add("markers", "own_server: starts or kills a daemon of its own, so it cannot run against CELLA_TEST_URL")
    add("markers", "slow: takes minutes or gigabytes")


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    """Deselect, never skip: what was not asked for is counted apart, and nothing that should run can hide."""
    out = []
    if wanted_driver() == "plain":
        out.append("needs_isolation")
    if wanted_driver() == "microvm":
        out.append("process_only")
    if os.environ.get("CELLA_TEST_URL"):
        out.append("own_server")
    dropped = [item for item in items if any(item.get_closest_marker(name) for name in out)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


#: A test that takes longer hangs: it fails with the place where it waited, and the others go on.
HANG_SECONDS = int(os.environ.get("CELLA_TEST_HANG_SECONDS", "300"))


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def hung(number: int, frame: object) -> None:
        raise TimeoutError(f"the test hangs: no end after {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The daemon most tests share."""
    server = chosen()
    try:
        server.start()
        os.environ["CELLA_URL"] = server.url
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def new_server() -> Iterator[Callable[..., Server]]:
    """Starts daemons of one's own; all are stopped at the end of the module."""
    started: List[Server] = []

    def start(**options: object) -> Server:
        server = Server(**options)  # type: ignore[arg-type]
        started.append(server)
        return server.start()

    yield start
    problems = []
    for server in started:
        try:
            server.stop()
        except Exception as e:  # noqa: BLE001 - the others have to be stopped first
            problems.append(e)
    assert not problems, problems


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """Plain HTTP to the shared daemon."""
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    """A sandbox of this test's own."""
    with Sandbox(host=server.url) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tests of a module that leave it as it was."""
    with Sandbox(host=server.url) as sandbox:
        yield sandbox
