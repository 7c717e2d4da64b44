#!/usr/bin/env python3
"""Writes docs/reference-python.md from the docstrings of sdk/python.

    tools/reference_python.py [--check]     --check: change nothing, exit 1 when the file is not what it should be
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "reference-python.md"
sys.path.insert(0, str(ROOT / "sdk" / "python"))

import cella  # noqa: E402

#: Title, what to say about it, names. Classes that exist twice are told once, as the synchronous one.
CHAPTERS: List[Tuple[str, str, List[str]]] = [
    ("Sandbox", "", ["Sandbox"]),
    ("Files", "", ["Filesystem"]),
    ("Interpreters and processes", "", ["CodeContext", "Process", "CommandSession", "Terminal"]),
    ("Branches, snapshots, Spaces", "", ["Branches", "Snapshot", "Space"]),
    ("Streams", "", ["Stream", "Event"]),
    ("What comes back", "", ["Execution", "Result", "ErrorInfo", "Logs", "CommandResult", "TerminalExit", "SandboxInfo",
                             "ContextInfo", "FileInfo", "FileEvent", "Port"]),
    ("About branches", "", ["Diff", "FileChanges", "FileChange", "VariableChanges", "VariableChange", "TreeNode", "Promotion",
                            "NotCarried"]),
]  # fmt: skip

HEAD = """# Python reference

Made from the docstrings of `sdk/python` by `tools/reference_python.py`. Start with [its README](../sdk/python/README.md).

Every class that talks to the daemon is there twice, with the same methods: `Sandbox` and `AsyncSandbox`, `Process` and `AsyncProcess`,
and so on. This page shows the synchronous one. In the other one every method that is not a property is awaited, except those
that return a stream without asking anything yet (`run_code_stream`, `exec_stream`, `attach`), and `with` and `for` are `async with` and
`async for`:

```python
with Sandbox() as sandbox:
    run = sandbox.run_code("1 + 1")
    for event in sandbox.run_code_stream("2"): ...
sandbox = Sandbox()
```

```python
async with AsyncSandbox() as sandbox:
    run = await sandbox.run_code("1 + 1")
    async for event in sandbox.run_code_stream("2"): ...
sandbox = await AsyncSandbox()
```

