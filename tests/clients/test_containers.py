"""OpenAI's own packages against /v1/containers: a program of programs/ goes through the calls, here each has a test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, List

import httpx
import pytest
from support.cells import Cell
from support.packages import node, npm_tree, python_tree
from support.server import Server

HERE = Path(__file__).resolve().parent
NODE, PYTHON = "OpenAI JavaScript SDK 7.55.0 (containers)", "OpenAI Python SDK 3.54.0 (containers)"
SECONDS = 280  # a program that takes longer hangs

Outcome = Dict[str, Any]


def both(name: str, state: str = "") -> pytest.MarkDecorator:
    clients = [("node", NODE), ("python", PYTHON)]
    return pytest.mark.parametrize("client", [pytest.param(each, marks=pytest.mark.client(shown, name, state=state)) for each, shown in clients])


def only_node(name: str, state: str = "") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", [pytest.param("node", marks=pytest.mark.client(NODE, name, state=state))])


def command(client: str) -> List[str]:
    if client == "python":
        return [str(python_tree(HERE / "requirements-openai.txt")), str(HERE / "programs" / "openai_containers.py")]
    return [str(node()), str(HERE / "programs" / "openai_containers.mjs")]


@pytest.fixture(scope="module")
def outcomes(server: Server) -> Callable[[str], Dict[str, Outcome]]:
    kept: Dict[str, Dict[str, Outcome]] = {}

    def get(client: str) -> Dict[str, Outcome]:
        if client not in kept:
            keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
            module = npm_tree(HERE / "npm" / "openai") / "node_modules" / "openai" / "index.mjs"
            own = {"OPENAI_MODULE": module.as_uri(), "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-anything", "PYTHONIOENCODING": "utf-8"}
            done = subprocess.run(command(client), env={**keep, **own}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
            assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            kept[client] = json.loads(done.stdout.splitlines()[-1])
        return kept[client]

    return get


@pytest.fixture
def value(outcomes: Any, client: str) -> Callable[[str], Any]:
    def get(step: str) -> Any:
        outcome = outcomes(client)[step]
        assert "error" not in outcome, outcome
        return outcome["value"]

    return get


@pytest.fixture
def refused(outcomes: Any, client: str) -> Callable[[str], Outcome]:
    def get(step: str) -> Outcome:
        outcome: Outcome = outcomes(client)[step]
        assert "error" in outcome, outcome
        return outcome

    return get


# ---- containers ----


@both("containers.create")
def test_create(value: Any, client: str) -> None:
    made = value("create")
    assert made["id"].startswith("cntr_") and len(made["id"]) == 37
    assert (made["object"], made["name"], made["status"], made["memory_limit"]) == ("container", "mine", "running", "1g")
    assert made["expires_after"] == {"anchor": "last_active_at", "minutes": 15}
    assert made["network_policy"]["type"] == "disabled"
    assert 0 <= made["last_active_at"] - made["created_at"] < 600


@only_node("containers.create")
def test_a_container_that_asks_for_nothing(value: Any, client: str) -> None:
    assert value("create_plain")["expires_after"]["minutes"] == 20
    assert value("create_network") == {"type": "disabled"}


@only_node("containers.create")
@pytest.mark.parametrize("step, word", [("create_bad_size", "memory_limit"), ("create_bad_anchor", "anchor"), ("create_nameless", "name")])
def test_wrong_fields_are_named(refused: Any, client: str, step: str, word: str) -> None:
    assert refused(step)["error"] == "BadRequestError" and word in refused(step)["message"]


@both("containers.create with file_ids", "refused (501): there is no file store; send the files to the container")
def test_file_ids_are_refused(refused: Any, client: str) -> None:
    assert (refused("create_file_ids")["error"], refused("create_file_ids")["status"]) == ("InternalServerError", 501)
    assert "file_ids" in refused("create_file_ids")["message"] and refused("create_file_ids")["code"] == "unsupported"


@only_node("containers.create with skills", "refused (501)")
def test_skills_are_refused(refused: Any, client: str) -> None:
    assert refused("create_skills")["status"] == 501 and "skills" in refused("create_skills")["message"]


@only_node("containers.create with network_policy allowlist", "refused (501) until network policies are there; disabled is what every container has")
def test_allowlists_are_refused(refused: Any, client: str) -> None:
    assert refused("create_allowlist")["status"] == 501 and "network" in refused("create_allowlist")["message"]


@both("containers.retrieve")
def test_retrieve(value: Any, refused: Any, client: str) -> None:
    assert value("retrieve")["id"] == value("create")["id"] and value("retrieve")["name"] == "mine"
    assert refused("retrieve_unknown")["error"] == "NotFoundError"


@only_node("containers.retrieve")
def test_only_containers_ids_are_taken(refused: Any, client: str) -> None:
    assert refused("retrieve_other_id")["error"] == "NotFoundError"


@both("containers.list")
def test_list(value: Any, client: str) -> None:
    assert value("list") == [value("create")["id"]]


@only_node("containers.list")
def test_lists_come_in_pages(value: Any, refused: Any, client: str) -> None:
    paged = value("list_pages")
    assert len(paged["first"]) == 2 and paged["more"] is True and set(paged["first"]) < set(paged["made"])
    assert sorted(paged["all"]) == sorted(paged["made"])
    assert refused("list_bad")["error"] == refused("list_bad_after")["error"] == "BadRequestError"


@both("containers.delete")
def test_delete(refused: Any, client: str) -> None:
    assert refused("delete")["status"] in (404, 410)


# ---- files ----


@both("containers.files.create")
def test_file_create(value: Any, client: str) -> None:
    made = value("file_create")
    assert made["id"].startswith("cfile_") and made["object"] == "container.file" and made["container_id"] == value("create")["id"]
    assert (made["path"], made["bytes"], made["source"]) == ('/workspace/data "1" ä.csv', 8, "user") and made["created_at"] > 0


@both("containers.files.create")
def test_large_files_come_back_as_they_went(value: Any, client: str) -> None:
    assert value("file_large") == [20_000_000, True]


@only_node("containers.files.create")
def test_empty_files_and_written_twice(value: Any, client: str) -> None:
    assert value("file_empty") == [0, ""]
    assert value("file_again") == [True, "other"]


@both("containers.files.create with file_id", "refused (501): there is no file store; send the file itself")
def test_file_id_is_refused(refused: Any, client: str) -> None:
    assert refused("file_by_id")["status"] == 501 and "file_id" in refused("file_by_id")["message"]


@only_node("containers.files.create")
def test_a_form_without_a_file_is_refused(refused: Any, client: str) -> None:
    assert refused("file_nothing")["status"] in (400, 501)


@both("containers.files.retrieve")
def test_file_retrieve(value: Any, client: str) -> None:
    assert value("file_retrieve") == value("file_create")


@only_node("containers.files.retrieve")
@pytest.mark.parametrize("step", ["file_unknown", "file_malformed", "file_delete_again"])
def test_files_that_are_none(refused: Any, client: str, step: str) -> None:
    assert refused(step)["error"] == "NotFoundError"


@both("containers.files.content.retrieve")
def test_file_content(value: Any, client: str) -> None:
    assert value("file_content") == "a,b\n1,2\n"


@only_node("containers.files.list")
def test_code_and_client_see_the_same_files(value: Any, client: str) -> None:
    assert value("file_in_code") == "'a,b\\n1,2\\n'"
    files = value("file_list")
    assert [(f["path"], f["bytes"], f["source"]) for f in files] == [
        ("/workspace/again", 5, "user"), ('/workspace/data "1" ä.csv', 8, "user"), ("/workspace/empty", 0, "user"), ("/workspace/out/made.txt", 4, "assistant"),
    ]  # fmt: skip
    assert value("file_made") == "made"


@pytest.mark.parametrize("client", [pytest.param("python", marks=pytest.mark.client(PYTHON, "containers.files.list"))])
def test_file_list(value: Any, client: str) -> None:
    assert [f["path"] for f in value("file_list")] == ['/workspace/data "1" ä.csv']


@both("containers.files.delete")
def test_file_delete(refused: Any, client: str) -> None:
    assert refused("file_delete")["error"] == "NotFoundError"


# ---- requests that no package sends ----

FORM = "multipart/form-data; boundary=XX"
PART = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'


@pytest.fixture
def container(server: Server) -> Any:
    with Cell(server.url) as cell:
        yield cell


def post(container: Cell, body: bytes, kind: str = FORM) -> httpx.Response:
    return container.http.post(f"/v1/containers/{container.id.replace('sbx_', 'cntr_')}/files", content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "body, kind",
    [
        (PART % (b"f", b"new"), FORM),  # not closed
        (PART % (b"f", b"new") + b"--XX", FORM),
        (PART % (b"f", b"new") + PART % (b"g", b"more") + b"--XX--\r\n", FORM),  # two files
        (PART % (b"..", b"new") + b"--XX--\r\n", FORM),
        (PART % (b"", b"new") + b"--XX--\r\n", FORM),
        (PART % (b"\xff", b"new") + b"--XX--\r\n", FORM),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\nnew\r\n--XX--\r\n", FORM),
        (b"no form", FORM),
        (b"", FORM),
        (b"x", "text/plain"),
    ],
)
def test_a_broken_form_leaves_what_was_there(container: Cell, body: bytes, kind: str) -> None:
    container.call("PUT", "/fs", params={"path": "f"}, content=b"old")
    answer = post(container, body, kind)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error" and answer.json()["error"]["message"]
    assert container.call("GET", "/fs", params={"path": "f"}).content == b"old"
    assert [e["name"] for e in container.call("GET", "/fs/dir").json()["entries"]] == ["f"]


def test_a_name_with_a_path_is_its_last_part(container: Cell) -> None:
    answer = post(container, PART % (b"../../etc/cron.d/evil", b"x") + b"--XX--\r\n")
    assert answer.status_code == 200 and answer.json()["path"] == "/workspace/evil"


def test_a_directory_is_no_container_file(container: Cell) -> None:
    container.call("POST", "/fs/mkdir", json={"path": "d"})
    path = f"/v1/containers/{container.id.replace('sbx_', 'cntr_')}/files/cfile_{b'd'.hex()}"
    for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        assert container.http.request(method, path + more).status_code == 404
    assert container.call("GET", "/fs/stat", params={"path": "d"}).json()["is_dir"]


def test_a_hibernated_container_wakes_for_its_files(container: Cell) -> None:
    assert post(container, PART % (b"f", b"kept") + b"--XX--\r\n").status_code == 200
    container.hibernate()
    assert container.http.get(f"/v1/containers/{container.id.replace('sbx_', 'cntr_')}").json()["status"] == "hibernated"
    assert post(container, PART % (b"g", b"x" * 200_000) + b"--XX--\r\n").json()["bytes"] == 200_000
    assert container.status() == "running"


def test_errors_of_wrong_methods_have_the_same_shape(container: Cell) -> None:
    answer = container.http.patch("/v1/containers")
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"
