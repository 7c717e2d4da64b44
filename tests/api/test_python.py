"""The Python context: what a notebook user expects of one."""

from __future__ import annotations

import re

import pytest
from cella import Execution, ExecutionError, Sandbox

ESCAPE = re.compile("\x1b")


def test_last_expression_is_the_result(shared: Sandbox) -> None:
    run = shared.run_code("20 + 1")
    assert run.exit == "ok" and run.error is None
    assert run.text == "21"
    assert [r.is_main_result for r in run.results] == [True]
    assert run.stdout == "" and run.stderr == ""


def test_state_is_kept_between_calls(box: Sandbox) -> None:
    assert box.run_code("import math\nx = 41\ndef f(n):\n    return n + x").exit == "ok"
    assert box.run_code("f(1) + math.floor(0.5)").text == "42"


def test_statements_have_no_result(shared: Sandbox) -> None:
    for code in ("y = 1", "42;", "", "# only a comment", "None"):
        run = shared.run_code(code)
        assert run.exit == "ok" and run.results == [] and run.text is None, code


def test_print_goes_to_stdout_and_stderr_apart(shared: Sandbox) -> None:
    run = shared.run_code("import sys\nprint('out', 1)\nprint('err', file=sys.stderr)\nsys.stdout.write('no newline')")
    assert run.stdout == "out 1\nno newline"
    assert run.stderr == "err\n"
    assert run.text == "10"  # what write() returned


def test_execution_count_and_ids(box: Sandbox) -> None:
    first, second = box.run_code("1"), box.run_code("2")
    assert first.execution_count is not None and second.execution_count == first.execution_count + 1
    assert first.id and second.id and first.id != second.id
    assert first.context_id == second.context_id == "default"
    assert first.language == "python" and first.duration_ms >= 0 and first.started_at


def test_an_exception_is_told_and_poisons_nothing(shared: Sandbox) -> None:
    run = shared.run_code("z = 5\ndef boom():\n    raise ValueError('too\\nmany')\nboom()")
    assert run.exit == "error"
    assert run.error is not None and run.error.name == "ValueError" and run.error.value == "too\nmany"
    assert "boom()" in run.error.traceback and "ValueError" in run.error.traceback
    assert not ESCAPE.search(run.error.traceback)
    assert shared.run_code("z").text == "5"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1 +", "SyntaxError"),
        ("if True:\nprint(1)", "IndentationError"),
        ("undefined_name", "NameError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError('in str')\nraise E", "E"),
    ],
)
def test_kinds_of_errors(shared: Sandbox, code: str, name: str) -> None:
    run = shared.run_code(code)
    assert run.error is not None and run.error.name == name
    assert run.exit in ("error", "interrupted") and run.exit != "ok"
    assert not ESCAPE.search(run.error.traceback)
    assert shared.run_code("'still here'").text == "'still here'"


def test_output_before_an_error_is_kept(shared: Sandbox) -> None:
    run = shared.run_code("print('before')\n1/0\nprint('after')")
    assert run.stdout == "before\n" and run.exit == "error"


def test_chained_exceptions_show_both(shared: Sandbox) -> None:
    code = "try:\n    {}['a']\nexcept KeyError as e:\n    raise RuntimeError('outer') from e"
    error = shared.run_code(code).error
    assert error is not None and error.name == "RuntimeError"
    assert "KeyError" in error.traceback and "direct cause" in error.traceback


@pytest.mark.parametrize(
    ("code", "exit_code", "exit_word"),
    [
        ("import sys; sys.exit(3)", 3, "error"),
        ("raise SystemExit", 0, "ok"),
        ("exit(0)", 0, "ok"),
        ("raise SystemExit('a message')", 1, "error"),
    ],
)
def test_system_exit_code(box: Sandbox, code: str, exit_code: int, exit_word: str) -> None:
    box.run_code("kept = 'yes'")
    run = box.run_code(code)
    assert run.exit_code == exit_code and run.exit == exit_word
    assert box.run_code("kept").text == "'yes'"


def test_system_exit_message_is_shown(shared: Sandbox) -> None:
    run = shared.run_code("import sys; sys.exit('good bye')")
    shown = run.stderr + (run.error.value + run.error.traceback if run.error else "")
    assert "good bye" in shown


def test_top_level_await(shared: Sandbox) -> None:
    assert shared.run_code("import asyncio\nawait asyncio.sleep(0.01)\n'awaited'").text == "'awaited'"
    assert shared.run_code("async def g():\n    return 7\nawait g()").text == "7"
    assert shared.run_code("r = await asyncio.gather(*(asyncio.sleep(0, i) for i in range(3)))\nr").text == "[0, 1, 2]"


