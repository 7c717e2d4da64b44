"""Where the daemon is and with which key: arguments first, then CELLA_URL and CELLA_API_KEY, then the default."""

from __future__ import annotations

import os
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
