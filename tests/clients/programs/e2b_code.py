import asyncio
from typing import Any, Dict, List

from e2b_code_interpreter import AsyncSandbox, Context, Sandbox
from e2b_steps import finish, step

s = Sandbox.create(timeout=600, envs={"FIXED": "f"})
LONG: Dict[str, Any] = {"timeout": 0, "request_timeout": 0}  # the machine may be busy


def run(code: str, **options: Any) -> Any:
    return s.run_code(code, **{**LONG, **options})


def plain(x: Any) -> Dict[str, Any]:
    error = {"name": x.error.name, "value": x.error.value, "traceback": x.error.traceback} if x.error else None
    return {"text": x.text, "count": x.execution_count, "stdout": "".join(x.logs.stdout), "stderr": "".join(x.logs.stderr), "error": error}


def formats(r: Any) -> Dict[str, Any]:
    return {"formats": sorted(set(r.formats()) - {"text"}), "main": r.is_main_result, "text": r.text}


step("text")(lambda: plain(run("x = 40 + 2\nx")))
step("state")(lambda: plain(run("x + 1")))
step("strings")(lambda: [run('"quoted"').text, run('"it\'s"').text, run("['a']").text, run("''").text])
step("nothing")(lambda: plain(run("y = 1")))


@step("output")
def output() -> Dict[str, Any]:
    seen: List[Any] = []
    done = run(
        'import sys\nprint("héllo", flush=True)\nprint("oops", file=sys.stderr, flush=True)\n1',
        on_stdout=lambda m: seen.append(["stdout", m.line, m.error, m.timestamp > 0]),
        on_stderr=lambda m: seen.append(["stderr", m.line, m.error, m.timestamp > 0]),
        on_result=lambda r: seen.append(["result", r.text]),
    )
    return {"seen": seen, "done": plain(done)}


@step("as_it_comes")
def as_it_comes() -> Dict[str, Any]:
    """The second line is printed only when this program has seen the first."""
    seen: List[str] = []

    def on_line(m: Any) -> None:
        if "first" in m.line:
            seen.append(m.line)
            s.files.write("/home/user/go", "")

    done = run('import os, time\nprint("first", flush=True)\nwhile not os.path.exists("/home/user/go"): time.sleep(0.01)\nprint("second")', on_stdout=on_line)
    return {"first": seen[0], "stdout": "".join(done.logs.stdout)}


@step("error")
def error() -> Dict[str, Any]:
    told: List[str] = []
    done = plain(run('def f():\n    raise ValueError("boom")\nf()', on_error=lambda e: told.append(e.name)))
    return {"told": told[0], "done": done}


step("after_error")(lambda: run("x").text)
step("exit")(lambda: plain(run("import sys; sys.exit(3)")))
step("env")(lambda: [run('import os; [os.environ.get("FIXED"), os.environ.get("ONCE")]', envs={"ONCE": "o"}).text, run('os.environ.get("ONCE")').text])


@step("kinds")
def kinds() -> Dict[str, Any]:
    done = run(
        """from IPython.display import *
display(HTML("<b>h</b>")); display(Markdown("# m")); display(Latex("$l$")); display(JSON({"j": [1]})); display(Javascript("js()"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'></svg>")); display({"application/pdf": "cGRm"}, raw=True); display({"application/x-own": "own"}, raw=True)
import io; from PIL import Image as P
b = io.BytesIO(); P.new("RGB", (1, 1)).save(b, "JPEG"); display(Image(b.getvalue(), format="jpeg"))
"the end\""""
    )
    own = done.results[7].extra["application/x-own"]
    return {"all": [formats(r) for r in done.results], "json": done.results[3].json, "html": done.results[0].html, "own": own, "text": done.text}


@step("figure")
def figure() -> Dict[str, Any]:
    done = run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    return {"all": [formats(r) for r in done.results], "png": done.results[0].png[:8]}


