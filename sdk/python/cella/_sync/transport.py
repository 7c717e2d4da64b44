# Made from cella/_async/transport.py by make_sync.py: change that file.
"""One HTTP exchange with the daemon over kept connections.

Connections of one daemon and key are shared by every object that is about them: see native.Shared.

**What is asked a second time** (at most twice more, within a second): any request as long as no connection could be made,
because nothing was sent; and a GET whose connection broke before the answer began, or that was answered with 503. Whatever
may have happened already is never repeated: code, commands, forks, writes.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any, Iterator, Callable, Dict, Optional

import httpx

from .._config import Config
from .._http import REPEAT_SECONDS, Call, common_headers, parsed, refusal, request, translated
from ..errors import CellaError
from . import native


class Transport:
    """Kept connections to one daemon.

    Requests go to httpx's transport without its client: what that adds has no use here, and its part of a hot call
    (0.1 ms) is saved.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        #: W3C trace context that goes along with every request.
        self.traceparent: Optional[str] = None
        self._origin = self
        self._seen: Optional[Callable[[httpx.Headers], None]] = None
        self._common = common_headers(config)
        self._http = native.http_transport()

    def watched(self, seen: Callable[[httpx.Headers], None], traceparent: Optional[str]) -> "Transport":
        """The same connections, for one object that wants to see the headers of its answers."""
        watched = copy.copy(self)
        watched._seen = seen
        watched.traceparent = traceparent
        return watched

    def unwatched(self) -> "Transport":
        return self._origin

    def send(self, call: Call) -> httpx.Response:
        """The whole answer. Raises a CellaError for anything but 2xx."""
        with self.stream(call) as response:
            with translated(self.config, answered=True):
                response.read()
            return response

    def json(self, call: Call) -> Any:
        """The answer's JSON value; None for an empty answer."""
        response = self.send(call)
        return parsed(response.content, response.status_code)

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """The answer with its body not read yet; read it through pieces(). Leaving the block lets go of it: a body that is
        not read to its end then ends the connection, which is how the daemon learns that nobody waits any more."""
        response = self._answer(call)
        try:
            yield response
        finally:
            response.close()

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of a streamed answer as it arrives. A body that ends early raises ConnectionFailed."""
        with translated(self.config, answered=True):
            for piece in response.iter_raw():
                yield piece

    def _answer(self, call: Call) -> httpx.Response:
        for pause in REPEAT_SECONDS:
            try:
                return self._answer_once(call)
            except CellaError as error:
                if not call.may_repeat(error):
                    raise
            native.sleep(pause)
        return self._answer_once(call)

    def _answer_once(self, call: Call) -> httpx.Response:
        headers = self._common if self.traceparent is None else {**self._common, "traceparent": self.traceparent}
        with translated(self.config):
            response = self._http.handle_request(request(self.config, headers, call, native.EXTENSIONS))
        if self._seen is not None:
            self._seen(response.headers)
        if response.status_code < 300:
            return response
        try:
            with translated(self.config, answered=True):
                response.read()
            raise refusal(response.status_code, response.content, files=call.files)
        finally:
            response.close()

    def headers(self) -> Dict[str, str]:
        """For the handshake of a WebSocket."""
        names = ("Authorization",)
        headers = {name: self._common[name] for name in names if name in self._common}
        return headers if self.traceparent is None else {**headers, "traceparent": self.traceparent}

    def close(self) -> None:
        self._http.close()


_shared: "native.Shared[Transport]" = native.Shared()


def shared(config: Config) -> Transport:
    """The transport for this configuration."""
    return _shared.get(config, Transport)


def close_connections() -> None:
    """Close the kept connections of this process. Needed by nobody but who wants to leave nothing open behind."""
    for transport in _shared.take():
        transport.close()
