"""Processes: POST …/exec, background processes, the process list, signals."""

from __future__ import annotations

import signal
from typing import List

import httpx
import pytest
from cella import CommandError, ConflictError, InvalidRequest, NotFoundError, Sandbox
from support.wait import PATIENCE, until


def test_a_string_goes_through_the_shell(shared: Sandbox) -> None:
    run = shared.exec("echo out && echo err >&2; X=1; echo $((X + 1)) | cat; exit 3")
    assert (run.stdout, run.stderr, run.exit_code, run.exit) == ("out\n2\n", "err\n", 3, "error")
    assert run.duration_ms >= 0 and run.signal is None and run.pid


def test_a_list_goes_without_a_shell(shared: Sandbox) -> None:
    run = shared.exec(["printf", "%s|", "a b", "$HOME", "*", "", "ü"])
    assert run.stdout == "a b|$HOME|*||ü|" and run.exit_code == 0 and run.exit == "ok"


def test_streams_are_apart_and_whole(shared: Sandbox) -> None:
    run = shared.exec("for i in $(seq 2000); do echo out$i; echo err$i >&2; done")
    assert run.stdout == "".join(f"out{i}\n" for i in range(1, 2001))
    assert run.stderr == "".join(f"err{i}\n" for i in range(1, 2001))


def test_directory_and_environment(box: Sandbox) -> None:
    home = box.filesystem.stat(".").path
    assert box.exec("pwd").stdout == f"{home}\n"
    assert box.exec(["pwd"], cwd="/tmp").stdout == "/tmp\n"
    box.filesystem.mkdir("below")
    assert box.exec("pwd", cwd="below").stdout == f"{home}/below\n"
    assert box.exec('echo "$A|$B"', env={"A": "1 2", "B": "ü=x"}).stdout == "1 2|ü=x\n"
    with pytest.raises((NotFoundError, InvalidRequest)) as caught:
        box.exec("pwd", cwd="/not/there")
    assert "/not/there" in caught.value.message


def test_environment_of_the_sandbox_reaches_processes(server) -> None:  # type: ignore[no-untyped-def]
    with Sandbox(host=server.url, env={"FROM_BOX": "yes"}) as sandbox:
        assert sandbox.exec("echo $FROM_BOX").stdout == "yes\n"
        assert sandbox.exec("echo $FROM_BOX", env={"FROM_BOX": "over"}).stdout == "over\n"


def test_nothing_of_the_host_environment(shared: Sandbox, server) -> None:  # type: ignore[no-untyped-def]
    if not server.external:
        assert "CELLA_TEST_RUN" not in shared.exec("env").stdout
    home = shared.filesystem.stat(".").path
    assert f"HOME={home}\n" in shared.exec("env").stdout


def test_stdin(shared: Sandbox) -> None:
    assert shared.exec("cat", stdin="line 1\nümlaut").stdout == "line 1\nümlaut"
    assert shared.exec(["wc", "-c"], stdin="x" * 300_000).stdout.strip() == "300000"
    assert shared.exec("cat", timeout_seconds=30).stdout == ""  # no stdin: it is empty, not a hang
    assert shared.exec("true", stdin="never read").exit_code == 0


def test_what_cannot_start(shared: Sandbox) -> None:
    with pytest.raises(NotFoundError) as caught:
        shared.exec(["/no/such/program"])
    assert "/no/such/program" in caught.value.message
    assert shared.exec("no_such_program").exit_code == 127
    shared.filesystem.write("/tmp/plain-file", "text")
    try:
        assert shared.exec(["/tmp/plain-file"]).exit_code == 126
    except Exception as e:  # noqa: BLE001
        assert getattr(e, "code", "") == "permission_denied"


@pytest.mark.parametrize(
    "body",
    [{}, {"cmd": ""}, {"cmd": []}, {"cmd": 5}, {"cmd": ["a", 5]}, {"cmd": "true", "env": ["A"]}, {"cmd": "true", "cwd": 1},
     {"cmd": "true", "timeout_seconds": -1}, {"cmd": "a\0b"}, {"cmd": ["a\0b"]}, {"cmd": "true", "user": "daemon"}],
)  # fmt: skip
def test_bad_bodies(shared: Sandbox, http: httpx.Client, body: dict) -> None:
    answer = http.post(f"/v1/sandboxes/{shared.id}/exec", json=body)
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request", answer.text


def test_timeout_kills_the_tree(box: Sandbox) -> None:
    run = box.exec("echo begun; sleep 301 & sleep 302", timeout_seconds=int(PATIENCE))
    assert run.exit == "timeout" and run.stdout == "begun\n"
    gone = lambda: not [p for p in box.list_processes() if "sleep 30" in p["command"]]  # noqa: E731
    until(gone, "the sleeping children to be gone")


def test_death_by_signal(shared: Sandbox) -> None:
    run = shared.exec(["bash", "-c", "kill -SEGV $$"])
    assert run.signal == signal.SIGSEGV and run.exit_code is None and run.exit in ("killed", "error")


