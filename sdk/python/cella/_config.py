"""Where the daemon is and with which key: arguments first, then CELLA_URL and CELLA_API_KEY, then the default. And which trace
requests belong to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Optional
from urllib.parse import urlsplit

from .errors import InvalidRequest

DEFAULT_URL = "http://127.0.0.1:7070"


@dataclass(frozen=True)
class Config:
    """Address and key; equal configurations share connections."""

    url: str
    api_key: Optional[str]


def resolve(host: Optional[str] = None, api_key: Optional[str] = None) -> Config:
    """host: a URL, or "name:port" (http is meant). Raises InvalidRequest when it is neither."""
    url = (host or os.environ.get("CELLA_URL") or DEFAULT_URL).strip()
    if "://" not in url:
        url = "http://" + url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is not the address of a daemon", hint="use http://name:port")
    return Config(url.rstrip("/"), api_key or os.environ.get("CELLA_API_KEY") or None)


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def checked_traceparent(value: str) -> str:
    """Raises InvalidRequest when it is not a W3C traceparent."""
    if not _TRACEPARENT.fullmatch(value):
        raise InvalidRequest(f"{value!r} is not a traceparent", hint="00-<32 hex digits>-<16 hex digits>-<2 hex digits>")
    return value


def traceparent(value: Optional[str] = None) -> Optional[str]:
    """The argument, else TRACEPARENT; one that is not valid counts only as an argument, as W3C wants it."""
    if value is not None:
        return checked_traceparent(value)
    inherited = os.environ.get("TRACEPARENT", "")
    return inherited if _TRACEPARENT.fullmatch(inherited) else None
