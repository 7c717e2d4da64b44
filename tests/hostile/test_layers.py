"""The proof that these tests can fail: for every layer that a test build of the keeper can leave out, the attacks that only it denies get through."""

from __future__ import annotations

import importlib
import inspect
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from ring import LAYERS, Breach, Cell, Ring, held

HERE = Path(__file__).resolve().parent


def decisive() -> Iterator[Tuple[str, str, Callable[..., None]]]:
    """(layer, name, test) of every test marked `decisive`."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        module = importlib.import_module(path.stem)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "layer" and mark.kwargs.get("decisive"):
                    yield mark.args[0], f"{path.stem}.{name}", function


ATTACKS = list(decisive())


@pytest.fixture(scope="module")
def weak(request: pytest.FixtureRequest) -> Iterator[Ring]:
    """A daemon whose keeper leaves the layer out."""
    server = Ring(without=request.param).start()
    yield server
    server.stop()


@pytest.mark.own_server
@pytest.mark.parametrize("weak,name,attack", [pytest.param(layer, name, test, id=f"{layer}-{name}") for layer, name, test in ATTACKS], indirect=["weak"])
def test_attack_gets_through_without_its_layer(weak: Ring, name: str, attack: Callable[..., None]) -> None:
    """The very test that passes against the whole keeper ends in a Breach here. Any other failure is one of the test."""
    made: List[Cell] = []

    def fresh(**limits: float) -> Cell:
        made.append(weak.cell(**limits))
        return made[-1]

    known: dict[str, Any] = {"fresh": fresh, "ring": weak}
    try:
        for wanted in inspect.signature(attack).parameters:
            if wanted in ("cell", "neighbour"):
                known[wanted] = fresh()
        with pytest.raises(Breach):
            attack(**{wanted: known[wanted] for wanted in inspect.signature(attack).parameters})
    finally:
        for cell in made:
            cell.close()


def test_every_layer_has_decisive_attacks() -> None:
    """No layer stands in the table of SECURITY.md, and in the keeper's list, without a proof."""
    held({layer for layer, _, _ in ATTACKS} == set(LAYERS), f"{sorted({layer for layer, _, _ in ATTACKS})}")


def test_an_ordinary_keeper_has_no_such_switch() -> None:
    """--without is refused by the keeper that is shipped."""
    from support.server import programs

    for layer in LAYERS:
        run = subprocess.run([str(programs() / "cella-keeper"), "--without", layer], capture_output=True, text=True, timeout=20)
        held(run.returncode != 0 and "cannot be switched off" in run.stderr, f"{layer}: {run.returncode} {run.stderr}")
