"""A keeper process of the tests' own, and what can be seen of it from outside."""
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import time

import keeper_client as kc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CELLA_BUILD", ROOT / "build" / "bin"))
TEMPLATES = pathlib.Path(os.environ.get("CELLA_TEMPLATES", "/var/lib/cella/templates"))


class Running:
    """A keeper process on a temporary state directory."""

    def __init__(self, *options, place=None, program=BUILD / "cella-keeper"):
        self.options, self.program = options, program
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="cella-keeper-test-", dir=place))
        (self.state / "templates").symlink_to(TEMPLATES)
        (self.state / "run").mkdir()
        self.path = str(self.state / "run" / "keeper.sock")
        self.log = open(self.state / "keeper.log", "ab")
        self.process = None
        self.start()

    def start(self):
        contexts = BUILD.parent / "contexts"
        pathlib.Path(self.path).unlink(missing_ok=True)  # a child of one that was killed may have it open for a moment, and nobody would answer there
        self.process = subprocess.Popen(
            [self.program, "--state", self.state, "--socket", self.path, "--user", "root", "--contexts", contexts,
             "--guest", BUILD / "cella-guest", *self.options], stderr=self.log, stdout=self.log)
        deadline = time.monotonic() + 30
        while True:
            try:
                kc.Keeper(self.path).close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, (self.state / "keeper.log").read_text()
                assert time.monotonic() < deadline, "the keeper does not listen"
                time.sleep(0.02)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)

    def remove(self):
        if self.process.poll() is None:
            self.stop()
        self.log.close()
        shutil.rmtree(self.state)


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.02)


def new_id(prefix="sbx_"):
    return prefix + secrets.token_hex(16)


def layers_of(running):
    return os.listdir(f"/proc/{running.process.pid}/root{running.state}/layers")
