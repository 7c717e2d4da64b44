"""What a cell of the microVM driver is: a machine of its own, with everything a cell can do."""
from __future__ import annotations

import base64
import json
import struct
import subprocess
from typing import Callable

import pytest
from host import Host, Machine
from support.server import Server, programs

pytestmark = pytest.mark.core


def test_driver_and_isolation_are_shown(server: Server, steady: Machine) -> None:
    about = steady.describe()
    assert about["driver"] == "microvm"
    assert "kernel" in about["isolation"].lower() or "kvm" in about["isolation"].lower()
    said = subprocess.run([str(programs() / "cella"), "ps"], env={"CELLA_URL": server.url, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if line.startswith(steady.id[:12])]
    assert "microvm" in line
    doctor = steady.http.get("/v1/doctor").json()
    assert "microvm" in json.dumps(doctor)


def test_it_has_a_kernel_of_its_own(host: Host, steady: Machine) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    assert steady.sh("uname -r").strip().endswith("-cloud-amd64")
    assert steady.sh(boot) != host.run(boot)
    assert "cella.machine" in steady.sh("cat /proc/cmdline")


def test_code_runs_and_keeps_its_state(steady: Machine) -> None:
    steady.ok("x = 20")
    assert steady.ok("x += 1; x * 2") == "42"
    failed = steady.run("1 / 0")
    assert failed["exit"] == "error" and failed["error"]["name"] == "ZeroDivisionError"
    assert steady.ok("import os, socket\n(os.getuid(), os.getcwd(), socket.gethostname())") == f"(1000, '/workspace', '{steady.id[4:16]}')"


def test_libraries_are_imported_already(steady: Machine) -> None:
    assert steady.ok("import sys\n{'numpy', 'pandas', 'matplotlib.pyplot'} <= set(sys.modules)") == "True"


def test_pandas(steady: Machine) -> None:
    run = steady.run("import pandas as pd\nd = pd.DataFrame({'region': ['north', 'south', 'north'], 'sales': [10, 20, 5]})\nd.groupby('region').sum()")
    assert run["exit"] == "ok" and "15" in run["text"]
    assert "<table" in run["results"][0]["data"]["text/html"] if "data" in run["results"][0] else "<table" in json.dumps(run["results"])


def test_a_figure_is_a_png(steady: Machine) -> None:
    run = steady.run("import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 1)); plt.plot([1, 3, 2])\nNone")
    assert run["exit"] == "ok" and run["png"]
    picture = base64.b64decode(run["png"])
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", picture[16:24])) > 50


def test_output_in_order_and_apart(steady: Machine) -> None:
    run = steady.run("import os, sys\nfor i in range(50):\n    print('p', i, flush=True); os.write(1, f'd {i}\\n'.encode())\nprint('problem', file=sys.stderr)")
    assert run["stdout"] == "".join(f"p {i}\nd {i}\n" for i in range(50)) and run["stderr"] == "problem\n"


def test_a_shell_context_keeps_its_variables(steady: Machine) -> None:
    assert steady.run("v=kept; cd /tmp", language="bash")["exit"] == "ok"
    assert steady.run("echo $v; pwd", language="bash")["stdout"] == "kept\n/tmp\n"


def test_exit_codes_are_true(steady: Machine) -> None:
    run = steady.exec("echo out; echo err >&2; exit 3")
    assert (run["stdout"], run["stderr"], run["exit"], run["exit_code"]) == ("out\n", "err\n", "error", 3)
    run = steady.exec("kill -9 $$")
    assert run["exit_code"] is None and run["signal"] in ("SIGKILL", "KILL", 9)
    assert steady.exec(["/bin/true"])["exit"] == "ok"


def test_files_up_and_down(steady: Machine) -> None:
    data = bytes(range(256)) * 4000
    steady.put("up/blob", data)
    assert steady.get("up/blob") == data
    assert steady.ok("import hashlib\nhashlib.sha256(open('up/blob', 'rb').read()).hexdigest()") == repr(__import__("hashlib").sha256(data).hexdigest())
    steady.ok("open('made', 'w').write('inside')")
    assert steady.get("made") == b"inside"


def test_contexts_side_by_side(cell: Machine) -> None:
    other = cell.call("POST", "/contexts", 201, json={"language": "python"}).json()["id"]
    cell.ok("y = 'default'")
    cell.ok("y = 'other'", context_id=other)
    assert cell.ok("y") == "'default'" and cell.ok("y", context_id=other) == "'other'"
    restarted = cell.http.post(f"{cell.path}/contexts/{other}/restart")
    assert restarted.status_code == 200, restarted.text
    assert cell.run("y", context_id=other)["error"]["name"] == "NameError"
    assert cell.ok("y") == "'default'"


def test_there_is_no_way_out(steady: Machine) -> None:
    assert steady.sh("ls /sys/class/net").split() == ["lo"]
    assert len(steady.sh("cat /proc/net/route").splitlines()) <= 1
    run = steady.run("import socket\ntry:\n    socket.create_connection(('10.0.2.2', 80), timeout=5); said = 'connected'\nexcept OSError as e:\n    said = e.errno\nsaid")
    assert run["text"] == "101"  # ENETUNREACH
    server = "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(s.getsockname())\na, _ = s.accept(); a.send(b'loop'); c.recv(4)"
    assert steady.ok(server) == "b'loop'"


def test_the_clock_is_right(host: Host, steady: Machine) -> None:
    inside, outside = float(steady.ok("import time\ntime.time()")), float(host.run("date +%s.%N"))
    assert abs(inside - outside) < 60


def test_root_is_root_and_sees_nothing_of_the_host(host: Host, cell: Machine) -> None:
    said = cell.sh("mkdir -p /mnt/t && mount -t tmpfs t /mnt/t && echo mounted > /mnt/t/f && cat /mnt/t/f && mknod /tmp/null c 1 3 && id -u && cat /proc/1/comm", user="root")
    assert said.splitlines()[0] == "mounted" and "0" in said.splitlines()
    words = cell.sh("cat /proc/*/cmdline | tr '\\0' '\\n'", user="root")
    assert "cella-keeper" not in words and "cellad" not in words and "cella-vmm" not in words
    assert not (set(cell.sh("lsblk -n -o NAME 2>/dev/null || ls /sys/block", user="root").split()) - {"vda", "vdb", *(f"loop{i}" for i in range(16)), *(f"ram{i}" for i in range(16))})
    assert cell.exec("echo x > /dev/vda", user="root")["exit_code"] != 0  # the template's image takes no write from anybody
    host.run("test -e /mnt/t/f && exit 1; true")


def test_two_cells_know_nothing_of_each_other(make: Callable[..., Machine]) -> None:
    one, two = make(), make()
    one.ok("secret = 'one'\nopen('/workspace/secret', 'w').write('one')")
    assert two.run("secret")["exit"] == "error"
    assert two.exec("cat /workspace/secret")["exit_code"] != 0
    assert one.sh("cat /proc/sys/kernel/random/uuid") != two.sh("cat /proc/sys/kernel/random/uuid")
    assert one.ok("import os, random\n(os.urandom(8), random.random())") != two.ok("import os, random\n(os.urandom(8), random.random())")
