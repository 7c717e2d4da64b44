"""Running cells: values, text, errors, state."""
import base64
import json

import harness


def test_ready_says_who(fresh):
    assert fresh.ready["language"] == "python"
    assert fresh.ready["version"].startswith("3.")
    assert fresh.run("import os; os.getpid()").text == str(fresh.ready["pid"])


def test_last_expression_is_the_result(py):
    e = py.run("x = 41\nx + 1")
    assert (e.text, e.status, e.out, e.err) == ("42", "ok", "", "")


def test_result_and_done_come_in_one_packet(py):
    py.start("1+1")
    packet = py.socket.recv(65536)
    length, kind, _, _ = harness.HEAD.unpack_from(packet, 0)
    second = harness.HEAD.unpack_from(packet, harness.HEAD.size + length)
    assert (kind, second[1]) == (harness.RESULT, harness.DONE)


def test_statement_has_no_result(py):
    assert py.run("y = 5").result is None
    assert py.run("y;").result is None
    assert py.run("y  # ;").text == "5"
    assert py.run("None").result is None
    assert py.run("").status == "ok"
    assert py.run("  \n# only a comment\n").status == "ok"


def test_execution_count_goes_up(py):
    a, b = py.run("1"), py.run("1/0")
    assert b.done["execution_count"] == a.done["execution_count"] + 1


def test_out_and_underscores(fresh):
    fresh.run("10")
    fresh.run("20")
    assert fresh.run("_ + __").text == "30"
    assert fresh.run("_1, Out[2], _3").text == "(10, 20, 30)"
    assert fresh.run("In[1], _i1").text == "('10', '10')"
    fresh.run("_ = 'mine'")
    fresh.run("99")
    assert fresh.run("_").text == "'mine'"


def test_out_is_bounded(fresh):
    for i in range(1010):
        fresh.run("%d" % i)
    assert int(fresh.run("len(Out)").text) <= 1000


def test_many_executions_take_bounded_memory(fresh):
    def resident():
        return int(open("/proc/%d/statm" % fresh.ready["pid"]).read().split()[1]) * 4

    fresh.run("import sys; sys.modules['cella_kernel.execute'].SOURCE_MAX = 600_000")
    for _ in range(3000):
        fresh.run("x = 1")
    before = resident()
    for _ in range(6000):
        fresh.run("x = 1")
    assert resident() - before < 3000, "kB grown in 6,000 executions"
    assert fresh.run("'_i10' in dir(), In[10], len(_i9000)").text == "(False, 'x = 1', 5)"
    assert "def kept" in fresh.run("def kept(): pass\nimport inspect; inspect.getsource(kept)").text


def test_print_goes_through_the_descriptors_in_order(py):
    e = py.run(
        "import os, subprocess, ctypes\n"
        "print('a', end='')\n"
        "os.system('printf b')\n"
        "print('c', end='')\n"
        "subprocess.run(['printf', 'd'])\n"
        "ctypes.CDLL(None).printf(b'e')\n"
        "os.write(1, b'f')\n"
        "print('g')\n"
    )
    assert e.out == "abcdefg\n"
    assert py.run("import sys; print('x', file=sys.stderr); sys.stderr.write('y')").err == "x\ny"


def test_output_of_c_code_is_flushed_before_done(py):
    assert py.run("import ctypes; ctypes.CDLL(None).printf(b'no newline')").out == "no newline"


def test_a_dot_is_there_before_the_execution_ends(py):
    py.start("import time\nprint('.', end='')\ntime.sleep(3)")
    import select

    assert select.select([py.out], [], [], 2)[0], "the dot came only at the end"
    py.interrupt()
    py.finish()


def test_big_output_is_whole(py):
    py.start("print('z' * 3_000_000)\nimport sys; sys.stdout.write('end')")
    e = py.finish()
    assert e.out == "z" * 3_000_000 + "\nend"


