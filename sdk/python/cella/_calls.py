"""The API's requests, one function each: no I/O, so that a synchronous and an asynchronous client share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Union
from urllib.parse import quote

from ._config import checked_traceparent
from ._http import ANSWER_SECONDS, Body, Call

#: Seconds added to a timeout the daemon enforces, before the client gives up on the answer.
SLACK_SECONDS = 30.0
#: Making many copies, or writing and reading gigabytes of memory, takes its time before the answer comes.
BRANCH_SECONDS = 600.0
NDJSON = "application/x-ndjson"
#: A string for the shell, or a program with its arguments.
Command = Union[str, Sequence[str]]


def _some(**fields: Any) -> Dict[str, Any]:
    """The fields that were given."""
    return {k: v for k, v in fields.items() if v is not None}


def _traced(traceparent: Optional[str]) -> Dict[str, str]:
    return {} if traceparent is None else {"traceparent": checked_traceparent(traceparent)}


def box(sandbox_id: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{quote(sandbox_id, safe='')}{rest}"


def _segment(text: Any) -> str:
    return quote(str(text), safe="")


# ---- sandboxes ----


def create(fields: Mapping[str, Any]) -> Call:
    # A first create on a host bakes the template's warm image, which takes as long as importing its libraries.
    return Call("POST", "/v1/sandboxes", json=_some(**fields), wait_seconds=300.0)


def list_sandboxes(metadata: Optional[Mapping[str, str]]) -> Call:
    params = {"metadata": [f"{k}={v}" for k, v in (metadata or {}).items()]}
    return Call("GET", "/v1/sandboxes", params=params)


def describe(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id))


def delete(sandbox_id: str) -> Call:
    return Call("DELETE", box(sandbox_id))


def pause(sandbox_id: str) -> Call:
    return Call("POST", box(sandbox_id, "/pause"))


def resume(sandbox_id: str) -> Call:
    return Call("POST", box(sandbox_id, "/resume"))


def lifecycle(sandbox_id: str, patch: Mapping[str, Any]) -> Call:
    return Call("PATCH", box(sandbox_id, "/lifecycle"), json=dict(patch))


def stats(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/metrics"))


def logs(sandbox_id: str, stream: str) -> Call:
    return Call("GET", box(sandbox_id, "/logs"), params={"stream": stream})


# ---- code ----


@dataclass(frozen=True)
class Code:
    """What run_code is asked for."""

    code: str
    language: Optional[str] = None
    context_id: Optional[str] = None
    timeout_seconds: Optional[float] = None
    env: Optional[Mapping[str, str]] = None
    svg: bool = False
    traceparent: Optional[str] = None


def execute(sandbox_id: str, code: Code, stream: bool = False) -> Call:
    body = _some(
        code=code.code,
        language=code.language,
        context_id=code.context_id,
        timeout_seconds=code.timeout_seconds,
        env=dict(code.env) if code.env else None,
        svg=code.svg or None,
        stream=stream or None,
    )
    headers = _traced(code.traceparent)
    if stream:
        headers["Accept"] = NDJSON
    # Without a timeout of its own the code may run, silently, as long as it likes; and executions queue.
    return Call("POST", box(sandbox_id, "/execute"), json=body, headers=headers, wait_seconds=None)


def execution(sandbox_id: str, execution_id: str) -> Call:
    return Call("GET", box(sandbox_id, f"/executions/{_segment(execution_id)}"))


def execution_input(sandbox_id: str, execution_id: str, line: Optional[str]) -> Call:
    body: Dict[str, Any] = {"eof": True} if line is None else {"input": line}
    return Call("POST", box(sandbox_id, f"/executions/{_segment(execution_id)}/input"), json=body)


def execution_interrupt(sandbox_id: str, execution_id: str) -> Call:
    return Call("POST", box(sandbox_id, f"/executions/{_segment(execution_id)}/interrupt"))


def context_create(sandbox_id: str, language: str, cwd: Optional[str], env: Optional[Mapping[str, str]]) -> Call:
    body = _some(language=language, cwd=cwd, env=dict(env) if env else None)
    return Call("POST", box(sandbox_id, "/contexts"), json=body)


def context_list(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/contexts"))


def context(sandbox_id: str, context_id: str) -> Call:
    return Call("GET", box(sandbox_id, f"/contexts/{_segment(context_id)}"))


def context_action(sandbox_id: str, context_id: str, action: str) -> Call:
    """action: "interrupt" or "restart"."""
    return Call("POST", box(sandbox_id, f"/contexts/{_segment(context_id)}/{action}"))


def context_delete(sandbox_id: str, context_id: str) -> Call:
    return Call("DELETE", box(sandbox_id, f"/contexts/{_segment(context_id)}"))


# ---- processes ----


def command_fields(
    cmd: Command,
    cwd: Optional[str] = None,
    env: Optional[Mapping[str, str]] = None,
    stdin: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    user: Optional[str] = None,
) -> Dict[str, Any]:
    return _some(
        cmd=cmd if isinstance(cmd, str) else list(cmd),
        cwd=cwd,
        env=dict(env) if env else None,
        stdin=stdin,
        timeout_seconds=timeout_seconds,
        user=user,
    )


def exec_stream(sandbox_id: str, fields: Mapping[str, Any], traceparent: Optional[str]) -> Call:
    headers = {"Accept": NDJSON, **_traced(traceparent)}
    return Call("POST", box(sandbox_id, "/exec/stream"), json=dict(fields), headers=headers, wait_seconds=None)


def exec_background(sandbox_id: str, fields: Mapping[str, Any], traceparent: Optional[str]) -> Call:
    return Call("POST", box(sandbox_id, "/exec"), json=dict(fields, background=True), headers=_traced(traceparent))


def terminal_params(
    rows: int, cols: int, cmd: Optional[str], cwd: Optional[str], user: Optional[str]
) -> Dict[str, Any]:
    return _some(rows=rows, cols=cols, cmd=cmd, cwd=cwd, user=user)


def processes(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/processes"))


def process(sandbox_id: str, process_id: Union[str, int]) -> Call:
    return Call("GET", box(sandbox_id, f"/processes/{_segment(process_id)}"))


def process_attach(sandbox_id: str, process_id: Union[str, int]) -> Call:
    rest = f"/processes/{_segment(process_id)}/attach"
    return Call("GET", box(sandbox_id, rest), headers={"Accept": NDJSON}, wait_seconds=None)


def process_signal(sandbox_id: str, process_id: Union[str, int], signal: Union[int, str]) -> Call:
    return Call("POST", box(sandbox_id, f"/processes/{_segment(process_id)}/signal"), json={"signal": signal})


# ---- files ----


def file_read(sandbox_id: str, path: str) -> Call:
    headers = {"Accept": "application/octet-stream, application/json"}
    return Call("GET", box(sandbox_id, "/fs"), params={"path": path}, headers=headers, files=True)


def file_write(sandbox_id: str, path: str, content: Body, mode: Optional[int]) -> Call:
    params = _some(path=path, mode=None if mode is None else format(mode, "04o"))
    headers = {"Content-Type": "application/octet-stream"}
    return Call("PUT", box(sandbox_id, "/fs"), params=params, content=content or b"", headers=headers, files=True)


def file_watch(sandbox_id: str, path: str, recursive: bool) -> Call:
    params = _some(path=path, recursive="true" if recursive else None)
    headers = {"Accept": NDJSON}
    return Call("GET", box(sandbox_id, "/fs/watch"), params=params, headers=headers, wait_seconds=None, files=True)


def file_remove(sandbox_id: str, path: str, recursive: bool) -> Call:
    params = _some(path=path, recursive="true" if recursive else None)
    return Call("DELETE", box(sandbox_id, "/fs"), params=params, files=True)


def file_stat(sandbox_id: str, path: str) -> Call:
    return Call("GET", box(sandbox_id, "/fs/stat"), params={"path": path}, files=True)


def file_list(sandbox_id: str, path: str, depth: int) -> Call:
    return Call("GET", box(sandbox_id, "/fs/dir"), params={"path": path, "depth": depth}, files=True)


def file_mkdir(sandbox_id: str, path: str, parents: bool) -> Call:
    return Call("POST", box(sandbox_id, "/fs/mkdir"), json={"path": path, "parents": parents}, files=True)


def file_move(sandbox_id: str, source: str, target: str, overwrite: bool) -> Call:
    body = {"from": source, "to": target, "overwrite": overwrite}
    return Call("POST", box(sandbox_id, "/fs/move"), json=body, files=True)


def tar_read(sandbox_id: str, path: str) -> Call:
    headers = {"Accept": "application/x-tar, application/json"}
    return Call("GET", box(sandbox_id, "/fs/tar"), params={"path": path}, headers=headers, files=True)


def tar_write(sandbox_id: str, path: str, content: Body) -> Call:
    headers = {"Content-Type": "application/x-tar"}
    return Call("PUT", box(sandbox_id, "/fs/tar"), params={"path": path}, content=content or b"", headers=headers, files=True)


# ---- network ----


def ports(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/ports"))


def network(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/network"))


def network_set(sandbox_id: str, policy: Mapping[str, Any]) -> Call:
    return Call("PUT", box(sandbox_id, "/network"), json=dict(policy))


# ---- branches ----


def fork(sandbox_id: str, n: int, fields: Mapping[str, Any]) -> Call:
    return Call("POST", box(sandbox_id, "/fork"), json=_some(count=n, **fields), wait_seconds=BRANCH_SECONDS)


def fork_tree(sandbox_id: str, count: int, fields: Mapping[str, Any]) -> Call:
    return Call("POST", box(sandbox_id, "/fork-tree"), json=_some(count=count, **fields), wait_seconds=BRANCH_SECONDS)


def promote(sandbox_id: str, cleanup_siblings: bool, tree_id: Optional[str]) -> Call:
    body = _some(cleanup_siblings=cleanup_siblings, tree_id=tree_id)
    return Call("POST", box(sandbox_id, "/promote"), json=body, wait_seconds=BRANCH_SECONDS)


def merge(sandbox_id: str, child_id: str) -> Call:
    return Call("POST", box(sandbox_id, f"/merge_into/{_segment(child_id)}"), wait_seconds=BRANCH_SECONDS)


def diff(sandbox_id: str, against: Optional[str], text: bool, variables: bool, context_id: Optional[str]) -> Call:
    flags = dict(text="true" if text else "false", variables="true" if variables else "false")
    params = _some(against=against, context_id=context_id, **flags)
    return Call("GET", box(sandbox_id, "/diff"), params=params, wait_seconds=BRANCH_SECONDS)


def tree(sandbox_id: str) -> Call:
    return Call("GET", box(sandbox_id, "/tree"))


# ---- the disk ----


def snapshot_create(sandbox_id: str, name: Optional[str]) -> Call:
    return Call("POST", box(sandbox_id, "/snapshots"), json=_some(name=name), wait_seconds=BRANCH_SECONDS)


def snapshot_list(sandbox_id: Optional[str], name: Optional[str]) -> Call:
    return Call("GET", "/v1/snapshots", params=_some(sandbox_id=sandbox_id, name=name))


def snapshot(snapshot_id: str) -> Call:
    return Call("GET", f"/v1/snapshots/{_segment(snapshot_id)}")


def snapshot_delete(snapshot_id: str) -> Call:
    return Call("DELETE", f"/v1/snapshots/{_segment(snapshot_id)}")


def hibernate(sandbox_id: str) -> Call:
    return Call("POST", box(sandbox_id, "/hibernate"), wait_seconds=BRANCH_SECONDS)


def wake(sandbox_id: str) -> Call:
    return Call("POST", box(sandbox_id, "/wake"), wait_seconds=BRANCH_SECONDS)


def space_list() -> Call:
    return Call("GET", "/v1/spaces")


def space(space_id: str) -> Call:
    return Call("GET", f"/v1/spaces/{_segment(space_id)}")


def space_delete(space_id: str) -> Call:
    return Call("DELETE", f"/v1/spaces/{_segment(space_id)}")


def space_resume(space_id: str) -> Call:
    return Call("POST", f"/v1/spaces/{_segment(space_id)}/resume", wait_seconds=BRANCH_SECONDS)
