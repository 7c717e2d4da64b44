"""Branches, snapshots and Spaces through the Python client: first what it makes of answers, then with the real daemon."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterator, List

import cella
import pytest
from cella import (
    ConflictError,
    Diff,
    GoneError,
    ImageRefused,
    InvalidRequest,
    NotFoundError,
    Sandbox,
    Snapshot,
    Space,
    TreeNode,
)
from support.server import Server
from test_sdk import FakeDaemon, answer

A, B, C = ("sbx_" + d * 32 for d in "abc")
SPACE = "space_" + "a" * 32


def cell(sandbox_id: str, **more: Any) -> Dict[str, Any]:
    return {"id": sandbox_id, "status": "running", **more}


def with_headers(data: bytes, **headers: str) -> bytes:
    lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
    return data.replace(b"\r\n", b"\r\n" + lines.encode(), 1)


def asked(daemon: FakeDaemon) -> List[str]:
    return [r.split(b" HTTP")[0].decode() for r in daemon.requests]


def body(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


# ---- without a daemon ----


def test_fork_gives_a_list_and_says_what_failed() -> None:
    answers = {
        "parent_id": A, "children": [B, C], "sandboxes": [cell(B, metadata={"a": "1"}), cell(C)], "frozen_ms": 2.5,
        "errors": [{"index": 2, "error": "no more", "code": "limit_reached", "hint": "delete some"}],
        "not_carried": [{"kind": "socket", "context_id": "default", "fd": 7, "pid": None, "text": "a connection"}],
    }  # fmt: skip
    daemon = FakeDaemon(answer(201, cell(A)), answer(201, answers))
    branches = Sandbox(host=daemon.url).fork(3, metadata={"a": "1"})
    assert [b.id for b in branches] == [B, C] and all(isinstance(b, Sandbox) for b in branches)
    [error] = branches.errors
    assert isinstance(error, cella.LimitError) and (error.message, error.hint, error.index) == ("no more", "delete some", 2)  # type: ignore[attr-defined]
    assert branches.frozen_ms == 2.5 and branches.tree_id is None
    assert [(n.kind, n.fd, n.text) for n in branches.not_carried] == [("socket", 7, "a connection")]
    assert body(daemon.requests[1]) == {"count": 3, "metadata": {"a": "1"}}


def test_fork_that_made_nothing_raises() -> None:
    daemon = FakeDaemon(answer(201, cell(A)), answer(429, {"error": "full", "code": "limit_reached"}))
    with pytest.raises(cella.LimitError):
        Sandbox(host=daemon.url).fork(2)


def test_leaving_branches_closes_all_but_the_merged() -> None:
    daemon = FakeDaemon(answer(201, cell(A)), answer(201, {"children": [B, C]}), answer(204), answer(204))
    parent = Sandbox(host=daemon.url)
    with parent.fork(2) as branches:
        parent.merge_into(branches[0])
    assert asked(daemon)[2:] == [f"POST /v1/sandboxes/{A}/merge_into/{B}", f"DELETE /v1/sandboxes/{C}"]


def test_fork_tree_and_promote() -> None:
    made = {"tree_id": "tree_1", "parent_id": A, "children": [{"id": B, "index": 0}], "errors": [{"index": 1, "err": "no"}]}
    done = {"winner": B, "tree_id": "tree_1", "deleted": [C], "failures": {}}
    daemon = FakeDaemon(answer(201, cell(A)), answer(201, made), answer(200, done))
    branches = Sandbox(host=daemon.url).fork_tree(2)
    assert branches.tree_id == "tree_1" and branches[0].id == B and branches.errors[0].message == "no"
    assert branches[0].promote(cleanup_siblings=True).deleted == [C]
    assert body(daemon.requests[2]) == {"cleanup_siblings": True}


def test_a_merged_object_says_so_and_is_harmless() -> None:
    daemon = FakeDaemon(answer(201, cell(A)), answer(201, {"children": [B]}), answer(204), answer(200, cell(A)))
    parent = Sandbox(host=daemon.url)
    [child] = parent.fork()
    parent.merge_into(child)
    assert child.merged_into == A and A in repr(child)
    child.close()
    child.kill()
    assert parent.merged_into is None and parent.info().id == A
    assert len(daemon.requests) == 4


def test_merge_of_a_stranger_leaves_the_object_alone() -> None:
    daemon = FakeDaemon(answer(201, cell(A)), answer(201, cell(B)), answer(409, {"error": "no kin", "code": "conflict"}), answer(204))
    a, b = Sandbox(host=daemon.url), Sandbox(host=daemon.url)
    with pytest.raises(ConflictError):
        a.merge_into(b)
    b.close()
    assert b.merged_into is None and asked(daemon)[3] == f"DELETE /v1/sandboxes/{B}"


def test_diff_of_an_answer() -> None:
    value = {
        "sandbox_id": B, "against": A,
        "files": {
            "added": [{"path": "/workspace/n", "type": "file", "size": 3}],
            "modified": [{"path": "/workspace/m", "type": "file", "size": 5, "size_before": 4, "text_diff": "-a\n+b\n"}],
            "removed": ["/workspace/r"],
        },
        "variables": {
            "added": [{"name": "y", "type": "int", "value": "2"}],
            "changed": [{"name": "x", "type": "str", "value": "'1'", "type_before": "int", "value_before": "1"}],
            "unknown": ["big"],
        },
    }  # fmt: skip
    daemon = FakeDaemon(answer(201, cell(B)), answer(200, value), answer(200, {"files": {}}))
    box = Sandbox(host=daemon.url)
    diff = box.diff(text=True)
    assert diff and diff.files.modified[0].text_diff == "-a\n+b\n" and diff.files.removed[0].path == "/workspace/r"
    assert diff.variables is not None and diff.variables.changed[0].type_before == "int" and diff.variables.unknown == ["big"]
    assert str(diff).splitlines() == ["A /workspace/n", "M /workspace/m", "D /workspace/r", "+ y: int = 2", "~ x: str = 1 -> '1'", "? big"]
    nothing = box.diff(A, variables=False)
    assert not nothing and nothing.variables is None
    assert asked(daemon)[1] == f"GET /v1/sandboxes/{B}/diff?text=true&variables=true"
    assert f"against={A}" in asked(daemon)[2] and "variables=false" in asked(daemon)[2]


def test_a_deep_tree() -> None:
    node: Dict[str, Any] = {"id": "leaf", "state": "running"}
    for i in range(300):
        node = {"id": f"n{i}", "state": "ended", "reason": "deleted", "children": [node]}
    root = TreeNode.from_json(node)
    assert len(list(root)) == 301 and root.find("leaf") is not None
    assert str(root).splitlines()[-1].endswith("└─ leaf running")


def test_tree_drawn() -> None:
    root = TreeNode.from_json({"id": "a", "state": "running", "children": [
        {"id": "b", "state": "ended", "reason": "merged", "children": [{"id": "c", "state": "running"}]}, {"id": "d", "state": "hibernated"}]})  # fmt: skip
    assert str(root) == "a running\n├─ b ended merged\n│  └─ c running\n└─ d hibernated"
    assert [n.id for n in root] == ["a", "b", "c", "d"]


def test_a_persistent_sandbox_freezes_instead_of_going() -> None:
    made = cell(A, persistent=True, space_id=SPACE, on_timeout="freeze")
    daemon = FakeDaemon(answer(201, made), answer(200, {"status": "hibernated", "space_id": SPACE}), answer(200, made), answer(204))
    with pytest.raises(ZeroDivisionError):
        with Sandbox(persistent=True, host=daemon.url) as box:
            assert (box.space_id, box.on_timeout) == (SPACE, "freeze")
            raise ZeroDivisionError
    box.close()
    again = Sandbox.resume(SPACE, host=daemon.url)
    assert (again.id, again.space_id, again.persistent) == (A, SPACE, True)
    again.delete()
    again.close()
    assert asked(daemon)[1:] == [f"POST /v1/sandboxes/{A}/hibernate", f"POST /v1/spaces/{SPACE}/resume", f"DELETE /v1/sandboxes/{A}"]
    assert body(daemon.requests[0]) == {"persistent": True}


def test_remaining_time_comes_with_every_answer() -> None:
    first = with_headers(answer(200, cell(A)), X_Cella_Remaining_Seconds="12.5", X_Cella_On_Timeout="freeze")
    none = with_headers(answer(200, cell(A)), X_Cella_On_Timeout="delete")
    failed = with_headers(answer(404, {"error": "no file", "code": "not_found"}), X_Cella_Remaining_Seconds="3", X_Cella_On_Timeout="delete")
    daemon = FakeDaemon(answer(201, cell(A, remaining_seconds=100)), first, none, failed)
    box = Sandbox(host=daemon.url)
    assert 99 < (box.remaining_seconds or 0) <= 100
    box.info()
    assert box.on_timeout == "freeze" and 11.5 < (box.remaining_seconds or 0) <= 12.5
    time.sleep(0.05)
    assert (box.remaining_seconds or 0) < 12.5 - 0.04
    box.info()
    assert box.remaining_seconds is None and box.on_timeout == "delete"
    with pytest.raises(cella.FileNotFound):
        box.filesystem.read("x")
    assert 2 < (box.remaining_seconds or 0) <= 3, "an error is an answer too"


def test_snapshots_and_spaces_of_answers() -> None:
    made = {"id": "snap_1", "sandbox_id": A, "name": "n", "template": "python", "created_at": "2026-01-01T00:00:00Z",
            "size_bytes": 30, "memory_bytes": 20, "disk_bytes": 10, "paused_ms": 4.5}  # fmt: skip
    space = {"space_id": SPACE, "sandbox_id": A, "state": "frozen", "size_bytes": 7, "frozen_at": None}
    gone = answer(404, {"error": "gone", "code": "not_found"})
    daemon = FakeDaemon(
        answer(201, cell(A)), answer(201, made), answer(200, [made]), answer(201, cell(B)), gone, answer(200, [space]), gone,
        answer(409, {"error": "other processor", "code": "image_refused", "hint": "do this"}),
    )  # fmt: skip
    snapshot = Sandbox(host=daemon.url).snapshot("n")
    assert (snapshot.id, snapshot.size_bytes, snapshot.paused_ms) == ("snap_1", 30, 4.5)
    assert Snapshot.list(sandbox_id=A, name="n", host=daemon.url) == [snapshot]
    assert snapshot.start(ttl_seconds=5).id == B
    snapshot.delete()
    [listed] = Space.list(host=daemon.url)
    assert (listed.id, listed.state, listed.frozen_at, listed.size_bytes) == (SPACE, "frozen", None, 7)
    listed.delete()
    with pytest.raises(ImageRefused) as caught:
        listed.resume()
    assert isinstance(caught.value, ConflictError) and caught.value.hint == "do this"
    assert body(daemon.requests[3]) == {"from_snapshot": "snap_1", "ttl_seconds": 5}
    assert asked(daemon)[2] == f"GET /v1/snapshots?sandbox_id={A}&name=n"


# ---- with the daemon ----

pytestmark_live = pytest.mark.needs_isolation  # the plain driver has no branches


@pytest.fixture
def family(server: Server) -> Iterator[Sandbox]:
    with Sandbox(host=server.url, metadata={"test": "sdk-branches"}) as box:
        box.run_code("import threading\nx = [1, 2]; log = open('/workspace/log', 'w'); log.write('a\\n'); log.flush()", check=True)
        yield box


def value(box: Sandbox, code: str) -> Any:
    return json.loads(box.run_code(f"import json; print(json.dumps({code}))", check=True).stdout)


@pytestmark_live
def test_branches_are_apart_and_merge(family: Sandbox) -> None:
    with family.fork(3, metadata={"try": "1"}) as branches:
        assert len(branches) == 3 and not branches.errors and branches.frozen_ms is not None
        for i, branch in enumerate(branches):
            branch.run_code(f"x.append({i}); log.write('{i}\\n'); log.flush()", check=True)
        assert value(family, "x") == [1, 2] and family.filesystem.read("/workspace/log") == "a\n"
        for i, branch in enumerate(branches):
            assert value(branch, "x") == [1, 2, i] and branch.filesystem.read("/workspace/log") == f"a\n{i}\n"
            assert branch.info().parent_id == family.id
            assert branch.info().metadata == {"test": "sdk-branches", "try": "1"}
        family.merge_into(branches[1])
        assert value(family, "x") == [1, 2, 1] and family.filesystem.read("/workspace/log") == "a\n1\n"
        assert family.info().metadata == {"test": "sdk-branches"}
        with pytest.raises(GoneError) as gone:
            branches[1].info()
        assert "merged" in gone.value.message
        assert value(branches[2], "x") == [1, 2, 2], "a sibling stays as it was"
        family.run_code("x.append('after')", check=True)
    assert value(family, "x") == [1, 2, 1, "after"]


@pytestmark_live
def test_what_cannot_be_merged(family: Sandbox, box: Sandbox) -> None:
    with pytest.raises(InvalidRequest):
        family.merge_into(family)
    with pytest.raises(ConflictError):
        family.merge_into(box)
    with pytest.raises(NotFoundError):
        family.merge_into("sbx_" + "0" * 32)
    assert value(family, "x") == [1, 2]


@pytestmark_live
def test_tree_and_promote(family: Sandbox) -> None:
    branches = family.fork_tree(3, metadata={"round": "1"})
    assert branches.tree_id and len(branches) == 3
    [grandchild] = branches[0].fork()
    root = family.tree()
    assert root.id == family.id and [c.id for c in root.children] == [b.id for b in branches]
    found = branches[2].tree().find(grandchild.id)
    assert found is not None and (found.parent_id, found.state) == (branches[0].id, "running")
    info = branches[1].info()
    assert info.metadata["fork_tree_id"] == branches.tree_id and info.metadata["round"] == "1"
    promotion = branches[0].promote(cleanup_siblings=True)
    assert sorted(promotion.deleted) == sorted(b.id for b in branches[1:]) and not promotion.failures
    with pytest.raises(NotFoundError):
        branches[1].info()
    branches[0].delete()
    kept = family.tree().find(branches[0].id)
    assert kept is not None and kept.state == "ended", "it has a living child"
    grandchild.close()


@pytestmark_live
def test_diff_of_branches(family: Sandbox) -> None:
    [branch] = family.fork()
    branch.run_code("x = 'other'; y = 5\nopen('/workspace/new', 'w').write('line\\n')", check=True)
    branch.filesystem.write("/workspace/log", "a\nb\n")
    diff = branch.diff(text=True)
    assert isinstance(diff, Diff) and diff.against == family.id and diff.variables is not None
    assert [(f.path, f.size) for f in diff.files.added] == [("/workspace/new", 5)]
    changed = {f.path: f for f in diff.files.modified}
    assert "+b" in (changed["/workspace/log"].text_diff or "").splitlines()
    assert [(v.name, v.type, v.value) for v in diff.variables.added] == [("y", "int", "5")]
    assert [(v.name, v.type_before, v.type) for v in diff.variables.changed] == [("x", "list", "str")]
    branch.close()


@pytestmark_live
def test_snapshot_and_start(family: Sandbox, server: Server) -> None:
    snapshot = family.snapshot("sdk-test")
    try:
        family.run_code("x.append('later')", check=True)
        assert [s.id for s in family.snapshots()] == [snapshot.id]
        assert Snapshot.get(snapshot.id, host=server.url).size_bytes == snapshot.size_bytes > 0
        with snapshot.start() as one, Sandbox(from_snapshot="sdk-test", host=server.url) as two:
            one.run_code("x.append('one'); log.write('one\\n'); log.flush()", check=True)
            assert value(one, "x") == [1, 2, "one"] and value(two, "x") == [1, 2]
            assert one.filesystem.read("/workspace/log") == "a\none\n"
            assert one.info().raw["boot_mode"] == "snapshot"
        assert value(family, "x") == [1, 2, "later"]
    finally:
        snapshot.delete()
    snapshot.delete()
    with pytest.raises(NotFoundError):
        snapshot.start()


@pytestmark_live
def test_snapshot_of_memory_in_thousands_of_pieces(box: Sandbox) -> None:
    """Every other page is there: the kernel reports them in several rounds."""
    code = """
