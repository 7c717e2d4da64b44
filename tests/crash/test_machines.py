"""The keeper dies, or fails, at each step of making and keeping virtual machines: afterwards there is no half base, no layer, no process and no file of it, and every base that is
named works. The guest is the program without a kernel; needs a /dev/kvm that runs guest code at all."""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Iterator, List

import pytest
from harness import armed, can_fail, points
from support.server import ROOT

sys.path.insert(0, str(ROOT / "tests" / "keeper"))
import keeper_client as kc  # noqa: E402
from keeper_process import BUILD, Running, layers_of, wait_until  # noqa: E402
from machine_client import HAS_KVM, TEMPLATE, base_of, boot, copy, fill, make, monitors, save  # noqa: E402

STEPS = [(point, how) for point in points("keeper", "keeper.machine.", "keeper.base.", "keeper.save.") for how in (["kill", "error", "nospace"] if can_fail(point) else ["kill"])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    programs = tmp_path_factory.mktemp("programs")
    faults = Path(os.environ.get("CELLA_FAULTS_BUILD", ROOT / "build-faults" / "bin")).absolute()
    shutil.copy(faults / "cella-keeper", programs)
    shutil.copy(BUILD / "cella-vmm", programs)
    keeper = Running(program=programs / "cella-keeper")
    try:
        connection = kc.Keeper(keeper.path)
        assert connection.call(kc.HELLO).report()["features"] & HAS_KVM, "the keeper finds no usable /dev/kvm on this host: these tests cannot show anything here"
        fill(keeper, BUILD.parent / "tests/microvm/microvm-guest")
        base_of(boot(connection))
        connection.close()
        yield keeper
    finally:
        keeper.remove()


def twice(said: List[str], step, *args):
    """Again after a refusal: the fault acts once in the keeper, in each of its helpers otherwise."""
    for _ in range(2):
        try:
            return step(*args)
        except kc.Refused as refused:
            said.append(refused.text)
    return None


def everything(place: Running, first: str, said: List[str], tmp_path: Path) -> None:
    keeper = kc.Keeper(place.path)
    booted = twice(said, boot, keeper)
    if not twice(said, base_of_connected, booted):
        assert booted.connect(33).ask(b"c"), "it goes on"
    keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=first)
    machine = twice(said, make, keeper, first)
    capture = twice(said, machine.capture)
    child = twice(said, copy, keeper, capture)
    twice(said, save, keeper, capture, tmp_path)
    assert machine.ask(b"c") == child.ask(b"c") == b"1"
    keeper.close()


def base_of_connected(machine) -> str:
    return base_of(machine)[0]


@pytest.mark.parametrize("point, how", STEPS)
def test_a_step_fails_or_is_the_last(place: Running, tmp_path: Path, point: str, how: str) -> None:
    there = place.state / "machines" / TEMPLATE
    first, said, died = os.readlink(there / "newest"), [], False
    place.stop()
    with armed(f"{point}:{how}"):
        place.start()
    try:
        everything(place, first, said, tmp_path)
    except (EOFError, ConnectionError):
        died = True
    assert died or said, "the point did not act"
    assert how == "kill" or any(point in text for text in said), said
    if died:
        place.process.wait(10)
    else:
        place.stop()
    wait_until(lambda: monitors(place) == {})
    place.start()
    names = os.listdir(there)
    bases = {name for name in names if name.startswith("bas_")}
    assert not [name for name in names if name.startswith((".new", "console-cel_"))]
    assert set(layers_of(place)) == bases and os.readlink(there / "newest") in bases
    keeper = kc.Keeper(place.path)
    for base in bases:
        assert keeper.call(kc.MACHINE_TEMPLATE, template=TEMPLATE, layer=base).layer == base
        machine = make(keeper, base)
        assert machine.ask(b"c") == b"1"
        machine.destroy()
    keeper.close()