def test_output_over_the_limit_is_counted(box: Sandbox) -> None:
    total = 6_000_000
    run = box.exec(f"head -c {total} /dev/zero | tr '\\0' z; echo done >&2")
    assert run.exit_code == 0 and run.stderr == "done\n"
    assert run.truncated is not None
    assert len(run.stdout) + run.truncated["stdout"]["dropped_bytes"] == total


def test_background_and_its_end(box: Sandbox) -> None:
    process = box.start("echo started; while [ ! -e stop ]; do sleep 0.02; done; echo stopping; exit 4")
    assert process.pid > 0 and process.id.startswith("proc_")
    until(lambda: "started" in process.output().stdout, "the first line")
    assert process.result() is None
    box.filesystem.write("stop", "")
    result = until(process.result, "its end")
    assert result.exit_code == 4 and result.exit == "error" and result.stdout == "started\nstopping\n"


def test_background_outlives_the_request_and_keeps_the_tail(box: Sandbox) -> None:
    process = box.start("for i in $(seq 200000); do echo line $i; done")
    result = until(process.result, "its end", 60)
    total = sum(len(f"line {i}\n") for i in range(1, 200_001))
    assert result.stdout.endswith("line 200000\n") and 200 << 10 <= len(result.stdout) <= 320 << 10
    assert result.truncated is not None
    assert len(result.stdout) + result.truncated["stdout"]["dropped_bytes"] == total
    assert result.exit_code == 0


def test_list_and_signals(box: Sandbox) -> None:
    process = box.start(["sleep", "303"])
    entry = next(p for p in box.list_processes() if p["pid"] == process.pid)
    assert "sleep 303" in entry["command"] and entry.get("id") == process.id
    process.signal(signal.SIGTERM)
    result = until(process.result, "its end")
    assert result.signal == signal.SIGTERM and result.exit_code is None
    with pytest.raises((NotFoundError, ConflictError)):
        process.signal(signal.SIGTERM)
    process.kill()
    assert process.pid not in [p["pid"] for p in box.list_processes()]


def test_signal_a_process_cella_did_not_start(box: Sandbox, http: httpx.Client) -> None:
    box.run_code("import subprocess\np = subprocess.Popen(['sleep', '304'])", check=True)
    found: List[int] = [p["pid"] for p in box.list_processes() if "sleep 304" in p["command"]]
    assert len(found) == 1
    assert http.post(f"/v1/sandboxes/{box.id}/processes/{found[0]}/signal", json={"signal": 9}).status_code in (200, 204)
    assert box.run_code("p.wait(timeout=30)").text == "-9"


def test_signalling_what_is_not_there(box: Sandbox, http: httpx.Client) -> None:
    for target in ("999999", "proc_" + "0" * 32, "-1", "0", "x"):
        answer = http.post(f"/v1/sandboxes/{box.id}/processes/{target}/signal", json={"signal": 9})
        assert answer.status_code in (400, 404), target
    assert box.run_code("1").text == "1"
    for bad in (0, 65, -9, "KILLER"):
        assert http.post(f"/v1/sandboxes/{box.id}/processes/1/signal", json={"signal": bad}).status_code in (400, 403, 404)


@pytest.mark.needs_isolation
def test_process_one_cannot_be_killed(box: Sandbox, http: httpx.Client) -> None:
    answer = http.post(f"/v1/sandboxes/{box.id}/processes/1/signal", json={"signal": 9})
    assert answer.status_code in (400, 403, 404, 409)
    assert box.exec("echo alive").stdout == "alive\n"


@pytest.mark.needs_isolation
def test_users(box: Sandbox) -> None:
    assert box.exec("id -u").stdout == "1000\n"
    assert box.exec("id -u", user="root").stdout == "0\n"


@pytest.mark.process_only
def test_root_has_no_capability(box: Sandbox) -> None:
    assert box.exec("grep CapEff /proc/self/status", user="root").stdout.split()[1].strip("0") == ""


def test_check_raises(shared: Sandbox) -> None:
    with pytest.raises(CommandError) as caught:
        shared.exec("echo why >&2; exit 9", check=True)
    assert caught.value.result.exit_code == 9 and "why" in str(caught.value)


def test_many_at_once(box: Sandbox) -> None:
    import threading

    outputs: List[str] = []
    threads = [threading.Thread(target=lambda i=i: outputs.append(box.exec(f"echo {i}; sleep 0.1").stdout)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert sorted(int(o) for o in outputs) == list(range(16))


def test_processes_end_with_the_sandbox(server) -> None:  # type: ignore[no-untyped-def]
    sandbox = Sandbox(host=server.url)
    sandbox.start("trap '' TERM INT HUP; sleep 305")
    sandbox.start(["setsid", "sleep", "305"])
    sandbox.close()
    if not server.external:
        from support import proc

        gone = lambda: not any("sleep 305" in c for c in map(proc.command, _pids()) if c)  # noqa: E731
        until(gone, "every process of the deleted sandbox to be gone")


def _pids() -> List[int]:
    import os

    return [int(p) for p in os.listdir("/proc") if p.isdigit()]
