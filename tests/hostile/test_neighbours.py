"""Two cells on one host: nothing of the one can be seen or touched from the other. Both users are uid 1000 of their own range."""

from __future__ import annotations

import secrets
from typing import Callable, Iterator, Tuple

import pytest
from cella import NotFoundError, _calls
from ring import Cell, Ring, denied, held

Pair = Tuple[Cell, Cell]


@pytest.fixture(scope="module")
def pair(ring: Ring) -> Iterator[Pair]:
    with ring.cell() as one, ring.cell() as other:
        yield one, other


@pytest.mark.layer("namespaces")
def test_processes(pair: Pair) -> None:
    """A process of one cell with a telling name: not in the other's /proc, not by any pid."""
    one, other = pair
    label = "tell" + secrets.token_hex(4)
    process = one.start(["bash", "-c", f"exec -a {label} sleep 60"])
    held(any(label in str(p.get("command")) for p in one.list_processes()), "the set-up did not work")
    held(not any(label in str(p.get("command")) for p in other.list_processes()), "the guest tells of another cell's process")
    code = f"""
    seen = [p for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid()) and '{label}' in open(f'/proc/{{p}}/cmdline').read()]
    mine = {{int(p) for p in os.listdir('/proc') if p.isdigit()}}
    report([seen, [p for p in range(2, 3000) if p not in mine and refusal(os.kill, p, 0) == 'ok' and p > 200]])
    """
    for where, got in other.everywhere(code).items():
        held(got == [[], []], f"{where}: {got}")
    process.kill()


@pytest.mark.layer("namespaces")
def test_shared_memory_and_semaphores(pair: Pair) -> None:
    """System V segments, semaphores and queues by a known key, and /dev/shm."""
    one, other = pair
    make = """
    got = [call(29, 0x1234, 4096, 0o1666), call(64, 0x1234, 1, 0o1666), call(68, 0x1234, 0o1666)]
    open('/dev/shm/known', 'w').write('x')
    report(all(g >= 0 for g in got))
    """
    held(one.attack(make), "the set-up did not work")
    look = "report([name(call(29, 0x1234, 4096, 0)), name(call(64, 0x1234, 1, 0)), name(call(68, 0x1234, 0)), refusal(open, '/dev/shm/known')])"
    denied(other.everywhere(look), "ENOENT")
    ids = "report([name(call(31, i, 2, bytes(200))) for i in range(0, 64)] + [name(call(66, i, 0, 2, bytes(200))) for i in range(0, 64)])"
    denied(other.attack(ids), "EINVAL", "EIDRM")


@pytest.mark.layer("namespaces")
def test_network(pair: Pair) -> None:
    """A server of one cell, on every address and as an abstract name, is not there for the other; both may use the same port."""
    one, other = pair
    port = one.attack("""
    kept = [socket.create_server(('0.0.0.0', 0))]
    a = socket.socket(socket.AF_UNIX); a.bind('\\0between-cells'); a.listen(); kept.append(a)
    report(kept[0].getsockname()[1])
    """)
    look = f"""
    report([refusal(socket.socket().connect, (a, {port})) for a in ('127.0.0.1', '0.0.0.0')] + [refusal(socket.socket(socket.AF_UNIX).connect, '\\0between-cells')])
    """
    denied(other.everywhere(look), "ECONNREFUSED")
    held(other.attack(f"s = socket.create_server(('0.0.0.0', {port})); s.close(); report('ok')") == "ok", "the port is taken")


@pytest.mark.layer("root")
def test_files(pair: Pair) -> None:
    """A file in every place that can be written: absent in the other; locks and deleted files likewise."""
    one, other = pair
    label = "tell" + secrets.token_hex(4)
    places = "('/tmp', '/workspace', '/var/tmp', '/dev/shm', '/run/lock')"
    code = f"""
    made = []
    for d in {places}:
        if refusal(lambda: open(f'{{d}}/{label}', 'w').write('x')) == 'ok':
            made.append(d)
    report(made)
    """
    held({"/tmp", "/workspace", "/dev/shm"} <= set(one.attack(code)), "the set-up did not work")
    denied(other.everywhere(f"report([refusal(open, f'{{d}}/{label}') for d in {places}])"), "ENOENT")


