#!/usr/bin/env python3
"""Makes cella/_sync out of cella/_async, so that both clients are one text.

    make_sync.py [--check]     --check: change nothing, exit 1 when a file is not what it should be

Coroutines become functions by the table below; native.py, which holds what is really different, is written by hand twice.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Dict

HERE = Path(__file__).resolve().parent / "cella"
BY_HAND = {"native.py"}
HEADER = "# Made from cella/_async/{name} by make_sync.py: change that file.\n"

WORDS = [
    # One sentence is about the other client: it stays as it is.
    (r"An AsyncSandbox is made when it is awaited, or its ``async with``", "An \1Sandbox is made when it is awaited, or its ``\2with``"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"(?<!\w)\(await ((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)(?=[.)])", r"\1"),  # (await x(…)).y
    (r"\bawait ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncIterable, (.*\bIterable\b)", r"\1"),
    (r", AsyncIterable\[bytes\]", ""),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bhandle_async_request\b", "handle_request"),
    (r"\bwebsockets\.asyncio\.client\b", "websockets.sync.client"),
    (r"\bclose_connections_async\b", "close_connections"),
    (r"\bof this event loop\b", "of this process"),
    (r"\b(__)?a(enter|exit|iter|next)__", r"__\2__"),
    (r"\ba(read|close)\b", r"\1"),
    (r"\baiter_raw\b", "iter_raw"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync([A-Z])", r"\1"),
    ("\1", "Async"),
    ("\2", "async "),
]


def sync(text: str) -> str:
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    return text


def wanted() -> Dict[Path, str]:
    made = {}
    for source in sorted((HERE / "_async").glob("*.py")):
        if source.name == "__init__.py":
            made[HERE / "_sync" / source.name] = HEADER.format(name=source.name)
        elif source.name not in BY_HAND:
            made[HERE / "_sync" / source.name] = HEADER.format(name=source.name) + sync(source.read_text("utf-8"))
    return made


def main() -> int:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text("utf-8") != text]
    extra = set((HERE / "_sync").glob("*.py")) - set(wanted()) - {HERE / "_sync" / name for name in BY_HAND}
    if "--check" in sys.argv[1:]:
        for path in [*stale, *sorted(extra)]:
            print(f"{path.relative_to(HERE.parent)} is not what make_sync.py makes")
        return 1 if stale or extra else 0
    for path in stale:
        path.write_text(wanted()[path], "utf-8")
    for path in extra:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
