"""OpenAI's Python package through /v1/containers; the last line that is printed has the outcomes, as in openai_containers.mjs."""

import json
from typing import Any, Callable, Dict

from openai import OpenAI

outcomes: Dict[str, Any] = {}
client = OpenAI(timeout=120)


def step(name: str) -> Callable[[Callable[[], Any]], None]:
    def run(f: Callable[[], Any]) -> None:
        try:
            outcomes[name] = {"value": f()}
        except Exception as e:  # noqa: BLE001 - every outcome is told
            outcomes[name] = {"error": type(e).__name__, "message": str(e), "status": getattr(e, "status_code", None), "code": getattr(e, "code", None)}

    return run


box = client.containers.create(name="mine", expires_after={"anchor": "last_active_at", "minutes": 15}, memory_limit="1g")
upload = client.containers.files.create(box.id, file=('data "1" ä.csv', b"a,b\n1,2\n"))


@step("create")
def _() -> Any:
    return box.model_dump()


@step("retrieve")
def _() -> Any:
    return client.containers.retrieve(box.id).model_dump()


@step("retrieve_unknown")
def _() -> Any:
    return client.containers.retrieve("cntr_" + "0" * 32)


@step("list")
def _() -> Any:
    return [each.id for each in client.containers.list(name="mine")]


@step("create_file_ids")
def _() -> Any:
    return client.containers.create(name="x", file_ids=["file-1"])


@step("file_create")
def _() -> Any:
    return upload.model_dump()


@step("file_content")
def _() -> Any:
    return client.containers.files.content.retrieve(upload.id, container_id=box.id).text


@step("file_retrieve")
def _() -> Any:
    return client.containers.files.retrieve(upload.id, container_id=box.id).model_dump()


@step("file_large")
def _() -> Any:
    large = client.containers.files.create(box.id, file=("large", b"line\r\n--\r\n" * 2_000_000))
    back = client.containers.files.content.retrieve(large.id, container_id=box.id).read()
    client.containers.files.delete(large.id, container_id=box.id)
    return [large.bytes, back == b"line\r\n--\r\n" * 2_000_000]


@step("file_by_id")
def _() -> Any:
    return client.containers.files.create(box.id, file_id="file-abc")


@step("file_list")
def _() -> Any:
    return [{"path": f.path, "bytes": f.bytes, "source": f.source, "object": f.object} for f in client.containers.files.list(box.id)]


@step("file_delete")
def _() -> Any:
    client.containers.files.delete(upload.id, container_id=box.id)
    return client.containers.files.retrieve(upload.id, container_id=box.id)


@step("delete")
def _() -> Any:
    client.containers.delete(box.id)
    return client.containers.retrieve(box.id)


print(json.dumps(outcomes))
