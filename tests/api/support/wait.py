"""Waiting for a condition. Tests assert conditions, never times: the deadlines here only end a hopeless wait."""

from __future__ import annotations

import os
import time
from typing import Callable, TypeVar

T = TypeVar("T")
PATIENCE = float(os.environ.get("CELLA_TEST_PATIENCE", "1"))  # more, where everything is slow (the emulated ring)


def until(condition: Callable[[], T], what: str, seconds: float = 30.0, pause: float = 0.02) -> T:
    """The first true value of condition(); AssertionError naming `what` when the deadline passes."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for: {what} (last value: {value!r})")
        time.sleep(pause)
