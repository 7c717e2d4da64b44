"""The InteractiveShell of a context: IPython without a terminal, a profile on disk, a history database or threads."""
import builtins
import importlib
import os
import site
import sys

import IPython.core.interactiveshell as interactiveshell
from IPython.core import page
from IPython.core.autocall import IPyAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.macro import Macro
from traitlets import Type
from traitlets.config import Config

from . import commands, errors
from .display import Publisher

_MISSING = object()


class MemoryStore(dict):
    """Stands in for IPython's database of bookmarks and aliases: lives as long as the context."""

    def __init__(self, *_args):
        super().__init__()


class NoProfile:
    """Stands in for a profile directory: a cell has none, and making one would write to the user's home."""

    location = "/nonexistent"
    startup_dir = security_dir = log_dir = pid_dir = static_dir = location


class Exit(IPyAutocall):
    """exit, exit(3), quit: ends the execution like sys.exit; the state stays."""

    rewrite = False

    def __call__(self, code=None):
        raise SystemExit(code)


class Hook(DisplayHook):
    """sys.displayhook, for code compiled in 'single' mode by somebody else (%run -i, code.interact)."""

    executor = None

    def __call__(self, result=None):
        if result is not None:
            self.executor.show_value(result)

    def remember(self, value, number):
        """_, __, ___, _N and Out."""
        shell = self.shell
        ns = shell.user_ns
        out = ns.get("_oh")
        if out is None or value is out:
            return
        if len(out) >= self.cache_size:
            for old in sorted(out)[: self.cache_size // 5]:
                ns.pop("_%d" % old, None)
                out.pop(old, None)
        mine = (self._, self.__, self.___)
        # A name that the user assigned, or a gettext-like builtin, stays the user's.
        keep = "_" not in builtins.__dict__ and all(
            ns.get(name, was) is was for name, was in zip(("_", "__", "___"), mine)
        )
        self.___, self.__, self._ = self.__, self._, value
        if keep:
            ns["_"], ns["__"], ns["___"] = self._, self.__, self.___
        ns["_%d" % number] = value
        out[number] = value


class Shell(InteractiveShell):
    display_pub_class = Type(Publisher)
    displayhook_class = Type(Hook)
    executor = None  # the Executor, once it exists

    # What the terminal and the disk would be used for.
    def init_ipython_dir(self, ipython_dir):
        self._trait_values["ipython_dir"] = NoProfile.location

    def init_profile_dir(self, profile_dir):
        self._trait_values["profile_dir"] = NoProfile()

    def init_virtualenv(self):
        pass

    def atexit_operations(self):
        pass

    def init_hooks(self):
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(_print_page), 99)

    def init_user_ns(self):
        super().init_user_ns()
        for name in ("exit", "quit"):
            self.user_ns[name] = self.user_ns_hidden[name] = Exit(self)

    def init_magics(self):
        super().init_magics()
        lines, cells = self.magics_manager.magics["line"], self.magics_manager.magics["cell"]
        lines["pip"] = self._pip
        for name, program in (("bash", "/bin/bash"), ("sh", "/bin/sh")):
            cells[name] = self._script_magic(program)
        # IPython's script magics keep a thread for ever; these and the plain form of the others do not need one.

    # Errors that IPython catches itself.
    def showtraceback(self, exc_tuple=None, *_args, **_kwargs):
        """Called for errors in formatters and by code that reports its own: one of ours in plain text, to stderr."""
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if error is None:
            error = getattr(sys, "last_value", None)
        if error is not None and not self.executor.collect(error):
            print(errors.traceback_of(error), file=sys.stderr)

    def showsyntaxerror(self, *_args, **_kwargs):
        self.showtraceback()

    def safe_execfile(self, fname, *where, exit_ignore=False, raise_exceptions=False, shell_futures=False):
        # %run of a failing program fails the execution, instead of printing and calling it a success.
        super().safe_execfile(
            fname, *where, exit_ignore=exit_ignore, raise_exceptions=True, shell_futures=shell_futures
        )

    # Commands.
    def system(self, command):
        """!command: straight to the context's own pipes; the exit code is left in _exit_code."""
        command = self.var_expand(command, depth=1)
        self.user_ns["_exit_code"] = commands.run([commands.shell_path(), "-c", command])

    system_piped = system_raw = system

    def _script_magic(self, program):
        def script(line, cell):
            if line.strip():  # --out, --bg and so on
                return self.run_cell_magic("script", "%s %s" % (program, line), cell)
            code = commands.run([program], cell if cell.endswith("\n") else cell + "\n")
            self.user_ns["_exit_code"] = code
            if code:
                raise commands.subprocess.CalledProcessError(code, program)

        script.__doc__ = "Run the cell with %s. Options are those of %%%%script." % program
        return script

    def _pip(self, line):
        """%pip: runs pip for this Python."""
        words = line.split()
        if words[:1] == ["install"] or words[:1] == ["download"]:
            local = any(w in ("--no-index", "-h", "--help") or w.endswith(".whl") or w.startswith((".", "/")) for w in words)
            if not local and not _has_network():
                raise UsageError(
                    "pip cannot download anything: this sandbox has no network. "
                    "Give it a network policy that allows the package index, or use a template that has the package."
                )
        code = commands.run([sys.executable, "-m", "pip", *_words(self.var_expand(line, depth=1))])
        self.user_ns["_exit_code"] = code
        user_site = site.getusersitepackages()
        if os.path.isdir(user_site) and user_site not in sys.path:
            site.addsitedir(user_site)
        importlib.invalidate_caches()
        if code:
            raise UsageError("pip ended with exit code %d" % code)

    # Figures are shown by the kernel (figures.py), whatever backend is asked for.
    def enable_gui(self, gui=None):
        pass

    def enable_matplotlib(self, gui=None):
        return "inline", "agg"

    # The fast paths ask.
    def init_display_formatter(self):
        super().init_display_formatter()
        formatter = self.display_formatter
        self._plain = formatter.formatters["text/plain"]
        self._plain_printers = dict(self._plain.type_printers)
        rich = [f for f in formatter.formatters.values() if f is not self._plain]
        rich += [formatter.mimebundle_formatter, formatter.ipython_display_formatter]
        self._rich_printers = [f.type_printers for f in rich]

    def plain_text_only(self, kind):
        """True when values of exactly this built-in type have a plain text and nothing else: unless the user
        registered a formatter for it."""
        for printers in self._rich_printers:
            if kind in printers:
                return False
        return True

    def repr_is_plain_text(self, kind):
        return self._plain.type_printers.get(kind) is self._plain_printers.get(kind)

    def plain_text(self, value):
        return self._plain(value)

    def needs_transform(self, code):
        """False when valid Python is certainly meant as Python: no automagic, autocall, macro or transformer applies."""
        if self.input_transformers_post or self.autocall or code.startswith("In ["):
            return True
        first = code.lstrip()
        end = 0
        while end < len(first) and (first[end].isalnum() or first[end] == "_"):
            end += 1
        word = first[:end]
        value = self.user_ns.get(word, _MISSING)
        if value is _MISSING:
            return word in self.magics_manager.magics["line"] and word not in builtins.__dict__
        return isinstance(value, (IPyAutocall, Macro))


def _words(line):
    import shlex

    return shlex.split(line)


def _has_network():
    """True when there is an interface besides loopback."""
    try:
        with open("/proc/net/dev", encoding="ascii") as f:  # not if_nameindex(): a cell has no netlink sockets
            return any(line.split(":")[0].strip() != "lo" for line in f.readlines()[2:])
    except OSError:
        return True


def _print_page(strng, start=0, screen_lines=0, pager_cmd=None):
    """`obj?` and friends print to stdout."""
    text = strng.get("text/plain", "") if isinstance(strng, dict) else strng
    print("\n".join(page.esc_re.sub("", text).splitlines()[start:]))


def make_shell():
    interactiveshell.PickleShareDB = MemoryStore
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.xmode = "Plain"
    config.IPCompleter.use_jedi = False
    shell = Shell.instance(config=config)
    shell.builtin_trap.__enter__()  # get_ipython and display, for good
    shell.display_trap.__enter__()
    shell.user_module.__dict__.setdefault("__builtins__", builtins)
    errors.hide(os.path.dirname(os.path.dirname(interactiveshell.__file__)) + os.sep)
    return shell
