"""diff: what a sandbox changed, against its template, its parent and other sandboxes. The layers must be real ones."""

from __future__ import annotations

import random
import re
import threading
import time
from typing import Any, Dict, Iterator, List

import httpx
import pytest
from cella import Sandbox
from support.openapi import Contract
from support.server import ROOT

pytestmark = pytest.mark.needs_isolation

JSON = Dict[str, Any]
CONTRACT = Contract(ROOT / "docs" / "openapi.yaml")


def diff(http: httpx.Client, sandbox: str, status: int = 200, **query: object) -> JSON:
    answer = http.get(f"/v1/sandboxes/{sandbox}/diff", params={k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items()})
    assert answer.status_code == status, answer.text
    CONTRACT.check("GET", "/v1/sandboxes/{id}/diff", answer)
    body: JSON = answer.json()
    if status == 200:
        files = body["files"]
        for kind in ("added", "removed", "modified"):
            assert files["counts"][kind] >= len(files[kind])
            paths = [f["path"] for f in files[kind]]
            assert paths == sorted(paths, key=lambda p: p.split("/")), "in the order of paths"
    return body


def paths(files: JSON, kind: str, below: str = "/workspace/") -> List[str]:
    return [f["path"] for f in files[kind] if f["path"].startswith(below)]


def one(files: JSON, kind: str, path: str) -> JSON:
    found = [f for f in files[kind] if f["path"] == path]
    assert len(found) == 1, (kind, path, files)
    return dict(found[0])


def patched(before: str, patch: str) -> str:
    """The unified diff applied; every line of it must fit."""
    old, out, at = before.splitlines(keepends=True), [], 0
    lines = re.findall(r"[^\n]*\n", patch)
    assert lines[0].startswith("--- a/") and lines[1].startswith("+++ b/")
    for i, line in enumerate(lines[2:], 2):
        text = line[1:]
        if i + 1 < len(lines) and lines[i + 1].startswith("\\"):
            text = text[:-1]
        if line.startswith("@@"):
            m = re.match(r"@@ -(\d+)(?:,(\d+))? ", line)
            assert m
            start = int(m[1]) - (0 if m[2] == "0" else 1)
            out += old[at:start]
            at = start
        elif line[0] in " -":
            assert old[at] == text, (at, old[at], text)
            at += 1
            out += [text] if line[0] == " " else []
        elif line[0] == "+":
            out.append(text)
    return "".join(out + old[at:])


@pytest.fixture
def family(http: httpx.Client, box: Sandbox) -> Iterator[JSON]:
    """A parent with files and variables, forked in two; each of the three then goes its own way in the test."""
    box.filesystem.write("data", "0" * 5000)
    box.filesystem.write("notes.txt", "".join(f"line {i}\n" for i in range(100)))
    box.filesystem.write("tree/a/b/c.txt", "deep\n")
    box.run_code("import numpy as np\nx = 1\ny = [1, 2, 3]\nz = np.arange(10)\ngone = 'soon'", check=True)
    answer = http.post(f"/v1/sandboxes/{box.id}/fork", json={"n": 2})
    assert answer.status_code == 201, answer.text
    children = answer.json()["children"]
    yield {"parent": box, "children": [Sandbox.connect(c) for c in children]}
    for c in children:
        http.delete(f"/v1/sandboxes/{c}")


# ---- against the template


def test_an_untouched_sandbox_does_not_differ(http: httpx.Client, box: Sandbox) -> None:
    body = diff(http, box.id)
    assert body["sandbox_id"] == box.id and body["against"] == "template" and "variables" not in body
    assert body["files"] == {"added": [], "removed": [], "modified": [], "counts": {"added": 0, "removed": 0, "modified": 0}, "truncated": None}