import mmap
m = mmap.mmap(-1, 6000 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for i in range(0, 6000, 2): m[i * 4096] = i % 251
"""
    box.run_code(code, check=True)
    snapshot = box.snapshot()
    try:
        with snapshot.start() as again:
            assert value(again, "[m[i * 4096] for i in range(6000)] == [0 if i % 2 else i % 251 for i in range(6000)]") is True
    finally:
        snapshot.delete()
    box.hibernate()
    assert value(box, "sum(m[i * 4096] for i in range(6000))") == sum(i % 251 for i in range(0, 6000, 2))


@pytestmark_live
def test_freeze_and_come_back(server: Server) -> None:
    with Sandbox(persistent=True, idle_timeout_seconds=300, host=server.url) as box:
        box.run_code("import itertools\nn = itertools.count(); next(n); f = open('/workspace/f', 'w'); f.write('1')", check=True)
        space = box.space_id
        assert space and box.on_timeout == "freeze" and 290 < (box.remaining_seconds or 0) <= 300
    assert Sandbox.connect(box.id, host=server.url).info().status == "hibernated"
    [listed] = [s for s in Space.list(host=server.url) if s.id == space]
    assert listed.state == "frozen" and listed.size_bytes > 0 and listed.frozen_at
    again = Sandbox.resume(space, host=server.url)
    try:
        assert again.id == box.id and value(again, "next(n)") == 1
        again.hibernate()
        assert value(again, "next(n)") == 2, "any request wakes it"
        again.run_code("f.write('2'); f.close()", check=True)
        again.hibernate()
        assert again.filesystem.read("/workspace/f") == "12"
        again.wake()
    finally:
        again.delete()
    with pytest.raises(NotFoundError):
        Sandbox.resume(space, host=server.url)
    assert space not in [s.id for s in Space.list(host=server.url)]
