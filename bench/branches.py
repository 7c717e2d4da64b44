"""What is asked of branches: fork and its first execution, long chains, many children, freezing and coming back.

One thread sends and receives everything over connections that are open already, so that twenty children do not wait for twenty
Python threads. A sample is from the moment the fork is asked for to the moment the child's answer is there.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import socket
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from cella import Sandbox
from report import Row
from support import proc
from support.server import Server

LINE = {"code": "print(6*7)"}
#: Bytes of one such object with its pointer: sys.getsizeof says 79 in Python 3.11, its allocator gives multiples of 16, the list has 8.
OBJECT_BYTES = 88
LOADS = {
    "arrays": "import numpy as np\ndata = [np.random.default_rng(i).random(1_250_000) for i in range({mb} // 10)]",
    "small objects": "data = [f'{{i:030d}}' for i in range({mb} * 1_000_000 // " + str(OBJECT_BYTES) + ")]",
}
USES = {"arrays": "sum(float(a.sum()) for a in data)", "small objects": "sum(map(len, data))"}


class Wire:
    """One connection; the request can be sent now and the answer taken later."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, method: str, path: str, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def take(self) -> Any:
        """The whole answer. RuntimeError for anything but 2xx."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((int(x.split(":")[1]) for x in lines if x.startswith("content-length:")), 0)
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        if not lines[0].split(" ")[1].startswith("2"):
            raise RuntimeError(f"{lines[0]}: {body.decode('utf-8', 'replace')[:300]}")
        return json.loads(body) if body else None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.send(method, path, body)
        return self.take()

    def closed(self) -> bool:
        """The daemon closes connections that nobody uses for a while."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the daemon closed the connection")
        self._buffer += data


class Forked:
    """One fork(n) and the first line of code in every child."""

    def __init__(self, bench: "Branches", parent: str, n: int) -> None:
        wires = bench.connections(n + 1)
        start = time.perf_counter()
        answer = wires[n].ask("POST", box(parent, "/fork"), {"n": n})
        self.fork_ms = ms_since(start)
        self.children: List[str] = answer["children"]
        self.frozen_ms = float(answer["frozen_ms"])
        if len(self.children) != n:
            raise RuntimeError(f"fork({n}) made {len(self.children)}: {answer['errors'][:1]}")
        for child, wire in zip(self.children, wires):
            wire.send("POST", box(child, "/execute"), LINE)
        self.first_ms = bench.collect(wires[:n], start)


