"""What both transports share, without any I/O: what a request is, how it is written, what its errors mean, when it may be repeated."""

from __future__ import annotations

import inspect
import json as jsonlib
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, AsyncIterable, Dict, Iterable, Iterator, Mapping, Optional, Union
from urllib.parse import urlencode, urlsplit

import httpx

from ._config import Config
from .errors import CellaError, ConnectionFailed, RequestTimeout, error_for

Body = Union[bytes, Iterable[bytes], AsyncIterable[bytes], None]

#: Seconds to wait for a connection, and for the next byte of an answer that takes no time of its own.
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
#: Seconds before the first and the second repetition of a request: a daemon that is started again is back by then.
REPEAT_SECONDS = (0.1, 0.5)


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

    def may_repeat(self, error: CellaError) -> bool:
        """Whether asking again can do no harm: always when nothing was sent; else only reading."""
        if isinstance(error, ConnectionFailed) and error.code == "no_connection":
            return True
        return self.method == "GET" and (isinstance(error, ConnectionFailed) or error.status == 503)


def common_headers(config: Config) -> Dict[str, str]:
    headers = {
        "Host": urlsplit(config.url).netloc.rpartition("@")[2],
        "User-Agent": "cella-python",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    if config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return headers


#: A URL costs as much to take apart as the rest of a request, and the same few are asked again and again.
_url = lru_cache(256)(httpx.URL)


def request(config: Config, headers: Mapping[str, str], call: Call, extensions: Mapping[str, Any]) -> httpx.Request:
    url = config.url + call.path
    if call.params:
        url += "?" + urlencode(call.params, doseq=True)
    headers = {**headers, **call.headers}
    content: Any = call.content
    if call.json is not None:
        headers["Content-Type"] = "application/json"
        content = jsonlib.dumps(call.json, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    patience = {"connect": CONNECT_SECONDS, "read": call.wait_seconds, "write": ANSWER_SECONDS, "pool": None}
    return httpx.Request(call.method, _url(url), headers=headers, content=content, extensions={"timeout": patience, **extensions})


def parsed(content: bytes, status: int) -> Any:
    """The answer's JSON value; None for an empty answer."""
    if not content:
        return None
    try:
        return jsonlib.loads(content)
    except (ValueError, RecursionError):
        raise CellaError("the daemon's answer is not JSON", status=status) from None


def refusal(status: int, content: bytes, files: bool = False) -> CellaError:
    """The exception for an error answer."""
    try:
        detail = jsonlib.loads(content)
    except (ValueError, RecursionError):
        detail = {"error": content.decode("utf-8", "replace").strip()[:500]}
    return error_for(status, detail, files=files)


@contextmanager
def translated(config: Config, answered: bool = False) -> Iterator[None]:
    """Turns the HTTP library's exceptions into ours. ``answered``: the answer's head is there already."""
    up = "is the daemon up? (cella up)"
    try:
        yield
    except httpx.ConnectTimeout as e:
        raise ConnectionFailed(f"no connection to {config.url}: timed out", code="no_connection", hint=up) from e
    except httpx.TimeoutException as e:
        raise RequestTimeout(f"{config.url} did not answer in time", code="request_timeout") from e
    except httpx.ConnectError as e:
        raise ConnectionFailed(f"no connection to {config.url}: {e}", code="no_connection", hint=up) from e
    except httpx.TransportError as e:
        when = "before the answer was complete" if answered else "before an answer came"
        raise ConnectionFailed(f"the connection to {config.url} broke {when}: {e}", code="lost") from e


# Head and body of a request leave in two packets: with Nagle's algorithm the second waits for the daemon's delayed
# acknowledgement of the first, 40 ms each time. httpx 0.25 has an option for it; before, its trace hook shows the socket.
HAS_SOCKET_OPTIONS = "socket_options" in inspect.signature(httpx.HTTPTransport.__init__).parameters


def transport_options() -> Dict[str, Any]:
    """For httpx's transports: redirects, cookies and proxies have no place between a program and its daemon."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=20.0)
    options: Dict[str, Any] = {"limits": limits, "trust_env": False}
    if HAS_SOCKET_OPTIONS:
        options["socket_options"] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    return options


def no_delay(event: str, info: Mapping[str, Any]) -> None:
    if event == "connection.connect_tcp.complete":
        connected = info["return_value"].get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
