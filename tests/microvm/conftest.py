"""The VMM by itself, on a /dev/kvm that runs guest code at all: the guest is our own bare-metal program (guest/), no Linux."""
from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from vmm import ROOT, Vmm  # noqa: E402


@pytest.fixture(scope="session")
def build() -> Path:
    return Path(os.environ["CELLA_BUILD"]).resolve().parent if os.environ.get("CELLA_BUILD") else ROOT / "build"


@pytest.fixture(scope="session")
def guest(build: Path) -> Path:
    return build / "tests/microvm/microvm-guest"


@pytest.fixture
def start(build: Path) -> Iterator[Callable[..., Vmm]]:
    """Start VMMs that end with the test, also those of a test that failed."""
    started: List[Vmm] = []

    def one(*extra: str, **options) -> Vmm:
        started.append(Vmm.start(build, *extra, **options))
        return started[-1]

    yield one
    for vmm in started:
        vmm.control.close()
        if vmm.process:
            try:
                vmm.process.wait(20)
            except Exception:
                vmm.process.kill()
                vmm.process.wait()


@pytest.fixture
def serving(start: Callable[..., Vmm], guest: Path) -> Callable[..., Vmm]:
    """A guest that answers packets on streams (guest/serve.c)."""

    def one(*extra: str, **options) -> Vmm:
        vmm = start(*extra).boot(guest, "serve", **options)
        vmm.console_has("serving")
        return vmm

    return one


def ask(stream: socket.socket, text: bytes) -> bytes:
    stream.send(text)
    return stream.recv(1 << 17)


@pytest.fixture(scope="session")
def talk() -> Callable[[socket.socket, bytes], bytes]:
    return ask
