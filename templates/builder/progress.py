"""What the user sees while a template is built: numbered steps with their time, the newest detail on a terminal."""
from __future__ import annotations

import sys
import time


class Progress:
    def __init__(self, steps: int, stream=sys.stderr):
        self.stream, self.steps, self.number = stream, steps, 0
        self.live = stream.isatty()
        self.title, self.started, self.begun = "", 0.0, time.monotonic()

    def step(self, title: str) -> None:
        self.done()
        self.number += 1
        self.title, self.started = title, time.monotonic()
        if self.live:
            self._draw("")
        else:
            print(f"[{self.number}/{self.steps}] {title}", file=self.stream, flush=True)

    def detail(self, text: str) -> None:
        if self.live and self.title:
            self._draw(" · " + text.strip()[:60])

    def done(self) -> None:
        if not self.title:
            return
        seconds = time.monotonic() - self.started
        if self.live:
            self._draw(f" · {seconds:.1f} s\n")
        elif seconds >= 1:
            print(f"      {seconds:.1f} s", file=self.stream, flush=True)
        self.title = ""

    def say(self, text: str) -> None:
        self.done()
        print(text, file=self.stream, flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def _draw(self, tail: str) -> None:
        self.stream.write(f"\r\033[K[{self.number}/{self.steps}] {self.title}{tail}")
        self.stream.flush()
