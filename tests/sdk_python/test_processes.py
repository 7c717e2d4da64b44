"""Commands, background processes, open input, terminals: both clients against the daemon."""

from __future__ import annotations

import hashlib
import signal
from typing import Any, List

import cella
import pytest
from both import Client, texts
from support.wait import until

GATED = "echo before; while [ ! -e gate ]; do sleep 0.01; done; echo after; echo bad >&2; exit 6"


def test_exec(sandbox: Any) -> None:
    run = sandbox.exec("cat; echo $WORD $PWD >&2; exit 4", stdin="in", cwd="/tmp", env={"WORD": "w"})
    assert (run.stdout, run.stderr, run.exit_code, run.exit, run.signal) == ("in", "w /tmp\n", 4, "error", None)
    assert run.id.startswith("proc_") and run.pid > 0 and run.duration_ms > 0
    assert sandbox.exec(["printf", "%s", "a b"]).stdout == "a b"
    assert sandbox.exec("id -u", user="root").stdout == "0\n"
    assert sandbox.exec("sleep 300", timeout_seconds=0.3).exit == "timeout"
    with pytest.raises(cella.CommandError) as caught:
        sandbox.exec("echo why >&2; exit 3", check=True)
    assert caught.value.result.exit_code == 3 and "why" in str(caught.value)
    with pytest.raises(cella.CellaError):
        sandbox.exec(["/no/such/program"])


def test_exec_output_is_followed_or_cut_and_counted(sandbox: Any) -> None:
    heard: List[str] = []
    run = sandbox.exec("seq 300000", on_stdout=heard.append)
    assert "".join(heard) == run.stdout == "".join(f"{i}\n" for i in range(1, 300_001)) and run.truncated is None
    cut = sandbox.exec("seq 300000; echo e >&2")
    assert run.stdout.startswith(cut.stdout) and len(cut.stdout) == 1 << 20 and cut.stderr == "e\n"
    assert cut.truncated == {"stdout": {"dropped_bytes": len(run.stdout) - len(cut.stdout)}}


def test_exec_stream(sandbox: Any) -> None:
    seen = []
    for event in sandbox.exec_stream(GATED):
        seen.append(event)
        if "before" in event.text:
            sandbox.filesystem.write("gate", "")
    assert "".join(texts(seen, "stdout")) == "before\nafter\n" and texts(seen, "stderr") == ["bad\n"]
    assert seen[-1].type == "end" and seen[-1].command.exit_code == 6 and seen[-1].command.stdout == "before\nafter\n"


def test_leaving_exec_stream_early_kills(sandbox: Any) -> None:
    with sandbox.exec_stream("echo on; sleep 307") as events:
        for event in events:
            if event.type == "stdout":
                break
    until(lambda: not [p for p in sandbox.list_processes() if "sleep 307" in p["command"]], "the command to be gone", 60)


def test_background(client: Client, sandbox: Any) -> None:
    process = sandbox.start(GATED)
    assert process.pid > 0 and process.result() is None and process.output().exit == "running"
    again = client.Sandbox.connect(sandbox.id).get_process(process.id)
    assert (again.id, again.pid) == (process.id, process.pid)
    seen = []
    for event in process.attach():
        seen.append(event)
        if "before" in event.text:
            sandbox.filesystem.write("gate", "")
    assert "".join(texts(seen, "stdout")) == "before\nafter\n" and seen[-1].command.exit_code == 6
    heard: List[str] = []
    late = again.wait(on_stdout=heard.append)
    assert (late.stdout, late.stderr, late.exit_code) == ("before\nafter\n", "bad\n", 6) and "".join(heard) == late.stdout
    assert process.result().exit_code == 6
    with pytest.raises(cella.CommandError):
        process.wait(check=True)
    assert sandbox.start("cat", stdin="given").wait().stdout == "given"
    with pytest.raises(cella.NotFoundError):
        sandbox.get_process("proc_" + "0" * 32)


def test_background_signals(sandbox: Any) -> None:
    process = sandbox.start("trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.01; done")
    until(lambda: "ready" in process.output().stdout, "the trap")
    process.signal("SIGINT")
    assert process.wait().stdout == "ready\ngot\n"
    sleeper = sandbox.start("sleep 300")
    sleeper.signal(int(signal.SIGTERM))
    assert sleeper.wait().signal == signal.SIGTERM
    victim = sandbox.start("sleep 300")
    victim.kill()
    assert victim.wait().signal == signal.SIGKILL
    victim.kill()
    with pytest.raises(cella.ConflictError):
        victim.signal("SIGTERM")


