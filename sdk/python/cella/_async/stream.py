"""What comes piece by piece."""

from __future__ import annotations

from typing import AsyncGenerator, Generic, TypeVar

T = TypeVar("T")


class AsyncStream(Generic[T]):
    """Things as they come: iterate over it. Leave early by :meth:`close`, or by leaving its ``async with`` block; that lets
    the daemon know that nobody listens any more."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._source = source

    def __aiter__(self) -> "AsyncStream[T]":
        return self

    async def __anext__(self) -> T:
        return await self._source.__anext__()

    async def close(self) -> None:
        """Nothing happens when it is over already."""
        await self._source.aclose()

    async def __aenter__(self) -> "AsyncStream[T]":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
