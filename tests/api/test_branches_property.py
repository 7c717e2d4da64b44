"""Random programs of operations on branches, against a model that holds what every cell must contain.

    CELLA_PROPERTY_RUNS=20      programs to run (default 2: a fixed one and a new one)
    CELLA_PROPERTY_SEED=1234    only this one
    CELLA_PROPERTY_STEPS=200    operations of each

A mismatch prints the seed and the program up to it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from cella import ConflictError, GoneError, InvalidRequest, Sandbox, Snapshot
from support.server import Server

STEPS = int(os.environ.get("CELLA_PROPERTY_STEPS", "200"))
CELLS_MAX = 10  # alive at a time: the program is about their relations, not about the size of the machine
SNAPSHOTS_MAX = 4


def seeds() -> List[int]:
    if "CELLA_PROPERTY_SEED" in os.environ:
        return [int(os.environ["CELLA_PROPERTY_SEED"])]
    runs = int(os.environ.get("CELLA_PROPERTY_RUNS", "2"))
    return [1, *(random.SystemRandom().randrange(10**6) for _ in range(runs - 1))][:runs]


#: Runs once in every first cell. The counter, the generator, the open file and the thread live on in memory only.
SETUP = """
import hashlib, itertools, json, os, queue, threading
import numpy as np
def _generator():
    total = 0
    while True:
        total += (yield total) or 0
gen = _generator(); next(gen)
log = open('/workspace/log', 'a')
_in, _out = queue.Queue(), queue.Queue()
def _worker():
    squares = 0
    while True:
        squares += _in.get() ** 2
        _out.put(squares)
threading.Thread(target=_worker, daemon=True).start()
def _look():
    values = {}
    for name, value in list(globals().items()):
        if name[0] == 'v' and name[1:].isdigit():
            values[name] = ['array', int(value.size), int(value.sum())] if isinstance(value, np.ndarray) else value
    log.flush()
    files = {n: hashlib.sha1(open('/workspace/' + n, 'rb').read()).hexdigest() for n in os.listdir('/workspace')}
    _in.put(0)
    return json.dumps({'values': values, 'files': files, 'gen': gen.send(0), 'squares': _out.get(timeout=30), 'log': log.tell()})
