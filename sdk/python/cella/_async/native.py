"""What a coroutine does otherwise than a function. The synchronous twin of this file is written by hand too."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from typing import TYPE_CHECKING, Any, AsyncGenerator, AsyncIterable, Awaitable, Callable, Dict, Generator, Generic, Iterable, Mapping, Optional, TypeVar, Union

import httpx

from .._config import Config
from .._http import HAS_SOCKET_OPTIONS, no_delay, transport_options
from ..models import Result

T = TypeVar("T")
M = TypeVar("M", bound="Making")

#: Called with text as it is printed; a coroutine function is awaited.
OnText = Callable[[str], object]
#: Called with each Result; a coroutine function is awaited.
OnResult = Callable[[Result], object]
#: Gets the prompt, returns the line (without newline), or None for end of input.
OnInput = Callable[[str], Union[Optional[str], Awaitable[Optional[str]]]]

sleep = asyncio.sleep


async def settled(value: Union[T, Awaitable[T]]) -> T:
    """What a callback returned, awaited when it has to be."""
    return await value if inspect.isawaitable(value) else value


async def blocking(function: Callable[..., T], *args: Any) -> T:
    """A call that waits for the local disk, beside the event loop."""
    return await asyncio.to_thread(function, *args)


async def within(seconds: Optional[float], waiting: Awaitable[T]) -> T:
    """TimeoutError when it takes longer."""
    try:
        return await asyncio.wait_for(waiting, seconds)
    except asyncio.TimeoutError:
        raise TimeoutError from None


async def entered(opening: Awaitable[T]) -> T:
    """A WebSocket, open."""
    return await opening


async def received(socket: Any, seconds: Optional[float]) -> Union[str, bytes]:
    """The next message of a WebSocket. TimeoutError when none comes."""
    message: Union[str, bytes] = await within(seconds, socket.recv())
    return message


def pieces(content: Union[Iterable[bytes], AsyncIterable[bytes]]) -> AsyncIterable[bytes]:
    """The body of a request, of bytes that come one after the other."""
    return content if isinstance(content, AsyncIterable) else _one_by_one(content)


async def _one_by_one(content: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in content:
        yield piece


async def owned(making: Awaitable[T], undo: Callable[[T], Awaitable[object]]) -> T:
    """Something that must not be left over. When the caller is cancelled while it is being made, it is undone."""
    task = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=10)
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            await undo(task.result())
        raise


def http_transport() -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(**transport_options())


async def _no_delay(event: str, info: Mapping[str, Any]) -> None:
    no_delay(event, info)


EXTENSIONS: Dict[str, Any] = {} if HAS_SOCKET_OPTIONS else {"trace": _no_delay}


class Shared(Generic[T]):
    """One T for each configuration, and each event loop: connections belong to the loop they were opened in."""

    def __init__(self) -> None:
        self._loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dict[Config, T]]" = weakref.WeakKeyDictionary()

    def get(self, config: Config, make: Callable[[Config], T]) -> T:
        ours = self._loops.setdefault(asyncio.get_running_loop(), {})
        if config not in ours:
            ours[config] = make(config)
        return ours[config]

    def take(self) -> "list[T]":
        """All of this loop, which are not shared any more."""
        return list((self._loops.pop(asyncio.get_running_loop(), None) or {}).values())


class Making:
    """An object that is made at the daemon when it is awaited, or entered."""

    _made = False

    async def _make(self) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        """The constructor's last word: nothing can be asked of the daemon there."""

    async def _complete(self: M) -> M:
        if not self._made:
            await self._make()
        return self

    def __await__(self: M) -> Generator[Any, None, M]:
        return self._complete().__await__()

    async def __aenter__(self: M) -> M:
        return await self._complete()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            hint = "" if self._made or name.startswith("__") else ": it is not made yet, await it first"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")
