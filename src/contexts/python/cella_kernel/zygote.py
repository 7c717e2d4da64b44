"""What happens once per template: import what most programs need, so that every copy has it already."""
import gc
import importlib
import os
import signal
import sys

LIBRARIES = ("numpy", "pandas", "scipy", "matplotlib.pyplot", "requests", "PIL.Image")
ENVIRONMENT = "/etc/cella/environment"
PRELOAD = "/etc/cella/preload.py"


# Libraries that start threads when they are imported, unless told otherwise.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def import_libraries():
    """A library that the template does not have, or whose import fails, is not there for the user's code either."""
    added = [name for name in ONE_THREAD if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
        except Exception as e:
            print("preloading %s failed: %s: %s" % (name, type(e).__name__, e), file=sys.stderr)
    for name in added:
        del os.environ[name]


def load_environment(path=ENVIRONMENT):
    """NAME=VALUE per line; empty lines and lines with # in front are skipped."""
    try:
        lines = open(path, encoding="utf-8").read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        name, equals, value = line.strip().partition("=")
        if name and equals and not name.startswith("#"):
            os.environ[name] = value


def run_preload(namespace, path=PRELOAD):
    """The template's own code, in the user's namespace: what it defines is there in every context."""
    try:
        source = open(path, encoding="utf-8").read()
    except FileNotFoundError:
        return
    exec(compile(source, path, "exec"), namespace)


def settle():
    """Before the fork point: nothing open, nothing left to set up, garbage away; what stays is kept out of the collector
    (its pages stay shared)."""
    fonts = sys.modules.get("matplotlib.font_manager")
    if fonts is not None:
        fonts._get_font.cache_clear()  # font files are open; a copy has no such descriptor, and closing them there crashes
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_bytes(16)  # OpenSSL's first use touches a thousand pages: here, not in every copy. It sees the new pid there
    gc.collect()
    gc.freeze()


def threads():
    return len(os.listdir("/proc/self/task"))


def wait_to_be_copied(ready_fd):
    """The fork point. The template's process never returns from pause(); its copies do."""
    import ctypes

    before_fork = ctypes.pythonapi.PyOS_BeforeFork  # pairs with the PyOS_AfterFork_Child of wake.py
    pause = signal.pause
    before_fork()
    os.write(ready_fd, b"Z")
    os.close(ready_fd)
    pause()
