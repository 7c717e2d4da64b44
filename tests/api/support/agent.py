"""Asks the agent of an emulated outer machine (tests/microvm/linux/agent.py) to do things inside it."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any, Callable, Dict, List, Optional

AGENT_PORT = 7999      # inside
SILENT_SECONDS = 150   # an agent that says nothing for so long: the machine hangs


class Gone(Exception):
    """The outer machine does not answer any more."""


class Agent:
    """What can be done inside; `place` is HOST:PORT."""

    def __init__(self, place: str):
        host, port = place.rsplit(":", 1)
        self.place = (host, int(port))

    def ask(self, do: str, heard: Optional[Callable[[str], None]] = None, seconds: float = 60, **fields: Any) -> Any:
        with socket.create_connection(self.place, timeout=SILENT_SECONDS) as line:
            line.settimeout(seconds + SILENT_SECONDS)
            line.sendall(json.dumps({"do": do, "seconds": seconds, **fields}).encode() + b"\n")
            for text in line.makefile("rb"):
                answer = json.loads(text)
                if "out" in answer:
                    heard and heard(answer["out"])
                elif "error" in answer:
                    raise RuntimeError(f"{do}: {answer['error']}")
                else:
                    return answer["done"]
        raise Gone(f"{do}: the agent hung up")

    def run(self, command: str, seconds: float = 120, check: bool = True, env: Optional[Dict[str, str]] = None, input: str = "",
            heard: Optional[Callable[[str], None]] = None) -> str:
        """Output of a shell command inside."""
        parts: List[str] = []

        def keep(text: str) -> None:
            parts.append(text)
            heard and heard(text)

        status = self.ask("run", keep, argv=["/bin/bash", "-c", command], seconds=seconds, env=env or {}, input=input)
        if status and check:
            raise RuntimeError(f"{command!r} ended with {status}: {''.join(parts)[-3000:]}")
        return "".join(parts)

    def read(self, path: str, size: int = 0) -> bytes:
        return base64.b64decode(self.ask("read", path=path, size=size))

    def write(self, path: str, data: bytes) -> None:
        self.ask("write", path=path, data=base64.b64encode(data).decode())


if __name__ == "__main__":  # agent.py HOST:PORT COMMAND
    import sys

    Agent(sys.argv[1]).run(sys.argv[2], 600, check=False, heard=lambda text: print(text, end="", flush=True))