def test_nonblocking_stdout_loses_nothing(py):
    e = py.run("import os\nos.set_blocking(1, False)\nprint('q' * 1_000_000)\nos.set_blocking(1, True)")
    assert e.out == "q" * 1_000_000 + "\n" and e.status == "ok"


def test_a_signal_during_a_full_pipe_loses_nothing(py):
    code = (
        "import signal\n"
        "n = []\n"
        "signal.signal(signal.SIGALRM, lambda *a: n.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "print('w' * 2_000_000)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    assert py.run(code).out == "w" * 2_000_000 + "\n"


def test_traceback_is_plain_and_shows_the_cell(py):
    e = py.run("def broken(a):\n    return a / 0\n")
    e = py.run("broken(1)")
    assert e.status == "error"
    assert e.error["name"] == "ZeroDivisionError" and e.error["value"] == "division by zero"
    text = e.error["traceback"]
    assert "\x1b" not in text and "cella_kernel" not in text and "IPython" not in text
    assert "return a / 0" in text and "broken(1)" in text
    assert text.startswith("Traceback (most recent call last):") and text.endswith("ZeroDivisionError: division by zero")


def test_chained_and_grouped_exceptions(py):
    e = py.run("try:\n    {}['k']\nexcept KeyError as k:\n    raise ValueError('outer') from k")
    assert "KeyError: 'k'" in e.error["traceback"] and "direct cause" in e.error["traceback"]
    assert "cella_kernel" not in e.error["traceback"]
    e = py.run("raise ExceptionGroup('g', [ValueError('v1'), TypeError('t1')])")
    assert "v1" in e.error["traceback"] and "t1" in e.error["traceback"]


def test_syntax_errors(py):
    e = py.run("x ===  3")
    assert e.error["name"] == "SyntaxError" and "x ===  3" in e.error["traceback"]
    assert "Traceback" not in e.error["traceback"]
    assert py.run("def f(:\n  pass").error["name"] == "SyntaxError"
    assert py.run("if 1:\nx").error["name"] == "IndentationError"
    assert py.run("return 5").error["name"] == "SyntaxError"
    assert py.run("'unterminated").error["name"] == "SyntaxError"
    assert py.run("x = 1\0").error["name"] in ("ValueError", "SyntaxError")
    assert py.run("(" * 500 + ")" * 500).status == "error"
    assert py.run("1+1").text == "2"


def test_code_that_is_not_utf8(py):
    e = py.run(b"'\xff\xfe'")
    assert e.error["name"] == "UnicodeDecodeError"


def test_nothing_runs_when_the_cell_does_not_compile(py):
    e = py.run("print('ran')\nreturn 1")
    assert e.status == "error" and e.out == ""


def test_deep_recursion(py):
    e = py.run("def r(): r()\nr()")
    assert e.error["name"] == "RecursionError" and len(e.error["traceback"]) < 10000
    assert py.run("1+1").text == "2"


def test_exit_codes(py):
    for code, expected in (("exit()", 0), ("exit", 0), ("quit(4)", 4), ("import sys; sys.exit(3)", 3),
                           ("raise SystemExit", 0), ("raise SystemExit(-1)", 255)):  # fmt: skip
        e = py.run(code)
        assert (e.status, e.done.get("exit_code")) == ("exit", expected), code
        assert e.error is None
    e = py.run("kept = 7\nimport sys; sys.exit('sorry')")
    assert (e.status, e.done["exit_code"], e.err) == ("exit", 1, "sorry\n")
    assert py.run("kept").text == "7"


def test_errors_that_fail_to_describe_themselves(py):
    e = py.run("class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E()")
    assert e.status == "error" and e.error["name"] == "E"
    e = py.run("class F(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise F()")
    assert e.status == "error" and e.error["name"] == "F"


def test_repr_that_raises_is_an_error(py):
    e = py.run("class R:\n    def __repr__(self): raise ValueError('no repr')\nR()")
    assert e.status == "error" and e.error["name"] == "ValueError" and "no repr" in e.error["traceback"]
    assert py.run("1+1").text == "2"


def test_one_broken_representation_keeps_the_others(py):
    e = py.run("class H:\n    def _repr_html_(self): raise ValueError('no html')\n    def __repr__(self): return 'H!'\nH()")
    assert e.status == "ok" and e.text == "H!" and "no html" in e.err


def test_top_level_await_and_background_tasks(py):
    code = (
        "import asyncio\n"
        "seen = []\n"
        "async def work():\n"
        "    for i in range(3):\n"
        "        seen.append(i)\n"
        "        await asyncio.sleep(0.01)\n"
        "task = asyncio.create_task(work())\n"
        "await asyncio.sleep(0)\n"
        "'started'"
    )
    assert py.run(code).text == "'started'"
    assert py.run("await asyncio.sleep(0.2)\nseen").text == "[0, 1, 2]"
    assert py.run("await task").result is None
    assert py.run("[x async for x in (i async for i in agen())]").error["name"] == "NameError"
    e = py.run("async def boom():\n    raise ValueError('in task')\nawait boom()")
    assert e.error["name"] == "ValueError" and "asyncio" not in e.error["traceback"]
    assert py.run("asyncio.run(asyncio.sleep(0, 'ran'))").text == "'ran'"
    assert py.run("await asyncio.sleep(0, 'again')").text == "'again'"
    assert py.run("import sys\nasync def out(): sys.exit(6)\nawait out()").done["exit_code"] == 6


def test_magics(py):
    assert "Wall time" in py.run("%time 1+1").out
    assert py.run("%%time\nz = 3\n").status == "ok"
    assert py.run("z").text == "3"
    e = py.run("%timeit -n 2 -r 1 pass")
    assert e.status == "ok" and "loop" in e.out
    assert py.run("!echo from shell").out == "from shell\n"
    assert py.run("files = !echo one two\nfiles").text == "['one two']"
    assert py.run("v = 5\n!echo $v {v + 1}").out == "5 6\n"
    assert py.run("!exit 3\n").status == "ok"
    assert py.run("_exit_code").text == "3"
    assert py.run("!(sleep 0.3; echo late) &\nprint('first')").out == "first\n"
    assert py.run("import time; time.sleep(0.6)").out == "late\n"
    e = py.run("%%bash\necho out\necho err >&2\nx=1\n")
    assert (e.out, e.err) == ("out\n", "err\n")
    assert py.run("%%bash\nexit 3\n").error["name"] == "CalledProcessError"
    e = py.run("%%bash --out captured\necho inside\n")
    assert py.run("captured").text == "'inside\\n'"
    e = py.run("%nosuchmagic")
    assert e.error["name"] == "UsageError" and "nosuchmagic" in e.error["traceback"]
    assert "Traceback" not in e.error["traceback"]
    assert py.run("%%nosuchmagic\nx").status == "error"
    assert py.run("%env HOME").status == "ok"
    e = py.run("%pwd")
    assert e.status == "ok" and e.text.startswith("'/")
    assert py.run("%history -n 1-2").status == "ok"
    assert py.run("%who").status == "ok"
    assert py.run("%lsmagic").status == "ok"


def test_automagic_and_help(py):
    assert py.run("pwd").status == "ok"
    e = py.run("len?")
    assert "Return the number of items" in e.out and "\x1b" not in e.out
    assert py.run("?len").status == "ok"
    assert py.run("def documented():\n    'my words'\n\n").status == "ok"
    assert "my words" in py.run("documented?").out
    assert "my words" in py.run("documented??").out
    assert py.run("%pinfo nosuchname").status == "ok"


def test_strings_are_not_transformed(py):
    assert py.run("s = '''\n!ls\n%time\n'''\ns").text == repr("\n!ls\n%time\n")
    assert py.run("10 %3").text == "1"
    assert py.run("x = [1,\n2]\nx").text == "[1, 2]"
    assert py.run("  indented = 1\n  indented").text == "1"
    assert py.run(">>> 1 + 1\n2\n").status in ("ok", "error")


def test_run_script(py, tmp_path):
    script = tmp_path / "prog.py"
    script.write_text("import sys\nprint('args', sys.argv[1:])\nvalue = 5\n")
    e = py.run("%run " + str(script) + " a b")
    assert e.out == "args ['a', 'b']\n"
    assert py.run("value").text == "5"
    script.write_text("def f():\n    raise ValueError('from script')\nf()\n")
    e = py.run("%run " + str(script))
    assert e.status == "error" and "from script" in e.error["traceback"] and "prog.py" in e.error["traceback"]
    assert "IPython" not in e.error["traceback"]
    script.write_text("import sys; sys.exit(9)\n")
    assert py.run("%run " + str(script)).done.get("exit_code") == 9


def test_interactivity_all(py):
    py.run("get_ipython().ast_node_interactivity = 'all'")
    e = py.run("1\n2\nx = 9\n3")
    py.run("get_ipython().ast_node_interactivity = 'last_expr'")
    assert [r["data"]["text/plain"] for r in e.of(harness.RESULT)] == ["1", "2", "3"]
    py.run("get_ipython().ast_node_interactivity = 'last_expr_or_assign'")
    e = py.run("y = 8")
    py.run("get_ipython().ast_node_interactivity = 'last_expr'")
    assert e.text == "8"


def test_events_and_transformers(py):
    py.run("calls = []\ndef hook(*a): calls.append(1)\nget_ipython().events.register('post_run_cell', hook)")
    py.run("1")
    assert py.run("get_ipython().events.unregister('post_run_cell', hook)\nlen(calls)").text == "2"
    py.run("import ast\nclass N(ast.NodeTransformer):\n"
           "    def visit_Constant(self, n): return ast.copy_location(ast.Constant(7), n)\n"
           "t = N()\nget_ipython().ast_transformers.append(t)")  # fmt: skip
    e = py.run("1 + 1")
    py.run("get_ipython().ast_transformers.clear()")
    assert e.text == "14"


def test_future_imports_stay(fresh):
    fresh.run("from __future__ import annotations")
    assert fresh.run("def f(x: undefined_name): pass\nf.__annotations__").text == "{'x': 'undefined_name'}"


def test_getsource_and_main_module(py):
    py.run("def shown():\n    return 'the source'\n")
    assert "the source" in py.run("import inspect\nprint(inspect.getsource(shown))").out
    assert py.run("__name__").text == "'__main__'"
    assert py.run("import sys; sys.modules['__main__'].shown is shown").text == "True"
    assert py.run("import pickle; pickle.loads(pickle.dumps(shown)) is shown").text == "True"
    assert py.run("import sys; sys.argv, sys.path[0]").text == "([''], '')"


def test_environment(py):
    py.send(harness.frame(harness.SETENV, b"STAYS=1\0BOTH=a=b\0"))
    temp = harness.frame(harness.TEMPENV, b"ONCE=yes\0STAYS=2\0")
    code = "import os; [os.environ.get(n) for n in ('STAYS', 'BOTH', 'ONCE')]"
    assert py.run(code, before=temp).text == "['2', 'a=b', 'yes']"
    assert py.run(code).text == "['1', 'a=b', None]"
    assert py.run("!echo $STAYS-$ONCE").out == "1-\n"
    temp = harness.frame(harness.TEMPENV, b"ONCE=x\0")
    assert py.run("1/0", before=temp).status == "error"
    assert py.run(code).text == "['1', 'a=b', None]"


def test_time_zone(py):
    code = "import time; time.strftime('%Z', time.localtime(0))"
    assert py.run(code, before=harness.frame(harness.TEMPENV, b"TZ=Asia/Tokyo\0")).text == "'JST'"
    assert py.run(code).text != "'JST'"


def test_pip_without_network_says_so_at_once(py):
    """In an empty network namespace, as a cell has it (the ring runs as root)."""
    py.run("import ctypes, os\nlibc = ctypes.CDLL(None)\nhome = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
           "assert libc.unshare(0x40000000) == 0")  # fmt: skip
    e = py.run("%pip install nosuchpackage")
    assert py.run("libc.setns(home, 0)").text == "0"
    assert e.error["name"] == "UsageError" and "no network" in e.error["value"]


def test_event_loop_survives_the_loss_of_its_descriptors(py):
    """What a fork of a live context does to it: timers and tasks go on."""
    py.run("import asyncio, os\nticks = []\nasync def tick():\n    while True:\n        ticks.append(1)\n"
           "        await asyncio.sleep(0.01)\nt = asyncio.create_task(tick())\nawait asyncio.sleep(0.05)")  # fmt: skip
    py.run("loop = t.get_loop()\nfor fd in (loop._ssock.fileno(), loop._csock.fileno(), loop._selector.fileno()):\n"
           "    os.close(fd)\nothers = [open('/dev/null') for _ in range(3)]\nbefore = len(ticks)")  # fmt: skip
    assert py.run("await asyncio.sleep(0.1)\nlen(ticks) > before").text == "True"
    assert py.run("await asyncio.to_thread(lambda: 'threaded')").text == "'threaded'"
    assert py.run("p = await asyncio.create_subprocess_exec('echo', 'x', stdout=-1)\n(await p.communicate())[0]").text == "b'x\\n'"
    assert py.run("import gc; gc.collect(); [os.fstat(f.fileno()).st_rdev > 0 for f in others]").text == "[True, True, True]"
    py.run("t.cancel()")


def test_working_directory(py, tmp_path):
    py.send(harness.frame(harness.CWD, str(tmp_path).encode() + b"\0"))
    assert py.run("import os; os.getcwd()").text == repr(str(tmp_path))
    (tmp_path / "local_module.py").write_text("here = 1\n")
    assert py.run("import local_module; local_module.here").text == "1"
    py.send(harness.frame(harness.CWD, b"/no/such/place\0"))
    assert "cannot enter /no/such/place" in py.run("1").err


def test_kernel_modules_are_out_of_the_way(py):
    for name in ("wire", "serve", "display", "kernel", "shell"):
        assert py.run("import " + name).status == "error", name


def test_input_and_getpass(py):
    asked = []

    def answer(request):
        asked.append(request)
        return "Ada Lövelace"

    e = py.run("name = input('Who? ')\nname", answer=answer)
    assert e.text == "'Ada Lövelace'" and asked == [{"prompt": "Who? ", "password": False}]
    asked.clear()
    e = py.run("import getpass; getpass.getpass()", answer=answer)
    assert asked == [{"prompt": "Password: ", "password": True}]
    assert py.run("input()", answer=lambda r: None).error["name"] == "EOFError"
    assert py.run("sum(int(input()) for _ in range(3))", answer=lambda r: "2").text == "6"


def test_input_for_an_earlier_execution_is_dropped(py):
    py.start("input()")
    assert py.next().kind == harness.INPUT_REQUEST
    py.interrupt()
    py.finish()
    py.send(harness.frame(harness.INPUT_REPLY, "stale", py.number))
    assert py.run("input()", answer=lambda r: "new").text == "'new'"


def test_input_in_a_thread_fails_cleanly(py):
    code = (
        "import threading\ngot = []\n"
        "def t():\n    try: input()\n    except EOFError as e: got.append(1)\n"
        "x = threading.Thread(target=t); x.start(); x.join()\ngot"
    )
    assert py.run(code).text == "[1]"


def test_pdb_through_input(py):
    answers = iter(["p q", "c"])
    e = py.run("q = 77\nbreakpoint()\n'after'", answer=lambda r: next(answers))
    assert "77" in e.out and e.text == "'after'"


def test_long_code_comes_in_parts(py):
    e = py.run("x = '" + "a" * 200_000 + "'\nlen(x)")
    assert e.text == "200000"


def test_broken_streams_do_not_break_the_loop(fresh):
    fresh.run("import sys; sys.stdout.close()")
    assert fresh.run("print('again')").out == "again\n"
    fresh.run("import io; keep = sys.stdout; sys.stdout = io.StringIO(); print('hidden')")
    assert fresh.run("sys.stdout.getvalue()").text == "'hidden\\n'"
    fresh.run("sys.stdout = keep")
    fresh.run("class Bad:\n    def write(self, x): raise ValueError('bad')\n    flush = write\nsys.stderr = Bad()")
    assert fresh.run("1+1").text == "2"
    assert fresh.run("sys.stderr = sys.__stderr__\n2").text == "2"
    fresh.run("sys.stdout = None")
    assert fresh.run("1/0").status == "error"
    fresh.run("sys.stdout = sys.__stdout__")
    fresh.run("import os; os.close(1)")
    e = fresh.run("print('lost')")
    assert e.status == "error" and e.error["name"] == "OSError"
    assert fresh.run("3").text == "3"
    fresh.run("os.close(2)")
    assert fresh.run("raise SystemExit('nobody hears')").done["exit_code"] == 1
    assert fresh.run("4").text == "4"


def test_fork_in_the_users_code(py):
    e = py.run("import os\npid = os.fork()\nif pid == 0: print('child')\nelse: os.waitpid(pid, 0)\npid > 0")
    assert e.text == "True" and e.out == "child\n"
    assert len(e.of(harness.DONE)) == 1
    e = py.run("pid = os.fork()\nif pid == 0: raise ValueError('in child')\nstatus = os.waitpid(pid, 0)[1]\nstatus >> 8")
    assert e.text == "1" and "in child" in e.err and e.error is None
    e = py.run("pid = os.fork()\nif pid == 0: raise SystemExit(5)\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])")
    assert e.text == "5"
    e = py.run("import multiprocessing as mp\nwith mp.get_context('fork').Pool(2) as p: r = p.map(abs, [-1, -2])\nr")
    assert e.text == "[1, 2]"
    e = py.run("import ctypes\npid = ctypes.CDLL(None).fork()\nif pid: os.waitpid(pid, 0)\npid > 0")
    assert e.text == "True" and len(e.of(harness.DONE)) == 1


def test_thread_prints_after_done(py):
    py.run("import threading, time\ndef late():\n    time.sleep(0.3); print('late')\nthreading.Thread(target=late).start()")
    e = py.run("time.sleep(0.8)")
    assert e.out == "late\n"


def test_display_from_a_thread_while_idle_is_printed(py):
    py.run("def late():\n    time.sleep(0.3); display('shown late')\nthreading.Thread(target=late).start()")
    import time

    time.sleep(0.8)
    e = py.run("1")
    assert "shown late" in e.out and not e.displays


def test_strings_with_lone_surrogates(py):
    e = py.run("'\\ud800 and \\udfff'")
    assert e.status == "ok" and json.dumps(e.result)
    e = py.run("raise ValueError('\\ud800')")
    assert e.status == "error"
    assert py.run("print('\\ud800')").out == "\\ud800\n"


def test_warnings_go_to_stderr(py):
    e = py.run("import warnings\nwarnings.warn('careful')")
    assert "careful" in e.err and "<cell" in e.err


def test_name_errors_in_redefined_builtins(py):
    py.run("len = print = repr = str = None")
    assert py.run("1").text == "1"
    assert py.run("[1]").text == "[1]"
    assert py.run("del len, print, repr, str").status == "ok"


def test_replaced_module_functions_do_not_reach_the_loop(fresh):
    fresh.run("import os, json, select, signal\nos.write = os.read = json.dumps = select.poll = signal.signal = None")
    assert fresh.run("1+1").text == "2"
    assert fresh.run("{'a': 1}").text == "{'a': 1}"


def test_base64_of_bytes_representations(py):
    e = py.run("class P:\n    def _repr_png_(self): return b'\\x89PNG data'\nP()")
    assert base64.b64decode(e.result["image/png"]) == b"\x89PNG data"
