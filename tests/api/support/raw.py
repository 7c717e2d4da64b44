"""HTTP by hand over a socket: for requests a proper client refuses to send, and to watch bytes arrive."""

from __future__ import annotations

import json
import socket
from typing import Dict, Optional, Tuple
from urllib.parse import urlsplit


class Connection:
    """One TCP connection to the daemon. Bytes go out exactly as given."""

    def __init__(self, url: str, seconds: float = 30.0) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.socket = socket.create_connection((self.host, self.port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, path: str, headers: Optional[Dict[str, str]] = None, body: bytes = b"") -> None:
        """A well-formed request; give "Host" or "Content-Length" to override them."""
        merged = {"Host": f"{self.host}:{self.port}"}
        if body or method in ("POST", "PUT", "PATCH"):
            merged["Content-Length"] = str(len(body))
        merged.update(headers or {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in merged.items()) + "\r\n"
        self.send(head.encode("latin-1") + body)

    def read_head(self) -> Tuple[int, Dict[str, str]]:
        """Status and headers (lower-case names). ConnectionError when the daemon closes first."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
        return int(first.split(" ")[1]), headers

    def read_body(self, headers: Dict[str, str]) -> bytes:
        """The body the headers announce."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(iter(self.read_chunk, b""))
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        while True:
            try:
                self._more()
            except ConnectionError:
                return self._buffer

    def read_chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" is its end."""
        while b"\r\n" not in self._buffer:
            self._more()
        size, _, self._buffer = self._buffer.partition(b"\r\n")
        data = self._exactly(int(size.split(b";")[0], 16))
        self._exactly(2)
        return data

    def answer(self) -> Tuple[int, Dict[str, str], object]:
        """Status, headers, and the body: JSON where it is JSON, else bytes."""
        status, headers = self.read_head()
        body = self.read_body(headers) if status != 204 else b""
        if "json" in headers.get("content-type", "") and body:
            return status, headers, json.loads(body)
        return status, headers, body

    def closed(self) -> bool:
        """Wait until the daemon closes (True) or the socket's timeout passes (False)."""
        try:
            while True:
                self._more()
        except ConnectionError:
            return True
        except socket.timeout:
            return False

    def _exactly(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._more()
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        self._buffer += data


def exchange(url: str, data: bytes, seconds: float = 30.0) -> Tuple[int, Dict[str, str], object]:
    """Send bytes on a fresh connection and read one answer."""
    with Connection(url, seconds) as connection:
        connection.send(data)
        return connection.answer()