"""


@dataclass
class State:
    """What a cell contains."""

    values: Dict[str, Any] = field(default_factory=dict)  # an array is ["array", size, sum]
    files: Dict[str, bytes] = field(default_factory=lambda: {"log": b""})
    gen: int = 0
    squares: int = 0

    def expected(self) -> Dict[str, Any]:
        files = {n: hashlib.sha1(c).hexdigest() for n, c in self.files.items()}
        return {"values": self.values, "files": files, "gen": self.gen, "squares": self.squares, "log": len(self.files["log"])}


@dataclass
class Cell:
    name: str
    box: Sandbox
    state: State
    parent: Optional["Cell"] = None
    alive: bool = True
    frozen: bool = False

    def __str__(self) -> str:
        return self.name


class Program:
    """One random program, the cells it made, and what they must contain."""

    def __init__(self, seed: int, server: Server) -> None:
        self.seed, self.url, self.random = seed, server.url, random.Random(seed)
        self.done: List[str] = []
        self.cells: List[Cell] = []
        self.snapshots: List[Tuple[str, Snapshot, State]] = []
        self.names = 0

    # ---- the program ----

    def run(self, steps: int) -> None:
        try:
            self.new_cell()
            for step in range(steps):
                self.step()
                if step % 25 == 24:
                    self.verify_all()
            self.verify_all()
            self.verify_trees()
        except BaseException as e:
            raise AssertionError(f"seed {self.seed}, after {len(self.done)} operations:\n" + "\n".join(self.done) + f"\n{type(e).__name__}: {e}") from e

    def step(self) -> None:
        operations: List[Tuple[int, Callable[[], None]]] = [
            (30, self.set_value), (14, self.write_file), (8, self.remove_file), (12, self.use_live_objects), (12, self.fork),
            (4, self.fork_while_running), (8, self.merge), (2, self.merge_of_a_stranger), (5, self.snapshot), (4, self.start_snapshot),
            (2, self.delete_snapshot), (7, self.hibernate), (4, self.wake), (6, self.delete), (3, self.new_cell), (8, self.verify_one),
        ]  # fmt: skip
        weights, choices = zip(*operations)
        self.random.choices(choices, weights)[0]()

    def say(self, text: str) -> None:
        self.done.append(f"{len(self.done):4} {text}")

    # ---- choosing ----

    def alive(self) -> List[Cell]:
        return [c for c in self.cells if c.alive]

    def any_cell(self) -> Cell:
        if not self.alive():
            self.new_cell()
        return self.random.choice(self.alive())

    def add(self, box: Sandbox, state: State, parent: Optional[Cell] = None) -> Cell:
        self.cells.append(Cell(f"c{self.names}", box, state, parent))
        self.names += 1
        return self.cells[-1]

    def code(self, cell: Cell, text: str) -> str:
        cell.frozen = False
        return cell.box.run_code(text, check=True, timeout_seconds=60).stdout

    # ---- operations ----

    def new_cell(self) -> None:
        if len(self.alive()) >= CELLS_MAX:
            return
        persistent = self.random.random() < 0.4
        cell = self.add(Sandbox(host=self.url, persistent=persistent, metadata={"property": str(self.seed)}), State())
        self.say(f"create {cell}{' persistent' if persistent else ''} ({cell.box.id})")
        self.code(cell, SETUP)

    def set_value(self) -> None:
        cell, name = self.any_cell(), f"v{self.random.randrange(12)}"
        values, r = cell.state.values, self.random
        known = values.get(name)
        choice = r.randrange(6)
        if choice == 0 and known is not None:
            code = f"del {name}"
            del values[name]
        elif choice == 1 and isinstance(known, list) and known[0] == "list":
            x = r.randrange(100)
            code = f"{name}.append({x})"
            known.append(x)
        elif choice == 2 and isinstance(known, list) and known[0] == "array":
            i, by = r.randrange(known[1]), r.randrange(1, 1000)
            code = f"{name}[{i}] += {by}"
            known[2] += by
        elif choice <= 3:
            size = r.choice([10, 5_000, 200_000])
            code = f"{name} = np.arange({size})"
            values[name] = ["array", size, size * (size - 1) // 2]
        elif choice == 4:
            code = f"{name} = ['list']"
            values[name] = ["list"]
        else:
            x = r.randrange(10**9)
            code = f"{name} = {{'x': {x}, 'text': 'ä' * 20}}"
            values[name] = {"x": x, "text": "ä" * 20}
        self.say(f"run {cell}: {code}")
        self.code(cell, code)

    def use_live_objects(self) -> None:
        cell, x = self.any_cell(), self.random.randrange(1, 50)
        line = f"line {x}\n"
        self.say(f"run {cell}: generator, thread and open file get {x}")
        said = self.code(cell, f"_in.put({x}); print(gen.send({x}), _out.get(timeout=30)); log.write({line!r}); log.flush()")
        cell.state.gen += x
        cell.state.squares += x * x
        cell.state.files["log"] += line.encode()
        assert said.split() == [str(cell.state.gen), str(cell.state.squares)], said

    def write_file(self) -> None:
        cell, name = self.any_cell(), f"f{self.random.randrange(8)}"
        content = self.random.randbytes(self.random.choice([0, 10, 3000, 300_000]))
        inside = self.random.random() < 0.5
        self.say(f"write {cell} {name}: {len(content)} bytes {'from inside' if inside else 'over the API'}")
        if inside:
            self.code(cell, f"with open('/workspace/{name}', 'wb') as f: f.write(bytes.fromhex('{content.hex()}'))")
        else:
            cell.box.filesystem.write(f"/workspace/{name}", content)
        cell.frozen, cell.state.files[name] = False, content

    def remove_file(self) -> None:
        cell = self.any_cell()
        names = sorted(n for n in cell.state.files if n != "log")
        if not names:
            return
        name = self.random.choice(names)
        self.say(f"remove {cell} {name}")
        cell.box.filesystem.remove(f"/workspace/{name}")
        del cell.state.files[name]
        cell.frozen = False

    def fork(self) -> None:
        room = CELLS_MAX - len(self.alive())
        if room < 1:
            return
        parent, n = self.any_cell(), min(self.random.randrange(1, 4), room)
        self.say(f"fork {parent} {n}")
        branches = parent.box.fork(n)
        parent.frozen = False
        assert len(branches) == n and not branches.errors, branches.errors
        made = [self.add(b, copy.deepcopy(parent.state), parent) for b in branches]
        self.done[-1] += " -> " + " ".join(map(str, made))

    def fork_while_running(self) -> None:
        """The code that runs goes on to its end in both."""
        if len(self.alive()) >= CELLS_MAX:
            return
        parent, x = self.any_cell(), self.random.randrange(1000)
        self.say(f"fork {parent} while it runs")
        started, results = threading.Event(), []
        code = f"import time\nv90 = {x}\nprint('on', flush=True)\nfor _ in range(6): time.sleep(0.05)\nv91 = v90 + 1"

        def run() -> None:
            try:
                results.append(parent.box.run_code(code, on_stdout=lambda _: started.set()))
            except BaseException as e:  # noqa: BLE001 - said in the thread that asserts
                results.append(e)
            started.set()

        thread = threading.Thread(target=run)
        thread.start()
        started.wait(60)
        branches = parent.box.fork(1)
        thread.join(60)
        assert results and getattr(results[0], "exit", None) == "ok", results
        assert len(branches) == 1, branches.errors
        parent.frozen = False
        parent.state.values.update(v90=x, v91=x + 1)
        self.done[-1] += f" -> {self.add(branches[0], copy.deepcopy(parent.state), parent)}"

    def merge(self) -> None:
        pairs = [(p, c) for p in self.alive() for c in self.alive() if p is not c and (self.below(c, p) or (p.parent is c.parent and p.parent is not None))]
        if not pairs:
            return
        parent, child = self.random.choice(pairs)
        self.say(f"merge {child} into {parent}{' (frozen)' if parent.frozen else ''}")
        if child.frozen:
            child.box.wake()  # only the sandbox a request is addressed to wakes by itself
        parent.box.merge_into(child.box)
        parent.state, parent.frozen = child.state, False
        child.alive = False
        with pytest.raises(GoneError):
            child.box.info()

    @staticmethod
    def below(cell: Cell, above: Cell) -> bool:
        at = cell.parent
        while at is not None and at is not above:
            at = at.parent
        return at is not None

    def merge_of_a_stranger(self) -> None:
        cell = self.any_cell()
        self.say(f"merge {cell} into itself, and a stranger into it")
        with pytest.raises(InvalidRequest):
            cell.box.merge_into(cell.box)
        cell.frozen = False  # a request, if a wrong one
        root: Callable[[Cell], Cell] = lambda c: c if c.parent is None else root(c.parent)  # noqa: E731
        strangers = [c for c in self.alive() if root(c) is not root(cell)]
        if strangers:
            with pytest.raises(ConflictError):
                cell.box.merge_into(strangers[0].box)

    def snapshot(self) -> None:
        if len(self.snapshots) >= SNAPSHOTS_MAX:
            return
        cell = self.any_cell()
        self.say(f"snapshot {cell}")
        taken = cell.box.snapshot()
        cell.frozen = False
        self.snapshots.append((f"s{len(self.done)}", taken, copy.deepcopy(cell.state)))
        self.done[-1] += f" -> {self.snapshots[-1][0]}"

    def start_snapshot(self) -> None:
        if not self.snapshots or len(self.alive()) >= CELLS_MAX:
            return
        name, snapshot, state = self.random.choice(self.snapshots)
        self.say(f"start {name}")
        cell = self.add(snapshot.start(metadata={"property": str(self.seed)}), copy.deepcopy(state))
        self.done[-1] += f" -> {cell} ({cell.box.id})"

    def delete_snapshot(self) -> None:
        if self.snapshots:
            name, snapshot, _ = self.snapshots.pop(self.random.randrange(len(self.snapshots)))
            self.say(f"delete snapshot {name}")
            snapshot.delete()

    def hibernate(self) -> None:
        cell = self.any_cell()
        self.say(f"hibernate {cell}")
        cell.box.hibernate()
        cell.frozen = True

    def wake(self) -> None:
        frozen = [c for c in self.alive() if c.frozen]
        if not frozen:
            return
        cell = self.random.choice(frozen)
        space = cell.box.space_id if self.random.random() < 0.5 else None
        self.say(f"{'resume the Space of' if space else 'wake'} {cell}")
        assert cell.box.info().status == "hibernated"
        if space:
            assert Sandbox.resume(space, host=self.url).id == cell.box.id
        else:
            cell.box.wake()
        cell.frozen = False

    def delete(self) -> None:
        cell = self.any_cell()
        self.say(f"delete {cell}")
        cell.box.delete()
        cell.alive = False

    # ---- checking ----

    def verify_one(self) -> None:
        self.verify(self.any_cell())

    def verify_all(self) -> None:
        for cell in self.alive():
            self.verify(cell)

    def verify(self, cell: Cell) -> None:
        self.say(f"verify {cell}{' (frozen)' if cell.frozen else ''}")
        found, expected = json.loads(self.code(cell, "print(_look())")), cell.state.expected()
        wrong = [f"{k}: {found.get(k)!r}, not {v!r}" for k, v in expected.items() if found.get(k) != v]
        assert not wrong, f"{cell} ({cell.box.id}) has " + "; ".join(wrong)
        name = self.random.choice(sorted(cell.state.files))
        assert cell.box.filesystem.read(f"/workspace/{name}", format="bytes") == cell.state.files[name], f"{cell}: {name} over the API"

    def verify_trees(self) -> None:
        listed = {i.id: i for i in Sandbox.list(metadata={"property": str(self.seed)}, host=self.url)}
        assert set(listed) == {c.box.id for c in self.alive()}
        for cell in self.alive():
            node = cell.box.tree().find(cell.box.id)
            assert node is not None and node.state in ("running", "hibernated"), f"{cell} in its tree: {node}"
            expected = {c.box.id for c in self.alive() if c.parent is cell}
            children = {n.id for n in node.children}
            assert expected <= children, f"{cell} has the children {children}, not {expected}"

    def clean(self) -> None:
        for cell in self.alive():
            cell.box.delete()
        for _, snapshot, _ in self.snapshots:
            snapshot.delete()


@pytest.mark.needs_isolation
@pytest.mark.parametrize("seed", seeds())
def test_random_program(seed: int, server: Server) -> None:
    print(f"seed {seed}: CELLA_PROPERTY_SEED={seed} repeats it")
    program = Program(seed, server)
    try:
        program.run(STEPS)
    finally:
        program.clean()
    operations = [line.split()[1] for line in program.done]
    assert {"create", "run", "fork", "verify"} <= set(operations), "the program did nothing worth the name"
