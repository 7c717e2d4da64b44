"""The crash ring: programs built with -Dfaults=true die or fail at named points (src/base/fault.h).

    CELLA_FAULTS_BUILD   where those programs are (default build-faults/bin)

tools/check.py builds them. harness.py says how a program gets its fault."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from support.server import ROOT  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def faults_build() -> Iterator[Path]:
    """Servers of this ring start the programs that can fail; those of other rings, in the same run, do not."""
    build = Path(os.environ.get("CELLA_FAULTS_BUILD", ROOT / "build-faults" / "bin")).absolute()
    if b"CELLA_FAULT" not in (build / "cellad").read_bytes():
        pytest.fail(f"{build}/cellad was not built with -Dfaults=true")
    before = {name: os.environ.get(name) for name in ("CELLA_BUILD", "CELLA_CONTEXTS")}
    os.environ["CELLA_BUILD"] = str(build)
    if (build.parent / "contexts").is_dir():
        os.environ["CELLA_CONTEXTS"] = str(build.parent / "contexts")
    yield build
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