@step("frame")
def frame() -> Dict[str, Any]:
    (r,) = run('import pandas as pd\npd.DataFrame({"a": [1, 2]})').results
    return {**formats(r), "html": "<table" in r.html, "data": r.data, "chart": r.chart}


@step("contexts")
def contexts() -> Dict[str, Any]:
    c = s.create_code_context(cwd="/tmp")
    listed = s.list_code_contexts()
    cwd = run("import os; z = 1; os.getcwd()", context=c).text
    apart = run("z").error
    s.restart_code_context(c)
    restarted, again = run("z", context=c).error, run("os.getcwd()", context=c).error
    by_id = run("import os; os.getcwd()", context=c).text
    s.remove_code_context(c)
    left = [[x.id, x.language, x.cwd] for x in s.list_code_contexts()]
    return {
        "id": c.id, "language": c.language, "created": c.cwd, "listed": [x.id for x in listed], "cwd": cwd, "apart": apart and apart.name,
        "restarted": restarted and restarted.name, "again": again and again.name, "by_id": by_id, "left": left, "removed": c.id,
    }  # fmt: skip


missing = Context("nope", "python", "/")
step("default_cwd")(lambda: s.create_code_context().cwd)
step("context_missing")(lambda: plain(run("1", context=missing)))
step("remove_missing")(lambda: s.remove_code_context("nope"))
step("restart_missing")(lambda: s.restart_code_context("nope"))
step("both")(lambda: plain(run("1", context=missing, language="python")))
step("language_python")(lambda: run("x", language="python").text)
step("language_bash")(lambda: [plain(run("V=kept; cd /tmp; echo out; echo err >&2", language="bash")), plain(run("echo $V $PWD", language="bash"))])
step("language_javascript")(lambda: plain(run("1", language="javascript")))
step("context_javascript")(lambda: s.create_code_context(language="javascript").id)
step("home")(
    lambda: run('open("/home/user/from_code.txt", "w").write("code"); import os; os.path.realpath(".") == os.path.realpath("/home/user")').text
    + s.files.read("/home/user/from_code.txt")
)
step("input")(lambda: run('input("? ")').error.name)
FOREVER = 'left = "running"\nimport time\ntry:\n    while True: time.sleep(0.05)\nexcept KeyboardInterrupt:\n    left = "interrupted"'


@step("timeout")
def timeout() -> None:
    """On a machine that is busy the time may be over before the code begins: then it gets more."""
    run('left = "not begun"')
    for seconds in (1.5, 6, 24, 96):
        try:
            run(FOREVER, timeout=seconds)
        except Exception as e:  # noqa: BLE001 - which one is the question
            refused = e
            if run("left").text != "not begun":
                raise refused


step("after_timeout")(lambda: run("left").text)


@step("queue")
def queue() -> List[str]:
    async def three() -> List[str]:
        a = await AsyncSandbox.connect(s.sandbox_id, timeout=600)
        done = [await a.run_code("q = [1]; q", **LONG)]
        done += await asyncio.gather(a.run_code("q.append(2); 2 in q", **LONG), a.run_code("len(q) > 0", **LONG))
        return [x.text for x in done]

    return asyncio.run(three())


@step("fork")
def fork() -> List[str]:
    run("forked = [1]")
    (child,) = s.fork()
    seen = child.run_code("forked.append(2); forked", **LONG).text
    child.kill()
    return [seen, run("forked").text]


@step("pause")
def pause() -> str:
    run("kept = object(); name = id(kept)")
    s.pause()
    again = Sandbox.connect(s.sandbox_id, timeout=600)
    return again.run_code("id(kept) == name", **LONG).text


@step("killed_under_it")
def killed_under_it() -> Dict[str, Any]:
    victim = Sandbox.create(timeout=600)
    code = 'import time\nprint("on", flush=True)\nwhile True: time.sleep(0.05)'
    return plain(victim.run_code(code, on_stdout=lambda m: victim.kill(), **LONG))


@step("killed")
def killed() -> Dict[str, Any]:
    s.kill()
    return plain(run("1"))


finish()
