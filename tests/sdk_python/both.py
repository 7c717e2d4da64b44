"""One text for both clients: an AsyncSandbox, driven so that it is called like a Sandbox.

Whatever a call returns is awaited in one event loop, and async iterators and context managers are given the plain methods.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Callable, List

import cella


class Loop:
    """The event loop of a test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, awaitable: Any) -> Any:
        async def main() -> Any:
            return await awaitable

        return self.loop.run_until_complete(main())

    def shown(self, value: Any) -> Any:
        if inspect.isawaitable(value) and not isinstance(value, cella.AsyncSandbox):
            value = self.run(value)
        if isinstance(value, cella.AsyncBranches):
            return DrivenList(self, value)
        if isinstance(value, list):
            return [self.shown(item) for item in value]
        return Driven(self, value) if type(value).__name__.startswith("Async") else value

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        options = {k: bare(v) for k, v in options.items()}

        async def main() -> Any:
            value = function(*map(bare, args), **options)
            return await value if inspect.isawaitable(value) else value

        return self.shown(self.loop.run_until_complete(main()))

    def close(self) -> None:
        self.run(cella.close_connections_async())
        self.run(self.loop.shutdown_asyncgens())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


def bare(value: Any) -> Any:
    return value.target if isinstance(value, (Driven, DrivenList)) else value


class Driven:
    def __init__(self, loop: Loop, target: Any) -> None:
        self.loop, self.target = loop, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if callable(value):
            return lambda *args, **options: self.loop.call(value, *args, **options)
        return self.loop.shown(value)

    def __iter__(self) -> "Driven":
        return self

    def __next__(self) -> Any:
        try:
            return self.loop.run(self.target.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> "Driven":
        self.loop.run(self.target.__aenter__())
        return self

    def __exit__(self, *exc: Any) -> None:
        self.loop.run(self.target.__aexit__(*exc))

    def __repr__(self) -> str:
        return repr(self.target)


class DrivenList(Driven):
    """AsyncBranches are a list too."""

    def __getitem__(self, i: int) -> Any:
        return Driven(self.loop, self.target[i])

    def __len__(self) -> int:
        return len(self.target)

    def __iter__(self) -> Any:
        return iter([Driven(self.loop, item) for item in self.target])


class Client:
    """The names of one of the two clients: ``client.Sandbox(…)``, ``client.Sandbox.connect(…)``, ``client.Snapshot``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop = Loop() if kind == "async" else None

    def __getattr__(self, name: str) -> Any:
        if self.loop is None:
            return getattr(cella, name)
        return Maker(self.loop, getattr(cella, "Async" + name))

    def close(self) -> None:
        if self.loop is not None:
            self.loop.close()


class Maker:
    """A class whose objects, and whose class methods' results, are driven."""

    def __init__(self, loop: Loop, kind: Any) -> None:
        self._loop, self._kind = loop, kind

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._loop.call(self._kind, *args, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kind, name)
        return lambda *args, **options: self._loop.call(method, *args, **options)


def texts(events: Any, kind: str) -> List[str]:
    return [event.text for event in events if event.type == kind]
