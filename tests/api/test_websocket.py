"""Processes over WebSocket: several on one connection, and terminals."""

from __future__ import annotations

import re
from typing import Dict, List

import pytest
import websockets
from cella import Sandbox
from support.server import Server
from support.wait import until
from support.ws import WebSocket


def exec_ws(server: Server, box: Sandbox, **options: object) -> WebSocket:
    return WebSocket(server.url, f"/v1/sandboxes/{box.id}/exec/ws", **options)  # type: ignore[arg-type]


def pty(server: Server, box: Sandbox, rows: int = 24, cols: int = 80, **query: object) -> WebSocket:
    return WebSocket(server.url, f"/v1/sandboxes/{box.id}/exec/pty", {"rows": rows, "cols": cols, **query})


def collect(ws: WebSocket, ids: List[str]) -> Dict[str, Dict[str, object]]:
    """Messages of these ids until each has ended: {id: {"stdout":…, "stderr":…, "exit":… or "error":…}}."""
    seen: Dict[str, Dict[str, object]] = {i: {"stdout": "", "stderr": ""} for i in ids}
    while any("exit" not in s and "error" not in s for s in seen.values()):
        message = ws.receive_json()
        entry = seen[message["id"]]
        if "stream" in message:
            entry[message["stream"]] = str(entry[message["stream"]]) + message["data"]
        for key in ("exit", "error"):
            if key in message:
                entry[key] = message[key]
    return seen


