"""Cells over plain HTTP: the words of the API, without an SDK between."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import httpx


class Cell:
    """One sandbox of a daemon; its calls assert that they were accepted."""

    def __init__(self, url: str, **spec: Any) -> None:
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        made = self.http.post("/v1/sandboxes", json=spec)
        assert made.status_code == 201, made.text
        self.made: Dict[str, Any] = made.json()
        self.id: str = self.made["id"]
        self.path = f"/v1/sandboxes/{self.id}"

    def call(self, method: str, what: str = "", status: int = 200, **options: Any) -> httpx.Response:
        answer = self.http.request(method, self.path + what, **options)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer

    def run(self, code: str, **body: Any) -> Dict[str, Any]:
        """The whole Execution, whatever its end."""
        value: Dict[str, Any] = self.call("POST", "/execute", json={"code": code, **body}).json()
        return value

    def ok(self, code: str, **body: Any) -> str:
        """The text of the last expression of code that must work."""
        run = self.run(code, **body)
        assert run["exit"] == "ok", run
        return str(run["text"])

    def describe(self) -> Dict[str, Any]:
        value: Dict[str, Any] = self.call("GET").json()
        return value

    def status(self) -> str:
        return str(self.describe()["status"])

    def hibernate(self) -> Dict[str, Any]:
        value: Dict[str, Any] = self.call("POST", "/hibernate").json()
        assert value["status"] == "hibernated"
        return value

    def wake(self) -> Dict[str, Any]:
        value: Dict[str, Any] = self.call("POST", "/wake").json()
        assert value["status"] == "running"
        return value

    def snapshot(self, name: Optional[str] = None) -> Dict[str, Any]:
        value: Dict[str, Any] = self.call("POST", "/snapshots", 201, json={"name": name} if name else {}).json()
        return value

    def events(self) -> List[str]:
        return [str(e["type"]) for e in self.call("GET", "/events").json()]

    def delete(self) -> None:
        answer = self.http.delete(self.path)
        assert answer.status_code in (204, 404, 410), answer.text

    def __enter__(self) -> "Cell":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.delete()
        except httpx.TransportError:
            if not exc[0]:  # the daemon is not there: say so unless something else failed first
                raise
        finally:
            self.http.close()