@pytest.mark.usefixtures("websockets")
def test_open_input(sandbox: Any) -> None:
    with sandbox.spawn("while read line; do echo \"<$line>\"; done; echo over >&2; exit 3") as process:
        process.write("one\n")
        assert next(process).text == "<one>\n"
        process.write("zwei ä\nthree")
        process.write("\n")
        process.end()
        heard: List[str] = []
        result = process.wait(on_stdout=heard.append)
        assert result.stdout == "<one>\n<zwei ä>\n<three>\n" and "".join(heard) == "<zwei ä>\n<three>\n"
        assert (result.stderr, result.exit_code, result.exit) == ("over\n", 3, "error")
        assert process.wait() == result and list(process) == []
        with pytest.raises(cella.CommandError):
            process.wait(check=True)
        with pytest.raises(cella.ConnectionFailed):
            process.write("late")
        process.kill()


@pytest.mark.usefixtures("websockets")
def test_open_input_of_megabytes(sandbox: Any) -> None:
    text = "0123456789abcde\n" * 200_000
    with sandbox.spawn("sha256sum; sleep 0") as process:
        process.write(text)
        process.end()
        assert process.wait().stdout.split()[0] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.usefixtures("websockets")
def test_open_input_signals_and_closing(sandbox: Any) -> None:
    process = sandbox.spawn("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    assert next(process).text == "ready\n"
    process.signal("SIGTERM")
    result = process.wait()
    assert (result.stdout, result.exit_code) == ("ready\ngot\n", 5)
    with pytest.raises(cella.InvalidRequest):
        process.signal("SIGSEGV")
    victim = sandbox.spawn(["sleep", "308"], timeout_seconds=200)
    victim.kill()
    assert victim.wait().signal == signal.SIGKILL
    with sandbox.spawn(["sleep", "309"]):
        until(lambda: [p for p in sandbox.list_processes() if "sleep 309" in p["command"]], "its start")
    until(lambda: not [p for p in sandbox.list_processes() if "sleep 309" in p["command"]], "its end with the block", 60)
    with sandbox.spawn(["/no/such/program"]) as nothing:
        with pytest.raises(cella.CellaError) as caught:
            nothing.wait()
        assert "/no/such/program" in caught.value.message


@pytest.mark.usefixtures("websockets")
def test_terminal(sandbox: Any) -> None:
    with sandbox.pty(rows=30, cols=100) as terminal:
        terminal.write("stty size; echo $((6 * 7)) $TERM\n")
        screen = b""
        while b"42 xterm" not in screen:
            screen += terminal.read(60)
        assert b"30 100" in screen
        terminal.resize(40, 120)
        terminal.write(b"stty size\n")
        while b"40 120" not in screen:
            screen += terminal.read(60)
        terminal.write("sleep 310\n")
        until(lambda: [p for p in sandbox.list_processes() if "sleep 310" in p["command"]], "sleep")
        terminal.write("\x03")
        terminal.write("exit 7\n")
        exit = terminal.wait()
        assert (exit.exit_code, exit.signal, exit.exit) == (7, None, "error")
        assert terminal.read() == b"" and terminal.wait() == exit
        with pytest.raises(cella.ConnectionFailed):
            terminal.write("late")


@pytest.mark.usefixtures("websockets")
def test_terminal_with_a_command_and_its_end(sandbox: Any) -> None:
    with sandbox.pty(cmd="printf 'in %s' $PWD", cwd="/tmp") as terminal:
        assert b"".join(terminal) == b"in /tmp" and terminal.wait().exit == "ok"
    with sandbox.pty(cmd="sleep 311") as terminal:
        with pytest.raises(cella.RequestTimeout):
            terminal.read(0.05)
        until(lambda: [p for p in sandbox.list_processes() if "sleep 311" in p["command"]], "its start")
    until(lambda: not [p for p in sandbox.list_processes() if "sleep 311" in p["command"]], "its end with the block", 60)
    with pytest.raises(cella.InvalidRequest):
        sandbox.pty(rows=0)


@pytest.mark.usefixtures("websockets")
def test_no_websocket_to_what_is_gone(sandbox: Any) -> None:
    sandbox.delete()
    with pytest.raises(cella.GoneError):
        sandbox.pty()
    with pytest.raises(cella.GoneError):
        sandbox.spawn("cat")