def test_added_modified_removed(http: httpx.Client, box: Sandbox) -> None:
    box.filesystem.write("new/file.txt", "hello\n")
    box.exec("ln -s file.txt new/link; mkfifo new/pipe", check=True)
    box.exec("echo 127.0.0.9 mine >> /etc/hosts; rm -r /usr/share/doc/bash; chmod 700 /usr/bin/env; touch /etc/profile", user="root", check=True)
    files = diff(http, box.id)["files"]
    assert paths(files, "added") == ["/workspace/new", "/workspace/new/file.txt", "/workspace/new/link", "/workspace/new/pipe"]
    assert one(files, "added", "/workspace/new/file.txt") == {"path": "/workspace/new/file.txt", "type": "file", "size": 6}
    assert one(files, "added", "/workspace/new/link")["target"] == "file.txt"
    assert [f["type"] for f in files["added"] if f["path"].endswith("pipe")] == ["other"]
    hosts = one(files, "modified", "/etc/hosts")
    assert hosts["size"] == hosts["size_before"] + 15 and hosts["same_contents"] is False
    env = one(files, "modified", "/usr/bin/env")
    assert (env["permissions"], env["permissions_before"], env["same_contents"]) == ("0700", "0755", True)
    gone = paths(files, "removed", "/")
    assert "/usr/share/doc/bash" in gone and any(p.startswith("/usr/share/doc/bash/") for p in gone)
    assert not [f for f in files["modified"] if f["path"] == "/etc/profile"], "touched is not changed"


def test_no_trace_of_cella_itself(http: httpx.Client, box: Sandbox) -> None:
    """An upload that is not finished, contexts, processes: none of it is a change of the user's."""
    box.run_code("1", check=True)
    box.run_code("echo x", language="bash", check=True)
    box.exec(["true"], check=True)
    assert [f["path"] for f in diff(http, box.id)["files"]["added"]] == []


def test_replaced_directory(http: httpx.Client, box: Sandbox) -> None:
    box.exec("cd /usr/share; rm -r doc/bash; mkdir doc/bash; echo mine > doc/bash/README; rm -r doc/tar; echo file > doc/tar", user="root", check=True)
    files = diff(http, box.id)["files"]
    assert paths(files, "added", "/usr/share/doc/bash") == ["/usr/share/doc/bash/README"] or one(files, "modified", "/usr/share/doc/bash/README")
    tar = one(files, "modified", "/usr/share/doc/tar")
    assert (tar["type"], tar["type_before"]) == ("file", "directory")
    assert paths(files, "removed", "/usr/share/doc/tar/")


def test_text_of_a_template_file(http: httpx.Client, box: Sandbox) -> None:
    before = box.filesystem.read("/etc/passwd")
    box.exec("sed -i '3d; 5s/x/y/' /etc/passwd; echo new:x:1:1::/: >> /etc/passwd; printf '\\0\\1' >> /etc/hosts", user="root", check=True)
    files = diff(http, box.id, against="template", text=True)["files"]
    assert patched(before, one(files, "modified", "/etc/passwd")["text_diff"]) == box.filesystem.read("/etc/passwd")
    assert one(files, "modified", "/etc/hosts")["binary"] is True
    assert "text_diff" not in one(diff(http, box.id)["files"], "modified", "/etc/passwd")


def test_variables_against_the_template(http: httpx.Client, box: Sandbox) -> None:
    box.run_code("alpha = 5\nimport os\ntext = 'hello'", check=True)
    body = diff(http, box.id, variables=True)
    added = {v["name"]: v for v in body["variables"]["added"]}
    assert set(added) == {"alpha", "text"}
    assert added["alpha"] == {"name": "alpha", "type": "int", "value": "5"}
    assert body["variables"]["removed"] == body["variables"]["changed"] == body["variables"]["unknown"] == []
    assert len(http.get(f"/v1/sandboxes/{box.id}/executions").json()) == 1, "a look at the variables is no execution"


def test_many_entries_are_counted(http: httpx.Client, box: Sandbox) -> None:
    box.exec("mkdir many; cd many; seq 12000 | xargs touch", check=True)
    files = diff(http, box.id)["files"]
    assert files["counts"] == {"added": 12001, "removed": 0, "modified": 0}
    assert files["truncated"] == {"shown": 10000, "total": 12001} and len(files["added"]) == 10000


# ---- two sandboxes that were never one


