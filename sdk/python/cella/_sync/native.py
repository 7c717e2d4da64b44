"""What a function does otherwise than a coroutine. The asynchronous twin of this file is written by hand too."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, ContextManager, Dict, Generic, Iterable, Optional, Tuple, TypeVar, Union

import httpx

from .._config import Config
from .._http import HAS_SOCKET_OPTIONS, no_delay, transport_options
from ..models import Result

T = TypeVar("T")
M = TypeVar("M", bound="Making")

#: Called with text as it is printed.
OnText = Callable[[str], object]
#: Called with each Result.
OnResult = Callable[[Result], object]
#: Gets the prompt, returns the line (without newline), or None for end of input.
OnInput = Callable[[str], Optional[str]]

sleep = time.sleep


def settled(value: T) -> T:
    return value


def blocking(function: Callable[..., T], *args: Any) -> T:
    return function(*args)


def entered(opening: ContextManager[T]) -> T:
    """A WebSocket, open. Who closes it leaves its block, too."""
    return opening.__enter__()


def received(socket: Any, seconds: Optional[float]) -> Union[str, bytes]:
    """The next message of a WebSocket. TimeoutError when none comes."""
    message: Union[str, bytes] = socket.recv(seconds)
    return message


def pieces(content: Iterable[bytes]) -> Iterable[bytes]:
    """The body of a request, of bytes that come one after the other."""
    return content


def owned(made: T, undo: Callable[[T], object]) -> T:
    return made


def http_transport() -> httpx.HTTPTransport:
    return httpx.HTTPTransport(**transport_options())


EXTENSIONS: Dict[str, Any] = {} if HAS_SOCKET_OPTIONS else {"trace": no_delay}


class Shared(Generic[T]):
    """One T for each configuration of the process; a forked child process makes its own."""

    def __init__(self) -> None:
        self._all: Dict[Tuple[int, Config], T] = {}
        self._lock = threading.Lock()

    def get(self, config: Config, make: Callable[[Config], T]) -> T:
        key = (os.getpid(), config)
        with self._lock:
            if key not in self._all:
                self._all[key] = make(config)
            return self._all[key]

    def take(self) -> "list[T]":
        """All of this process, which are not shared any more."""
        with self._lock:
            ours = [key for key in self._all if key[0] == os.getpid()]
            return [self._all.pop(key) for key in ours]


class Making:
    """An object that is made at the daemon by its constructor."""

    _made = False

    def _make(self) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        self._make()

    def __enter__(self: M) -> M:
        return self
