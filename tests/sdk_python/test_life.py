"""Making, finding, ending: both clients against the daemon."""

from __future__ import annotations

import asyncio
from typing import Any

import cella
import pytest
from both import Client
from support.server import Server
from support.wait import until


def test_arguments(client: Client, server: Server) -> None:
    with client.Sandbox.create(
        "default", env={"MODE": "test"}, metadata={"who": f"life-{client.kind}"}, ttl_seconds=600, idle_timeout_seconds=300,
        limits={"memory_mb": 512}, host=server.url, network={"mode": "none"},
    ) as sandbox:  # fmt: skip
        info = sandbox.info()
        assert info.metadata == {"who": f"life-{client.kind}"} and info.raw["limits"]["memory_mb"] == 512
        assert info.idle_timeout_seconds == 300 and 0 < info.remaining_seconds <= 600 and info.status == "running"
        assert 0 < sandbox.remaining_seconds <= 300 and sandbox.on_timeout == "delete" and not sandbox.persistent
        assert sandbox.exec("echo $MODE").stdout == "test\n"
        assert [s.id for s in client.Sandbox.list(metadata={"who": f"life-{client.kind}"})] == [sandbox.id]
        again = client.Sandbox.connect(sandbox.id)
        assert again.id == sandbox.id and sandbox.id in repr(again)
        sandbox.set_lifecycle(ttl_seconds=None, idle_timeout_seconds=None)
        assert sandbox.info().remaining_seconds is None
        sandbox.run_code("print('logged')")
        assert "logged" in sandbox.logs() and sandbox.stats()["memory_bytes"] > 0
    with pytest.raises(cella.GoneError):
        again.info()


def test_what_cannot_be_made(client: Client) -> None:
    with pytest.raises(cella.NotFoundError):
        client.Sandbox("no-such-template")
    with pytest.raises(cella.UnsupportedError) as caught:
        client.Sandbox(network={"mode": "open"})
    assert caught.value.code == "unsupported" and "network.mode" in caught.value.message
    with pytest.raises(cella.InvalidRequest):
        client.Sandbox(ttl_seconds=-5)
    with pytest.raises(cella.NotFoundError):
        client.Sandbox.connect("sbx_" + "0" * 32)
    with pytest.raises(cella.NotFoundError):
        client.Sandbox.resume("space_" + "0" * 32)


def test_closing_twice_and_after_somebody_else(client: Client) -> None:
    sandbox = client.Sandbox()
    other = client.Sandbox.connect(sandbox.id)
    sandbox.close()
    sandbox.close()
    sandbox.kill()
    other.close()
    with client.Sandbox() as gone:
        client.Sandbox.connect(gone.id).delete()


def test_closing_after_it_expired(client: Client) -> None:
    with client.Sandbox(ttl_seconds=1) as sandbox:
        until(lambda: sandbox.id not in [s.id for s in client.Sandbox.list()], "its end", 60)
    with client.Sandbox(ttl_seconds=1, persistent=True, on_timeout="delete") as persistent:
        until(lambda: persistent.id not in [s.id for s in client.Sandbox.list()], "its end", 60)


@pytest.mark.needs_isolation
def test_branches(client: Client, sandbox: Any) -> None:
    sandbox.run_code("x = [1]", check=True)
    with sandbox.fork(2, metadata={"try": "1"}) as branches:
        assert len(branches) == 2 and branches.errors == [] and branches.frozen_ms is not None
        for i, branch in enumerate(branches):
            branch.run_code(f"x.append({i}); open('f', 'w').write('{i}')", check=True)
        diff = branches[1].diff(text=True)
        assert [f.path for f in diff.files.added] == ["/workspace/f"] and [v.name for v in diff.variables.changed] == ["x"]
        assert [c.id for c in sandbox.tree().children] == [b.id for b in branches]
        sandbox.merge_into(branches[1])
        assert sandbox.run_code("x").text == "[1, 1]" and branches[1].merged_into == sandbox.id
        branches[1].close()
        with pytest.raises(cella.GoneError):
            branches[1].info()
    tree = sandbox.fork_tree(2)
    assert tree.tree_id and tree[0].promote(cleanup_siblings=True).deleted == [tree[1].id]
    tree.close()
    assert [c.state for c in sandbox.tree().children if c.state != "ended"] == []


@pytest.mark.needs_isolation
def test_snapshots(client: Client, sandbox: Any) -> None:
    sandbox.run_code("x = 'kept'", check=True)
    snapshot = sandbox.snapshot(f"sdk-life-{client.kind}")
    try:
        assert [s.id for s in sandbox.snapshots()] == [snapshot.id] == [s.id for s in client.Snapshot.list(name=snapshot.name)]
        with snapshot.start() as one, client.Sandbox(from_snapshot=snapshot) as two:
            assert one.run_code("x").text == two.run_code("x").text == "'kept'"
        assert client.Snapshot.get(snapshot.id).size_bytes > 0
    finally:
        snapshot.delete()
    snapshot.delete()


@pytest.mark.needs_isolation
def test_leaving_a_persistent_sandbox_freezes_it(client: Client) -> None:
    with client.Sandbox(persistent=True) as sandbox:
        sandbox.run_code("n = iter(range(10)); next(n)", check=True)
        space = sandbox.space_id
        assert sandbox.persistent and sandbox.on_timeout == "freeze" and space
    assert sandbox.info().status == "hibernated"
    assert client.Space.get(space).state == "frozen" and space in [s.id for s in client.Space.list()]
    with client.Sandbox.resume(space) as again:
        assert again.run_code("next(n)").text == "1"
        again.hibernate()
        again.wake()
        assert again.run_code("next(n)").text == "2"
    with client.Space.get(space).resume() as third:
        third.pause()
    assert client.Space.get(space).state == "frozen", "a paused one freezes too"
    last = client.Sandbox.resume(space)
    assert last.run_code("next(n)").text == "3"
    last.delete()
    last.close()
    with pytest.raises(cella.NotFoundError):
        client.Space.get(space)


def test_pause(sandbox: Any) -> None:
    process = sandbox.start("i=0; while :; do i=$((i+1)); echo $i > n; sleep 0.01; done")
    until(lambda: sandbox.filesystem.exists("n"), "the first number")
    sandbox.pause()
    assert sandbox.info().status == "paused"
    sandbox.unpause()
    assert sandbox.info().status == "running" and process.result() is None


def test_an_error_in_the_block_is_told_although_closing_fails(client: Client, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    box = client.Sandbox()
    kind = cella.Sandbox if client.kind == "sync" else cella.AsyncSandbox

    def fails(self: Any) -> Any:
        raise cella.ServerError("no")

    with monkeypatch.context() as patched:
        patched.setattr(kind, "close", fails)
        with pytest.raises(ZeroDivisionError):
            with box:
                raise ZeroDivisionError
        with pytest.raises(cella.ServerError):
            with box:
                pass
    box.delete()


def test_an_async_sandbox_before_it_is_made() -> None:
    sandbox = cella.AsyncSandbox()
    assert "not made" in repr(sandbox)
    with pytest.raises(AttributeError, match="await it first"):
        sandbox.id  # noqa: B018

    async def close() -> None:
        await sandbox.close()

    asyncio.run(close())
