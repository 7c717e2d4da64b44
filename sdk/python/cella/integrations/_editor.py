"""The commands of Anthropic's text editor tool, on a sandbox's files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Tuple

from .. import Filesystem
from ._answers import MAX_CHARACTERS, clip

MAX_FILE_BYTES = 8 << 20  #: a larger file is for the shell


@dataclass(frozen=True)
class Edited:
    command: str  #: "view" | "create" | "str_replace" (also for insert)
    text: str  #: for a tool_result
    fields: Dict[str, Any] = field(default_factory=dict)  #: for the server tool's result


def edit(files: Filesystem, given: Mapping[str, Any]) -> Edited:
    """ValueError with a sentence for the model, or a FilesystemError, when it cannot be done; the file is as it was then."""
    command, path = given.get("command"), _string(given, "path")
    if command == "view":
        return _view(files, path, given.get("view_range"))
    if command == "create":
        text, there = _string(given, "file_text"), files.exists(path)
        files.write(path, text)
        return Edited("create", f"{path} was {'overwritten' if there else 'created'}", {"is_file_update": there})
    if command == "str_replace":
        old, new = _string(given, "old_str"), str(given.get("new_str") or "")
        before = _read(files, path)
        if before.count(old) != 1 or not old:
            raise ValueError(f"old_str must occur exactly once in {path}, and it occurs {before.count(old) if old else 0} times")
        return _changed(files, path, before, before.index(old), old, new)
    if command == "insert":
        line, before = given.get("insert_line"), _read(files, path)
        new, lines = given.get("insert_text", given.get("new_str")), _lines(before)
        if not isinstance(line, int) or not isinstance(new, str) or not 0 <= line <= len(lines):
            raise ValueError(f"insert needs insert_text, a string, and insert_line, 0 to {len(lines)}")
        at = sum(len(text) + 1 for text in lines[:line])
        if at > len(before):  # behind a last line that has no end
            return _changed(files, path, before, len(before), "", "\n" + new)
        return _changed(files, path, before, at, "", new if new.endswith("\n") else new + "\n")
    raise ValueError(f"the command is view, create, str_replace or insert, not {command!r}")


def _view(files: Filesystem, path: str, view_range: Any) -> Edited:
    if files.stat(path).is_dir:
        below = len(path.rstrip("/")) if path.startswith("/") else len("/workspace")
        entries = sorted(e.path + "/" * e.is_dir for e in files.list(path, depth=2) if "/." not in e.path[below:])
        text = clip("\n".join(entries), MAX_CHARACTERS)
        return Edited("view", text, {"file_type": "text", "content": text, "num_lines": len(entries), "start_line": 1, "total_lines": len(entries)})
    lines = _lines(_read(files, path))
    first, last = _range(view_range, len(lines))
    shown = lines[first - 1 : last]
    numbered = clip("\n".join(f"{i:6}\t{line}" for i, line in enumerate(shown, first)), MAX_CHARACTERS)
    fields = {"file_type": "text", "content": clip("\n".join(shown), MAX_CHARACTERS)}
    return Edited("view", numbered or "[the file is empty]", dict(fields, num_lines=len(shown), start_line=first, total_lines=len(lines)))


def _range(view_range: Any, total: int) -> Tuple[int, int]:
    if view_range is None:
        return 1, total
    if not isinstance(view_range, (list, tuple)) or len(view_range) != 2 or not all(isinstance(n, int) for n in view_range):
        raise ValueError("view_range is [first, last], counted from 1; last -1 is the end")
    first, last = view_range
    if not 1 <= first <= max(total, 1) or (last != -1 and last < first):
        raise ValueError(f"view_range {list(view_range)} does not fit {total} lines")
    return first, total if last == -1 else min(last, total)


def _changed(files: Filesystem, path: str, before: str, at: int, old: str, new: str) -> Edited:
    """Put `new` in the place of `old`, and show the lines it came to."""
    after = before[:at] + new + before[at + len(old) :]
    files.write(path, after, mode=files.stat(path).mode)
    start = before.count("\n", 0, at)
    old_lines, new_lines = _lines(before), _lines(after)
    tail = _common_tail(old_lines[start:], new_lines[start:])
    removed, added = old_lines[start : len(old_lines) - tail], new_lines[start : len(new_lines) - tail]
    context = range(max(start - 2, 0), min(start + len(added) + 2, len(new_lines)))
    shown = "\n".join(f"{i + 1:6}\t{new_lines[i]}" for i in context)
    fields = {
        "lines": ["-" + line for line in removed] + ["+" + line for line in added],
        "old_start": start + 1, "old_lines": len(removed), "new_start": start + 1, "new_lines": len(added),
    }  # fmt: skip
    return Edited("str_replace", clip(f"{path} was changed:\n{shown}", MAX_CHARACTERS), fields)


def _read(files: Filesystem, path: str) -> str:
    if files.stat(path).size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes: use the shell")
    return files.read(path)


def _lines(text: str) -> List[str]:
    """Without their newlines; other line ends stay as they are."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _common_tail(a: List[str], b: List[str]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count


def _string(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ValueError(f'the input needs "{name}", a string')
    return value
