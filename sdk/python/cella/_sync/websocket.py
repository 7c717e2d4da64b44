# Made from cella/_async/websocket.py by make_sync.py: change that file.
"""A WebSocket to the daemon, by the package ``websockets`` (``pip install "cella[terminal]"``)."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Union
from urllib.parse import urlencode

from .._http import CONNECT_SECONDS, refusal
from ..errors import ConnectionFailed, RequestTimeout, UnsupportedError
from . import native
from .transport import Transport

Message = Union[str, bytes]


class WebSocket:
    """One connection. What arrives waits in memory until it is taken, so that the daemon's pings are answered meanwhile."""

    def __init__(self, socket: Any, url: str) -> None:
        self._socket = socket
        self._url = url

    @classmethod
    def open(cls, transport: Transport, path: str, params: Mapping[str, Any]) -> "WebSocket":
        """What the daemon refuses is raised as for any other request."""
        try:
            from websockets.sync.client import connect
            from websockets.exceptions import InvalidHandshake, InvalidStatus
        except ImportError as e:
            hint = 'pip install "cella[terminal]"'
            raise UnsupportedError(f"terminals and open standard input need the package websockets ({e})", hint=hint) from None
        config = transport.config
        url = "ws" + config.url[len("http") :] + path + ("?" + urlencode(params) if params else "")
        try:
            opening = connect(
                url,
                additional_headers=transport.headers(),
                user_agent_header="cella-python",
                compression=None,
                proxy=None,
                open_timeout=CONNECT_SECONDS,
                ping_interval=30,
                ping_timeout=60,
                close_timeout=5,
                max_size=None,
                max_queue=None,
            )
            socket = native.entered(opening)
        except InvalidStatus as e:
            raise refusal(e.response.status_code, bytes(e.response.body or b"")) from None
        except (OSError, TimeoutError, InvalidHandshake) as e:
            hint = "is the daemon up? (cella up)"
            raise ConnectionFailed(f"no WebSocket to {config.url}: {e}", code="no_connection", hint=hint) from e
        return cls(socket, config.url)

    def send(self, message: Message) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(message)
        except ConnectionClosed as e:
            raise self._lost() from e

    def receive(self, timeout_seconds: Optional[float] = None) -> Message:
        """The next message. RequestTimeout when none comes, ConnectionFailed when none can come any more."""
        from websockets.exceptions import ConnectionClosed

        try:
            return native.received(self._socket, timeout_seconds)
        except TimeoutError:
            raise RequestTimeout(f"nothing came within {timeout_seconds} s", code="request_timeout") from None
        except ConnectionClosed as e:
            raise self._lost() from e

    def _lost(self) -> ConnectionFailed:
        return ConnectionFailed(f"the WebSocket to {self._url} is closed", code="lost")

    def close(self) -> None:
        self._socket.close()
