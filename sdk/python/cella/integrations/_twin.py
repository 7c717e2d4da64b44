"""A sandbox for coroutines, whichever kind was given."""

from __future__ import annotations

from typing import Callable, Union

from .. import AsyncSandbox, Sandbox
from ..models import Result

OnText = Callable[[str], object]
OnResult = Callable[[Result], object]


async def asynchronous(sandbox: Union[Sandbox, AsyncSandbox, None]) -> AsyncSandbox:
    """The same sandbox as an AsyncSandbox. A call through it does not block the event loop, and when it is cancelled its
    code is interrupted."""
    if isinstance(sandbox, AsyncSandbox):
        return sandbox
    assert sandbox is not None
    config = sandbox._transport.config
    return await AsyncSandbox.connect(sandbox.id, host=config.url, api_key=config.api_key, traceparent=sandbox.traceparent)
