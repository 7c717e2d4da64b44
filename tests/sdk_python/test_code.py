"""Code, its streams, its questions, its contexts: both clients against the daemon."""

from __future__ import annotations

import json
from typing import Any, List

import cella
import pytest
from both import Client, texts


def test_results_of_every_kind(sandbox: Any) -> None:
    sandbox.run_code("x = 20 + 1", check=True)
    run = sandbox.run_code("import sys; print('out'); print('err', file=sys.stderr); x * 2")
    assert (run.text, run.stdout, run.stderr, run.exit, run.ok) == ("42", "out\n", "err\n", "ok", True)
    assert run.logs.stdout == "out\n" and run.execution_count == 2 and run.error is None
    rich = sandbox.run_code(
        "from IPython.display import display, HTML, JSON, SVG\n"
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2]); plt.show()\n"
        "display(HTML('<b>x</b>')); display(JSON({'a': [1]}))\n"
        "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')",
        check=True,
    )
    assert rich.png is not None and rich.png.startswith(b"\x89PNG") and rich.html == "<b>x</b>" and rich.json == {"a": [1]}
    assert rich.svg is not None and "<svg" in rich.svg and len(rich.results) == 4
    bundle, _ = rich._repr_mimebundle_()
    assert "image/svg+xml" in bundle, "a notebook shows the value of the last expression"
    jpeg = sandbox.run_code(
        "import io\nfrom PIL import Image as I\nfrom IPython.display import Image\nb = io.BytesIO()\n"
        "I.new('RGB', (2, 2)).save(b, 'JPEG')\nImage(b.getvalue(), format='jpeg')"
    )
    assert jpeg.jpeg is not None and jpeg.jpeg.startswith(b"\xff\xd8")


def test_errors_of_the_code_are_values_unless_asked(sandbox: Any) -> None:
    run = sandbox.run_code("1 / 0")
    assert run.exit == "error" and run.error.name == "ZeroDivisionError" and "1 / 0" in run.error.traceback
    assert "ZeroDivisionError" in run._repr_mimebundle_()[0]["text/plain"]
    with pytest.raises(cella.ExecutionError) as caught:
        sandbox.run_code("print('before'); 1 / 0", check=True)
    assert caught.value.execution.stdout == "before\n" and caught.value.code == "error"


def test_language_environment_timeout(sandbox: Any) -> None:
    assert sandbox.run_code("cd /tmp; f() { echo in $PWD; }", language="bash").exit == "ok"
    assert sandbox.run_code("f", language="bash").stdout == "in /tmp\n"
    assert sandbox.run_code("import os; os.environ['WORD']", env={"WORD": "given"}).text == "'given'"
    run = sandbox.run_code("kept = 1\nwhile True: pass", timeout_seconds=0.5)
    assert run.exit == "timeout" and sandbox.run_code("kept").text == "1"


def test_callbacks_hear_everything_in_order(sandbox: Any) -> None:
    heard: List[Any] = []
    run = sandbox.run_code(
        "import sys\nfrom IPython.display import display, HTML\nprint('a', flush=True); print('b', file=sys.stderr, flush=True)\ndisplay(HTML('<i>'))\n'end'",
        on_stdout=lambda text: heard.append(("out", text)),
        on_stderr=lambda text: heard.append(("err", text)),
        on_result=lambda result: heard.append(("result", result.html or result.text)),
    )
    assert ["".join(v for k, v in heard if k == stream) for stream in ("out", "err")] == ["a\n", "b\n"]
    assert [v for k, v in heard if k == "result"] == ["<i>", "'end'"]
    assert (run.stdout, run.stderr, run.text) == ("a\n", "b\n", "'end'"), "the result is whole all the same"


def test_a_callback_that_raises_interrupts(sandbox: Any) -> None:
    def refuse(text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError):
        sandbox.run_code("kept = 5\nprint('x', flush=True)\nwhile True: pass", on_stdout=refuse)
    assert sandbox.run_code("kept", timeout_seconds=60).text == "5"


def test_input_is_answered(sandbox: Any) -> None:
    prompts: List[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return f"line {len(prompts)}"

    run = sandbox.run_code("input('first? '), input()", on_input=answer)
    assert run.text == "('line 1', 'line 2')" and prompts == ["first? ", ""]
    assert sandbox.run_code("input()", on_input=lambda prompt: None).error.name == "EOFError"
    assert sandbox.run_code("input()").error.name == "EOFError", "nobody is there to ask"


def test_input_by_hand(sandbox: Any) -> None:
    with sandbox.run_code_stream("import getpass\n(input('name? '), getpass.getpass('secret? '))") as events:
        seen = []
        for event in events:
            if event.type == "input_request":
                seen.append((event.prompt, event.password))
                sandbox.answer_input(event.execution_id, "bob")
            last = event
    assert seen == [("name? ", False), ("secret? ", True)] and last.execution.text == "('bob', 'bob')"


def test_stream_of_events(sandbox: Any) -> None:
    code = "print('one', flush=True)\nimport os, time\nwhile not os.path.exists('gate'): time.sleep(0.01)\nprint('two')\n3"
    seen = []
    for event in sandbox.run_code_stream(code):
        seen.append(event)
        if "one" in event.text:
            sandbox.filesystem.write("gate", "")
    assert seen[0].type == "start" and seen[0].execution_id
    assert "".join(texts(seen, "stdout")) == "one\ntwo\n"
    assert seen[-1].type == "end" and seen[-1].execution.text == "3" and seen[-1].execution.stdout == "one\ntwo\n"


def test_leaving_a_stream_early_interrupts(sandbox: Any) -> None:
    events = sandbox.run_code_stream("kept = 7\nprint('go', flush=True)\nwhile True: pass")
    for event in events:
        if event.type == "stdout":
            break
    events.close()
    events.close()
    assert list(events) == []
    assert sandbox.run_code("kept", timeout_seconds=60).text == "7"


def test_contexts(sandbox: Any) -> None:
    sandbox.run_code("x = 'default'")
    with sandbox.create_code_context(cwd="/tmp", env={"WHO": "second"}) as context:
        assert context.language == "python"
        assert context.run_code("import os; x = os.environ['WHO']; (x, os.getcwd())").text == "('second', '/tmp')"
        assert sandbox.run_code("x", context=context).text == sandbox.run_code("x", context=context.id).text == "'second'"
        assert sandbox.run_code("x").text == "'default'"
        assert [e.execution.text for e in context.run_code_stream("x") if e.type == "end"] == ["'second'"]
        assert context.info().execution_count == 4
        assert context.id in [c.id for c in sandbox.list_code_contexts()]
        with pytest.raises(cella.ConflictError):
            context.interrupt()
        context.restart()
        assert context.run_code("x").error.name == "NameError"
    context.close()
    with pytest.raises(cella.NotFoundError):
        context.run_code("1")
    sandbox.restart_context()
    assert sandbox.run_code("x").error.name == "NameError"


def test_interrupt_from_another_side(client: Client, sandbox: Any) -> None:
    other = client.Sandbox.connect(sandbox.id)
    with sandbox.run_code_stream("print('on', flush=True)\nwhile True: pass") as events:
        for event in events:
            if "on" in event.text:
                other.interrupt()
    assert event.execution.exit == "interrupted"


def test_no_words_of_the_answer_are_lost(sandbox: Any) -> None:
    run = sandbox.run_code("print('ä€😀' * 1000, end='')")
    assert run.stdout == "ä€😀" * 1000
    assert json.loads(sandbox.run_code("import json; print(json.dumps({'a': None}))").stdout) == {"a": None}
