"""docs/openapi.yaml is the contract: every path of it is there, and the answers have the shapes it says."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, Dict, Iterator, List, Set, Tuple

import httpx
import pytest
from cella import Sandbox
from support.openapi import Contract
from support.server import ROOT, Server, programs, wanted_driver

CONTRACT = ROOT / "docs" / "openapi.yaml"
NO_CELL = "sbx_" + "0" * 32


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract(CONTRACT)


def filled(path: str, sandbox: str) -> str:
    """A concrete path: the first parameter is the sandbox, others name nothing."""
    names = iter([sandbox if "/sandboxes/{" in path else "nothing"])
    return re.sub(r"\{[^}]+\}", lambda m: next(names, "1"), path)


def test_it_is_well_formed(contract: Contract) -> None:
    document = contract.document
    assert document["openapi"].startswith("3.")
    ids = [op["operationId"] for _, _, op in contract.operations()]
    assert len(ids) == len(set(ids)) >= 40
    for path, method, operation in contract.operations():
        assert operation.get("summary"), (path, method)
        assert operation["responses"], (path, method)
        named = set(re.findall(r"\{([^}]+)\}", path))
        parameters = operation.get("parameters", []) + document["paths"][path].get("parameters", [])
        described = {contract._resolve(p)["name"] for p in parameters if contract._resolve(p)["in"] == "path"}
        assert named == described, (path, named, described)


def test_every_operation_has_a_route(contract: Contract, http: httpx.Client) -> None:
    for path, method, operation in contract.operations():
        headers = {"Accept": "application/json"}
        body = b"{}" if method in ("post", "put", "patch") else None
        if path == "/v1/sandboxes" and method == "post":
            body = b'{"ttl_seconds": -1}'  # refused by the handler, so that nothing is made
        with http.stream(method.upper(), filled(path, NO_CELL), content=body, headers=headers) as answer:
            assert answer.status_code != 405, (method, path)
            if answer.status_code == 404:
                answer.read()
                assert "no such path" not in answer.text, (method, path)


@pytest.fixture(scope="module")
def rows() -> List[Dict[str, str]]:
    """Every route of the daemon, and whose it is ("of")."""
    name = "cellad-plain" if wanted_driver() == "plain" else "cellad"
    rows: List[Dict[str, str]] = json.loads(subprocess.run([str(programs() / name), "--routes"], check=True, capture_output=True, text=True).stdout)
    return rows


def test_every_route_of_the_api_is_described(contract: Contract, rows: List[Dict[str, str]]) -> None:
    described = {(method.upper(), path) for path, method, _ in contract.operations()}
    own = {(row["method"], row["path"].replace("...}", "}")) for row in rows if row["of"] == "cella"}
    any_method = {path for method, path in own if method == "*"}
    assert {(method, path) for method, path in own if method != "*"} == {(method, path) for method, path in described if path not in any_method}
    assert any_method <= {path for _, path in described}


def test_paths_of_other_clients_are_listed(contract: Contract, rows: List[Dict[str, str]]) -> None:
    """Rows of src/api/compat/ are no part of the contract: below /v1 they are named in x-compat, and none hides a path of ours."""
    foreign: Dict[str, Set[str]] = {}
    for row in rows:
        if row["of"] != "cella" and row["path"].startswith("/v1/"):
            foreign.setdefault(row["of"], set()).add(row["path"])
    assert {name: set(paths) for name, paths in contract.document["x-compat"].items()} == foreign
    assert not set(contract.document["paths"]) & set().union(*foreign.values())


def test_every_method_of_the_daemon_is_described(contract: Contract, http: httpx.Client) -> None:
    """OPTIONS tells what the daemon takes on a path."""
    for path in contract.document["paths"]:
        answer = http.request("OPTIONS", filled(path, NO_CELL))
        if answer.status_code == 204:
            allowed = {m.strip() for m in answer.headers["allow"].split(",")} - {"HEAD", "OPTIONS"}
            assert allowed == set(contract.methods_of(path)), path


Step = Tuple[str, str, Dict[str, Any]]
#: What an ordinary life of a sandbox asks, in this order; {id} and {cid} are filled in.
LIFE: Tuple[Step, ...] = (
    ("GET", "/healthz", {}),
    ("GET", "/version", {}),
    ("GET", "/v1/sandboxes", {}),
    ("GET", "/v1/sandboxes/{id}", {}),
    ("GET", "/v1/templates", {}),
    ("GET", "/v1/templates/{name}", {"name": "default"}),
    ("POST", "/v1/sandboxes/{id}/execute", {"json": {"code": "print(1)\nimport pandas\npandas.DataFrame({'a': [1]})"}}),
    ("POST", "/v1/sandboxes/{id}/execute", {"json": {"code": "1/0"}}),
    ("POST", "/v1/sandboxes/{id}/execute", {"json": {"code": "exit 3", "language": "bash"}}),
    ("POST", "/v1/sandboxes/{id}/execute", {"json": {"code": 5}}),
    ("GET", "/v1/sandboxes/{id}/executions", {}),
    ("POST", "/v1/sandboxes/{id}/exec", {"json": {"cmd": "echo x; exit 2"}}),
    ("POST", "/v1/sandboxes/{id}/exec", {"json": {"cmd": ["sleep", "300"], "background": True}}),
    ("POST", "/v1/sandboxes/{id}/exec", {"json": {}}),
    ("GET", "/v1/sandboxes/{id}/processes", {}),
    ("GET", "/v1/sandboxes/{id}/contexts", {}),
    ("POST", "/v1/sandboxes/{id}/contexts", {"json": {"language": "bash"}}),
    ("PUT", "/v1/sandboxes/{id}/fs", {"params": {"path": "f"}, "content": b"x"}),
    ("GET", "/v1/sandboxes/{id}/fs", {"params": {"path": "f"}}),
    ("GET", "/v1/sandboxes/{id}/fs", {"params": {"path": "none"}}),
    ("GET", "/v1/sandboxes/{id}/fs/stat", {"params": {"path": "f"}}),
    ("GET", "/v1/sandboxes/{id}/fs/dir", {"params": {"path": "."}}),
    ("POST", "/v1/sandboxes/{id}/fs/mkdir", {"json": {"path": "d"}}),
    ("POST", "/v1/sandboxes/{id}/fs/move", {"json": {"from": "f", "to": "d/f"}}),
    ("GET", "/v1/sandboxes/{id}/fs/tar", {"params": {"path": "d"}}),
    ("GET", "/v1/sandboxes/{id}/diff", {"params": {"variables": "1", "text": "1"}}),
    ("DELETE", "/v1/sandboxes/{id}/fs", {"params": {"path": "d", "recursive": "true"}}),
    ("GET", "/v1/sandboxes/{id}/lifecycle", {}),
    ("PATCH", "/v1/sandboxes/{id}/lifecycle", {"json": {"ttl_seconds": 500}}),
    ("GET", "/v1/sandboxes/{id}/metrics", {}),
    ("GET", "/v1/sandboxes/{id}/logs", {}),
    ("GET", "/v1/sandboxes/{id}/events", {}),
    ("POST", "/v1/sandboxes/{id}/pause", {}),
    ("POST", "/v1/sandboxes/{id}/execute", {"json": {"code": "1"}}),
    ("POST", "/v1/sandboxes/{id}/resume", {}),
    ("GET", "/v1/events", {}),
    ("GET", "/metrics", {}),
    ("DELETE", "/v1/sandboxes/{id}", {}),
    ("GET", "/v1/sandboxes/{id}", {}),
    ("DELETE", "/v1/sandboxes/{id}", {}),
)


def test_the_answers_of_a_whole_life(contract: Contract, http: httpx.Client) -> None:
    made = http.post("/v1/sandboxes", json={"metadata": {"a": "b"}})
    contract.check("POST", "/v1/sandboxes", made)
    cell = made.json()["id"]
    for method, template, options in LIFE:
        options = dict(options)
        path = template.replace("{id}", cell).replace("{name}", options.pop("name", ""))
        answer = http.request(method, path, **options)
        known = next(p for p in contract.document["paths"] if re.sub(r"\{[^}]+\}", "{}", p) == re.sub(r"\{[^}]+\}", "{}", template))
        contract.check(method, known, answer)


def test_errors_have_one_shape(contract: Contract, http: httpx.Client) -> None:
    for answer in (http.get("/v1/none"), http.put("/v1/sandboxes"), http.get(f"/v1/sandboxes/{NO_CELL}"), http.post("/v1/sandboxes", content=b"{")):
        value = answer.json()
        assert isinstance(value["error"], str) and re.match(r"^[a-z_]+$", value["code"])
        contract.validate(value, contract.schema("Error"), str(answer.request.url))


def ndjson(http: httpx.Client, cell: str, code: str) -> Iterator[Dict[str, Any]]:
    body = {"code": code, "stream": True}
    with http.stream("POST", f"/v1/sandboxes/{cell}/execute", json=body, headers={"Accept": "application/x-ndjson"}) as response:
        for line in response.iter_lines():
            if line.strip():
                yield json.loads(line)


def test_streamed_events_have_the_described_shape(contract: Contract, http: httpx.Client, box: Sandbox) -> None:
    name = next((n for n in contract.document["components"]["schemas"] if n in ("ExecutionEvent", "Event", "StreamEvent")), None)
    assert name, "the contract describes the events of a streamed execution"
    code = "import sys\nprint(1)\nprint(2, file=sys.stderr)\nfrom IPython.display import display\ndisplay(3)\n1/0"
    for event in ndjson(http, box.id, code):
        contract.validate(event, contract.schema(name), str(event)[:200])


def test_the_contract_is_served(http: httpx.Client, contract: Contract, server: Server) -> None:
    for path in ("/openapi.yaml", "/openapi.json"):
        if path in contract.document["paths"]:
            assert http.get(path).status_code == 200
