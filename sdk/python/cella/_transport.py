"""One HTTP exchange with the daemon over kept connections.

:class:`Call` says what to ask, without doing any I/O: an asynchronous transport takes the same objects.
Connections of one daemon and key are shared by every object of the process, threads included; a forked child
process opens its own.
"""

from __future__ import annotations

import copy
import inspect
import json as jsonlib
import os
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Union
from urllib.parse import urlencode, urlsplit

import httpx

from ._config import Config
from .errors import CellaError, ConnectionFailed, RequestTimeout, error_for

Body = Union[bytes, Iterable[bytes], None]

#: Seconds to wait for a connection, and for the next byte of an answer that takes no time of its own.
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """A request. ``json`` and ``content`` exclude each other. ``wait_seconds``: longest silence while waiting for the
    answer, None for no limit. ``files``: "not found" in the answer means a path."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: Body = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: Optional[float] = ANSWER_SECONDS
    files: bool = False


class Transport:
    """Kept connections to one daemon.

    Requests go to httpx's transport without its client: redirects, cookies and proxies have no place between a program
    and its daemon, and the client's part of a hot call (0.1 ms) is saved.
    """

    def __init__(self, config: Config) -> None:
        self.config = self._config = config
        self._origin = self
        self._seen: Optional[Callable[[httpx.Headers], None]] = None
        self._headers = {
            "Host": urlsplit(config.url).netloc.rpartition("@")[2],
            "User-Agent": "cella-python",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if config.api_key:
            self._headers["Authorization"] = f"Bearer {config.api_key}"
        self._http = _http_transport()

    def watched(self, seen: Callable[[httpx.Headers], None]) -> "Transport":
        """The same connections, for one object that wants to see the headers of its answers."""
        watched = copy.copy(self)
        watched._seen = seen
        return watched

    def unwatched(self) -> "Transport":
        return self._origin

    def send(self, call: Call) -> httpx.Response:
        """The whole answer. Raises a CellaError for anything but 2xx."""
        with self.stream(call) as response:
            with _translated(self._config, sent=True):
                response.read()
            return response

    def json(self, call: Call) -> Any:
        """The answer's JSON value; None for an empty answer."""
        response = self.send(call)
        if not response.content:
            return None
        try:
            return jsonlib.loads(response.content)
        except (ValueError, RecursionError):
            raise CellaError("the daemon's answer is not JSON", status=response.status_code) from None

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """The answer with its body not read yet; read it through read_pieces(). Leaving the block lets go of it."""
        url = self._config.url + call.path
        if call.params:
            url += "?" + urlencode(call.params, doseq=True)
        patience = {"connect": CONNECT_SECONDS, "read": call.wait_seconds, "write": ANSWER_SECONDS, "pool": None}
        request = httpx.Request(
            call.method,
            url,
            headers=_headers(self._headers, call),
            content=_encode(call),
            extensions={"timeout": patience, **_EXTENSIONS},
        )
        with _translated(self._config):
            response = self._http.handle_request(request)
        if self._seen is not None:
            self._seen(response.headers)
        try:
            if response.status_code >= 300:
                with _translated(self._config, sent=True):
                    response.read()
                raise error_for(response.status_code, _maybe_json(response.content), files=call.files)
            yield response
        finally:
            response.close()

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of a streamed answer as it arrives. A body that ends early raises ConnectionFailed."""
        with _translated(self._config, sent=True):
            yield from response.iter_raw()


# Head and body of a request leave in two packets: with Nagle's algorithm the second waits for the daemon's delayed
# acknowledgement of the first, 40 ms each time. httpx 0.25 has an option for it; before, its trace hook shows the socket.
_HAS_SOCKET_OPTIONS = "socket_options" in inspect.signature(httpx.HTTPTransport.__init__).parameters


def _http_transport() -> httpx.HTTPTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=20.0)
    options: Dict[str, Any] = {}
    if _HAS_SOCKET_OPTIONS:
        options["socket_options"] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    return httpx.HTTPTransport(limits=limits, trust_env=False, **options)


def _no_delay(event: str, info: Mapping[str, Any]) -> None:
    if event == "connection.connect_tcp.complete":
        connected = info["return_value"].get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_EXTENSIONS: Dict[str, Any] = {} if _HAS_SOCKET_OPTIONS else {"trace": _no_delay}


def _encode(call: Call) -> Body:
    if call.json is not None:
        return jsonlib.dumps(call.json, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return call.content


def _headers(common: Mapping[str, str], call: Call) -> Dict[str, str]:
    headers = {**common, **call.headers}
    if call.json is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _maybe_json(content: bytes) -> Any:
    try:
        return jsonlib.loads(content)
    except ValueError:
        return {"error": content.decode("utf-8", "replace").strip()[:500]}


@contextmanager
def _translated(config: Config, sent: bool = False) -> Iterator[None]:
    """Turns the HTTP library's exceptions into ours."""
    try:
        yield
    except httpx.ConnectTimeout as e:
        raise ConnectionFailed(f"no connection to {config.url}: timed out", hint="is the daemon up? (cella up)") from e
    except httpx.TimeoutException as e:
        raise RequestTimeout(f"{config.url} did not answer in time", code="request_timeout") from e
    except httpx.ConnectError as e:
        raise ConnectionFailed(f"no connection to {config.url}: {e}", hint="is the daemon up? (cella up)") from e
    except httpx.TransportError as e:
        when = "before the answer was complete" if sent else "before an answer came"
        raise ConnectionFailed(f"the connection to {config.url} broke {when}: {e}") from e


_shared: Dict[Tuple[int, Config], Transport] = {}
_shared_lock = threading.Lock()


def shared(config: Config) -> Transport:
    """The process's transport for this configuration."""
    key = (os.getpid(), config)
    with _shared_lock:
        transport = _shared.get(key)
        if transport is None:
            transport = _shared[key] = Transport(config)
        return transport
