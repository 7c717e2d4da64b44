"""The log of a sandbox, followed: what is kept, then every line as it comes, until the sandbox ends or the client leaves."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, Iterator, List, Optional

import httpx
import pytest
from cella import Sandbox
from support.raw import Connection
from support.server import Server
from support.wait import until


class Follower:
    """Reads the log in a thread."""

    def __init__(self, server: Server, box: Sandbox, accept: str = "application/x-ndjson", **params: str) -> None:
        self.lines: List[Dict[str, Any]] = []
        self.texts: List[str] = []
        self.kind = ""
        self.error: Optional[BaseException] = None
        self.headed = threading.Event()
        self._arguments = (f"{server.url}/v1/sandboxes/{box.id}/logs", accept, {"follow": "1", **params})
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.headed.wait(20)

    def _run(self) -> None:
        url, accept, params = self._arguments
        try:
            with httpx.stream("GET", url, params=params, headers={"Accept": accept}, timeout=60, trust_env=False) as response:
                assert response.status_code == 200, response.read()
                self.kind = response.headers["content-type"]
                self.headed.set()
                for text in response.iter_lines():
                    text = text.rstrip("\n")  # older httpx leaves it
                    self.texts.append(text)
                    if text.startswith("{"):
                        line = json.loads(text)
                        if line.get("type") != "keepalive":
                            self.lines.append(line)
        except BaseException as e:  # for the test to see
            self.error = e
            self.headed.set()

    def of(self, stream: str) -> List[str]:
        return [line["line"] for line in self.lines if line.get("stream") == stream]

    def ended(self) -> bool:
        """The response came to its proper end."""
        self.thread.join(20)
        assert self.error is None, self.error
        return not self.thread.is_alive()


@pytest.fixture()
def mortal(server: Server) -> Iterator[Sandbox]:
    """A sandbox that the test may delete."""
    with Sandbox(host=server.url) as box:
        yield box


def test_what_is_kept_then_what_comes_until_the_end(server: Server, mortal: Sandbox) -> None:
    mortal.run_code("import sys\nprint('kept')\nprint('kept too', file=sys.stderr)")
    one, two = Follower(server, mortal), Follower(server, mortal, stream="stderr")
    until(lambda: one.of("stdout") == ["kept"] and two.of("stderr") == ["kept too"], "the kept lines", 20)
    mortal.exec("echo new; echo wrong >&2")
    mortal.run_code("print('newer\\n\\nnewest\\nunfinished', end='')")
    until(lambda: len(one.lines) >= 7, "the new lines", 20)
    assert one.thread.is_alive()
    mortal.kill()
    assert one.ended() and two.ended()
    assert one.of("stdout") == ["kept", "new", "newer", "", "newest", "unfinished"]
    assert one.of("stderr") == two.of("stderr") == ["kept too", "wrong"]
    assert two.of("stdout") == []


def test_server_sent_events_are_what_is_not_asked_otherwise(server: Server, mortal: Sandbox) -> None:
    follower = Follower(server, mortal, accept="*/*")
    assert follower.kind.startswith("text/event-stream")
    mortal.exec("echo hello")
    until(lambda: len(follower.texts) >= 5, "the event", 20)
    mortal.kill()
    assert follower.ended()
    assert follower.texts == [": keepalive", "", "event: line", 'data: {"line":"hello","stream":"stdout"}', ""]


def test_plain_text(server: Server, mortal: Sandbox) -> None:
    mortal.exec("echo kept")
    follower = Follower(server, mortal, accept="text/plain")
    assert follower.kind.startswith("text/plain")
    mortal.exec("printf 'a\\n\\xff\\nb'")
    until(lambda: len(follower.texts) >= 3, "the lines", 20)
    mortal.kill()
    assert follower.ended()
    assert follower.texts == ["kept", "a", "\ufffd", "b"]


def test_long_lines_come_in_pieces_and_no_character_is_cut(server: Server, mortal: Sandbox) -> None:
    follower = Follower(server, mortal)
    mortal.run_code("print('x' + 'ä' * 100_000)\nprint('y' * 65536)\nprint('z')")
    until(lambda: "z" in follower.of("stdout"), "the last line", 20)
    pieces = follower.of("stdout")
    text = "".join(pieces)
    assert text == "x" + "ä" * 100_000 + "y" * 65536 + "z"
    assert max(len(piece.encode()) for piece in pieces) <= 65536 + 3


def test_who_does_not_read_misses_output_and_is_told_how_much(server: Server, mortal: Sandbox) -> None:
    """Thirty megabytes while nobody reads: nobody waits for the follower, and every byte is accounted for."""
    lines, width = 300, 99_999
    with Connection(server.url) as connection:
        connection.request("GET", f"/v1/sandboxes/{mortal.id}/logs?follow=1", {"Accept": "application/x-ndjson"})
        status, headers = connection.read_head()
        assert status == 200 and headers["transfer-encoding"] == "chunked"
        run = mortal.run_code(f"for _ in range({lines}): print('x' * {width})\nprint('last of them')")
        assert run.ok
        held = b""
        seen = dropped = 0
        told = False
        while True:
            held += connection.read_chunk()
            *whole, held = held.split(b"\n")
            got = [json.loads(line) for line in whole]
            dropped += sum(line.get("dropped_bytes", 0) for line in got)
            seen += sum(len(line["line"]) for line in got if "stream" in line)
            if dropped and not told:
                told = True
                mortal.exec("echo after the gap")
            if any(line.get("line") == "after the gap" for line in got):
                break
        whole_output = lines * (width + 1) + len("last of them\n") + len("after the gap\n")
        assert dropped > 10_000_000
        assert whole_output - lines * 2 - 2 <= seen + dropped <= whole_output  # lines come without their newlines


def test_followers_that_leave_are_forgotten(server: Server, mortal: Sandbox) -> None:
    for _ in range(20):
        with Connection(server.url) as connection:
            connection.request("GET", f"/v1/sandboxes/{mortal.id}/logs?follow=1")
            assert connection.read_head()[0] == 200
            mortal.exec("echo to whoever is there")
    assert mortal.run_code("6 * 7").text == "42"
    mortal.kill()


@pytest.mark.needs_isolation  # forks
def test_a_merge_ends_the_log_of_the_one_that_goes(server: Server, mortal: Sandbox) -> None:
    child = mortal.fork(1)[0]
    mine, childs = Follower(server, mortal), Follower(server, child)
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        assert http.post(f"/v1/sandboxes/{mortal.id}/merge_into/{child.id}").status_code in (200, 204)
    assert mine.ended()
    mortal.exec("echo the winner goes on")
    until(lambda: "the winner goes on" in childs.of("stdout"), "the winner's line", 20)


def test_what_cannot_be_followed(server: Server, http: httpx.Client, mortal: Sandbox) -> None:
    assert http.get(f"/v1/sandboxes/{mortal.id}/logs", params={"follow": "perhaps"}).status_code == 400
    assert http.get(f"/v1/sandboxes/{mortal.id}/logs", params={"follow": "1", "stream": "stdlog"}).status_code == 400
    assert http.get("/v1/sandboxes/sbx_" + "0" * 32 + "/logs", params={"follow": "1"}).status_code == 404
    mortal.kill()
    assert http.get(f"/v1/sandboxes/{mortal.id}/logs", params={"follow": "1"}).status_code == 410
