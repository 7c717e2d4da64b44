"""One keeper of its own for this folder: no daemon, the tests speak its protocol."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import keeper_client as kc  # noqa: E402
from keeper_process import BUILD, ROOT, TEMPLATES, Running  # noqa: E402, F401

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
