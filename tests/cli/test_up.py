"""`cella up` and `cella down`: user, directories, two processes, pid files; a daemon that dies; a stale pid file."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from .conftest import CELLA, run_cella

pytestmark = [pytest.mark.own_server, pytest.mark.needs_isolation]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Home:
    """A state directory and an address."""

    def __init__(self, directory: Path):
        self.state, self.port = directory / "state", free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def up(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return run_cella("up", "--state", str(self.state), "--listen", f"127.0.0.1:{self.port}", *words)

    def down(self) -> "subprocess.CompletedProcess[str]":
        return run_cella("down", "--state", str(self.state))

    def pid(self, name: str) -> int:
        return int((self.state / "run" / f"{name}.pid").read_text().split()[0])

    def answers(self) -> bool:
        return run_cella("ps", url=self.url).returncode == 0


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait(what, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    # not below pytest's own directory, which only root may enter
    base = Path(subprocess.run(["mktemp", "-d", "/var/tmp/cella-up-XXXXXX"], capture_output=True, text=True, check=True).stdout.strip())
    base.chmod(0o755)
    home = Home(base)
    yield home
    done = home.down()
    assert done.returncode == 0, done.stderr
    left = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(base) in line]
    assert not left, left
    subprocess.run(["rm", "-rf", str(base)], check=True)


def test_up_and_down(home: Home):
    done = home.up("-d")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Cella is running at {home.url} (state: {home.state})\n"
    assert home.answers()
    keeper, daemon = home.pid("keeper"), home.pid("cellad")
    user = pwd.getpwnam("cella")
    status = Path(f"/proc/{daemon}/status").read_text()
    assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}\t{user.pw_uid}\t{user.pw_uid}\n" in status
    assert f"Gid:\t{user.pw_gid}\t{user.pw_gid}\t{user.pw_gid}\t{user.pw_gid}\n" in status
    assert "NoNewPrivs:\t1\n" in status and "CapEff:\t0000000000000000\n" in status and "Groups:\t \n" in status
    assert Path(f"/proc/{keeper}").stat().st_uid == 0
    for name, mode, owner in (("", 0o755, 0), ("db", 0o700, user.pw_uid), ("templates", 0o755, 0), ("templates/names", 0o755, 0), ("run", 0o755, 0), ("log", 0o750, 0)):
        info = (home.state / name).stat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid) == (mode, owner), name
    again = home.up("-d")
    assert again.returncode == 0 and "already running" in again.stdout
    assert (home.pid("keeper"), home.pid("cellad")) == (keeper, daemon)
    # without a template a create says how to get one
    refused = run_cella("create", url=home.url)
    assert refused.returncode == 4 and "hint:" in refused.stderr
    ended = home.down()
    assert ended.returncode == 0 and "ended" in ended.stdout
    assert not alive(keeper) and not alive(daemon) and not home.answers()
    assert sorted(p.name for p in (home.state / "run").glob("*.pid")) == []
    assert "not running" in home.down().stdout


def test_a_dead_daemon_is_started_again_beside_its_keeper(home: Home):
    assert home.up("-d").returncode == 0
    keeper, daemon = home.pid("keeper"), home.pid("cellad")
    os.kill(daemon, signal.SIGKILL)
    wait(lambda: not alive(daemon))
    assert home.up("-d").returncode == 0
    assert home.pid("keeper") == keeper and home.pid("cellad") != daemon
    assert home.answers()


def test_foreground_supervises_and_ctrl_c_ends_both(home: Home):
    process = subprocess.Popen([CELLA, "up", "--state", str(home.state), "--listen", f"127.0.0.1:{home.port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "running" in process.stdout.readline()
        keeper, daemon = home.pid("keeper"), home.pid("cellad")
        os.kill(daemon, signal.SIGKILL)
        wait(lambda: home.pid("cellad") != daemon and home.answers())
        assert home.pid("keeper") == keeper
        newer = home.pid("cellad")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not alive(keeper) and not alive(newer)
    finally:
        process.kill()


def test_nothing_outlives_a_foreground_up_that_is_killed(home: Home):
    process = subprocess.Popen([CELLA, "up", "--state", str(home.state), "--listen", f"127.0.0.1:{home.port}"], stdout=subprocess.PIPE, text=True)
    assert "running" in process.stdout.readline()
    keeper, daemon = home.pid("keeper"), home.pid("cellad")
    process.kill()
    process.wait()
    wait(lambda: not alive(keeper) and not alive(daemon))


def test_down_ends_a_foreground_up(home: Home):
    process = subprocess.Popen([CELLA, "up", "--state", str(home.state), "--listen", f"127.0.0.1:{home.port}"], stdout=subprocess.PIPE, text=True)
    assert "running" in process.stdout.readline()
    assert "ended" in home.down().stdout
    assert process.wait(10) == 0
    assert not home.answers()


def test_a_stale_pid_file_harms_nobody(home: Home):
    """The recorded pid belongs to another process by now: it must not be signalled."""
    assert home.up("-d").returncode == 0
    assert home.down().returncode == 0
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        for name in ("keeper", "cellad", "up"):
            (home.state / "run" / f"{name}.pid").write_text(f"{bystander.pid} 1\n")
        assert "not running" in home.down().stdout
        assert bystander.poll() is None
        assert home.up("-d").returncode == 0 and home.answers()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_address_in_use_is_said(home: Home):
    with socket.socket() as s:
        s.bind(("127.0.0.1", home.port))
        s.listen()
        done = home.up("-d")
    assert done.returncode == 125
    assert "cellad.log" in done.stderr
    assert not list((home.state / "run").glob("*.pid")), "what was started was not ended again"


def test_json(home: Home):
    answer = json.loads(home.up("-d", "-o", "json").stdout)
    assert answer == {"url": home.url, "state": str(home.state), "started": True}
    assert json.loads(run_cella("down", "--state", str(home.state), "-o", "json").stdout) == {"was_running": True}


def test_settings_file(home: Home, tmp_path: Path):
    tmp_path.chmod(0o755)
    settings = home.state.parent / "cella.conf"
    settings.write_text(f"state = {home.state}\nlisten = 127.0.0.1:{home.port}\ncells-max = 7\n")
    settings.chmod(0o644)
    done = run_cella("up", "-d", "--config", str(settings))
    assert done.returncode == 0, done.stderr
    assert home.answers()
    assert "--config" in Path(f"/proc/{home.pid('cellad')}/cmdline").read_text()
