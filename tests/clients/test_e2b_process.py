"""Commands and terminals of a sandbox through E2B's own packages."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, Callable, Dict, Iterator, List, Tuple

import httpx
import pytest
from e2b_clients import Outcomes, both, once, only, refused, value
from support.server import Server


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Callable[[str], Outcomes]:
    """outcomes("js"): what each call gave."""
    return once(server, "e2b_process")


@both("commands.run")
def test_output_and_exit(outcomes: Any, client: str) -> None:
    got = outcomes(client)
    assert value(got["run"]) == {"exitCode": 0, "stdout": "out\n", "stderr": "err\n"}
    assert value(got["run_envs"]) == "a b-ü\n"
    assert value(got["run_cwd"]) == "/tmp\n"
    assert value(got["run_home"]) == "user\n1000\n"
    assert value(got["run_root"]) == "0\n"


@both("commands.run with onStdout", "commands.run with on_stdout")
def test_output_comes_while_the_command_runs(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["run_live"]) == {"seen": ["first\n", "second\n"], "stdout": "first\nsecond\n"}


def end_of(outcome: Dict[str, Any]) -> Tuple[int, str, str, str]:
    assert refused(outcome)[0] == "CommandExit", outcome
    r = outcome["result"]
    return r.get("exitCode", r.get("exit_code")), r["stdout"], r["stderr"], r["error"]


@both("commands.run, exit code")
def test_a_failed_command_is_an_error_with_its_true_exit(outcomes: Any, client: str) -> None:
    got = outcomes(client)
    assert end_of(got["run_fails"]) == (3, "before\n", "why\n", "exit status 3")
    assert end_of(got["run_signal"]) == (-1, "", "", "signal: terminated")
    code, _, stderr, error = end_of(got["run_unknown"])
    assert (code, error) == (127, "exit status 127") and "not found" in stderr


@both("commands.run, refused")
@pytest.mark.parametrize("step, words", [("run_cwd_missing", "/no/such/place"), ("run_nobody", 'no user "nobody"')])
def test_what_cannot_run_says_why(outcomes: Any, client: str, step: str, words: str) -> None:
    kind, message = refused(outcomes(client)[step])
    assert kind == "InvalidArgument" and words in message


@both("commands.run, timeout")
def test_a_timeout_is_told_and_ends_the_command(outcomes: Any, client: str) -> None:
    assert refused(outcomes(client)["run_timeout"])[0] == "Timeout"
    assert value(outcomes(client)["timeout_kills"]) is True


@both("commands.run, 12 MB of output")
def test_large_output_arrives_whole(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["run_big"]) == {"size": 12_000_000, "hash": True}
    assert value(outcomes(client)["run_split_character"]) == "ä"


@only("js", "commands.run with onStdout")
def test_a_slow_reader_gets_everything(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["run_slow_reader"]) == 3_000_000


@both("commands.sendStdin, closeStdin", "commands.send_stdin, close_stdin")
def test_input(outcomes: Any, client: str) -> None:
    got = outcomes(client)
    assert value(got["stdin"]) == {"exitCode": 0, "stdout": "one\ntwo\nend\n", "stderr": ""}
    assert value(got["stdin_big"]) is True
    assert "not open" in refused(got["stdin_closed"])[1]
    assert refused(got["stdin_missing"])[0] == "NotFound"


@only("python", "commands.stream_input")
def test_streamed_input(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["stdin_stream"]) is True


@both("commands.list")
def test_running_commands_are_listed(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["list"]) == {"cmd": "/bin/bash", "args": ["-l", "-c", "sleep 301"], "envs": {"N": "v"}, "cwd": "/tmp", "tag": None}


@both("commands.kill")
def test_a_command_is_killed_once(outcomes: Any, client: str) -> None:
    got = value(outcomes(client)["kill"])
    assert (got["first"], got["again"], got["never"]) == (True, False, False)
    assert (got["error"]["exitCode"], got["error"]["error"]) == (-1, "signal: killed")


@both("commands.connect")
def test_a_command_outlives_its_client_and_is_found_again(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["connect"]) == {"same": True, "exitCode": 5, "stdout": "later\n"}
    assert value(outcomes(client)["connect_two"]) == ["both\n", "both\n"]
    assert refused(outcomes(client)["connect_missing"])[0] == "NotFound"


@both("pty.create, sendInput, resize", "pty.create, send_stdin, resize")
def test_a_terminal(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["pty"]) == {"exitCode": 4}
    assert "no terminal" in refused(outcomes(client)["pty_wrong_input"])[1]


@both("pty.connect, kill")
def test_a_terminal_outlives_its_client(outcomes: Any, client: str) -> None:
    assert value(outcomes(client)["pty_connect"]) == {"killed": True, "ended": "signal: killed", "again": False}


# ---- what those packages do not send, by hand ----


@pytest.fixture(scope="module")
def port(server: Server) -> Iterator[httpx.Client]:
    """Raw requests to the process port of a sandbox that an E2B client made."""
    key = {"X-API-KEY": "e2b_any"}
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        made = http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300}, headers=key).json()
        http.headers.update({"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": made["envdAccessToken"]})
        yield http
        http.delete(f"/sandboxes/{made['sandboxID']}", headers=key)


STREAM = {"Content-Type": "application/connect+json"}


def frame(message: Any, flags: int = 0) -> bytes:
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(text)) + text


def frames(body: bytes) -> List[Tuple[int, Any]]:
    out = []
    while body:
        flags, n = struct.unpack(">BI", body[:5])
        out.append((flags, json.loads(body[5 : 5 + n])))
        body = body[5 + n :]
    return out


def sh(script: str, **more: Any) -> bytes:
    return frame({"process": {"cmd": "/bin/sh", "args": ["-c", script]}, "stdin": False, **more})


def test_the_stream_of_a_process(port: httpx.Client) -> None:
    answer = port.post("/process.Process/Start", content=sh("printf out; exit 2"), headers=STREAM)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/connect+json"
    start, data, end, last = frames(answer.content)
    assert start[1]["event"]["start"]["pid"] > 1
    assert data == (0, {"event": {"data": {"stdout": base64.b64encode(b"out").decode()}}})
    assert end == (0, {"event": {"end": {"exitCode": 2, "exited": True, "status": "exit status 2", "error": "exit status 2"}}})
    assert last == (2, {})


def test_a_tag_finds_a_process(port: httpx.Client) -> None:
    with port.stream("POST", "/process.Process/Start", content=sh("exec sleep 300", tag="mine"), headers=STREAM) as answer:
        assert next(answer.iter_bytes())
        (one,) = port.post("/process.Process/List", json={}).json()["processes"]
        assert one["tag"] == "mine" and one["config"]["cmd"] == "/bin/sh"
    assert port.post("/process.Process/SendSignal", json={"process": {"tag": "mine"}, "signal": "SIGNAL_SIGKILL"}).json() == {}


def test_a_process_has_the_time_that_its_call_has(port: httpx.Client) -> None:
    answer = port.post("/process.Process/Start", content=sh("sleep 300"), headers={**STREAM, "Connect-Timeout-Ms": "500"})
    flags, end = frames(answer.content)[-1]
    assert flags == 2 and end["error"]["code"] == "deadline_exceeded"


def test_following_ends_with_its_time_and_the_process_goes_on(port: httpx.Client) -> None:
    with port.stream("POST", "/process.Process/Start", content=sh("exec sleep 300", tag="long"), headers=STREAM) as answer:
        assert next(answer.iter_bytes())
        follow = port.post("/process.Process/Connect", content=frame({"process": {"tag": "long"}}), headers={**STREAM, "Connect-Timeout-Ms": "300"})
        assert frames(follow.content)[-1][1]["error"]["code"] == "deadline_exceeded"
    assert port.post("/process.Process/SendSignal", json={"process": {"tag": "long"}, "signal": "SIGNAL_SIGTERM"}).status_code == 200


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", "invalid_argument"),
        (b"\x00\x00\x00", "invalid_argument"),
        (frame({})[:-1], "invalid_argument"),
        (frame({}), "invalid_argument"),
        (frame(b"{"), "invalid_argument"),
        (frame(b"[]"), "invalid_argument"),
        (frame(b"x", flags=1), "unimplemented"),
        (frame({}, flags=64), "invalid_argument"),
        (b"\x00\xff\xff\xff\xff", "out_of_range"),
        (sh("true") + sh("true"), "invalid_argument"),
        (frame({"process": {"cmd": "/no/such/program"}}), "invalid_argument"),
        (frame({"process": {"cmd": 5}}), "invalid_argument"),
        (frame({"process": {"cmd": "sh", "args": "-c"}}), "invalid_argument"),
        (frame({"process": {"cmd": "sh", "envs": {"A": 1}}}), "invalid_argument"),
        (frame({"process": {"cmd": "sh"}, "pty": {"size": {"cols": 0, "rows": 1}}}), "invalid_argument"),
    ],
    ids=["nothing", "half a head", "half a message", "no command", "no JSON", "no object", "packed", "flags", "length", "two", "no program",
         "number", "args", "envs", "size"],
)
def test_malformed_calls_end_with_an_error(port: httpx.Client, body: bytes, code: str) -> None:
    answer = port.post("/process.Process/Start", content=body, headers=STREAM)
    assert answer.status_code == 200
    ((flags, end),) = frames(answer.content)
    assert flags == 2 and end["error"]["code"] == code and end["error"]["message"]


@pytest.mark.parametrize(
    "call, body, status, code",
    [
        ("process.Process/SendInput", {}, 404, "not_found"),
        ("process.Process/Update", {"process": {"pid": 77777}}, 404, "not_found"),
        ("process.Process/SendInput", {"process": "x"}, 400, "invalid_argument"),
        ("filesystem.Filesystem/Stat", {"path": "/no/such"}, 404, "not_found"),
        ("filesystem.Filesystem/MakeDir", {"path": "/tmp"}, 409, "already_exists"),
        ("filesystem.Filesystem/ListDir", {"path": "/etc/hostname"}, 400, "invalid_argument"),
        ("filesystem.Filesystem/GetWatcherEvents", {"watcherId": "w"}, 404, "not_found"),
    ],
)
def test_errors_have_the_protocols_words(port: httpx.Client, call: str, body: Any, status: int, code: str) -> None:
    answer = port.post(f"/{call}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_an_unknown_content_type_is_refused(port: httpx.Client) -> None:
    answer = port.post("/process.Process/List", content=b"\x00", headers={"Content-Type": "application/proto"})
    assert answer.status_code == 415


def test_the_end_of_the_sandbox_is_no_exit_code(server: Server, port: httpx.Client) -> None:
    """A process whose sandbox is killed ends the stream with an error."""
    key = {"X-API-KEY": "e2b_any"}
    body = b""
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as control:
        made = control.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300}, headers=key).json()
        headers = {**STREAM, "E2b-Sandbox-Id": made["sandboxID"], "X-Access-Token": made["envdAccessToken"]}
        with port.stream("POST", "/process.Process/Start", content=sh("sleep 300"), headers=headers) as answer:
            for chunk in answer.iter_bytes():
                if not body:
                    assert control.delete(f"/sandboxes/{made['sandboxID']}", headers=key).status_code == 204
                body += chunk
    flags, end = frames(body)[-1]
    assert flags == 2 and end["error"]["code"] == "unavailable"
    assert not any("end" in message.get("event", {}) for _, message in frames(body))
