"""What is asked of Cella itself: create, execute, memory, bursts. Times come from hot.c where the client's cost matters."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from cella import Sandbox
from report import Row
from support import proc
from support.server import Server

EXECUTE = '{"code":"print(6*7)"}'
#: Long enough for the pool to be full again between two creates; the row shows which pool each came from.
PAUSE_MS = 150


class Cella:
    """A started server and the compiled client."""

    def __init__(self, server: Server, hot: Path) -> None:
        self.server = server
        self.hot = hot

    def run_hot(self, *arguments: object) -> Tuple[List[List[str]], float]:
        """(words of each sample line, elapsed milliseconds)."""
        command = [str(self.hot), str(self.server.port), *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"hot {' '.join(command[2:6])}: {run.stderr.strip()}")
        lines = [x.split() for x in run.stdout.splitlines()]
        return [x for x in lines if x[0] != "elapsed"], float(next(x[1] for x in lines if x[0] == "elapsed")) / 1000

    def pool(self) -> Dict[str, Any]:
        """The gauges that say how big the pools are."""
        text = http_get(self.server, "/metrics").decode()
        wanted = [x.rsplit(" ", 1) for x in text.splitlines() if not x.startswith("#") and "pool" in x]
        return {name: float(value) for name, value in wanted}

    # ---- create ----

    def create_rows(self, n: int, title: str, wanted: str, budget: float, pause_ms: int = PAUSE_MS) -> List[Row]:
        """create -> first output, by the pool each cell came from; `wanted` is the pool this is about."""
        by_mode: Dict[str, List[Tuple[float, float]]] = defaultdict(list)
        for _, create, total, mode in self.run_hot("create", n, pause_ms, 0)[0]:
            by_mode[mode].append((float(create) / 1000, float(total) / 1000))
        rows = []
        for mode, pairs in sorted(by_mode.items()):
            limit = budget if mode == wanted else None
            rows.append(Row(f"create -> first output, {title}, from \"{mode}\"", [t for _, t in pairs], budget=limit))
            if mode == wanted:
                rows.append(Row("  of it the create request", [c for c, _ in pairs]))
        if wanted not in by_mode:
            rows.append(Row(f"create -> first output, {title}, from \"{wanted}\"", [], note="none came from there: MISSED"))
        return rows

    def cold_row(self) -> Row:
        """The very first create of a fresh daemon: the template's image has to be made."""
        [_, _, total, mode] = self.run_hot("create", 1, 0, 0)[0][0]
        return Row("first create of a fresh daemon -> first output", [float(total) / 1000], note=f"from \"{mode}\"")

    # ---- execute ----

    def execute_rows(self, n: int) -> List[Row]:
        with Sandbox(host=self.server.url) as box:
            path = f"/v1/sandboxes/{box.id}/execute"
            lines, _ = self.run_hot("execute", n, EXECUTE, path)
            rows = [Row("hot execute over HTTP (C client)", [float(x[1]) / 1000 for x in lines], budget=0.5)]
            rows.append(Row("hot execute, Python http.client", self._http_client(path, n // 2)))
            rows.append(Row("hot execute, Python SDK", self._sdk(box, n // 2)))
        return rows

    def _http_client(self, path: str, n: int) -> List[float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        samples = []
        for i in range(n + 20):
            start = time.perf_counter()
            connection.request("POST", path, EXECUTE, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            if i >= 20:
                samples.append((time.perf_counter() - start) * 1000)
            assert answer["stdout"] == "42\n", answer
        connection.close()
        return samples

    def _sdk(self, box: Sandbox, n: int) -> List[float]:
        samples = []
        for i in range(n + 20):
            start = time.perf_counter()
            run = box.run_code("print(6*7)")
            if i >= 20:
                samples.append((time.perf_counter() - start) * 1000)
            assert run.stdout == "42\n", run
        return samples

    def throughput_rows(self, clients: int, n: int) -> List[Row]:
        boxes = [Sandbox(host=self.server.url) for _ in range(clients)]
        try:
            lines, elapsed = self.run_hot("execute", n, EXECUTE, *[f"/v1/sandboxes/{b.id}/execute" for b in boxes])
        finally:
            for box in boxes:
                box.close()
        return [
            Row(f"execute, {clients} clients on {clients} cells: each", [float(x[1]) / 1000 for x in lines]),
            Row(f"execute, {clients} clients on {clients} cells: together", [len(lines) / elapsed * 1000], unit="per s"),
        ]

    # ---- many ----

    def burst_rows(self, n: int) -> List[Row]:
        """n creates at the same moment, each on a connection of its own; every one must succeed."""
        times: List[float] = []
        errors: List[str] = []
        ids: List[str] = []
        gate = threading.Barrier(n + 1)

        def create() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
            connection.connect()
            gate.wait()
            start = time.perf_counter()
            connection.request("POST", "/v1/sandboxes", b"{}", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            times.append((time.perf_counter() - start) * 1000)
            ids.append(body["id"]) if answer.status == 201 else errors.append(str(body))
            connection.close()

        threads = [threading.Thread(target=create) for _ in range(n)]
        for t in threads:
            t.start()
        gate.wait()
        start = time.perf_counter()
        for t in threads:
            t.join()
        elapsed = (time.perf_counter() - start) * 1000
        for sandbox in ids:
            Sandbox.connect(sandbox, host=self.server.url).close()
        note = f"{len(errors)} FAILED: {errors[0][:120]}" if errors else "all succeeded"
        return [
            Row(f"burst of {n} creates at once: each (Python threads)", times, note=note),
            Row(f"burst of {n} creates at once: all done after", [elapsed]),
        ]

    def sustained_row(self, seconds: float, workers: int) -> Row:
        """create -> delete as fast as it goes, from several clients."""
        pool = self.pool()
        done = [0] * workers
        end = time.monotonic() + seconds

        def work(i: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
            while time.monotonic() < end:
                connection.request("POST", "/v1/sandboxes", b"{}", {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = json.loads(answer.read())
                assert answer.status == 201, body
                connection.request("DELETE", f"/v1/sandboxes/{body['id']}")
                deleted = connection.getresponse()
                deleted.read()
                assert deleted.status == 204
                done[i] += 1

        threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
        start = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rate = sum(done) / (time.monotonic() - start)
        sizes = ", ".join(f"{k}={v:g}" for k, v in pool.items()) or "no pool gauges"
        return Row(f"sustained create + delete, {workers} clients", [rate], unit="per s", note=f"pools before: {sizes}")

    # ---- memory ----

    def memory_rows(self, n: int) -> List[Row]:
        """n idle cells that each ran one line: their share of memory, as the kernel accounts it, and what the host lost."""
        keeper = self.server.keeper
        before_pss, before_free = self._pss(), available_kb()
        boxes: List[Sandbox] = []
        try:
            for _ in range(n):
                boxes.append(Sandbox(host=self.server.url))
                boxes[-1].run_code("x = 1")
            time.sleep(1)
            pss, free = self._pss(), available_kb()
            daemon = proc.status_kb(self.server.daemon_pid, "VmRSS")
        finally:
            for box in boxes:
                box.close()
        where = "below the keeper" if keeper else "below the daemon"
        return [
            Row(f"idle cell with {n} alive: PSS of its processes", [(pss - before_pss) / n / 1024], unit="MB", budget=3.0, note=where),
            Row(f"idle cell with {n} alive: what the host has less", [(before_free - free) / n / 1024], unit="MB",
                note="MemAvailable: page tables and kernel objects too"),  # fmt: skip
            Row(f"daemon with {n} alive: RSS", [daemon / 1024], unit="MB", budget=30.0),
        ]

    def _pss(self) -> int:
        """Of everything below the keeper (or the plain daemon), kB."""
        root = self.server.keeper_pid if self.server.keeper else self.server.daemon_pid
        total = 0
        for pid in proc.one_per_memory(proc.descendants(root)):
            try:
                total += proc.pss_kb(pid)
            except OSError:
                pass
        return total


def available_kb() -> int:
    return int(next(x.split()[1] for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable")))


def http_get(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", path)
    try:
        return connection.getresponse().read()
    finally:
        connection.close()


def template_root(server: Server) -> Optional[Path]:
    """Root of the default template, for the peers that want the same Python."""
    links = [server.state / "templates" / "names" / n for n in ("default", "python")]
    found = [p / "root" for p in links if (p / "root" / "usr/bin/python3").exists()]
    return found[0].resolve() if found else None
