"""E2B's wire as it is: which sandbox and port a request is for, who may, and what is said where nothing is."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Callable, Dict, Iterator, Tuple

import httpx
import pytest
from e2b_run import python, value
from support.server import Server

Made = Dict[str, Any]


@pytest.fixture(scope="module")
def made(http_module: httpx.Client) -> Iterator[Made]:
    answer = http_module.post("/v2/sandboxes", json={"templateID": "base", "timeout": 600})
    assert answer.status_code == 201
    yield answer.json()
    assert http_module.delete(f"/sandboxes/{answer.json()['sandboxID']}").status_code == 204


@pytest.fixture(scope="module")
def http_module(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        yield client


def port(made: Made, number: int, **more: str) -> Dict[str, str]:
    return {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": str(number), **{name.replace("_", "-"): text for name, text in more.items()}}


def lines(answer: httpx.Response) -> list[Dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_header_chooses(http: httpx.Client, made: Made) -> None:
    assert http.get("/metrics").text.startswith("# HELP")
    assert http.get("/health").text == "OK"
    assert http.get("/health", headers=port(made, 49983)).status_code == 204
    code = http.get("/health", headers=port(made, 49999))
    assert (code.status_code, code.text) == (200, "OK")
    named = http.get("/health", headers={"Host": f"49999-{made['sandboxID']}.localhost:{http.base_url.port}"})
    assert (named.status_code, named.text) == (200, "OK")


def test_other_ports_and_sandboxes(http: httpx.Client, made: Made) -> None:
    other = http.get("/", headers=port(made, 8000))
    assert other.status_code == 501 and other.json()["code"] == 501
    nobody = http.get("/health", headers={"E2b-Sandbox-Id": "sbx_" + "0" * 32, "E2b-Sandbox-Port": "49983"})
    assert nobody.status_code == 502 and nobody.json()["code"] == 502
    for wrong in ("", "0", "x", "49983x", "65536", "-1", "49983-1"):
        assert http.get("/health", headers=port(made, 0, E2b_Sandbox_Port=wrong)).status_code == 400, wrong
    for wrong in ("sbx_../..", "x" * 300, "SBX_" + "0" * 32):
        assert http.get("/health", headers={"E2b-Sandbox-Id": wrong, "E2b-Sandbox-Port": "49983"}).status_code == 502, wrong


def test_a_token_is_asked_for(http: httpx.Client, made: Made) -> None:
    body = {"code": "6 * 7"}
    for headers in (port(made, 49999), port(made, 49999, X_Access_Token="0" * 64)):
        assert http.post("/execute", json=body, headers=headers).status_code == 401
        assert http.get("/contexts", headers=headers).status_code == 401
    for name in ("X_Access_Token", "E2B_Traffic_Access_Token"):
        answer = http.post("/execute", json=body, headers=port(made, 49999, **{name: made["envdAccessToken"]}))
        assert [line["type"] for line in lines(answer)] == ["result", "number_of_executions", "end_of_execution"]
        assert lines(answer)[0]["text"] == "42" and lines(answer)[0]["is_main_result"] is True


def test_an_open_sandbox_asks_for_none(http: httpx.Client) -> None:
    made = http.post("/sandboxes", json={"templateID": "base", "timeout": 600, "secure": False}).json()
    assert "envdAccessToken" not in made
    assert http.get("/contexts", headers=port(made, 49999)).status_code == 200
    assert http.get(f"/sandboxes/{made['sandboxID']}").json()["metadata"] == {}
    assert http.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204


def signed(made: Made, path: str, operation: str, expiration: str = "") -> Dict[str, str]:
    text = f"{path}:{operation}::{made['envdAccessToken']}" + (f":{expiration}" if expiration else "")
    signature = "v1_" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    return {"path": path, "signature": signature, **({"signature_expiration": expiration} if expiration else {})}


def test_signed_urls_name_their_sandbox(http: httpx.Client, made: Made) -> None:
    """A client of one origin makes URLs without the sandbox's id."""
    path = "/home/user/signed.txt"
    put = http.post("/files", params=signed(made, path, "write"), content=b"signed", headers={"Content-Type": "application/octet-stream"})
    assert put.status_code == 200
    assert http.get("/files", params=signed(made, path, "read")).content == b"signed"
    assert http.get("/files", params=signed(made, path, "read", "99999999999")).content == b"signed"
    assert http.get("/files", params=signed(made, path, "read", "1000000000")).status_code == 401
    assert http.get("/files", params=signed(made, path, "write")).status_code == 401
    assert http.get("/files", params={**signed(made, path, "read"), "path": "/etc/passwd"}).status_code == 401


