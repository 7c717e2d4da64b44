"""PandaStack's npm package, unmodified, against the daemon: programs/pandastack.mjs goes through its calls, here each has a test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from support.packages import node, npm_tree
from support.server import Server

HERE = Path(__file__).resolve().parent
CLIENT = "PandaStack TypeScript SDK 0.9.0"
SECONDS = 280  # a program that takes longer hangs

Outcome = Dict[str, Any]


def call(name: str, state: str = "") -> pytest.MarkDecorator:
    return pytest.mark.client(CLIENT, name, state=state)


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Dict[str, Outcome]:
    module = npm_tree(HERE / "npm" / "pandastack") / "node_modules" / "@pandastack" / "sdk" / "dist" / "index.mjs"
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG")}
    done = subprocess.run(
        [str(node()), str(HERE / "programs" / "pandastack.mjs")],
        env={**keep, "HOME": "/nonexistent", "PANDASTACK_MODULE": module.as_uri(), "PANDASTACK_API": server.url, "PANDASTACK_API_KEY": "pds_anything"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    kept: Dict[str, Outcome] = json.loads(done.stdout.splitlines()[-1])
    return kept


@pytest.fixture
def value(outcomes: Dict[str, Outcome]) -> Callable[[str], Any]:
    def get(step: str) -> Any:
        assert "error" not in outcomes[step], outcomes[step]
        return outcomes[step]["value"]

    return get


@pytest.fixture
def refused(outcomes: Dict[str, Outcome]) -> Callable[[str], Outcome]:
    def get(step: str) -> Outcome:
        assert "error" in outcomes[step], outcomes[step]
        return outcomes[step]

    return get


# ---- sandboxes ----


@call("Sandbox.create")
def test_create(value: Any) -> None:
    info = value("create")
    assert info["id"].startswith("sbx_") and info["template"] == "code-interpreter" and info["status"] == "running"
    assert info["metadata"] == {"job": "one"} and info["cpu"] > 0 and info["memory_mb"] > 0 and info["boot_ms"] >= 0


@call("Sandbox.create without a template", "the daemon's default template, and the answer says so")
def test_their_default_template_is_ours(value: Any) -> None:
    assert value("create_default")["template"] == "default"


@call("Sandbox.create")
def test_an_unknown_template_is_not_found(refused: Any) -> None:
    assert refused("create_unknown")["status"] == 404 and "no-such-template" in refused("create_unknown")["message"]


@call("Sandbox.get")
@call("Sandbox.list")
def test_get_and_list(value: Any, refused: Any) -> None:
    made = value("create")["id"]
    assert value("get")["id"] == made and made in value("list")
    assert refused("get_unknown")["error"] == "NotFoundError"


@call("sandbox.kill")
def test_a_killed_sandbox_is_gone(refused: Any) -> None:
    assert refused("kill")["status"] in (404, 410) and "deleted" in refused("kill")["message"]


@call("sandbox.lifecycle")
@call("sandbox.setTtl")
@call("sandbox.setPersistent")
def test_lifecycle(value: Any) -> None:
    assert 0 < value("lifecycle")["ttl_seconds"] <= 3000 and value("lifecycle")["persistent"] is False
    assert 0 < value("set_ttl") <= 2000
    assert value("set_persistent") == [True, False]


@call("sandbox.pause")
@call("sandbox.resume")
def test_pause_and_resume(value: Any) -> None:
    assert value("pause") == ["paused", "running"]


@call("sandbox.hibernate")
@call("sandbox.wake")
def test_hibernate_and_wake(value: Any) -> None:
    assert value("hibernate") == ["hibernated", "running", "kept\n"]
    assert value("hibernate_auto_wake") == "kept\n"  # a request wakes it


# ---- running ----


@call("sandbox.exec")
def test_exec(value: Any, refused: Any) -> None:
    run = value("exec")
    assert (run["stdout"], run["stderr"], run["exit_code"], run["exitCode"]) == ("out\n", "err\n", 3, 3) and run["duration_ms"] >= 0
    assert refused("exec_check")["error"] == "CommandError" and refused("exec_check")["exit_code"] == 4


@call("sandbox.exec with timeoutSeconds", 'a result with exit_code null, exit "timeout" and what was printed, where PandaStack throws')
def test_a_timeout_keeps_the_output(value: Any) -> None:
    run = value("exec_timeout")
    assert (run["stdout"], run["exit_code"], run["exit"]) == ("before\n", None, "timeout")


@call("sandbox.commands.run")
def test_commands(value: Any) -> None:
    assert value("commands")["stdout"] == "/workspace\n"


@call("sandbox.execStream")
def test_exec_stream(value: Any, refused: Any) -> None:
    assert value("exec_stream") == {"code": 5, "out": "a\n", "err": "b\n"}
    assert refused("exec_stream_timeout")["error"] == "SandboxTimeout"
    assert refused("exec_stream_killed")["error"] == "ServerError"  # never an exit code that nobody gave


@call("sandbox.runCode")
def test_run_code(value: Any) -> None:
    assert value("run_code_python")["stdout"] == value("run_code_shell")["stdout"] == "42\n"


@call("sandbox.logs")
def test_logs(value: Any) -> None:
    assert value("logs") is True


@call("sandbox.logs with follow")
def test_following_logs(value: Any) -> None:
    assert value("logs_follow") == {"kept": True, "new": True}


# ---- sessions ----


@call("sandbox.createCodeContext")
@call("context.runCode")
def test_a_session_keeps_its_state(value: Any) -> None:
    assert value("context").startswith("ctx_")
    run = value("context_state")
    assert (run["stdout"], run["text"], run["exit_code"]) == ("printed\n", "21", 0) and "error" not in run


@call("context.runCode")
def test_an_exception_in_a_session(value: Any) -> None:
    run = value("context_error")
    assert run["exit_code"] == 1 and run["error"] == "ZeroDivisionError: division by zero"


@call("context.runCode: png, html, json")
def test_rich_results(value: Any) -> None:
    assert value("context_png") == "iVBORw0KGgo"
    assert value("context_html") is True
    assert value("context_json") == {"a": [1]}


@call("context.runCode with timeoutSeconds", "SandboxTimeout, and the session keeps its state")
def test_a_timeout_in_a_session(value: Any, refused: Any) -> None:
    assert refused("context_timeout")["error"] == "SandboxTimeout"
    assert value("context_after_timeout")["text"] == "25"


@call("context.close")
def test_a_closed_session_is_gone(value: Any) -> None:
    assert value("context_close") is False


@call("POST /repl")
@call("GET /repl/languages")
def test_repl(value: Any) -> None:
    run = value("repl")
    assert (run["stdout"], run["exit_code"], run["language"]) == ("1\n2\n", 0, "python")
    assert {"python", "bash"} <= set(value("repl_languages"))


# ---- files ----


@call("filesystem.write")
@call("filesystem.read")
def test_files(value: Any, refused: Any) -> None:
    assert value("fs_write") == {"path": "/workspace/d/hello.txt", "bytes": 6}
    assert value("fs_write_bytes")["bytes"] == 3
    assert value("fs_read") == "hällo"
    assert refused("fs_read_missing")["error"] == "NotFoundError"


@call("filesystem.upload")
@call("filesystem.download")
def test_upload_and_download(value: Any) -> None:
    assert value("fs_upload") == "from here"


@call("filesystem.list")
@call("filesystem.stat")
@call("filesystem.exists")
@call("filesystem.walk")
def test_looking(value: Any) -> None:
    one = {"name": "hello.txt", "path": "/workspace/d/hello.txt", "is_dir": False, "size": 6}
    assert one in value("fs_list")
    assert value("fs_stat") == {**one, "mode": "-rw-r--r--"}
    assert value("fs_exists") == [True, False]
    assert value("fs_walk") == [["/workspace/d", ["bytes", "hello.txt", "up"]]]


@call("filesystem.list and stat: mtime", "NaN: the daemon's own API says it as a date, and as the number mtime_ms, which this client drops")
def test_mtime_is_no_number(value: Any) -> None:
    assert value("fs_mtime") is True


@call("DELETE /fs")
def test_delete(value: Any) -> None:
    assert value("fs_delete") is None


# ---- branches and images ----


@call("sandbox.snapshot")
@call("client.snapshots.list")
@call("client.snapshots.get")
@call("client.snapshots.delete")
@call("Sandbox.create with fromSnapshot")
def test_snapshots(value: Any) -> None:
    snapshot = value("snapshot")
    assert snapshot["sandbox_id"] == value("create")["id"] and snapshot["created_at"]
    assert value("snapshot_list") == [snapshot["id"]] and value("snapshot_get") == snapshot["id"]
    assert value("snapshot_create") == "kept\n"
    assert value("snapshot_delete") is False


@call("sandbox.fork")
def test_fork(value: Any) -> None:
    made = value("fork")
    assert made["both"] == ["child\n", "kept\n"] and made["parent"] is True
    assert made["metadata"]["branch"] == "a"


@call("sandbox.forkTree")
@call("sandbox.promote")
def test_fork_tree(value: Any) -> None:
    made = value("fork_tree")
    assert sorted(map(int, made["seen"])) == [0, 1]
    assert made["won"] is True and made["tree"] is True and made["deleted"] == 1
    assert made["left"][0] in (404, 410) and made["left"][1] == "on\n"


@call("sandbox.explore")
def test_explore(value: Any) -> None:
    made = value("explore")
    assert (made["score"], made["reaped"], made["errors"], made["tree"]) == (9, 2, [], True)
    assert made["alive"] == [True, False, False] or sorted(made["alive"]) == [False, False, True]
    assert 1 in made["failed"]


# ---- the daemon ----


@call("GET /events")
@call("GET /metrics")
def test_events_and_metrics(value: Any) -> None:
    assert {"sandbox.created", "sandbox.paused"} <= set(value("events"))
    assert {"host_rss_bytes", "host_cpu_percent", "uptime_seconds"} <= set(value("metrics"))


@call("client.templates.list")
@call("client.templates.get")
def test_templates(value: Any) -> None:
    assert value("template") in value("templates")


@call("client.me")
def test_me(value: Any) -> None:
    assert value("me") == {"id": "local", "kind": "local"}


@call("POST /mcp")
def test_mcp(value: Any) -> None:
    assert value("mcp")["result"]["serverInfo"]["name"]


# ---- what there is not ----


@call("sandbox.previewUrls", "lists the ports that programs listen on; the addresses lead nowhere until ports are published")
def test_ports(value: Any) -> None:
    assert value("ports") == {}


@pytest.mark.parametrize(
    "step, word",
    [
        pytest.param("volumes", "volumes", marks=call("client.volumes.*", "refused (501)")),
        pytest.param("volumes_list", "volumes", marks=call("client.volumes.*", "refused (501)")),
        pytest.param("template_build", "template build", marks=call("client.templates.build", "refused (501)")),
        pytest.param("template_register", "template build", marks=call("client.templates.register", "refused (501)")),
        pytest.param("template_dockerfile", "template build", marks=call("client.templates.buildFromDockerfile", "refused (501)")),
        pytest.param("template_builds", "template build", marks=call("client.templates.builds", "refused (501)")),
        pytest.param("template_build_status", "template build", marks=call("client.templates.buildStatus", "refused (501)")),
        pytest.param("template_build_logs", "template build", marks=call("client.templates.buildLogs", "refused (501)")),
        pytest.param("template_delete", "template delete", marks=call("client.templates.delete", "refused (501)")),
        pytest.param("databases", "databases", marks=call("client.databases.*", "refused (501)")),
        pytest.param("apps", "apps", marks=call("client.apps.*", "refused (501)")),
        pytest.param("functions", "functions", marks=call("client.functions.*", "refused (501)")),
        pytest.param("schedules", "schedules", marks=call("client.schedules.*", "refused (501)")),
        pytest.param("tokens", "keys", marks=call("client.tokens.*", "refused (501): `cella key`")),
        pytest.param("tokens_create", "keys", marks=call("client.tokens.*", "refused (501): `cella key`")),
    ],
)
def test_what_is_not_there_says_so(refused: Any, step: str, word: str) -> None:
    answer = refused(step)
    assert (answer["error"], answer["status"]) == ("ServerError", 501) and word in answer["message"]
