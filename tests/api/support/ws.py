"""A WebSocket client that is called like a function: websockets 10 (Debian 12) only has coroutines."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, Iterator, Optional, Union
from urllib.parse import urlencode

import websockets


class WebSocket:
    """One connection. Times out loudly instead of waiting for ever."""

    def __init__(self, url: str, path: str, query: Optional[Dict[str, Any]] = None, seconds: float = 30.0, **options: Any) -> None:
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        address = url.replace("http", "ws", 1) + path + ("?" + urlencode(query) if query else "")
        options.setdefault("max_size", None)
        try:
            self._ws = self._run(self._open(address, options))
        except BaseException:
            self._loop.close()
            raise

    @staticmethod
    async def _open(address: str, options: Dict[str, Any]) -> Any:
        return await websockets.connect(address, ping_interval=None, close_timeout=5, **options)  # type: ignore[attr-defined]

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, self._seconds))

    def send(self, message: Union[str, bytes, Dict[str, Any]]) -> None:
        self._run(self._ws.send(json.dumps(message) if isinstance(message, dict) else message))

    def receive(self) -> Union[str, bytes]:
        """The next message; websockets.ConnectionClosed at the end."""
        message: Union[str, bytes] = self._run(self._ws.recv())
        return message

    def receive_json(self) -> Dict[str, Any]:
        message = self.receive()
        assert isinstance(message, str), message[:100]
        value: Dict[str, Any] = json.loads(message)
        return value

    def messages(self) -> Iterator[Union[str, bytes]]:
        """Everything until the daemon closes."""
        while True:
            try:
                yield self.receive()
            except websockets.ConnectionClosed:  # type: ignore[attr-defined]
                return

    def ping(self) -> None:
        """A ping and its pong."""

        async def exchange() -> None:
            await (await self._ws.ping())

        self._run(exchange())

    def wait_closed(self) -> int:
        """The code the daemon closed with."""
        for _ in self.messages():
            pass
        return int(self._ws.close_code)

    def close(self) -> None:
        try:
            self._run(self._ws.close())
        finally:
            self._loop.close()

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
