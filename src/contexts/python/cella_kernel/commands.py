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


_copied = False


def copied():
    """This process is a copy; its children are not."""
    global _copied
    _copied = True


def tell_lost_children(popen=subprocess.Popen, waitpid=os.waitpid):
    """subprocess takes a child that cannot be waited for as one that ended well. In a copy it was left behind: that is told as an
    end by SIGKILL. (Where SIGCHLD is ignored nobody can tell, and subprocess' own answer stays.)"""
    poll = popen.poll

    def is_lost():
        return _copied and signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN

    def new_poll(self):
        return self._internal_poll(-int(signal.SIGKILL)) if is_lost() else poll(self)

    def new_try_wait(self, flags):
        try:
            return waitpid(self.pid, flags)
        except ChildProcessError:
            return self.pid, int(signal.SIGKILL) if is_lost() else 0

    popen.poll, popen._try_wait = new_poll, new_try_wait


def system(command):
    """os.system, but an interrupt ends the command. (The C library's ignores SIGINT while the command runs.)"""
    sys.audit("os.system", os.fsencode(command))
    code = run(["/bin/sh", "-c", os.fspath(command)])
    return -code if code < 0 else code << 8
