"""One keeper of its own for this folder: no daemon, the tests speak its protocol."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import keeper_client as kc  # noqa: E402

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


@pytest.fixture(scope="session")
def template():
    link = TEMPLATES / "names" / "python"
    assert link.is_symlink(), f"no python template in {TEMPLATES}: run `cella template build templates/python.toml`"
    return pathlib.Path(os.readlink(link)).name


@pytest.fixture(scope="session")
def running():
    keeper = Running()
    yield keeper
    keeper.remove()


@pytest.fixture
def keeper(running, template):
    """A connection with a warm Python."""
    connection = kc.Keeper(running.path)
    connection.call(kc.ZYGOTE_START, template=template, language=kc.PYTHON)
    yield connection
    connection.close()


@pytest.fixture
def cell(keeper, template):
    made = keeper.make(template)
    yield made
    try:
        made.destroy()
    except kc.Refused:
        pass  # the test ended it
