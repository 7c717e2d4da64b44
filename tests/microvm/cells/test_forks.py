"""Forks of machines: everything is carried, and from then on each goes its own way."""
from __future__ import annotations

from typing import Callable, List

import pytest
from host import Host, Machine, until

LIVING = """
import os, subprocess, threading, time
x = {'a': [1]}
f = open('/workspace/lines', 'w+'); f.write('0123456789'); f.flush(); f.seek(4)
child = subprocess.Popen(['/bin/sh', '-c', 'i=0; while read line; do i=$((i + 1)); echo $i $line; done'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def said(word):
    child.stdin.write(word + '\\n'); child.stdin.flush(); return child.stdout.readline().strip()
ticks = 0
def tick():
    global ticks
    while True: ticks += 1; time.sleep(0.05)
threading.Thread(target=tick, daemon=True).start()
said('first')
"""


def close(cells: List[Machine]) -> None:
    for cell in cells:
        cell.__exit__(None, None, None)


@pytest.mark.core
def test_three_continuations_at_once(cell: Machine) -> None:
    cell.ok("x = [0]")
    cell.run("v=shell; cd /tmp", language="bash")
    children = cell.forks(3)
    for i, child in enumerate(children):
        assert child.ok(f"x.append({i}); open('/workspace/who', 'w').write('{i}'); x") == f"[0, {i}]"
    for i, child in enumerate(children):
        assert child.ok("(x, open('/workspace/who').read())") == f"([0, {i}], '{i}')"
        assert child.run("echo $v; pwd", language="bash")["stdout"] == "shell\n/tmp\n"
    assert cell.ok("import os\n(x, os.path.exists('/workspace/who'))") == "([0], False)"
    about = children[0].describe()
    assert about["driver"] == "microvm" and about["parent_id"] == cell.id and about["boot_mode"] == "fork"
    close(children)


@pytest.mark.core
def test_a_process_an_open_file_and_a_thread_are_carried(cell: Machine) -> None:
    assert cell.ok(LIVING) == "'1 first'"
    background = cell.call("POST", "/exec", json={"cmd": "while :; do sleep 1; done", "background": True}).json()
    (child,) = cell.forks()
    assert child.ok("said('second')") == "'2 second'" and cell.ok("said('other')") == "'2 other'"
    assert child.ok("f.read()") == "'456789'" and cell.ok("f.tell()") == "4"
    assert child.ok("before = ticks; time.sleep(2); ticks > before") == "True"
    pid = background["pid"]
    for one in (cell, child):
        assert one.sh(f"cat /proc/{pid}/comm") in ("sh\n", "bash\n", "dash\n")
    close([child])


@pytest.mark.core
def test_nothing_is_reported_as_left_behind(cell: Machine) -> None:
    cell.ok(LIVING)
    said = cell.call("POST", "/fork", 201, json={"n": 1}).json()
    assert said["not_carried"] == []
    close([Machine.at(cell.url, said["children"][0])])


@pytest.mark.core
def test_entropy_name_and_clock_are_its_own(host: Host, cell: Machine) -> None:
    cell.ok("import os, random, socket, time, numpy, uuid\nnumpy.random.seed()")
    one, two = cell.forks(2)
    ask = "(os.urandom(16), random.random(), uuid.uuid4().hex, open('/proc/sys/kernel/random/uuid').read())"
    answers = [c.ok(ask) for c in (cell, one, two)]
    parts = [eval(a) for a in answers]  # noqa: S307 - our own tuples
    for position in range(4):
        assert len({p[position] for p in parts}) == 3, answers
    for c in (one, two):
        assert c.ok("socket.gethostname()") == repr(c.id[4:16])
        assert abs(float(c.ok("time.time()")) - float(host.run("date +%s.%N"))) < 60
    assert cell.ok("socket.gethostname()") == repr(cell.id[4:16])
    close([one, two])


@pytest.mark.core
def test_a_chain_of_ten_without_ancestors(server, cell: Machine) -> None:  # type: ignore[no-untyped-def]
    cell.ok("n = 0\nf = open('/workspace/count', 'w')")
    last = Machine(server.url)
    last.ok("n = 0\nf = open('/workspace/count', 'w')")
    for i in range(1, 11):
        (child,) = last.forks()
        last.__exit__(None, None, None)
        last = child
        assert last.ok(f"n += 1; f.write(f'{{n}} '); f.flush(); n") == str(i)
    assert last.get("count") == b"1 2 3 4 5 6 7 8 9 10 "
    assert last.sh("echo lives") == "lives\n"
    close([last])


@pytest.mark.core
def test_merge_into_the_parent(cell: Machine) -> None:
    cell.ok("x = 'parent'")
    winner, other = cell.forks(2)
    winner.ok("x = 'winner'\nopen('/workspace/f', 'w').write('winner')")
    merged = cell.http.post(f"{cell.path}/merge_into/{winner.id}")
    assert merged.status_code == 204, merged.text
    assert cell.ok("import socket\n(x, open('/workspace/f').read(), socket.gethostname())") == f"('winner', 'winner', '{cell.id[4:16]}')"
    gone = winner.http.get(winner.path)
    assert gone.status_code in (404, 410)
    assert other.ok("x") == "'parent'"
    close([other])


def test_a_fork_while_code_runs(cell: Machine) -> None:
    import threading

    got = []
    code = "import os, time\nopen('/workspace/up', 'w').close()\nwhile not os.path.exists('/workspace/go'): time.sleep(0.1)\nopen('/workspace/go').read()"
    thread = threading.Thread(target=lambda: got.append(cell.run(code)))
    thread.start()
    until(lambda: cell.http.get(cell.path + "/fs/stat", params={"path": "up"}).status_code == 200, "the code to run", 120)
    children = cell.forks(2)
    for i, child in enumerate(children):
        (run,) = child.call("GET", "/executions").json()
        child.put("go", f"child {i}".encode())
        record = until(lambda c=child, r=run: (lambda x: x if x.get("exit") else None)(c.call("GET", f"/executions/{r['id']}").json()), "its end", 120)  # type: ignore[misc]
        assert record["text"] == repr(f"child {i}")
    cell.put("go", b"parent")
    thread.join(120)
    assert got[0]["text"] == "'parent'"
    close(children)


def test_memory_is_shared_until_written(host: Host, make: Callable[..., Machine]) -> None:
    cell = make()
    cell.ok("import os\nblock = os.urandom(64 << 20)\nlen(block)")
    (child,) = cell.forks()
    pid = host.monitor_of(child)
    private = int(host.run(f"grep Private_Dirty /proc/{pid}/smaps_rollup").split()[1])
    assert private < 60 << 10, f"{private} KiB of its own after a fork"
    assert child.ok("len(block)") == str(64 << 20)
    close([child])