def test_it_says_that_it_lives(http: httpx.Client, made: Made) -> None:
    """Nothing is printed until the keepalive was seen."""
    token = {"X_Access_Token": made["envdAccessToken"]}
    code = "import os, time\nwhile not os.path.exists('/home/user/alive'): time.sleep(0.02)\n'over'"
    seen = []
    with http.stream("POST", "/execute", json={"code": code}, headers=port(made, 49999, **token)) as answer:
        for line in answer.iter_lines():
            seen.append(json.loads(line)["type"])
            if seen == ["keepalive"]:
                with httpx.Client(base_url=http.base_url, timeout=120, trust_env=False) as other:
                    done = other.post("/files", params={"path": "/home/user/alive"}, content=b"", headers=port(made, 49983, Content_Type="application/octet-stream", **token))
                    assert done.status_code == 200
    assert seen[0] == "keepalive" and seen[-3:] == ["result", "number_of_executions", "end_of_execution"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/volumes"), ("GET", "/volumes/x"), ("GET", "/secrets"), ("GET", "/teams"), ("POST", "/v3/templates"), ("POST", "/templates/x/builds/y"), ("DELETE", "/templates/base")],
)
def test_what_is_not_there_says_so(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == answer.json()["code"] == 501 and "not in this version of Cella" in answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [{}, {"templateID": 5}, {"templateID": "base", "timeout": -1}, {"templateID": "base", "timeout": 0}, {"templateID": "base", "metadata": []},
     {"templateID": "base", "envVars": {"A=B": "x"}}, {"templateID": "base", "network": 1}, {"templateID": "base", "autoResume": True}],
)  # fmt: skip
def test_wrong_bodies(http: httpx.Client, body: Dict[str, Any]) -> None:
    answer = http.post("/v2/sandboxes", json=body)
    assert answer.status_code == answer.json()["code"] == 400, answer.text


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "metadata=%25zz", "startedAfter=yesterday"])
def test_wrong_queries(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/v2/sandboxes?{query}")
    assert answer.status_code == answer.json()["code"] == 400, answer.text


def test_older_calls(http: httpx.Client) -> None:
    made = http.post("/sandboxes", json={"templateID": "code-interpreter-v1:latest", "timeout": 600, "autoPause": True, "metadata": {"older": "1"}})
    assert made.status_code == 201
    one = f"/sandboxes/{made.json()['sandboxID']}"
    try:
        assert [s["sandboxID"] for s in http.get("/sandboxes", params={"metadata": "older=1"}).json()] == [made.json()["sandboxID"]]
        assert http.post(f"{one}/refreshes", json={"duration": 900}).status_code == 204
        assert http.post(f"{one}/resume", json={"timeout": 600}).status_code == 409
        assert http.post(f"{one}/pause").status_code == 204 and http.post(f"{one}/pause").json()["code"] == 409
        assert http.post(f"{one}/timeout", json={"timeout": 60}).status_code == 404
        assert http.post(f"{one}/fork", json={}).status_code == http.post(f"{one}/snapshots", json={}).status_code == 409
        assert http.post(f"{one}/resume", json={"timeout": 600}).status_code == 201
        assert http.post(f"{one}/connect", json={"timeout": 600}).status_code == 200
        logs = [entry["message"] for entry in http.get(f"/v2{one}/logs").json()["logs"]]
        assert logs[0].startswith("sandbox.created") and len(logs) >= 3
        assert http.get("/sandboxes/metrics", params={"sandbox_ids": made.json()["sandboxID"] + ",sbx_x"}).json()["sandboxes"].keys() == {made.json()["sandboxID"]}
    finally:
        assert http.delete(one).status_code == 204
    assert http.delete(one).json()["code"] == 404 and http.get(one).json()["code"] == 404


@pytest.mark.own_server
def test_where_keys_are_asked_for(new_server: Callable[..., Server]) -> None:
    """One daemon, two keys: neither sees the other's sandboxes, and the SDK needs nothing but its key."""
    server = new_server(arguments=["--require-key", "--allowed-host", "cells.example"])
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:

        def key(name: str) -> str:
            known: Dict[str, str] = {"X-API-Key": keys[0]} if keys else {}
            answer = client.post("/v1/keys", json={"name": name}, headers=known)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["key"])

        keys: list[str] = []
        keys.append(key("first"))
        keys.append(key("second"))

        def create(owner: int) -> Tuple[Made, Dict[str, str]]:
            mine = {"X-API-Key": keys[owner]}
            answer = client.post("/v2/sandboxes", json={"templateID": "base", "timeout": 600, "secure": False}, headers=mine)
            assert answer.status_code == 201, answer.text
            return answer.json(), mine

        made, mine = create(0)
        theirs = {"X-API-Key": keys[1]}
        assert client.get("/v2/sandboxes").status_code == 401
        assert len(client.get("/v2/sandboxes", headers=mine).json()) == 1 and client.get("/v2/sandboxes", headers=theirs).json() == []
        one = f"/sandboxes/{made['sandboxID']}"
        for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/pause"), ("POST", f"/v2{one}/connect")):
            assert client.request(method, path, headers=theirs).json()["code"] == 404, path
        # "secure: false" opens nothing where keys are asked for
        assert client.get("/contexts", headers=port(made, 49999)).status_code == 401
        assert client.get("/contexts", headers={**port(made, 49999), **theirs}).status_code == 401
        assert client.get("/contexts", headers={**port(made, 49999), **mine}).status_code == 200
        # a name that the daemon answers to is one that ports of sandboxes may stand in front of
        for host, status in ((f"49999-{made['sandboxID']}.cells.example", 200), ("x.cells.example", 403), (f"49999-{made['sandboxID']}.other.example", 403)):
            assert client.get("/health", headers={"Host": host}).status_code == status, host
        assert client.delete(one, headers=mine).status_code == 204
        assert value(python("e2b_hello.py", server.url, E2B_API_KEY=keys[1]), "hello") == "hello 42"