def test_one_command(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        ws.send({"id": "a", "cmd": "echo out; echo err >&2; exit 3"})
        assert collect(ws, ["a"])["a"] == {"stdout": "out\n", "stderr": "err\n", "exit": 3}


def test_several_at_once_do_not_mix(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        ws.send({"id": "waits", "cmd": "while [ ! -e go ]; do sleep 0.01; done; echo w"})
        ws.send({"id": "goes", "cmd": "echo g; touch go"})
        seen = collect(ws, ["waits", "goes"])
    assert seen["waits"]["stdout"] == "w\n" and seen["goes"]["stdout"] == "g\n"


def test_cancel(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        ws.send({"id": "long", "cmd": "echo on; sleep 307"})
        assert ws.receive_json()["data"] == "on\n"
        ws.send({"id": "long", "cancel": True})
        ended = ws.receive_json()
        assert ended["id"] == "long" and ("exit" in ended or "error" in ended) and ended.get("exit") != 0
    until(lambda: not [p for p in box.list_processes() if "sleep 307" in p["command"]], "the process to be gone")


def test_nonsense_gets_an_error_and_the_rest_works(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        for bad in ("no json", "[]", '{"id": 5}', '{"id": "x"}', '{"id": "x", "cmd": 7}', '{"cmd": "true"}'):
            ws.send(bad)
            assert ws.receive_json()["error"], bad
        ws.send({"id": "fine", "cmd": "echo fine"})
        assert collect(ws, ["fine"])["fine"]["stdout"] == "fine\n"


def test_large_output_whole(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box, seconds=60) as ws:
        ws.send({"id": "seq", "cmd": "seq 300000"})
        assert collect(ws, ["seq"])["seq"]["stdout"] == "".join(f"{i}\n" for i in range(1, 300001))


def test_ping(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        ws.ping()
        ws.send({"id": "a", "cmd": "true"})
        assert collect(ws, ["a"])["a"]["exit"] == 0


def test_closing_kills_what_runs(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws:
        ws.send({"id": "a", "cmd": "echo on; sleep 308"})
        ws.receive_json()
    until(lambda: not [p for p in box.list_processes() if "sleep 308" in p["command"]], "the process to be gone")


def test_oversized_message_closes_only_that_connection(server: Server, box: Sandbox) -> None:
    with exec_ws(server, box) as ws, exec_ws(server, box) as other:
        try:
            ws.send("x" * (64 << 20))
            code = ws.wait_closed()
            assert code in (1009, 1006, 1002, 1008)
        except (websockets.ConnectionClosed, ConnectionError, BrokenPipeError):  # type: ignore[attr-defined]
            pass
        other.send({"id": "a", "cmd": "echo alive"})
        assert collect(other, ["a"])["a"]["stdout"] == "alive\n"


def test_handshake_of_what_is_not_there(server: Server) -> None:
    for path, status in (("/v1/sandboxes/sbx_" + "0" * 32 + "/exec/ws", 404), ("/v1/nothing/ws", 404)):
        with pytest.raises(websockets.InvalidStatusCode) as caught:  # type: ignore[attr-defined]
            WebSocket(server.url, path)
        assert caught.value.status_code == status


def test_a_plain_request_to_a_websocket_is_told_so(server: Server, box: Sandbox, http) -> None:  # type: ignore[no-untyped-def]
    answer = http.get(f"/v1/sandboxes/{box.id}/exec/ws")
    assert answer.status_code in (400, 426) and answer.json()["error"]


# ---- terminals ----


def read_until(ws: WebSocket, pattern: str) -> str:
    """Output until the pattern appears."""
    text = ""
    while not re.search(pattern, text):
        message = ws.receive()
        assert isinstance(message, bytes), message
        text += message.decode("utf-8", "replace")
    return text


def test_terminal_runs_a_shell(server: Server, box: Sandbox) -> None:
    with pty(server, box) as ws:
        ws.send(b"echo $((40 + 2)); test -t 0 && test -t 1 && echo is-a-ter''minal\n")
        text = read_until(ws, r"is-a-terminal\r?\n")
        assert "42\r\n" in text
        ws.send(b"exit 7\n")
        last = [m for m in ws.messages()][-1]
    assert isinstance(last, str) and '"exit"' in last and "7" in last


def test_terminal_size_and_resize(server: Server, box: Sandbox) -> None:
    with pty(server, box, 30, 100) as ws:
        ws.send(b"stty size; echo do''ne-1\n")
        assert re.search(r"30 100\r\n", read_until(ws, r"done-1\r\n"))
        ws.send({"resize": {"rows": 41, "cols": 133}})
        ws.send(b"stty size; echo do''ne-2\n")
        assert re.search(r"41 133\r\n", read_until(ws, r"done-2\r\n"))


def test_terminal_control_c(server: Server, box: Sandbox) -> None:
    with pty(server, box) as ws:
        ws.send(b"echo sta''rted; sleep 309\n")
        read_until(ws, r"started\r\n")
        ws.send(b"\x03")
        ws.send(b"echo af''ter\n")
        read_until(ws, r"after\r\n")
        ws.send(b"exit\n")


def test_closing_a_terminal_hangs_up(server: Server, box: Sandbox) -> None:
    with pty(server, box) as ws:
        ws.send(b"echo o''n; sleep 310\n")
        read_until(ws, r"on\r\n")
    until(lambda: not [p for p in box.list_processes() if "sleep 310" in p["command"]], "the terminal's process to be gone")


def test_bad_terminal_sizes(server: Server, box: Sandbox) -> None:
    for rows, cols in ((0, 80), (24, -1), (100000, 80), ("x", 80)):
        with pytest.raises(websockets.InvalidStatusCode) as caught:  # type: ignore[attr-defined]
            pty(server, box, rows, cols).close()  # type: ignore[arg-type]
        assert caught.value.status_code == 400


def test_bad_control_messages_do_not_end_the_terminal(server: Server, box: Sandbox) -> None:
    with pty(server, box) as ws:
        for bad in ("nonsense", '{"resize": 5}', '{"resize": {"rows": -1, "cols": 1e9}}', "[]"):
            ws.send(bad)
        ws.send(b"echo st''ill\n")
        text = ""
        while "still\r\n" not in text:
            message = ws.receive()
            text += message.decode("utf-8", "replace") if isinstance(message, bytes) else ""
