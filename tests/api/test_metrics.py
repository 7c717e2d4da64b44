"""/healthz, /metrics, /version, templates, events of the host."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional, Tuple

import httpx
import pytest
from cella import Sandbox

LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_][a-zA-Z0-9_]*=\"([^\"\\\n]|\\.)*\",?)*\})? (-?[0-9.e+-]+|NaN|\+Inf|-Inf)$")


def scrape(http: httpx.Client) -> Dict[str, float]:
    """Every sample by its full name; each line must be well formed."""
    answer = http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    samples: Dict[str, float] = {}
    typed = set()
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            assert kind in ("counter", "gauge", "histogram", "summary") and name not in typed, line
            typed.add(name)
        elif line and not line.startswith("#"):
            assert LINE.match(line), line
            name, value = line.rsplit(" ", 1)
            assert name not in samples, f"twice: {name}"
            samples[name] = float(value)
            base = re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name)
            assert base in typed or name.split("{")[0] in typed, f"no TYPE for {name}"
    return samples


def total(samples: Dict[str, float], pattern: str) -> float:
    return sum(v for name, v in samples.items() if re.search(pattern, name))


def test_health(http: httpx.Client) -> None:
    answer = http.get("/healthz")
    assert answer.status_code == 200
    text = http.get("/v1/healthz")
    assert text.status_code == 200


def test_version(http: httpx.Client) -> None:
    assert re.match(r"\d+\.\d+", http.get("/version").json()["version"])


def test_metrics_are_well_formed_and_move(http: httpx.Client, server) -> None:  # type: ignore[no-untyped-def]
    before = scrape(http)
    assert all(name.startswith(("cella_", "process_")) for name in before)
    with Sandbox(host=server.url) as box:
        during = scrape(http)
        box.run_code("1")
        box.run_code("1/0")
    after = scrape(http)
    assert total(during, r"^cella_.*running") >= total(before, r"^cella_.*running")
    created = r"^cella_\w*created\w*_total|^cella_\w*creat\w*_total"
    assert total(after, created) > total(before, created)
    executions = r"^cella_executions?\w*_total"
    assert total(after, executions) >= total(before, executions) + 2


def test_pauses_are_counted(http: httpx.Client, box: Sandbox) -> None:
    before = scrape(http)
    for step in ("pause", "pause", "resume", "resume", "pause", "resume"):  # the second of the same does nothing
        assert http.post(f"/v1/sandboxes/{box.id}/{step}").is_success
    after = scrape(http)
    for name in ("paused", "resumed"):
        assert after[f"cella_{name}_total"] == before[f"cella_{name}_total"] + 2, name


@pytest.mark.needs_isolation
def test_branches_and_images_are_counted(http: httpx.Client, server) -> None:  # type: ignore[no-untyped-def]
    """The shared daemon serves this test alone, so the steps are exact."""

    def moved(path: str, body: Optional[Dict[str, object]] = None) -> Tuple[Dict[str, float], Dict[str, Any]]:
        before = scrape(http)
        answer = http.post(f"/v1/sandboxes/{path}", json=body) if body is not None else http.post(f"/v1/sandboxes/{path}")
        assert answer.is_success, answer.text
        after = scrape(http)
        names = [f"cella_{n}_total" for n in ("created", "forked", "merged", "snapshots", "hibernated", "woken")]
        return {n[6:-6]: after[n] - before[n] for n in names if after[n] != before[n]}, answer.json() if answer.content else {}

    with Sandbox(host=server.url) as box:
        steps, said = moved(f"{box.id}/fork", {"n": 3})
        assert steps == {"created": 3, "forked": 3}
        steps, snapshot = moved(f"{box.id}/snapshots", {})
        assert steps == {"snapshots": 1}
        first, *others = said["children"]
        assert moved(f"{box.id}/merge_into/{first}")[0] == {"merged": 1}
        assert moved(f"{others[0]}/hibernate")[0] == {"hibernated": 1}
        assert moved(f"{others[0]}/wake")[0] == {"woken": 1}
        for child in others:
            http.delete(f"/v1/sandboxes/{child}")
        http.delete(f"/v1/snapshots/{snapshot['id']}")


def test_templates(http: httpx.Client) -> None:
    templates = http.get("/v1/templates").json()
    default = [t for t in templates if t["default"]]
    assert len(default) == 1 and re.match(r"^[0-9a-f]{64}$", default[0]["id"])
    assert "python" in default[0]["languages"]
    one = http.get(f"/v1/templates/{default[0]['name']}").json()
    assert one["id"] == default[0]["id"]
    assert http.get("/v1/templates/nothing").status_code == 404


def test_events_of_the_host(http: httpx.Client, box: Sandbox) -> None:
    events = http.get("/v1/events", params={"tail": 50}).json()
    assert any(e["type"] == "sandbox.created" and e["sandbox_id"] == box.id for e in events)


def test_events_are_followed_live(http: httpx.Client, server) -> None:  # type: ignore[no-untyped-def]
    with http.stream("GET", "/v1/events", params={"follow": "1"}, headers={"Accept": "text/event-stream"}) as response:
        assert response.status_code == 200
        with Sandbox(host=server.url) as box:
            for line in response.iter_lines():
                if box.id in line:
                    break
            else:
                raise AssertionError("the stream ended without the event")
