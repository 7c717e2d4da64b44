"""What the requests about branches answer: copies, differences, the family. Plain values; sizes in bytes, times in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional

from .errors import CellaError, error_for
from .models import JSON


@dataclass(frozen=True)
class NotCarried:
    """Something that a copy does not have: a connection, a pipe, a process that is no context. ``text`` says it in words."""

    kind: str
    text: str
    sandbox_id: Optional[str] = None  #: the copy it is about; None: every one
    context_id: Optional[str] = None
    fd: Optional[int] = None
    pid: Optional[int] = None
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: JSON) -> "NotCarried":
        names = ("sandbox_id", "context_id", "fd", "pid")
        return cls(
            kind=str(value.get("kind", "")),
            text=str(value.get("text", "")),
            raw=value,
            **{k: value.get(k) for k in names},
        )


def failure(position: int, value: JSON) -> CellaError:
    """Why a copy could not be made; ``index`` says which."""
    # fork says "error", fork-tree "err" (a sentence, or an error object).
    err = value.get("err")
    detail = dict(err) if isinstance(err, dict) else {"error": err}
    detail.update({k: v for k, v in value.items() if k in ("error", "code", "hint")})
    error = error_for(0, detail)
    error.status = None  # the request as a whole succeeded
    error.index = int(value.get("index", position))
    return error


@dataclass(frozen=True)
class FileChange:
    """A path that differs. ``size`` None: not a file, or it is not there any more."""

    path: str
    type: str  #: "file" | "directory" | "symlink" | "other"
    size: Optional[int] = None
    size_before: Optional[int] = None  #: of a modified file
    text_diff: Optional[str] = None  #: unified, with ``text=True`` and where both are text
    binary: bool = False

    @classmethod
    def from_json(cls, value: Any) -> "FileChange":
        detail: JSON = value if isinstance(value, dict) else {"path": value}
        return cls(
            path=str(detail.get("path", "")),
            type=str(detail.get("type", "file")),
            size=detail.get("size"),
            size_before=detail.get("size_before"),
            text_diff=detail.get("text_diff"),
            binary=bool(detail.get("binary", False)),
        )


@dataclass(frozen=True)
class VariableChange:
    """A variable that differs: its type's name and a short text of its value, and both as they were before."""

    name: str
    type: str
    value: str
    type_before: Optional[str] = None
    value_before: Optional[str] = None

    @classmethod
    def from_json(cls, value: JSON) -> "VariableChange":
        return cls(
            name=str(value.get("name", "")),
            type=str(value.get("type", "")),
            value=str(value.get("value", "")),
            type_before=value.get("type_before"),
            value_before=value.get("value_before"),
        )


@dataclass(frozen=True)
class FileChanges:
    added: List[FileChange] = field(default_factory=list)
    removed: List[FileChange] = field(default_factory=list)
    modified: List[FileChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.modified)

    @classmethod
    def from_json(cls, value: JSON) -> "FileChanges":
        return cls(*([FileChange.from_json(v) for v in value.get(k) or []] for k in ("added", "removed", "modified")))


@dataclass(frozen=True)
class VariableChanges:
    """``unknown``: names of variables that may differ: comparing them would run code or take too long."""

    added: List[VariableChange] = field(default_factory=list)
    removed: List[VariableChange] = field(default_factory=list)
    changed: List[VariableChange] = field(default_factory=list)
    unknown: List[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @classmethod
    def from_json(cls, value: JSON) -> "VariableChanges":
        def changes(kind: str) -> List[VariableChange]:
            return [VariableChange.from_json(v) for v in value.get(kind) or []]

        unknown = [str(v.get("name", "")) if isinstance(v, dict) else str(v) for v in value.get("unknown") or []]
        return cls(changes("added"), changes("removed"), changes("changed"), unknown)


@dataclass(frozen=True)
class Diff:
    """How a sandbox differs from another one. True when anything is known to differ; ``print(diff)`` shows all of it."""

    sandbox_id: str
    against: str  #: "template", or the other sandbox's id
    files: FileChanges
    variables: Optional[VariableChanges]  #: None: not asked for
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.files or self.variables)

    def __str__(self) -> str:
        lines = [f"{mark} {f.path}" for mark, files in zip("AMD", (self.files.added, self.files.modified, self.files.removed)) for f in files]
        if self.variables is not None:
            v = self.variables
            lines += [f"+ {x.name}: {x.type} = {x.value}" for x in v.added]
            lines += [f"~ {x.name}: {x.type} = {x.value_before} -> {x.value}" for x in v.changed]
            lines += [f"- {x.name}: {x.type} = {x.value}" for x in v.removed]
            lines += [f"? {name}" for name in v.unknown]
        return "\n".join(lines)

    @classmethod
    def from_json(cls, value: JSON) -> "Diff":
        variables = value.get("variables")
        return cls(
            sandbox_id=str(value.get("sandbox_id", "")),
            against=str(value.get("against", "")),
            files=FileChanges.from_json(value.get("files") or {}),
            variables=None if variables is None else VariableChanges.from_json(variables),
            raw=value,
        )


@dataclass(frozen=True)
class TreeNode:
    """A sandbox in its family. Iterate over it for the whole family below it, itself first; ``print(node)`` draws it."""

    id: str
    state: str  #: "running" | "paused" | "hibernated" | "ended"
    parent_id: Optional[str] = None
    reason: Optional[str] = None  #: why it ended
    created_at: Optional[str] = None  #: RFC 3339
    ended_at: Optional[str] = None
    metadata: Dict[str, str] = field(default_factory=dict)
    children: List["TreeNode"] = field(default_factory=list)
    raw: JSON = field(default_factory=dict, repr=False, compare=False)

    def __iter__(self) -> Iterator["TreeNode"]:
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def find(self, sandbox_id: str) -> Optional["TreeNode"]:
        return next((n for n in self if n.id == sandbox_id), None)

    def __str__(self) -> str:
        lines: List[str] = []
        waiting = [(self, "", "")]
        while waiting:
            node, lead, below = waiting.pop()
            lines.append(" ".join(filter(None, [lead + node.id, node.state, node.reason])))
            last = len(node.children) - 1
            for i in range(last, -1, -1):
                corner, under = ("└─ ", "   ") if i == last else ("├─ ", "│  ")
                waiting.append((node.children[i], below + corner, below + under))
        return "\n".join(lines)

    @classmethod
    def from_json(cls, value: JSON) -> "TreeNode":
        # Not by recursion: a family can be deeper than Python's stack.
        root = cls._alone(value)
        waiting = [(root, value)]
        while waiting:
            node, source = waiting.pop()
            for child in source.get("children") or []:
                node.children.append(cls._alone(child))
                waiting.append((node.children[-1], child))
        return root

    @classmethod
    def _alone(cls, value: JSON) -> "TreeNode":
        return cls(
            id=str(value.get("id", "")),
            state=str(value.get("state", "")),
            parent_id=value.get("parent_id"),
            reason=value.get("reason"),
            created_at=value.get("created_at"),
            ended_at=value.get("ended_at"),
            metadata=dict(value.get("metadata") or {}),
            raw=value,
        )


@dataclass(frozen=True)
class Promotion:
    """What ``promote`` did: the siblings it deleted, and those it could not delete with the reason."""

    winner: str
    tree_id: Optional[str] = None
    deleted: List[str] = field(default_factory=list)
    failures: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: JSON) -> "Promotion":
        return cls(
            winner=str(value.get("winner", "")),
            tree_id=value.get("tree_id"),
            deleted=[str(v) for v in value.get("deleted") or []],
            failures=dict(value.get("failures") or {}),
        )