@pytest.mark.layer("namespaces")
def test_names_and_ids(pair: Pair) -> None:
    """Host names differ; the id ranges behind uid 0 and 1000 differ, so that even a file both could see would be a stranger's."""
    code = """
    report([os.uname().nodename, open('/proc/self/uid_map').read().split(), open('/proc/self/gid_map').read().split()]
           + [os.readlink('/proc/self/ns/' + n) for n in ('user', 'pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup')])
    """
    one, other = (cell.attack(code) for cell in pair)
    same = [a for a, b in zip(one, other) if a == b]
    held(not same, f"both have {same}")
    low, high = sorted(int(ids[1][1]) for ids in (one, other))
    held(high - low >= 65536 and one[1][2] == other[1][2] == "65536", f"{one[1]} {other[1]}")


@pytest.mark.layer("namespaces")
def test_memory_of_copies(pair: Pair) -> None:
    """Both interpreters are copies of one: a write to a page they share stays with its writer, in both directions."""
    one, other = pair
    write = """
    import numpy, json as victim
    victim.loads.__defaults__
    address = id(victim.loads) & ~4095
    numpy.pi_of_the_cell = os.uname().nodename
    sys.intern('shared-' + 'word')
    report([address, getattr(numpy, 'pi_of_the_cell')])
    """
    a, b = one.attack(write), other.attack(write)
    held(a[0] == b[0], "the copies have other layouts: this test compares nothing")
    again = [cell.attack("import numpy; report(numpy.pi_of_the_cell)") for cell in pair]
    held(again == [a[1], b[1]] and a[1] != b[1], f"{again}")


@pytest.mark.layer("daemon")
def test_randomness_of_copies(pair: Pair) -> None:
    """Copies of one interpreter must not draw the same numbers: random, secrets, uuid, numpy, OpenSSL, tempfile, the kernel's AT_RANDOM users."""
    code = """
    import random, secrets, uuid, tempfile, ssl, numpy
    report([random.random(), secrets.token_hex(8), str(uuid.uuid4()), numpy.random.rand(), ssl.RAND_bytes(8).hex(), next(tempfile._get_candidate_names()), numpy.random.default_rng().random()])
    """
    one, other = (cell.attack(code) for cell in pair)
    same = [a for a, b in zip(one, other) if a == b]
    held(not same, f"both drew {same}")


@pytest.mark.layer("daemon")
def test_other_peoples_ids(pair: Pair) -> None:
    """Contexts, executions and processes of one cell are not found through the other's address."""
    one, other = pair
    context = one.create_code_context()
    process = one.start(["sleep", "30"])
    execution = one.run_code("1")
    for ask in (
        lambda: other.run_code("print(1)", context=context.id),
        lambda: other.restart_context(context.id),
        lambda: other._transport.json(_calls.execution(other.id, execution.id)),
        lambda: other._transport.json(_calls.process(other.id, process.id)),
    ):
        with pytest.raises(NotFoundError):
            ask()
    process.kill()


@pytest.mark.layer("keeper")
def test_nothing_is_left_for_the_next(ring: Ring, fresh: Callable[..., Cell]) -> None:
    """A cell's place, id range and disk are used again: nothing of the last owner is there for the next."""
    label = "left" + secrets.token_hex(4)
    for _ in range(2):
        with ring.cell(disk_mb=65) as cell:
            cell.attack_process(f"open('/tmp/{label}', 'w').write('x' * 1000); os.chmod('/tmp', 0o700); report(1)", "root")
            cell.attack(f"open('/workspace/{label}', 'w').write('x' * 1000); call(29, 0x77, 4096, 0o1666); report(1)")
    for _ in range(2):
        with ring.cell(disk_mb=65) as cell:
            got = cell.attack(f"report([os.path.exists('/tmp/{label}'), os.path.exists('/workspace/{label}'), oct(os.stat('/tmp').st_mode), call(29, 0x77, 4096, 0)])")
            held(got == [False, False, "0o41777", -2], f"{got}")
