"""Child processes in the foreground: they print straight to the context's own pipes, and an interrupt reaches them."""
import os
import signal
import subprocess
import sys


def shell_path():
    return "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"


def run(argv, stdin_text=None):
    """Run a program, wait, return its wait status as subprocess does (negative: signal). On KeyboardInterrupt its
    whole process group gets SIGINT, two seconds later SIGKILL, and the KeyboardInterrupt goes on."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL if stdin_text is None else subprocess.PIPE, process_group=0
    )
    try:
        if stdin_text is None:
            return child.wait()
        child.communicate(stdin_text.encode("utf-8", "surrogateescape"))
        return child.returncode
    except BaseException:
        _end(child)
        raise


def _end(child):
    for number, patience in ((signal.SIGINT, 2), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def system(command):
    """os.system, but an interrupt ends the command. (The C library's ignores SIGINT while the command runs.)"""
    sys.audit("os.system", os.fsencode(command))
    code = run(["/bin/sh", "-c", os.fspath(command)])
    return -code if code < 0 else code << 8
