# Made from cella/_async/stream.py by make_sync.py: change that file.
"""What comes piece by piece."""

from __future__ import annotations

from typing import Generator, Generic, TypeVar

T = TypeVar("T")


class Stream(Generic[T]):
    """Things as they come: iterate over it. Leave early by :meth:`close`, or by leaving its ``with`` block; that lets
    the daemon know that nobody listens any more."""

    def __init__(self, source: Generator[T, None, None]) -> None:
        self._source = source

    def __iter__(self) -> "Stream[T]":
        return self

    def __next__(self) -> T:
        return self._source.__next__()

    def close(self) -> None:
        """Nothing happens when it is over already."""
        self._source.close()

    def __enter__(self) -> "Stream[T]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
