#!/usr/bin/env python3
"""Run a command with a keeper and a daemon of its own: `with-daemon.py COMMAND…`; CELLA_URL says where the daemon is.

The programs, the driver and the templates come from the variables that tests/api/support/server.py names (CELLA_BUILD,
CELLA_TEST_DRIVER, CELLA_TEMPLATES…). CELLA_TEST_DRIVER is set for the command. The exit status is the command's.
"""
import os
import signal
import subprocess
import sys
from pathlib import Path

# This file may be a copy outside the tree; CELLA_TREE says where that is then.
TREE = Path(os.environ.get("CELLA_TREE") or Path(__file__).resolve().parents[3])
sys.path.insert(0, str(TREE / "tests/api"))

from support.server import Server  # noqa: E402


def main() -> int:
    server = Server()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon is ended too
    try:
        server.start()
        environment = dict(os.environ, CELLA_URL=server.url, CELLA_TEST_DRIVER=server.driver)
        return subprocess.run(sys.argv[1:], env=environment).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
