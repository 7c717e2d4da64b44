"""Who was forked from whom, marked trees, and the winner of a fork."""

from __future__ import annotations

from typing import Any, Dict, List

import httpx
import pytest
from cella import GoneError, Sandbox
from support.branches import at, end, fork
from support.openapi import Contract
from support.server import ROOT

pytestmark = pytest.mark.needs_isolation


def tree(http: httpx.Client, sandbox_id: str) -> Dict[str, Any]:
    answer = http.get(f"/v1/sandboxes/{sandbox_id}/tree")
    assert answer.status_code == 200 and answer.json()["sandbox_id"] == sandbox_id
    value: Dict[str, Any] = answer.json()["tree"]
    return value


def shape(node: Dict[str, Any]) -> Any:
    return [node["id"], [shape(c) for c in node["children"]]]


def test_alone(http: httpx.Client, box: Sandbox) -> None:
    node = tree(http, box.id)
    assert shape(node) == [box.id, []]
    assert (node["state"], node["reason"], node["parent_id"], node["ended_at"]) == ("running", None, None, None)


def test_everybody_sees_the_same_tree(http: httpx.Client, box: Sandbox) -> None:
    a, b = fork(http, box, 2)
    (aa,) = fork(http, a)
    whole = [box.id, [[a.id, [[aa.id, []]]], [b.id, []]]]
    for sandbox in (box, a, b, aa):
        assert shape(tree(http, sandbox.id)) == whole
    b.pause()
    a.close()
    first, second = tree(http, box.id)["children"]
    assert (first["state"], second["state"]) == ("ended", "paused")
    assert "deleted" in first["reason"] and first["ended_at"] >= first["created_at"] and first["parent_id"] == box.id
    assert first["children"][0]["state"] == "running"
    box.close()
    root = tree(http, aa.id)
    assert root["id"] == box.id and root["state"] == "ended"
    assert http.get(f"/v1/sandboxes/{box.id}/tree").status_code == 410
    end(b, aa)


def test_metadata_in_the_tree(http: httpx.Client, box: Sandbox) -> None:
    (child,) = fork(http, box, metadata={"k": "v"})
    assert tree(http, box.id)["children"][0]["metadata"] == {"k": "v"}
    http.patch(f"/v1/sandboxes/{child.id}/lifecycle", json={"metadata": {"k": "new"}}).raise_for_status()
    assert tree(http, box.id)["children"][0]["metadata"] == {"k": "new"}
    child.close()
    assert tree(http, box.id)["children"][0]["metadata"] == {"k": "new"}


def fork_tree(http: httpx.Client, sandbox: Sandbox, **body: Any) -> Dict[str, Any]:
    answer = http.post(f"/v1/sandboxes/{sandbox.id}/fork-tree", json=body)
    assert answer.status_code == 201, answer.text
    value: Dict[str, Any] = answer.json()
    return value


def test_fork_tree_marks_the_children(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("x = 5", check=True)
    said = fork_tree(http, box, metadata={"mine": "1"})
    assert said["parent_id"] == box.id and said["snapshot_id"] is None and said["errors"] == []
    assert [(c["index"], c["guest_ip"], c["boot_mode"]) for c in said["children"]] == [(0, None, "fork"), (1, None, "fork")]
    for i, child in enumerate(said["children"]):
        about = http.get(f"/v1/sandboxes/{child['id']}").json()
        assert about["metadata"] == {
            "mine": "1", "fork_tree_id": said["tree_id"], "fork_tree_role": "child", "fork_parent_id": box.id, "fork_index": str(i),
        }  # fmt: skip
        assert child["boot_ms"] > 0 and at(http, child["id"]).run_code("x").text == "5"
    listed = http.get("/v1/sandboxes", params={"metadata": f"fork_tree_id={said['tree_id']}"}).json()
    listed = listed if isinstance(listed, list) else listed["sandboxes"]
    assert sorted(c["id"] for c in listed) == sorted(c["id"] for c in said["children"])
    end(*[at(http, c["id"]) for c in said["children"]])


def promote(http: httpx.Client, sandbox: Sandbox, **body: Any) -> httpx.Response:
    return http.post(f"/v1/sandboxes/{sandbox.id}/promote", json=body)


def test_promote_cleans_up_its_own_tree_only(http: httpx.Client, box: Sandbox) -> None:
    (plain,) = fork(http, box)
    trees = [fork_tree(http, box, count=3) for _ in range(2)]
    ours, theirs = ([at(http, c["id"]) for c in t["children"]] for t in trees)
    said = promote(http, ours[1], tree_id=trees[0]["tree_id"], cleanup_siblings=True)
    assert said.status_code == 200, said.text
    value = said.json()
    assert value["winner"] == ours[1].id and value["tree_id"] == trees[0]["tree_id"] and value["failures"] == {}
    assert sorted(value["deleted"]) == sorted([ours[0].id, ours[2].id])
    with pytest.raises(GoneError):
        ours[0].info()
    living: List[Sandbox] = [plain, ours[1], *theirs]
    assert all(s.info().status == "running" for s in living)
    assert promote(http, ours[1]).json()["deleted"] == []
    end(*living)


def test_promote_refuses_what_is_no_branch(http: httpx.Client, box: Sandbox) -> None:
    assert promote(http, box).status_code == 409
    (child,) = fork(http, box)
    assert promote(http, child, tree_id="tree_x").status_code == 409
    assert promote(http, child, cleanup_siblings="yes").status_code == 400
    assert promote(http, child).json() == {"winner": child.id, "tree_id": None, "deleted": [], "failures": {}}
    end(child)


def test_the_answers_have_the_described_shapes(http: httpx.Client, box: Sandbox) -> None:
    contract = Contract(ROOT / "docs" / "openapi.yaml")
    path = "/v1/sandboxes/{id}"
    box.run_code("import socket\ns = socket.create_server(('127.0.0.1', 0))", check=True)
    ids: List[str] = []
    for action, body in (("fork", {"n": 2}), ("fork-tree", {"count": 2})):
        answer = http.post(f"/v1/sandboxes/{box.id}/{action}", json=body)
        contract.check("POST", f"{path}/{action}", answer)
        ids += [c if isinstance(c, str) else c["id"] for c in answer.json()["children"]]
    contract.check("GET", path, http.get(f"/v1/sandboxes/{ids[0]}"))
    contract.check("POST", f"{path}/promote", http.post(f"/v1/sandboxes/{ids[0]}/promote"))
    contract.check("POST", f"{path}/promote", http.post(f"/v1/sandboxes/{box.id}/promote"))
    contract.check("POST", path + "/merge_into/{winner}", http.post(f"/v1/sandboxes/{box.id}/merge_into/{ids[0]}"))
    contract.check("POST", path + "/merge_into/{winner}", http.post(f"/v1/sandboxes/{box.id}/merge_into/{ids[0]}"))
    contract.check("GET", f"{path}/tree", http.get(f"/v1/sandboxes/{box.id}/tree"))
    end(*[at(http, i) for i in ids[1:]])