def test_magics(box: Sandbox) -> None:
    assert box.run_code("%cd /tmp\nimport os\nos.getcwd()").text == "'/tmp'"
    assert "per loop" in box.run_code("%timeit -n1 -r1 1+1").stdout
    assert box.run_code("!echo from the shell").stdout.strip() == "from the shell"
    assert box.run_code("lines = !printf 'a\\nb\\n'\nlist(lines)").text == "['a', 'b']"
    assert box.run_code("%%bash\nX=5\necho $((X * 2))").stdout.strip() == "10"
    assert box.run_code("%no_such_magic").exit in ("error", "ok")


def test_input_without_anyone_to_answer_is_end_of_file(shared: Sandbox) -> None:
    run = shared.run_code("input('name? ')")
    assert run.error is not None and run.error.name == "EOFError"


def test_input_is_answered(shared: Sandbox) -> None:
    prompts = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return f"answer {len(prompts)} ü"

    run = shared.run_code("a = input('first? ')\nb = input('second? ')\n(a, b)", on_input=answer)
    assert run.text == "('answer 1 ü', 'answer 2 ü')"
    assert prompts == ["first? ", "second? "]


def test_input_answered_with_end_of_file(shared: Sandbox) -> None:
    run = shared.run_code("try:\n    input()\nexcept EOFError:\n    print('eof')", on_input=lambda prompt: None)
    assert run.stdout == "eof\n" and run.exit == "ok"


def test_environment_of_sandbox_and_of_one_run(server, box: Sandbox) -> None:  # type: ignore[no-untyped-def]
    with Sandbox(host=server.url, env={"OF_BOX": "b 1", "EMPTY": ""}) as sandbox:
        get = "import os\n[os.environ.get(n) for n in ('OF_BOX', 'EMPTY', 'OF_RUN')]"
        assert sandbox.run_code(get, env={"OF_RUN": "r=2"}).text == "['b 1', '', 'r=2']"
        assert sandbox.run_code(get).text == "['b 1', '', None]"
        over = sandbox.run_code(get, env={"OF_BOX": "other"})
        assert over.text == "['other', '', None]"
        assert sandbox.run_code(get).text == "['b 1', '', None]"


@pytest.mark.needs_isolation
def test_where(box: Sandbox) -> None:
    run = box.run_code("import os\n(os.getcwd(), os.path.expanduser('~'))")
    assert run.text == "('/workspace', '/workspace')"


@pytest.mark.needs_isolation
def test_runs_as_an_ordinary_user(box: Sandbox) -> None:
    assert box.run_code("import os\n(os.getuid(), os.getgid(), os.geteuid())").text == "(1000, 1000, 1000)"


def test_the_libraries_are_there(shared: Sandbox) -> None:
    run = shared.run_code(
        "import numpy, pandas, matplotlib, scipy, requests, PIL, IPython\nint(numpy.arange(5).sum()), pandas.Series([1, 2]).mean()"
    )
    assert run.text == "(10, 1.5)", run.error


def test_unicode_everywhere(shared: Sandbox) -> None:
    run = shared.run_code("s = 'Grüße, 世界 🎉'\nprint(s)\nimport sys\nprint(s[::-1], file=sys.stderr)\ns")
    assert run.stdout == "Grüße, 世界 🎉\n" and run.stderr == "🎉 界世 ,eßürG\n" and run.text == "'Grüße, 世界 🎉'"


def test_big_code_and_big_result(shared: Sandbox) -> None:
    literal = "x" * 300_000
    run = shared.run_code(f"s = '{literal}'\nlen(s)")
    assert run.text == "300000"
    shown = shared.run_code("print(s)")
    assert shown.stdout == literal + "\n"


def test_check_raises_with_the_execution(shared: Sandbox) -> None:
    with pytest.raises(ExecutionError) as caught:
        shared.run_code("print('said')\n1/0", check=True)
    assert caught.value.code == "error" and caught.value.execution.stdout == "said\n"
    assert isinstance(shared.run_code("1", check=True), Execution)


def test_threads_that_outlive_a_run_do_not_hurt(box: Sandbox) -> None:
    code = "import threading, time\nstop = threading.Event()\nt = threading.Thread(target=stop.wait)\nt.start()\n'started'"
    assert box.run_code(code).text == "'started'"
    assert box.run_code("t.is_alive()").text == "True"
    assert box.run_code("stop.set(); t.join(); t.is_alive()").text == "False"


def test_multiprocessing_and_subprocess(box: Sandbox) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True).stdout"
    assert box.run_code(code).text == "'42\\n'"
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n    squares = list(pool.map(lambda n: n * n, range(5)))\nsquares"
    )
    assert box.run_code(code).text == "[0, 1, 4, 9, 16]"


def test_os_exit_restarts_the_context_and_says_so(box: Sandbox) -> None:
    box.run_code("here = 1")
    run = box.run_code("import os\nprint('last words', flush=True)\nos._exit(9)")
    assert run.exit in ("killed", "error") and run.context_restarted
    assert "last words" in run.stdout
    again = box.run_code("'here' in globals()")
    assert again.exit == "ok" and again.text == "False"