def test_two_sandboxes_of_one_template(http: httpx.Client, box: Sandbox) -> None:
    with Sandbox() as other:
        for s, own in ((box, "mine"), (other, "yours")):
            s.filesystem.write("same", "equal contents")
            s.filesystem.write("size", f"{own:>8}")
            s.filesystem.write(own, "")
        other.exec("rm /etc/profile; echo x >> /etc/hosts", user="root", check=True)
        files = diff(http, box.id, against=other.id, text=True)["files"]
        assert [f["path"] for f in files["added"]] == ["/etc/profile", "/workspace/mine"]
        assert [f["path"] for f in files["removed"]] == ["/workspace/yours"]
        assert [f["path"] for f in files["modified"]] == ["/etc/hosts", "/workspace/size"]
        assert one(files, "modified", "/workspace/size")["text_diff"].endswith("\\ No newline at end of file\n")
        hosts = one(files, "modified", "/etc/hosts")
        assert hosts["size"] == hosts["size_before"] - 2 and "\n-x\n" in hosts["text_diff"]
        back = diff(http, other.id, against=box.id)["files"]
        assert [f["path"] for f in back["added"]] == ["/workspace/yours"]


def test_variables_of_two_sandboxes(http: httpx.Client, box: Sandbox) -> None:
    with Sandbox() as other:
        box.run_code("a = 1\nb = [1, 2]\nonly = 1\nf = (i for i in 'x')\ns = 'q' * 100000", check=True)
        other.run_code("a = 2\nb = [1, 2]\nf = (i for i in 'x')\ns = 'q' * 100000\nmore = {}", check=True)
        v = diff(http, box.id, against=other.id)["variables"]
        assert [x["name"] for x in v["added"]] == ["only"] and [x["name"] for x in v["removed"]] == ["more"]
        changed = {x["name"]: x for x in v["changed"]}
        assert changed.pop("a") == {"name": "a", "type": "int", "value": "1", "type_before": "int", "value_before": "2"}
        assert set(changed) | set(v["unknown"]) == {"f"}, "a generator has no contents to compare"
        assert "variables" not in diff(http, box.id, against=other.id, variables=False)


# ---- branches


def test_a_branch_against_its_parent(http: httpx.Client, family: JSON) -> None:
    child = family["children"][0]
    assert paths(diff(http, child.id)["files"], "modified") == []
    body = diff(http, child.id)
    assert body["against"] == family["parent"].id
    assert body["files"]["counts"] == {"added": 0, "removed": 0, "modified": 0}
    assert body["variables"]["added"] == body["variables"]["removed"] == body["variables"]["changed"] == []
    notes = child.filesystem.read("notes.txt")
    edited = notes.replace("line 50\n", "changed\n").replace("line 7\n", "")
    child.filesystem.write("notes.txt", edited)
    child.filesystem.write("data", "1" * 5000)
    child.filesystem.write("fresh", "f")
    child.exec("rm -r tree; touch -d 2001-01-01 notes.txt", check=True)
    child.run_code("x = 2\ny.append(4)\ndel gone\nnew = z * 2", check=True)
    body = diff(http, child.id, text=True, variables=True)
    files = body["files"]
    assert paths(files, "added") == ["/workspace/fresh"]
    assert paths(files, "removed") == ["/workspace/tree", "/workspace/tree/a", "/workspace/tree/a/b", "/workspace/tree/a/b/c.txt"]
    assert paths(files, "modified") == ["/workspace/data", "/workspace/notes.txt"]
    assert patched(notes, one(files, "modified", "/workspace/notes.txt")["text_diff"]) == edited
    v = body["variables"]
    assert [x["name"] for x in v["added"]] == ["new"] and [x["name"] for x in v["removed"]] == ["gone"]
    assert sorted(x["name"] for x in v["changed"]) == ["x", "y"] and "z" not in v["unknown"]


def test_siblings_and_what_they_share(http: httpx.Client, family: JSON) -> None:
    one_, two = family["children"]
    one_.filesystem.write("own", "1")
    two.filesystem.write("own", "2")
    for c in (one_, two):
        c.filesystem.write("data", "2" * 5000)  # written twice, but the same
    files = diff(http, one_.id, against=two.id)["files"]
    assert files["counts"] == {"added": 0, "removed": 0, "modified": 1} and paths(files, "modified") == ["/workspace/own"]


