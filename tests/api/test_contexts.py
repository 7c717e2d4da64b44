"""Several contexts in one sandbox, and the shell context."""

from __future__ import annotations

import threading
from typing import List

import httpx
import pytest
from cella import ConflictError, InvalidRequest, NotFoundError, Sandbox


def test_contexts_do_not_share_variables(box: Sandbox) -> None:
    other = box.create_code_context()
    box.run_code("x = 'first'", check=True)
    assert other.run_code("'x' in globals()").text == "False"
    other.run_code("x = 'second'", check=True)
    assert box.run_code("x").text == "'first'" and other.run_code("x").text == "'second'"


def test_contexts_share_the_files(box: Sandbox) -> None:
    other = box.create_code_context()
    box.run_code("open('shared.txt', 'w').write('hello')", check=True)
    assert other.run_code("open('shared.txt').read()").text == "'hello'"


def test_contexts_run_side_by_side(box: Sandbox) -> None:
    """Each waits for the other's file: run one after the other, the first would wait for ever."""
    contexts = [box.create_code_context() for _ in range(3)]
    meet = (
        "import os, time\nopen('here{me}', 'w').close()\n"
        "while not all(os.path.exists(f'here{{i}}') for i in range(3)): time.sleep(0.01)\n'met'"
    )
    texts: List[object] = []

    def run(i: int) -> None:
        texts.append(contexts[i].run_code(meet.format(me=i), timeout_seconds=60).text)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert texts == ["'met'"] * 3


def test_context_with_directory_and_environment(box: Sandbox) -> None:
    box.filesystem.mkdir("deep/er")
    directory = box.filesystem.stat("deep/er").path
    context = box.create_code_context(cwd=directory, env={"OF_CONTEXT": "c"})
    assert context.run_code("import os\n(os.getcwd(), os.environ['OF_CONTEXT'])").text == f"('{directory}', 'c')"
    assert box.run_code("import os\nos.environ.get('OF_CONTEXT')").text is None


def test_list_describe_delete(box: Sandbox, http: httpx.Client) -> None:
    context = box.create_code_context()
    ids = [c.id for c in box.list_code_contexts()]
    assert "default" in ids and context.id in ids and context.id.startswith("ctx_")
    context.run_code("1")
    info = context.info()
    assert info.state == "idle" and info.execution_count == 1 and info.language == "python"
    context.close()
    assert context.id not in [c.id for c in box.list_code_contexts()]
    with pytest.raises(NotFoundError):
        context.run_code("1")
    context.close()  # again: nothing happens
    assert http.get(f"/v1/sandboxes/{box.id}/contexts/{context.id}").status_code == 404


def test_a_busy_context_says_so(box: Sandbox) -> None:
    context = box.create_code_context()
    stream = context.run_code_stream("print('on', flush=True)\nimport time\ntime.sleep(300)")
    interrupted = False
    for event in stream:
        if event.type == "stdout" and not interrupted:
            assert context.info().state == "busy"
            assert next(c for c in box.list_code_contexts() if c.id == "default").state == "idle"
            context.interrupt()
            interrupted = True
        last = event
    assert last.execution is not None and last.execution.exit == "interrupted"


def test_restart_of_one_leaves_the_other(box: Sandbox) -> None:
    other = box.create_code_context()
    box.run_code("a = 1")
    other.run_code("b = 2")
    other.restart()
    assert box.run_code("a").text == "1"
    assert other.run_code("'b' in globals()").text == "False"
    assert other.info().restarts == 1


def test_unknown_contexts_and_languages(box: Sandbox) -> None:
    with pytest.raises(NotFoundError):
        box.run_code("1", context="ctx_" + "0" * 32)
    with pytest.raises((NotFoundError, InvalidRequest)):
        box.run_code("1", context="../default")
    with pytest.raises(InvalidRequest) as caught:
        box.run_code("1", language="cobol")
    assert "cobol" in str(caught.value)
    with pytest.raises(ConflictError):
        box.interrupt(box.create_code_context())


def test_too_many_contexts_are_refused_and_the_rest_lives(box: Sandbox, http: httpx.Client) -> None:
    made = []
    for _ in range(40):
        answer = http.post(f"/v1/sandboxes/{box.id}/contexts", json={"language": "bash"})
        if answer.status_code != 201:
            break
        made.append(answer.json()["id"])
    assert answer.status_code == 429 and answer.json()["code"] == "limit_reached"
    assert len(made) >= 8
    assert box.run_code("1").text == "1"
    assert http.delete(f"/v1/sandboxes/{box.id}/contexts/{made[0]}").status_code in (200, 204)
    assert http.post(f"/v1/sandboxes/{box.id}/contexts", json={"language": "bash"}).status_code == 201


