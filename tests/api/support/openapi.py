"""docs/openapi.yaml as something to check answers against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import httpx
import jsonschema
import yaml

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


class Contract:
    def __init__(self, path: Path) -> None:
        self.document: Dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
        self._schemas = _without_nullable(self.document)

    def operations(self) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
        """(path, method, operation) of everything it describes."""
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                if method in METHODS:
                    yield path, method, operation

    def methods_of(self, path: str) -> List[str]:
        return sorted(m.upper() for m in self.document["paths"][path] if m in METHODS)

    def check(self, method: str, path: str, response: httpx.Response) -> None:
        """The status is one the contract names, and the body has the shape it names."""
        operation = self._resolve(self._schemas["paths"][path][method.lower()])
        responses = operation["responses"]
        where = f"{method} {path} -> {response.status_code}"
        entry = responses.get(str(response.status_code)) or responses.get(f"{response.status_code // 100}XX") or responses.get("default")
        assert entry is not None, f"{where}: the contract does not name this status"
        content = self._resolve(entry).get("content")
        if not content:
            assert not response.content, f"{where}: the contract says there is no body"
            return
        kind = response.headers["content-type"].split(";")[0]
        assert kind in content, f"{where}: {kind} is not among {list(content)}"
        schema = content[kind].get("schema")
        if schema is not None and kind.endswith("json"):
            self.validate(response.json(), schema, where)

    def validate(self, value: Any, schema: Dict[str, Any], where: str) -> None:
        resolver = jsonschema.RefResolver("", self._schemas)
        validator = jsonschema.Draft202012Validator(schema, resolver=resolver)
        problems = [f"{'/'.join(map(str, e.absolute_path)) or '(all)'}: {e.message}" for e in validator.iter_errors(value)]
        assert not problems, f"{where}: " + "; ".join(problems[:5])

    def schema(self, name: str) -> Dict[str, Any]:
        return {"$ref": f"#/components/schemas/{name}"}

    def _resolve(self, node: Dict[str, Any]) -> Dict[str, Any]:
        while "$ref" in node:
            target: Any = self._schemas
            for part in node["$ref"].lstrip("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            node = target
        return node


def _without_nullable(node: Any) -> Any:
    """OpenAPI 3.0's "nullable: true" as JSON Schema."""
    if isinstance(node, list):
        return [_without_nullable(n) for n in node]
    if not isinstance(node, dict):
        return node
    copy = {k: _without_nullable(v) for k, v in node.items()}
    if copy.pop("nullable", False) is True:
        return {"anyOf": [copy, {"type": "null"}]}
    return copy
