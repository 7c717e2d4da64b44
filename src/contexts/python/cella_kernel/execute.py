"""One cell of code, from text to what is sent: RESULT, DISPLAY, ERROR and exactly one DONE."""
import ast
import asyncio
import linecache
import os
import tokenize
from collections import deque
from io import StringIO

from IPython.core import async_helpers
from IPython.core.compilerop import PyCF_MASK

from . import display, errors, loops, wire
from .figures import Figures
from .interrupt import guarded

SOURCE_MAX = 16 << 20  # characters of cells kept for tracebacks, inspect and _iN; the oldest go first
SOURCE_COST = 600  # what an entry takes besides its text, bytes (measured for one short line)
_COROUTINE = 0x80  # inspect.CO_COROUTINE
_ASYNC_FLAG = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

# What runs before the first user's code (Executor._play). The names do not meet those of a template's preload.
WARM = (b"_cella = 1", b"_cella + 1", b"'text'", b"[_cella, 1.5]")
WARM_ONCE = (
    b"1 / 0",
    b"import sys as _cella\nif 'pandas' in _cella.modules: _cella = _cella.modules['pandas'].DataFrame({'a': [1]})\n_cella",
    b"import sys as _cella\nif 'matplotlib.pyplot' in _cella.modules: _cella.modules['matplotlib.pyplot'].plot([0, 1])",
)
REHEARSAL = b"None"


class _Sink:
    """Where the warm-up's answers go."""

    lock = wire.threading.RLock()
    fd = -1

    def send(self, messages):
        for _kind, flags, _channel, payload in messages:
            wire.cut(payload, flags)