class Branches:
    def __init__(self, server: Server, quick: bool) -> None:
        self.server = server
        self.quick = quick
        self._wires: List[Wire] = []

    # ---- fork(n) ----

    def fork_rows(self) -> List[Row]:
        rows: List[Row] = []
        for kind in LOADS:
            for gb in (0.1,) if self.quick else (0.1, 1, 2):
                with self._loaded(kind, gb) as parent:
                    for n, times in ((1, 40), (5, 12), (20, 5)):
                        rows += self._fork_rows(parent.id, kind, gb, n, max(2, times // 5) if self.quick else times)
                    rows.append(self._used_row(parent.id, kind, gb))
        return rows

    def _fork_rows(self, parent: str, kind: str, gb: float, n: int, times: int) -> List[Row]:
        each: List[float] = []
        every: List[float] = []
        frozen: List[float] = []
        for _ in range(times):
            forked = Forked(self, parent, n)
            each += forked.first_ms
            every.append(max(forked.first_ms))
            frozen.append(forked.frozen_ms)
            self._delete(forked.children)
        small = gb == 0.1
        what = f"fork({n}), {gb:g} GB of {kind}"
        rows = [Row(f"{what} -> first exec of each", each, budget=5 if small and n == 1 else None)]
        if n > 1:
            rows.append(Row("  -> every child has run a line", every, budget=25 if small and n == 5 else None))
        rows.append(Row("  parent frozen", frozen, budget=3 + 25 * (gb - 0.1) if gb else None))
        rows.append(Row("  memory of a child that ran a line (PSS)", [self._memory_mb(parent, n)], unit="MB"))
        return rows

    def _memory_mb(self, parent: str, n: int, code: str = "") -> float:
        """Of each of n children, after a line, and after `code` if there is some."""
        before = self._pss_settled_kb()
        forked = Forked(self, parent, n)
        for child in forked.children if code else ():
            self._execute(child, code)
        memory = (self._pss_settled_kb() - before) / 1024 / n
        self._delete(forked.children)
        return memory

    def _used_row(self, parent: str, kind: str, gb: float) -> Row:
        """Reading an object writes its reference count: what a child takes when it has read everything."""
        memory = self._memory_mb(parent, 1, USES[kind])
        return Row(f"  memory of one that has read all {kind} (PSS)", [memory], unit="MB")

    # ---- a chain, many children ----

    def chain_rows(self) -> List[Row]:
        length = 10 if self.quick else 60
        rows: List[Row] = []
        for kind in LOADS:
            for gb in (0.1,) if self.quick else (0.1, 1, 2):
                with self._loaded(kind, gb) as parent:
                    before, first, frozen, at, chain = self._pss_settled_kb(), [], [], parent.id, []
                    for _ in range(length):
                        forked = Forked(self, at, 1)
                        first += forked.first_ms
                        frozen.append(forked.frozen_ms)
                        at = forked.children[0]
                        chain.append(at)
                    memory = (self._pss_settled_kb() - before) / 1024 / length
                    self._delete(chain)
                what = f"chain of {length}, {gb:g} GB of {kind}"
                rows += [
                    Row(f"{what}: fork -> first exec", first),
                    Row("  of it the last ten", first[-10:]),
                    Row("  parent frozen", frozen),
                    Row("  memory of a link (PSS)", [memory], unit="MB"),
                ]
        return rows

    def children_rows(self) -> List[Row]:
        """100 children of an idle cell, at once."""
        n, rows = 100, []
        made: List[float] = []
        each: List[float] = []
        every: List[float] = []
        memory: List[float] = []
        lost: List[float] = []
        for _ in range(1 if self.quick else 5):
            with Sandbox(host=self.server.url) as parent:
                parent.run_code("x = 1", check=True)
                pss, free = self._pss_settled_kb(), available_kb()
                forked = Forked(self, parent.id, n)
                made.append(forked.fork_ms)
                each += forked.first_ms
                every.append(max(forked.first_ms))
                memory.append((self._pss_settled_kb() - pss) / n / 1024)
                lost.append((free - available_kb()) / n / 1024)
                self._delete(forked.children)
        rows.append(Row(f"fork({n}) of an idle cell: all made", made, budget=1000))
        rows.append(Row("  -> first exec of each", each))
        rows.append(Row("  -> every child has run a line", every))
        rows.append(Row("  memory of a child that ran a line (PSS)", memory, unit="MB", budget=3))
        rows.append(Row("  what the host has less, for each", lost, unit="MB", note="MemAvailable: page tables and kernel objects too"))
        return rows

    # ---- unflushed files ----

    def unflushed_rows(self) -> List[Row]:
        """The layer's snapshot is taken while the parent stands still, and waits until what it wrote is on the disk."""
        rows = []
        with Sandbox(host=self.server.url) as parent:
            for mb in (0, 1, 20, 100):
                frozen: List[float] = []
                first: List[float] = []
                for _ in range(3 if self.quick else 20):
                    os.sync()
                    self._execute(parent.id, f"import os\nwith open('/workspace/written', 'wb') as f: f.write(os.urandom({mb} * 1_000_000))")
                    forked = Forked(self, parent.id, 1)
                    frozen.append(forked.frozen_ms)
                    first += forked.first_ms
                    self._delete(forked.children)
                rows.append(Row(f"parent frozen, {mb} MB written just before, not flushed", frozen, budget=3 if mb <= 1 else None))
                rows.append(Row("  fork(1) -> first exec", first))
        return rows

    # ---- freeze and resume ----

    def freeze_rows(self) -> List[Row]:
        rows = self._freeze_rows("idle cell", None, 0, 4 if self.quick else 30)
        for kind in LOADS:
            for gb in (0.1,) if self.quick else (0.1, 1, 2):
                rows += self._freeze_rows(f"{gb:g} GB of {kind}", kind, gb, 2 if self.quick else 8 if gb < 1 else 4)
        return rows

    def _freeze_rows(self, what: str, kind: Optional[str], gb: float, times: int) -> List[Row]:
        frozen: List[float] = []
        warm: List[float] = []
        cold: List[float] = []
        paused: List[float] = []
        sizes: List[float] = []
        wire = self.connections(1)[0]
        with self._loaded(kind, gb) as parent:
            for _ in range(times):
                taken = wire.ask("POST", box(parent.id, "/snapshots"), {})
                paused.append(float(taken["paused_ms"]))
                sizes.append(taken["memory_bytes"] / 1e6)
                wire.ask("DELETE", f"/v1/snapshots/{taken['id']}")
                for samples in (warm, cold):
                    start = time.perf_counter()
                    wire.ask("POST", box(parent.id, "/hibernate"))
                    frozen.append(ms_since(start))
                    if samples is cold:
                        self._drop_images()
                    start = time.perf_counter()
                    wire.ask("POST", box(parent.id, "/execute"), LINE)  # any request brings it back
                    samples.append(ms_since(start))
        idle = kind is None
        return [
            Row(f"freeze, {what}", frozen, budget=30 if idle else None),
            Row("  resume -> first exec, image in the page cache", warm, budget=30 if idle else None),
            Row("  resume -> first exec, cold: image not in the page cache", cold),
            Row("  snapshot instead: stands still", paused),
            Row("  its pages on the disk", sizes, unit="MB"),
        ]

    def _drop_images(self) -> None:
        """Write back, then forget every cached page of what is in the state directory, templates apart: they are in use."""
        os.sync()
        for directory, names, files in os.walk(self.server.state):
            if Path(directory) == self.server.state:
                names[:] = [n for n in names if n not in ("templates", "run", "db")]
            for name in files:
                try:
                    fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW)
                except OSError:
                    continue
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    # ---- inside ----

    def connections(self, n: int) -> List[Wire]:
        self._wires = [w for w in self._wires if not w.closed()]
        while len(self._wires) < n:
            self._wires.append(Wire(self.server.port))
        return self._wires[:n]

    @staticmethod
    def collect(wires: List[Wire], start: float) -> List[float]:
        """Milliseconds since `start` of every answer, in the order they came."""
        took: List[float] = []
        with selectors.DefaultSelector() as waiting:
            for wire in wires:
                waiting.register(wire.socket, selectors.EVENT_READ, wire)
            while waiting.get_map():
                for key, _ in waiting.select():
                    answer = key.data.take()
                    took.append(ms_since(start))
                    waiting.unregister(key.fileobj)
                    if answer["stdout"] != "42\n":
                        raise RuntimeError(f"a child answered {answer}")
        return took

    def _loaded(self, kind: Optional[str], gb: float) -> Sandbox:
        limits: Dict[str, float] = {"memory_mb": int(gb * 2500) + 1000}
        parent = Sandbox(host=self.server.url, limits=limits)
        code = LOADS[kind].format(mb=int(gb * 1000)) if kind else "x = 1"
        parent.run_code(code, check=True)
        return parent

    def _execute(self, sandbox_id: str, code: str) -> None:
        answer = self.connections(1)[0].ask("POST", box(sandbox_id, "/execute"), {"code": code})
        if answer["exit"] != "ok":
            raise RuntimeError(f"{code[:60]}: {answer['exit']} {answer['error']}")

    def _delete(self, ids: List[str]) -> None:
        for sandbox_id in ids:
            self.connections(1)[0].ask("DELETE", box(sandbox_id))

    def _pss_settled_kb(self) -> int:
        """Of everything below the keeper, once its pools are full again and what was deleted is gone: a page that several share counts
        once in the sum."""
        time.sleep(1)
        total = 0
        for pid in proc.one_per_memory(proc.descendants(self.server.keeper_pid)):
            try:
                total += proc.pss_kb(pid)
            except OSError:
                pass
        return total


def box(sandbox_id: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{sandbox_id}{rest}"


def ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def available_kb() -> int:
    return int(next(x.split()[1] for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable")))
