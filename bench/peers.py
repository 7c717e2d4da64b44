"""What Cella is measured against, on the same machine in the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

from report import Row

PIPE_LOOP = "import sys\nfor line in iter(sys.stdin.readline, ''):\n    exec(line)\n    sys.stdout.flush()"
PANDAS = "import numpy, pandas, matplotlib.pyplot; print(1)"


def environment() -> Dict[str, str]:
    """Without switches that would change how the peers' Python behaves."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def samples(command: List[str]) -> List[float]:
    """Milliseconds of the "sample MICROSECONDS" lines."""
    run = subprocess.run(command, capture_output=True, text=True, env=environment())
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[:6])}: {run.stderr.strip()[-300:]}")
    return [float(x.split()[1]) / 1000 for x in run.stdout.splitlines() if x.startswith("sample ")]


def bubblewrap(root: Optional[Path]) -> List[str]:
    """A fresh sandbox around the template's root (or the host's)."""
    return ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", str(root or "/"), "/", "--proc", "/proc", "--dev", "/dev",
            "--tmpfs", "/tmp", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp"]  # fmt: skip


def start_rows(peer: Path, root: Optional[Path], n: int) -> List[Row]:
    """create -> first output."""
    python = "/usr/bin/python3"
    rows = [Row("peer: bare python3 -c 'print(1)'", samples([str(peer), "first", str(n), python, "-c", "print(1)"]))]
    if shutil.which("bwrap"):
        box = bubblewrap(root)
        rows.append(Row("peer: bubblewrap + python3", samples([str(peer), "first", str(n), *box, python, "-c", "print(1)"])))
        if root:
            few = max(5, n // 10)
            rows.append(Row("peer: bubblewrap + python3 + numpy, pandas, matplotlib", samples([str(peer), "first", str(few), *box, python, "-c", PANDAS])))
    else:
        rows.append(Row("peer: bubblewrap + python3", [], note="bwrap is not installed"))
    return rows


def pipe_row(peer: Path, n: int) -> Row:
    command = [str(peer), "pipe", str(n), "print(6*7)", "/usr/bin/python3", "-c", PIPE_LOOP]
    return Row("peer: bare python3 over a pipe, one line", samples(command))


def kernel_rows(n_start: int, n_hot: int) -> List[Row]:
    """An IPython kernel through jupyter_client, in this process."""
    try:
        from jupyter_client import KernelManager  # type: ignore[import]
    except ImportError:
        return [Row("peer: IPython kernel", [], note="jupyter_client and ipykernel are not installed")]
    starts: List[float] = []
    hot: List[float] = []
    for i in range(n_start):
        begin = time.monotonic()
        manager = KernelManager()
        spec = manager.kernel_spec
        assert spec is not None
        spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager.start_kernel(stderr=subprocess.DEVNULL, env=dict(environment(), PYDEVD_DISABLE_FILE_VALIDATION="1"))
        client = manager.blocking_client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=60)
            _kernel_execute(client)
            starts.append((time.monotonic() - begin) * 1000)
            for _ in range(n_hot if i == n_start - 1 else 0):
                begin = time.monotonic()
                _kernel_execute(client)
                hot.append((time.monotonic() - begin) * 1000)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    return [Row("peer: IPython kernel, start -> first output", starts), Row("peer: IPython kernel, hot execute", hot)]


def _kernel_execute(client: object) -> None:
    """Until its output and its idle message are there, as a client must wait."""
    message = client.execute("print(6*7)")  # type: ignore[attr-defined]
    printed = ""
    while True:
        got = client.get_iopub_msg(timeout=60)  # type: ignore[attr-defined]
        if got["parent_header"].get("msg_id") != message:
            continue
        printed += got["content"]["text"] if got["msg_type"] == "stream" else ""
        if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
            break
    if printed != "42\n":
        raise RuntimeError(f"the kernel printed {printed!r}")