class Executor:
    """Runs cells in the main thread. publish() may be called from any thread."""

    def __init__(self, shell, stream, gate, output):
        self.shell, self.stream, self.gate, self.output = shell, stream, gate, output
        self.replay = wire.Replay()
        self.figures = Figures(shell.display_formatter, self.publish)
        self.running = False
        self.in_child = False  # after a fork in the user's code: this process is not the context
        self.number = 0
        self._pid = -1  # of the process that serves, once it is known
        self._sources, self._source_size = deque(), 0
        self._collected = None  # errors of formatters, while a result is formatted
        shell.executor = self
        shell.display_pub.executor = self
        shell.displayhook.executor = self
        if not hasattr(linecache, "_ipython_cache"):
            linecache._ipython_cache = {}

    def warm_up(self):
        """In the template: run what most executions run. The first time of many things is slow (imports, caches,
        fonts), and CPython rewrites code while it is new: both cost every copy time and pages of its own."""
        ns = self.shell.user_ns
        names = set(ns)
        self._play(WARM * 40 + WARM_ONCE)
        for name in set(ns) - names:
            del ns[name]

    def rehearse(self):
        """In a fresh copy that nobody waits for yet: write to the pages that every execution writes to. Each is copied at
        its first write, and the first execution would wait for some 350 of them (1 to 2 ms)."""
        self._play((REHEARSAL,))
        for name in ("_1", "_i1"):  # by name: looking through all of them would write to their pages
            self.shell.user_ns.pop(name, None)

    def _play(self, sources):
        """Run these and forget that they ran; the names they made stay the caller's to delete."""
        real, self.stream = self.stream, _Sink()
        try:
            for source in sources:
                self.run(0, 0, source)
        finally:
            self.stream = real
            self._forget()

    def _forget(self):
        """Nothing ran yet: as the first user finds it."""
        shell, ns = self.shell, self.shell.user_ns
        hook = shell.displayhook
        hook._ = hook.__ = hook.___ = ns["_"] = ns["__"] = ns["___"] = ""
        ns["_i"] = ns["_ii"] = ns["_iii"] = ""
        ns["_oh"].clear()
        shell.history_manager.input_hist_parsed[1:] = []
        shell.history_manager.input_hist_raw[1:] = []
        shell.execution_count = 1
        while self._sources:
            name, size = self._sources.popleft()
            self._source_size -= size
            linecache.cache.pop(name, None)
            linecache._ipython_cache.pop(name, None)
        self.replay.begin(0)
        self.number = 0
        self.figures.forget()

    def awake(self):
        """In the process that will serve: from here a fork of the user's is a child, not a copy."""
        self._pid = os.getpid()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self):
        self.in_child = True
        try:
            os.close(self.stream.fd)
        except OSError:
            pass

    # ---- what the user's code calls -------------------------------------------------------------------------

    def publish(self, data, metadata, extra=None):
        """Send a DISPLAY now. False when no execution runs in this process."""
        if not self.running or self.in_child:
            return False
        body = display.payload(data, metadata, extra)
        with self.gate:
            self._send_now(wire.DISPLAY, body)
        return True

    def show_value(self, value):
        """A RESULT that is not the last expression's (interactivity 'all', displayhook)."""
        body = self._result_payload(value)
        self.shell.displayhook.remember(value, self._count)
        if body and self.running and not self.in_child:
            with self.gate:
                self._send_now(wire.RESULT, body)

    def collect(self, error):
        """Keep the error of a formatter for the one who formats; False when nobody does."""
        if self._collected is None:
            return False
        self._collected.append(error)
        return True

    # ---- one execution --------------------------------------------------------------------------------------

    def run(self, number, flags, source, restore=None):
        """Run one EXECUTE; restore() puts the temporary environment back. Raises only wire.Closed."""
        self.number, self._out = number, []
        self._count = count = self.shell.execution_count
        self.figures.begin(bool(flags & wire.SVG))
        self.replay.begin(number)
        self.gate.delivered = False
        self.output.open()
        self.running = True

        value, error = guarded(self.gate, self._cell, source)
        if error is None and value is not None:
            self._queue(wire.RESULT, value)
        if self.figures.any_open():
            _, failed = guarded(self.gate, self.figures.finish)
            error = error or failed
        status = b'"status":"ok"' if error is None else self._report(error)
        guarded(self.gate, self.output.flush)

        if self.in_child or (os.getpid() != self._pid and os.getppid() == self._pid):
            self._leave_child(error)
        if restore is not None:
            restore()
        self.shell.execution_count = count + 1
        self._queue(wire.DONE, b'{%b,"execution_count":%d}' % (status, count))
        self.running = False
        self.gate.install()
        self.gate.shut()
        self.stream.send(self._out)

    def _queue(self, kind, body):
        self.replay.keep(kind, self.number, body)
        self._out.append((kind, 0, self.number, body))

    def _send_now(self, kind, body):
        with self.stream.lock:
            self.replay.keep(kind, self.number, body)
            self.stream.send([(kind, 0, self.number, body)])

    def _cell(self, source):
        """Everything of an execution that may run the user's code. Returns the RESULT payload or None."""
        self.gate.check()
        shell = self.shell
        events = shell.events.callbacks
        if events["pre_execute"] or events["pre_run_cell"]:
            self._trigger("pre", source)
        try:
            text = source.decode()
            tree, name = self._parse(text)
            if shell.ast_transformers:
                tree = shell.transform_ast(tree)
            value = self._evaluate(tree, name)
            if value is None or (";" in text and is_quiet(text)):
                return None
            body = self._result_payload(value)
            shell.displayhook.remember(value, self._count)
            return body
        finally:
            if events["post_execute"] or events["post_run_cell"]:
                self._trigger("post", source)

    def _trigger(self, when, source):
        from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult

        info = ExecutionInfo(source.decode(errors="replace"), True, False, True, None)
        self.shell.events.trigger(when + "_execute")
        self.shell.events.trigger(when + "_run_cell", info if when == "pre" else ExecutionResult(info))

    # ---- text to code ---------------------------------------------------------------------------------------

    def _parse(self, text):
        """The syntax tree of a cell and its file name. What is not Python as it stands goes through IPython's
        transformations; that order also keeps `!` and `%` inside strings out of their reach."""
        shell = self.shell
        name = "<cell %d>" % self._count
        parsed = failure = None
        flags = shell.compile.flags | ast.PyCF_ONLY_AST
        if not shell.needs_transform(text):
            try:
                parsed = compile(text, name, "exec", flags | _ASYNC_FLAG, True)
            except SyntaxError as e:
                failure = e
        code = text
        if parsed is None:
            code = shell.transform_cell(text)
            if failure is not None and code.rstrip("\n") == text.rstrip("\n"):
                self._remember_source(name, text, text)
                raise failure.with_traceback(None)
        self._remember_source(name, code, text)
        if parsed is None:
            parsed = compile(code, name, "exec", flags | _ASYNC_FLAG, True)
        return parsed, name

    def _remember_source(self, name, code, raw):
        """For tracebacks, inspect, In and _i."""
        lines = code.splitlines(True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        entry = (len(code), None, lines, name)
        linecache.cache[name] = linecache._ipython_cache[name] = entry
        self._sources.append((name, len(code) + SOURCE_COST))
        self._source_size += len(code) + SOURCE_COST
        ns, history = self.shell.user_ns, self.shell.history_manager
        while self._source_size > SOURCE_MAX and len(self._sources) > 1:
            old, size = self._sources.popleft()
            self._source_size -= size
            linecache.cache.pop(old, None)
            linecache._ipython_cache.pop(old, None)
            ns.pop("_i" + old[6:-1], None)  # "<cell 7>"
        ns["_iii"], ns["_ii"], ns["_i"] = ns.get("_ii", ""), ns.get("_i", ""), history.input_hist_raw[-1]
        history.input_hist_parsed.append(code)
        history.input_hist_raw.append(raw)
        ns["_i%d" % self._count] = raw

    def _evaluate(self, tree, name):
        """Compile all of a tree, then run it. Returns the value of the last expression, None when there is none."""
        codes = []
        for node, shown in units(tree, self.shell.ast_node_interactivity):
            compiler = self.shell.compile
            code = compile(node, name, "eval" if shown else "exec", compiler.flags | _ASYNC_FLAG, True)
            compiler.flags |= code.co_flags & PyCF_MASK  # `from __future__` holds for later cells too
            codes.append((code, shown))
        if any(code.co_flags & _COROUTINE for code, _ in codes):
            return self._run_async(codes)
        ns, value = self.shell.user_ns, None
        for at, (code, shown) in enumerate(codes, 1):
            value = eval(code, ns)
            if shown and at < len(codes) and value is not None:
                self.show_value(value)
        return value

    def _run_async(self, codes):
        """Run a cell with top-level await in the context's own loop; its other tasks go on meanwhile."""
        ns = self.shell.user_ns

        async def whole():
            value = None
            for at, (code, shown) in enumerate(codes, 1):
                value = eval(code, ns)
                if code.co_flags & _COROUTINE:
                    value = await value
                if shown and at < len(codes) and value is not None:
                    self.show_value(value)
            return value

        loop = async_helpers.get_asyncio_loop()
        loops.repair(loop)
        asyncio.set_event_loop(loop)
        task = loop.create_task(whole())
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # an interrupt that hit the loop itself: the cell must not go on later
                task.cancel()
                loop.run_until_complete(asyncio.wait([task], timeout=1))
            raise

    # ---- outcome --------------------------------------------------------------------------------------------

    def _result_payload(self, value):
        """The RESULT payload of a value, None when it showed itself. Raises when it has no text."""
        self._collected = collected = []
        try:
            body = display.basic_payload(value, self.shell)
            if body is not None or collected:
                return self._checked(body, collected)
            data, metadata = self.shell.display_formatter.format(value)
        finally:
            self._collected = None
        body = display.payload(data, metadata) if data else None
        return self._checked(body if "text/plain" in data or not collected else None, collected)

    def _checked(self, body, collected):
        """A value without a text raises what its repr raised; one that lost another representation says so."""
        if collected and body is None:
            raise collected[0]
        for error in collected:
            self.output.error_text(errors.traceback_of(error) + "\n")
        return body

    def _report(self, error):
        """Queue the ERROR of an exception; returns the status of DONE."""
        if isinstance(error, SystemExit):
            return b'"status":"exit","exit_code":%d' % self._exit_code(error)
        described, failed = guarded(self.gate, _describe, error)
        if failed is not None:
            name = type(error).__name__
            described = (name, "", "%s\n(describing it failed: %s)" % (name, type(failed).__name__))
        name, value, text = described
        interrupted = self.gate.delivered and isinstance(error, KeyboardInterrupt)
        if not self.in_child:
            self._queue(wire.ERROR, display.to_json({"name": name, "value": value, "traceback": text}))
        self._last_error = text
        return b'"status":"interrupted"' if interrupted else b'"status":"error"'

    def _exit_code(self, error):
        """What the Python interpreter would exit with; a message goes to stderr."""
        code = error.code
        if code is None:
            return 0
        if isinstance(code, int):
            return int(code) & 0xFF
        text, failed = guarded(self.gate, str, code)
        self.output.error_text(("SystemExit" if failed else text) + "\n")
        return 1

    def _leave_child(self, error):
        """The user's code forked and its child came back from the cell: end it as a program would end."""
        code = 0
        if isinstance(error, SystemExit):
            code = self._exit_code(error)
        elif error is not None:
            self.output.error_text(self._last_error + "\n")
            code = 1
        os._exit(code)


def units(tree, interactivity):
    """Cut a cell into [(tree, shown)]: expressions whose value is shown, and the statements between them."""
    body = tree.body
    if interactivity == "last_expr_or_assign" and body:
        target = getattr(body[-1], "target", None) or (getattr(body[-1], "targets", None) or [None])[-1]
        if isinstance(target, ast.Name) and not isinstance(body[-1], (ast.For, ast.AsyncFor, ast.Delete)):
            shown = ast.Expr(ast.Name(target.id, ast.Load()))
            body.append(ast.fix_missing_locations(ast.copy_location(shown, body[-1])))
    out, run = [], []
    for node in body:
        wanted = type(node) is ast.Expr and (interactivity == "all" or node is body[-1] and interactivity != "none")
        if not wanted:
            run.append(node)
            continue
        if run:
            out.append((ast.Module(run, []), False))
            run = []
        out.append((ast.Expression(node.value), True))
    if run:
        out.append((ast.Module(run, []), False))
    return out


def _describe(error):
    return errors.name_of(error), errors.value_of(error), errors.traceback_of(error)


def is_quiet(text):
    """True when the last token that counts is a semicolon."""
    skip = (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
    try:
        tokens = [t for t in tokenize.generate_tokens(StringIO(text).readline) if t.type not in skip]
    except (tokenize.TokenError, SyntaxError):  # not Python as it stands: a magic
        return text.rstrip().endswith(";")
    return bool(tokens) and tokens[-1].string == ";"