# ---- the shell ----


def sh(box: Sandbox, code: str, **options: object):  # type: ignore[no-untyped-def]
    return box.run_code(code, language="bash", **options)  # type: ignore[arg-type]


def test_shell_keeps_directory_environment_functions(box: Sandbox) -> None:
    home = box.filesystem.stat(".").path
    sh(box, "mkdir -p sub && cd sub\nexport E=exported\nplain=variable\ngreet() { echo \"hi $1\"; }\nalias ll='ls -l'")
    assert sh(box, "pwd; echo $E $plain; greet you").stdout == f"{home}/sub\nexported variable\nhi you\n"
    assert sh(box, "bash -c 'echo $E'").stdout == "exported\n"


@pytest.mark.parametrize("language", ["bash", "shell", "sh"])
def test_names_of_the_shell(box: Sandbox, language: str) -> None:
    assert box.run_code("echo $((6 * 7))", language=language).stdout == "42\n"


@pytest.mark.parametrize("language", ["python", "py"])
def test_names_of_python(box: Sandbox, language: str) -> None:
    assert box.run_code("6 * 7", language=language).text == "42"


@pytest.mark.parametrize(("code", "exit_code"), [("true", 0), ("false", 1), ("(exit 7)", 7), ("no_such_command_xyz", 127), ("kill -9 $BASHPID & wait $!", 137)])
def test_shell_exit_codes(box: Sandbox, code: str, exit_code: int) -> None:
    run = sh(box, code)
    assert run.exit_code == exit_code
    assert run.exit == ("ok" if exit_code == 0 else "error")


def test_shell_streams_apart_and_errors(box: Sandbox) -> None:
    run = sh(box, "echo out; echo err >&2; printf 'no newline'")
    assert run.stdout == "out\nno newline" and run.stderr == "err\n" and run.exit == "ok"
    broken = sh(box, "if then fi")
    assert broken.exit == "error" and "syntax" in broken.stderr
    assert sh(box, "echo still here").stdout == "still here\n"


def test_shell_exit_tells_the_code(box: Sandbox) -> None:
    run = sh(box, "exit 5")
    assert run.exit_code == 5 and run.exit == "error"
    assert sh(box, "echo usable").stdout == "usable\n"


def test_shell_failing_under_set_e(box: Sandbox) -> None:
    run = sh(box, "set -e\nfalse\necho never")
    assert run.exit_code == 1 and "never" not in run.stdout
    sh(box, "set +e")
    assert sh(box, "echo usable").stdout == "usable\n"


def test_shell_pipes_heredocs_background_jobs(box: Sandbox) -> None:
    assert sh(box, "cat <<'X' | tr a-z A-Z\nhello $HOME\nX").stdout == "HELLO $HOME\n"
    assert sh(box, "(sleep 0.05; echo job) & wait; echo done").stdout == "job\ndone\n"
    assert sh(box, "for i in 1 2 3; do echo $i; done | wc -l").stdout.strip() == "3"


def test_shell_stdin_is_empty(box: Sandbox) -> None:
    assert sh(box, "cat; echo after", timeout_seconds=30).stdout == "after\n"


def test_shell_timeout_and_interrupt_keep_the_state(box: Sandbox) -> None:
    sh(box, "v=kept; cd /tmp")
    run = sh(box, "echo begun; sleep 300", timeout_seconds=1)
    assert run.exit == "timeout" and run.stdout == "begun\n"
    assert sh(box, "echo $v; pwd").stdout == "kept\n/tmp\n"
    run = sh(box, "while :; do :; done", timeout_seconds=1)
    assert run.exit == "timeout"
    assert sh(box, "echo $v").stdout == "kept\n"


def test_shell_environment_of_one_run(box: Sandbox) -> None:
    assert sh(box, "echo $ONCE", env={"ONCE": "a b"}).stdout == "a b\n"
    assert sh(box, "echo [$ONCE]").stdout == "[]\n"


def test_shell_and_python_side_by_side(box: Sandbox) -> None:
    sh(box, "echo from shell > note.txt")
    assert box.run_code("open('note.txt').read()").text == "'from shell\\n'"
    languages = sorted(c.language for c in box.list_code_contexts())
    assert languages == ["python", "shell"]
