"""Claude's code execution, bash and text editor, on your own machine. ::

    import anthropic
    from cella import Sandbox
    from cella.integrations.anthropic import code_execution_tool, tool_results

    client, messages = anthropic.Anthropic(), [{"role": "user", "content": "Plot a sine wave."}]
    with Sandbox() as sandbox:
        while True:
            message = client.messages.create(model=…, max_tokens=4096, messages=messages, tools=[code_execution_tool()])
            messages.append({"role": "assistant", "content": message.content})
            if message.stop_reason != "tool_use":
                break
            messages.append({"role": "user", "content": tool_results(message, sandbox)})

Nothing of the package anthropic is needed here: these are the wire's own dictionaries. A tool declared as
``code_execution_20250825`` runs at Anthropic; the declarations here make Claude ask you.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from .. import Sandbox
from ..errors import CellaError, FilesystemError, GoneError, InvalidRequest, NoSpaceError, NotFoundError, TooLargeError
from ..models import Execution
from . import _editor
from ._answers import DESCRIPTION, PARAMETERS, TIMEOUT_SECONDS, answer, code_of, notes, texts

JSON = Dict[str, Any]
_CODE = ("code_execution", "run_code", "run_python", "python")
_BASH = ("bash", "bash_code_execution")
_EDITOR = ("str_replace_based_edit_tool", "str_replace_editor", "text_editor_code_execution")


def code_execution_tool(name: str = "code_execution", description: str = DESCRIPTION) -> JSON:
    """Python that keeps its variables."""
    return {"name": name, "description": description, "input_schema": PARAMETERS}


def bash_tool() -> JSON:
    """A shell that keeps its directory and environment; Claude knows this tool from its training."""
    return {"type": "bash_20250124", "name": "bash"}


def text_editor_tool() -> JSON:
    """Files: view, create, str_replace, insert; Claude knows this tool from its training."""
    return {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}


def tools() -> List[JSON]:
    """All three, for ``tools=``."""
    return [code_execution_tool(), bash_tool(), text_editor_tool()]


def tool_results(message: Any, sandbox: Sandbox, timeout_seconds: float = TIMEOUT_SECONDS) -> List[JSON]:
    """The answers to every call of these tools in a message, in their order. Calls of other tools are yours to answer."""
    return [
        handle_code_execution_tool_use(block, sandbox, timeout_seconds)
        for block in _field(message, "content") or []
        if _field(block, "type") in ("tool_use", "server_tool_use") and _field(block, "name") in _CODE + _BASH + _EDITOR
    ]


def handle_code_execution_tool_use(block: Any, sandbox: Sandbox, timeout_seconds: float = TIMEOUT_SECONDS) -> JSON:
    """Run what Claude called for, and return the block that answers it.

    Args:
        block: of type ``tool_use`` (answered by ``tool_result``, charts as image blocks) or ``server_tool_use`` (answered by
            ``code_execution_tool_result`` and its sisters, which have no room for images: their stderr names them). An
            object of the package anthropic or a dict.

    Raises:
        ValueError: the block is no call of one of these tools. CellaError: the sandbox or the daemon failed.
    """
    name, given = str(_field(block, "name")), _field(block, "input")
    use = _Use(str(_field(block, "id")), _field(block, "type") == "server_tool_use", given if isinstance(given, Mapping) else {})
    try:
        if name in _CODE:
            return use.code(sandbox.run_code(code_of(use.given), timeout_seconds=timeout_seconds))
        if name in _BASH:
            if use.given.get("restart"):
                _restart_shell(sandbox)
                return use.code(Execution(id="", exit="ok"), "bash_", "the shell was started anew")
            command = use.given.get("command")
            if not isinstance(command, str):
                raise ValueError('the input needs "command", a string')
            return use.code(sandbox.run_code(command, language="bash", timeout_seconds=timeout_seconds), "bash_")
        if name in _EDITOR:
            return use.edited(_editor.edit(sandbox.filesystem, use.given))
    except (ValueError, FilesystemError, InvalidRequest, TooLargeError) as e:  # Claude's mistake, and Claude's to mend
        return use.failed(e, "bash_" if name in _BASH else "text_editor_" if name in _EDITOR else "")
    raise ValueError(f"{name!r} is none of {', '.join(_CODE + _BASH + _EDITOR)}")


class _Use:
    """One call, and its answers in either shape. ``family`` is "", "bash_" or "text_editor_"."""

    def __init__(self, id: str, server: bool, given: Mapping[str, Any]) -> None:
        self.id, self.server, self.given = id, server, given

    def code(self, execution: Execution, family: str = "", note: Optional[str] = None) -> JSON:
        if not self.server:
            done = answer(execution)
            blocks: List[JSON] = [{"type": "text", "text": f"[{note}]" if note else done.text}]
            for image in done.images:
                blocks.append({"type": "image", "source": {"type": "base64", "media_type": image.mime, "data": image.base64}})
            return self._result(blocks, done.is_error)
        if execution.exit not in ("ok", "error"):  # that shape has no room for output beside an error, and no exit code is invented
            return self._server(family, {"error_code": "execution_time_exceeded" if execution.exit == "timeout" else "unavailable"})
        # A Python process that ends by an exception has 1 as its exit code; a context goes on, and has none.
        code = execution.exit_code if execution.exit_code is not None else int(not execution.ok)
        said = [n for n in notes(execution) if not n.startswith("exit code")] + [note] * bool(note)
        hidden = [f"{image.mime}: cannot be shown here" for image in answer(execution).images]
        trace = execution.error.traceback if execution.error else ""
        fields = {
            "stdout": _joined(execution.stdout, *texts(execution)),
            "stderr": _joined(execution.stderr, trace, *(f"[{n}]" for n in said + hidden)),
            "return_code": code,
            "content": [],
        }
        return self._server(family, fields, "result")

    def edited(self, done: _editor.Edited) -> JSON:
        if not self.server:
            return self._result([{"type": "text", "text": done.text}], False)
        return self._server("text_editor_", done.fields, f"{done.command}_result")

    def failed(self, e: Exception, family: str) -> JSON:
        if not self.server:
            return self._result([{"type": "text", "text": f"error: {e}"}], True)
        missing = isinstance(e, CellaError) and e.code == "not_found"
        word = "file_not_found" if missing else "unavailable" if isinstance(e, NoSpaceError) else "invalid_tool_input"
        return self._server(family, {"error_code": word})

    def _result(self, content: List[JSON], is_error: bool) -> JSON:
        return {"type": "tool_result", "tool_use_id": self.id, "content": content, "is_error": is_error}

    def _server(self, family: str, fields: JSON, kind: str = "tool_result_error") -> JSON:
        content = {"type": f"{family}code_execution_{kind}", **fields}
        return {"type": f"{family}code_execution_tool_result", "tool_use_id": self.id, "content": content}


def _restart_shell(sandbox: Sandbox) -> None:
    try:
        sandbox.restart_context("shell")
    except GoneError:
        raise
    except NotFoundError:  # nothing ran in it so far: it is new anyway
        pass


def _joined(*parts: str) -> str:
    return "\n".join(part.rstrip("\n") for part in parts if part)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
