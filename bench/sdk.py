"""What the SDKs add to a call: the same request by a bare socket, by httpx with a kept connection, and by the SDK, in turns.

    bench/sdk.py [URL]      a daemon that is up, default http://127.0.0.1:7070

Python: the three take turns within one process, so that whatever else the machine does hits all of them alike; what an SDK adds is told pair
by pair. The budget is about httpx, which is how a Python program speaks HTTP; what that costs itself over a bare socket is in the
table too. httpx gets the SDK's own socket options: without TCP_NODELAY each of its calls waits 40 ms. TypeScript: node:http with a kept connection, and the SDK (sdk/typescript/bench).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "api"), str(HERE.parent / "sdk" / "python")]

import httpx  # noqa: E402
from cella import AsyncSandbox, Sandbox, _async, _sync, close_connections_async  # noqa: E402
from report import HEAD, Row, line  # noqa: E402

CODE = "print(6*7)"
COMMAND = ["/bin/true"]
BUDGET_MS = 0.3
WARM = 50


class RawSocket:
    """One kept connection; an answer is complete by its Content-Length or its last chunk."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._host = at.netloc
        self._socket = socket.create_connection((at.hostname, at.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes, accept: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept: {accept}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        answer = b""
        while not self._whole(answer):
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError(f"the answer was cut: {answer[:200]!r}")
            answer += piece
        return answer

    @staticmethod
    def _whole(answer: bytes) -> bool:
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end:
            return False
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return len(body) >= int(line[15:])
        return body.endswith(b"0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


def in_turns(n: int, ways: Dict[str, Callable[[], Any]]) -> Dict[str, List[float]]:
    """Milliseconds of n calls each, one way after the other."""
    samples: Dict[str, List[float]] = {name: [] for name in ways}
    for i in range(n + WARM):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            if i >= WARM:
                samples[name].append((time.perf_counter() - start) * 1000)
    return samples


def rows(title: str, samples: Dict[str, List[float]]) -> List[Row]:
    """The ways of one call, and of the SDK's what it adds to each of the others, pair by pair (budget: to httpx)."""
    out = [Row(f"{title}, {way}", values) for way, values in samples.items()]
    sdk = samples["SDK"]
    for way in [way for way in samples if way != "SDK"]:
        budget = BUDGET_MS if way == "raw httpx" else None
        out.append(Row(f"  the SDK adds to {way}", [ours - other for ours, other in zip(sdk, samples[way])], budget=budget))
    return out


def measure_python(url: str, n: int = 400) -> List[Row]:
    """run_code and exec of Sandbox and of AsyncSandbox, beside the same requests without it."""
    with Sandbox(host=url) as sandbox:
        return [*_sync_rows(url, sandbox, n), *asyncio.run(_async_rows(url, sandbox.id, n))]


def _requests(sandbox_id: str) -> Dict[str, Any]:
    base = f"/v1/sandboxes/{sandbox_id}"
    return {
        "run_code": (f"{base}/execute", json.dumps({"code": CODE, "language": "python"}).encode(), "application/json"),
        "exec": (f"{base}/exec/stream", json.dumps({"cmd": COMMAND}).encode(), "application/x-ndjson"),
    }


def _sync_rows(url: str, sandbox: Sandbox, n: int) -> List[Row]:
    raw = RawSocket(url)
    out: List[Row] = []
    with httpx.Client(base_url=url, transport=_sync.native.http_transport()) as client:
        calls = {"run_code": lambda: sandbox.run_code(CODE), "exec": lambda: sandbox.exec(COMMAND)}
        for name, (path, body, accept) in _requests(sandbox.id).items():
            headers = {"Accept": accept, "Content-Type": "application/json"}
            ways = {
                "raw socket": lambda: raw.post(path, body, accept),  # noqa: B023 - used within the round
                "raw httpx": lambda: client.post(path, content=body, headers=headers, extensions=_sync.native.EXTENSIONS).json,  # noqa: B023
                "SDK": calls[name],
            }
            out += rows(f"Python {name}", in_turns(n, ways))
    raw.close()
    return out


async def _async_rows(url: str, sandbox_id: str, n: int) -> List[Row]:
    sandbox = await AsyncSandbox.connect(sandbox_id, host=url)
    out: List[Row] = []
    async with httpx.AsyncClient(base_url=url, transport=_async.native.http_transport()) as client:
        calls = {"run_code": lambda: sandbox.run_code(CODE), "exec": lambda: sandbox.exec(COMMAND)}
        for name, (path, body, accept) in _requests(sandbox_id).items():
            headers = {"Accept": accept, "Content-Type": "application/json"}
            extensions = {**_async.native.EXTENSIONS}
            ways = {
                "raw httpx": lambda: client.post(path, content=body, headers=headers, extensions=extensions),  # noqa: B023
                "SDK": calls[name],
            }
            samples: Dict[str, List[float]] = {way: [] for way in ways}
            for i in range(n + WARM):
                for way, call in ways.items():
                    start = time.perf_counter()
                    await call()
                    if i >= WARM:
                        samples[way].append((time.perf_counter() - start) * 1000)
            out += rows(f"Python {name}, async", samples)
    await close_connections_async()
    return out


def measure_typescript(url: str, n: int = 400) -> List[Row]:
    """runCode and exec beside the same requests by node:http. Compiles the SDK; the first time its tools come from npm."""
    command = [str(HERE.parent / "sdk" / "typescript" / "check"), "bench", str(n)]
    done = subprocess.run(command, env={**os.environ, "CELLA_URL": url}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    out: List[Row] = []
    for title, name in (("runCode", "run_code"), ("exec", "exec")):
        raw, sdk = told[name]["raw"]["samples"], told[name]["sdk"]["samples"]
        out += [Row(f"TypeScript {title}, raw node:http", raw), Row(f"TypeScript {title}, SDK", sdk)]
        out.append(Row("  the SDK adds to raw node:http", [ours - other for ours, other in zip(sdk, raw)], budget=BUDGET_MS))
    return out


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7070"
    print(HEAD)
    for row in [*measure_python(url), *measure_typescript(url)]:
        print(line(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