def test_equal_sizes_written_at_one_moment(http: httpx.Client, family: JSON) -> None:
    """Both sides write into the same file at about the same time, again and again: no pair of times may pass for equality."""
    one_, two = family["children"]
    code = "import time\nwhile time.time() < {at}: pass\nfor i in range(200):\n    with open('data', 'r+') as f: f.write({c!r} * 5000)\n    time.sleep(0.0005)"
    at = time.time() + 1
    threads = [threading.Thread(target=s.run_code, args=(code.format(at=at, c=c),)) for s, c in ((one_, "a"), (two, "b"))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert paths(diff(http, one_.id, against=two.id)["files"], "modified") == ["/workspace/data"]


def test_random_edits_come_back(http: httpx.Client, family: JSON) -> None:
    child, dice = family["children"][0], random.Random(7)
    texts = {f"t{i}": [f"{dice.randrange(30)}\n" for _ in range(dice.randrange(200))] for i in range(20)}
    for s in (family["parent"], child):
        for name, lines in texts.items():
            s.filesystem.write(name, "".join(lines))
    after = {}
    for name, lines in texts.items():
        new = [line for line in lines if dice.random() > 0.1]
        for _ in range(dice.randrange(5)):
            new.insert(dice.randrange(len(new) + 1), f"n{dice.randrange(9)}\n")
        after[name] = "".join(new)[: -1 if dice.random() < 0.2 else None]
        child.filesystem.write(name, after[name])
    files = diff(http, child.id, text=True)["files"]
    shown = {f["path"].split("/")[-1]: f for f in files["modified"]}
    for name, lines in texts.items():
        before = "".join(lines)
        assert (name in shown) == (before != after[name])
        if name in shown:
            assert patched(before, shown[name]["text_diff"]) == after[name]


# ---- refusals


def test_what_cannot_be_compared(http: httpx.Client, box: Sandbox) -> None:
    assert diff(http, box.id, 409, against="parent")["code"] == "conflict"
    assert diff(http, box.id, 400, against="nonsense")["code"] == "invalid_request"
    assert diff(http, box.id, 400, against=box.id)["code"] == "invalid_request"
    assert diff(http, box.id, 409, against="sbx_" + "0" * 32)["code"] == "conflict"
    assert diff(http, box.id, 400, text="maybe")["code"] == "invalid_request"
    assert diff(http, box.id, 404, variables=True, context_id="ctx_none")["code"] == "not_found"
    with Sandbox() as other:
        http.post(f"/v1/sandboxes/{other.id}/pause")
        refused = diff(http, box.id, 409, against=other.id)
        assert refused["code"] == "conflict" and refused["hint"]
        http.post(f"/v1/sandboxes/{other.id}/resume")
        diff(http, box.id, against=other.id)
    assert "ended" in diff(http, box.id, 409, against=other.id)["error"]


def test_a_hibernated_side_is_woken(http: httpx.Client, family: JSON) -> None:
    child, parent = family["children"][0], family["parent"]
    child.filesystem.write("own", "1")
    for sleeper in (parent, child):
        answer = http.post(f"/v1/sandboxes/{sleeper.id}/hibernate")
        assert answer.status_code == 200, answer.text
        body = diff(http, child.id, variables=True)
        assert body["against"] == parent.id and paths(body["files"], "added") == ["/workspace/own"]
        assert body["files"]["counts"] == {"added": 1, "removed": 0, "modified": 0}
        assert body["variables"]["changed"] == body["variables"]["removed"] == []


def test_the_parent_is_gone(http: httpx.Client, family: JSON) -> None:
    one_, two = family["children"]
    http.delete(f"/v1/sandboxes/{family['parent'].id}")
    one_.filesystem.write("own", "1")
    assert paths(diff(http, one_.id, against=two.id)["files"], "added") == ["/workspace/own"]
    assert diff(http, one_.id)["against"] == "template"
    assert "ended" in diff(http, one_.id, 409, against="parent")["error"]


def test_a_busy_context(http: httpx.Client, box: Sandbox) -> None:
    """Files are told, variables are not, unless they were asked for by name: then nothing is."""
    box.run_code("import time")
    with Sandbox() as other:
        thread = threading.Thread(target=box.run_code, args=("time.sleep(60)",))
        thread.start()
        try:
            while http.get(f"/v1/sandboxes/{box.id}/contexts/default").json()["state"] != "busy":
                pass
            refused = diff(http, box.id, 409, variables=True)
            assert refused["code"] == "conflict" and "busy" in refused["error"] and refused["hint"]
            body = diff(http, box.id, against=other.id)
            assert body["variables"] is None and body["variables_error"]["code"] == "conflict"
            assert body["files"]["truncated"] is None
        finally:
            http.post(f"/v1/sandboxes/{box.id}/contexts/default/interrupt")
            thread.join()
        assert diff(http, box.id, variables=True)["variables"] is not None
