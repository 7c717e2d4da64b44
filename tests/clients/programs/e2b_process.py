import hashlib
import os
import threading

from e2b import CommandExitException, PtySize, Sandbox
from e2b_steps import finish, step, until

sandbox = Sandbox.connect(os.environ["SANDBOX"])
commands, files, pty = sandbox.commands, sandbox.files, sandbox.pty


def only(done):
    return {"exitCode": done.exit_code, "stdout": done.stdout, "stderr": done.stderr}


def failure(wait):
    try:
        wait()
    except CommandExitException as e:
        return e
    raise AssertionError("it ended well")


step("run")(lambda: only(commands.run("echo out; echo err >&2")))


@step("run_live")
def _():
    seen = []

    def told(text):
        seen.append(text)
        files.write("/tmp/told", "yes")

    done = commands.run("echo first; until [ -e /tmp/told ]; do sleep 0.05; done; echo second", on_stdout=told, timeout=120)
    return {"seen": seen, "stdout": done.stdout}


step("run_fails")(lambda: only(commands.run("echo before; echo why >&2; exit 3")))
step("run_signal")(lambda: only(commands.run("kill -TERM $$")))
step("run_unknown")(lambda: only(commands.run("no-such-program-here")))
step("run_envs")(lambda: commands.run('echo "$A-$B"', envs={"A": "a b", "B": "ü"}).stdout)
step("run_cwd")(lambda: commands.run("pwd", cwd="/tmp").stdout)
step("run_cwd_missing")(lambda: only(commands.run("pwd", cwd="/no/such/place")))
step("run_home")(lambda: commands.run('cd /home/user && [ "$(pwd -P)" = "$(cd ~ && pwd -P)" ] && id -un && id -u').stdout)
step("run_root")(lambda: commands.run("id -u", user="root").stdout)
step("run_nobody")(lambda: only(commands.run("id", user="nobody")))
step("run_timeout")(lambda: only(commands.run("sleep 300", timeout=1)))
step("timeout_kills")(lambda: until("the end of a process whose time is over", lambda: not any("sleep 300" in p.args for p in commands.list())))


@step("run_big")
def _():
    done = commands.run('head -c 12000000 /dev/zero | tr "\\0" x', timeout=0)
    return {"size": len(done.stdout), "hash": done.stdout == "x" * 12_000_000}


step("run_split_character")(lambda: commands.run("printf '\\303'; sleep 0.2; printf '\\244'").stdout)


@step("stdin")
def _():
    handle = commands.run("cat; echo end", background=True, stdin=True)
    commands.send_stdin(handle.pid, "one\n")
    handle.send_stdin("two\n")
    handle.close_stdin()
    return only(handle.wait())


@step("stdin_big")
def _():
    handle = commands.run("sha256sum", background=True, stdin=True)
    data = b"z" * 3_000_000
    for at in range(0, len(data), 1_000_000):
        commands.send_stdin(handle.pid, data[at : at + 1_000_000])
    commands.close_stdin(handle.pid)
    return handle.wait().stdout.startswith(hashlib.sha256(data).hexdigest())


@step("stdin_stream")
def _():
    handle = commands.run("sha256sum", background=True, stdin=True)
    commands.stream_input(handle.pid, (b"w" * 100_000 for _ in range(30)))
    commands.close_stdin(handle.pid)
    return handle.wait().stdout.startswith(hashlib.sha256(b"w" * 3_000_000).hexdigest())


@step("stdin_closed")
def _():
    handle = commands.run("sleep 300", background=True)
    try:
        commands.send_stdin(handle.pid, "x")
    finally:
        handle.kill()


step("stdin_missing")(lambda: commands.send_stdin(999_999, "x"))


@step("list")
def _():
    handle = commands.run("sleep 301", background=True, cwd="/tmp", envs={"N": "v"})
    mine = next(p for p in commands.list() if p.pid == handle.pid)
    handle.kill()
    return {"cmd": mine.cmd, "args": list(mine.args), "envs": dict(mine.envs), "cwd": mine.cwd, "tag": mine.tag}


@step("kill")
def _():
    handle = commands.run("sleep 302", background=True)
    first = handle.kill()
    e = failure(handle.wait)
    error = {"name": type(e).__name__, "exitCode": e.exit_code, "error": e.error}
    return {"first": first, "again": commands.kill(handle.pid), "never": commands.kill(999_999), "error": error}


@step("connect")
def _():
    handle = commands.run("until [ -e /tmp/go-on ]; do sleep 0.05; done; echo later; exit 5", background=True, timeout=0)
    handle.disconnect()
    again = commands.connect(handle.pid, timeout=0)
    files.write("/tmp/go-on", "1")
    e = failure(again.wait)
    return {"same": again.pid == handle.pid, "exitCode": e.exit_code, "stdout": e.stdout}


@step("connect_two")
def _():
    first = commands.run("cat", background=True, stdin=True, timeout=0)
    second = commands.connect(first.pid, timeout=0)
    first.send_stdin("both\n")
    second.close_stdin()
    return [first.wait().stdout, second.wait().stdout]


step("connect_missing")(lambda: commands.connect(999_999) and None)


class Screen:
    """A terminal's output, read by a thread of its own: the plain client reads while it waits."""

    def __init__(self, terminal):
        self.text, self.end = "", None
        self.thread = threading.Thread(target=self.read, args=(terminal,), daemon=True)
        self.thread.start()

    def read(self, terminal):
        try:
            self.end = terminal.wait(on_pty=self.more).exit_code
        except CommandExitException as e:
            self.end = e

    def more(self, data):
        self.text += data.decode(errors="replace")

    def over(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.end


@step("pty")
def _():
    terminal = pty.create(PtySize(rows=30, cols=90), timeout=0, envs={"MARK": "m1"})
    screen = Screen(terminal)
    pty.send_stdin(terminal.pid, b'stty size; echo "<$MARK>"; tty\n')
    until("the size", lambda: "30 90" in screen.text and "<m1>" in screen.text and "/dev/pts/" in screen.text)
    pty.resize(terminal.pid, PtySize(rows=41, cols=101))
    pty.send_stdin(terminal.pid, b"stty size\n")
    until("the new size", lambda: "41 101" in screen.text)
    pty.send_stdin(terminal.pid, b"exit 4\n")
    return {"exitCode": screen.over().exit_code}


@step("pty_connect")
def _():
    terminal = pty.create(PtySize(rows=24, cols=80), timeout=0)
    terminal.disconnect()
    screen = Screen(pty.connect(terminal.pid, timeout=0))
    pty.send_stdin(terminal.pid, b'echo ag""ain\n')
    until("the echo", lambda: "again" in screen.text)
    killed = pty.kill(terminal.pid)
    end = screen.over()
    return {"killed": killed, "ended": end.error, "again": pty.kill(terminal.pid)}


@step("pty_wrong_input")
def _():
    handle = commands.run("cat", background=True, stdin=True)
    try:
        pty.send_stdin(handle.pid, b"A")
    finally:
        handle.kill()


finish()