"""


def prose(text: str) -> str:
    """A docstring as Markdown: roles and double backquotes become code, `::` blocks become fences, Google sections lists."""
    text = re.sub(r":(?:class|meth|func):`~?(?:cella\.)?([^`]+)`", r"`\1`", text).replace("``", "`")
    out: List[str] = []
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        i += 1
        if line.rstrip().endswith("::"):
            rest = line.rstrip()[:-2].rstrip()
            block, i = indented(lines, i)
            out += ([rest + (":" if rest and rest[-1] not in ".:" else "")] if rest else []) + ["", "```python", *block, "```", ""]
        elif line in ("Args:", "Attributes:", "Returns:", "Raises:"):
            block, i = indented(lines, i)
            out += ["", f"*{line}*", ""] + (items(block) if line in ("Args:", "Attributes:") else block) + [""]
        else:
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def indented(lines: List[str], i: int) -> Tuple[List[str], int]:
    """The block that begins here, without its indentation, and where it ends."""
    start = i
    while i < len(lines) and (not lines[i].strip() or lines[i].startswith(" ")):
        i += 1
    return textwrap.dedent("\n".join(lines[start:i])).strip("\n").split("\n"), i


def items(block: List[str]) -> List[str]:
    """`name: text` with indented further lines, as a list."""
    return [re.sub(r"^([\w, ]+): ", r"- `\1`: ", line).replace(", on_", "`, `on_") if not line.startswith(" ") else "  " + line.strip() for line in block]


def parameter(p: inspect.Parameter) -> str:
    text = str(p).split(":")[0].split("=")[0]  # with its stars
    if p.annotation is not p.empty:
        text += f": {p.annotation}".replace("'", '"')
    if p.default is p.empty:
        return text
    default = "…" if type(p.default) is object else repr(p.default).replace("'", '"')
    return f"{text} = {default}"


def signature(function: Any, name: str) -> str:
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    shown = [parameter(p) for p in parameters]
    returns = inspect.signature(function).return_annotation
    arrow = "" if returns in (inspect.Signature.empty, "None", None) else " -> " + str(returns).replace("'", "").replace('"', "")
    line = f"{name}({', '.join(shown)}){arrow}"
    return line if len(line) <= 110 else f"{name}(\n    " + ",\n    ".join(shown) + f",\n){arrow}"


def comments(kind: type) -> Dict[str, str]:
    """What `#:` says behind each field."""
    found = re.findall(r"^    (\w+): [^\n]*?  #: ([^\n]+)$", inspect.getsource(kind), re.M)
    return dict(found)


def members(kind: type) -> Iterator[Tuple[str, Any]]:
    """Public methods and properties in the order they are written, those of base classes first for ours."""
    seen = set()
    for owner in kind.__mro__:
        if not owner.__module__.startswith("cella"):
            continue
        for name, value in vars(owner).items():
            if name.startswith("_") or name in seen or name == "from_json":
                continue
            seen.add(name)
            if isinstance(value, (classmethod, staticmethod, property)) or inspect.isfunction(value):
                yield name, value


def class_text(name: str) -> List[str]:
    kind = getattr(cella, name)
    out = [f"### `{name}`", ""]
    if name == "Sandbox":
        out += ["```python", signature(kind.__init__, name), "```", ""]
    own = inspect.getdoc(kind) or ""
    out += [prose(own if not own.startswith(f"{name}(") else ""), ""]
    if dataclasses.is_dataclass(kind):
        told = comments(kind)
        for field in dataclasses.fields(kind):
            if not field.name.startswith("_"):
                out.append(f"- `{field.name}: {field.type}`" + (f": {prose(told[field.name])}" if field.name in told else ""))
        out.append("")
    for member, value in members(kind):
        out += member_text(name, member, value)
    return out


def member_text(owner: str, name: str, value: Any) -> List[str]:
    if isinstance(value, property):
        getter: Any = value.fget
        line = f"{name}: {inspect.signature(getter).return_annotation}"
        return ["```python", line, "```", "", prose(inspect.getdoc(getter) or ""), ""]
    function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    called = f"{owner}.{name}" if isinstance(value, classmethod) else name
    if function.__name__ != name:
        return ["```python", f"{called} = {function.__name__}", "```", ""]
    return ["```python", signature(function, called), "```", "", prose(inspect.getdoc(function) or ""), ""]


def errors_text() -> List[str]:
    out = ["## Errors", "", prose(inspect.getdoc(sys.modules["cella.errors"]) or ""), "", prose(inspect.getdoc(cella.CellaError) or ""), ""]
    kinds = [v for v in vars(cella).values() if isinstance(v, type) and issubclass(v, cella.CellaError)]

    def below(kind: type, depth: int) -> None:
        out.append(f"{'  ' * depth}- `{kind.__name__}`: " + prose(inspect.getdoc(kind) or "").replace("\n", " "))
        for child in kinds:
            if child.__bases__[0] is kind:
                below(child, depth + 1)

    out.append(f"- `{cella.CellaError.__name__}`")
    for child in kinds:
        if child.__bases__[0] is cella.CellaError:
            below(child, 1)
    return [*out, ""]


def document() -> str:
    out = [HEAD.strip(), ""]
    for title, text, names in CHAPTERS:
        out += [f"## {title}", ""] + ([text, ""] if text else [])
        for name in names:
            out += class_text(name)
    out += errors_text()
    out += ["## Connections", ""]
    for name in ("close_connections", "close_connections_async"):
        out += ["```python", signature(getattr(cella, name), name), "```", "", prose(inspect.getdoc(getattr(cella, name)) or ""), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).rstrip() + "\n"


def undocumented() -> List[str]:
    """Public names that no chapter has."""
    told = {name for _, _, names in CHAPTERS for name in names}
    told |= {"Async" + name for name in told} | {"close_connections", "close_connections_async"}
    return [n for n in cella.__all__ if n not in told and not (isinstance(getattr(cella, n), type) and issubclass(getattr(cella, n), cella.CellaError))]


def main() -> int:
    missing = undocumented()
    if missing:
        print(f"in no chapter: {', '.join(missing)}")
        return 1
    text = document()
    if "--check" in sys.argv[1:]:
        if OUT.exists() and OUT.read_text("utf-8") == text:
            return 0
        print(f"{OUT.relative_to(ROOT)} is not what tools/reference_python.py makes")
        return 1
    OUT.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
