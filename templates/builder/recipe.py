"""Recipes: from TOML bytes to a checked Recipe, or RecipeError with the place and the reason.

Everything a recipe can say is in FIELDS below; a key that is not there is refused, with the nearest known one as a
suggestion, because a misspelt `apt` that is ignored would build the wrong template without a word.
"""
from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

from .errors import BuildError

RECIPE_MAX = 1 << 20  # bytes; a recipe is a page of text
FILE_MAX = 64 << 20   # bytes of one entry of `files`

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
BASE = re.compile(r"debian:([a-z]{3,20})")
APT_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")
# A requirement never starts with "-" (it would be an option of pip or npm) and holds no blank or control character.
REQUIREMENT = re.compile(r"[A-Za-z0-9@][^\s\x00-\x1f\x7f]{0,199}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MODE = re.compile(r"0?[0-7]{3}")


class RecipeError(BuildError):
    """The recipe is wrong; the text names the key."""


@dataclass
class FileEntry:
    path: str          # absolute, inside the root
    data: bytes
    mode: int
    owner: str         # "user" or "root"


@dataclass
class Recipe:
    name: str
    base: str
    aliases: list[str] = field(default_factory=list)
    description: str = ""
    apt: list[str] = field(default_factory=list)
    leave_out: list[str] = field(default_factory=list)
    pip: list[str] = field(default_factory=list)
    npm: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    files: list[FileEntry] = field(default_factory=list)
    preload: str = ""
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        return self.base.split(":", 1)[1]

    def as_dict(self) -> dict[str, Any]:
        """What the manifest keeps. Contents of files stand there as their SHA-256."""
        return {
            "name": self.name, "base": self.base, "aliases": self.aliases, "description": self.description,
            "apt": self.apt, "leave_out": self.leave_out, "pip": self.pip, "npm": self.npm, "env": self.env,
            "files": [{"path": f.path, "mode": f"{f.mode:04o}", "owner": f.owner,
                       "sha256": hashlib.sha256(f.data).hexdigest()} for f in self.files],
            "preload": self.preload, "limits": self.limits,
        }

    def canonical(self) -> str:
        """The same text for every recipe that means the same: what the template's identity is computed from."""
        content = self.as_dict()
        for key in ("apt", "leave_out", "pip", "npm", "aliases"):
            content[key] = sorted(content[key])
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def parse(data: bytes, directory: str = ".") -> Recipe:
    """Check `data` and return the recipe. `directory` is where `source` of a file entry is looked up."""
    if len(data) > RECIPE_MAX:
        raise RecipeError(f"the recipe is larger than {RECIPE_MAX} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise RecipeError(f"the recipe is not UTF-8 (byte {problem.start})") from None
    except tomllib.TOMLDecodeError as problem:
        raise RecipeError(f"not valid TOML: {problem}") from None
    except RecursionError:
        raise RecipeError("not valid TOML: nested too deeply") from None
    _check_keys(document, FIELDS, "")
    for key in ("name", "base"):
        if key not in document:
            raise RecipeError(f"`{key}` is missing", f"every recipe starts with name = \"…\" and base = \"debian:bookworm\"")
    values = {key: FIELDS[key](key, value, directory) for key, value in document.items()}
    recipe = Recipe(**values)
    if recipe.name in recipe.aliases:
        raise RecipeError(f"`aliases` repeats the name \"{recipe.name}\"")
    for both in sorted(set(recipe.apt) & set(recipe.leave_out)):
        raise RecipeError(f"\"{both}\" stands in both `apt` and `leave_out`")
    if recipe.pip and "python3-pip" not in recipe.apt:
        raise RecipeError("`pip` needs pip inside the template", "add \"python3-pip\" to `apt`")
    if recipe.npm and "npm" not in recipe.apt:
        raise RecipeError("`npm` needs npm inside the template", "add \"npm\" to `apt`")
    return recipe


def load(path: str) -> Recipe:
    try:
        with open(path, "rb") as stream:
            data = stream.read(RECIPE_MAX + 1)
    except OSError as problem:
        raise RecipeError(f"cannot read the recipe {path}: {problem.strerror}") from None
    try:
        return parse(data, os.path.dirname(os.path.abspath(path)))
    except RecipeError as problem:
        raise RecipeError(f"{path}: {problem}", problem.hint) from None


# --- one checker per kind of value: (key as the user sees it, value, directory) -> checked value ---------------------

def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def _check_keys(table: dict, known: dict, where: str) -> None:
    for key in table:
        if key in known:
            continue
        near = difflib.get_close_matches(key[:64], list(known), n=1)
        place = f" in `{where}`" if where else ""
        raise RecipeError(f"unknown key `{key[:64]}`{place}",
                          f"did you mean `{near[0]}`?" if near else "known keys: " + ", ".join(known))


def _string(key: str, value: Any, limit: int) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"`{key}` must be a string, not {_kind(value)}")
    if len(value) > limit:
        raise RecipeError(f"`{key}` is longer than {limit} characters")
    if "\0" in value:
        raise RecipeError(f"`{key}` contains a NUL character")
    return value


def _text(limit: int):
    return lambda key, value, _directory: _string(key, value, limit)


def _matching(pattern: re.Pattern, what: str):
    def check(key: str, value: Any, _directory: str) -> str:
        text = _string(key, value, 256)
        if not pattern.fullmatch(text):
            raise RecipeError(f"`{key}`: \"{text[:80]}\" is not {what}")
        return text
    return check


def _list_of(check_item, most: int):
    def check(key: str, value: Any, directory: str) -> list:
        if not isinstance(value, list):
            raise RecipeError(f"`{key}` must be a list, not {_kind(value)}")
        if len(value) > most:
            raise RecipeError(f"`{key}` has more than {most} entries")
        items = [check_item(f"{key}[{i}]", item, directory) for i, item in enumerate(value)]
        names = [i for i in items if isinstance(i, str)]
        for item in names:
            if names.count(item) > 1:
                raise RecipeError(f"`{key}` names \"{item}\" twice")
        return items
    return check


def _env(key: str, value: Any, _directory: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RecipeError(f"`{key}` must be a table, not {_kind(value)}")
    if len(value) > 256:
        raise RecipeError(f"`{key}` has more than 256 entries")
    for name, text in value.items():
        if not ENV_NAME.fullmatch(name):
            raise RecipeError(f"`{key}`: \"{name[:80]}\" is not a name for an environment variable")
        if "\n" in _string(f"{key}.{name}", text, 32768):
            raise RecipeError(f"`{key}.{name}` contains a line break")
    return dict(value)


def _number(low: float, high: float, whole: bool):
    def check(key: str, value: Any, _directory: str):
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise RecipeError(f"`{key}` must be a {'whole ' if whole else ''}number, not {_kind(value)}")
        if not low <= value <= high:
            raise RecipeError(f"`{key}` must lie between {low} and {high}, not {str(value)[:40]}")
        return value
    return check


# Bounds: the lower ones are what a Python cell needs to start at all.
LIMITS = {
    "memory_mb": _number(64, 1 << 20, True),
    "cpus": _number(0.05, 1024, False),
    "pids": _number(16, 1 << 20, True),
    "disk_mb": _number(16, 1 << 24, True),
    "open_files": _number(64, 1 << 20, True),
}


def _limits(key: str, value: Any, directory: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"`{key}` must be a table, not {_kind(value)}")
    _check_keys(value, LIMITS, key)
    return {name: LIMITS[name](f"{key}.{name}", item, directory) for name, item in value.items()}


def _root_path(key: str, value: Any) -> str:
    path = _string(key, value, 1024)
    if not path.startswith("/") or path == "/" or os.path.normpath(path) != path or path.startswith("//"):
        raise RecipeError(f"`{key}`: \"{path[:80]}\" is not an absolute path in its simplest form")
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise RecipeError(f"`{key}` contains a control character")
    if path.split("/")[1] in ("proc", "sys", "dev", "run", "tmp"):
        raise RecipeError(f"`{key}`: \"{path[:80]}\" lies in a directory that every cell mounts anew")
    return path


def _file(key: str, value: Any, directory: str) -> FileEntry:
    if not isinstance(value, dict):
        raise RecipeError(f"`{key}` must be a table, not {_kind(value)}")
    _check_keys(value, dict.fromkeys(("path", "source", "content", "mode", "owner")), key)
    if "path" not in value or ("source" in value) == ("content" in value):
        raise RecipeError(f"`{key}` needs `path` and either `source` or `content`")
    owner = _string(f"{key}.owner", value.get("owner", "root"), 16)
    if owner not in ("root", "user"):
        raise RecipeError(f"`{key}.owner` must be \"root\" or \"user\"")
    mode = _string(f"{key}.mode", value.get("mode", "0644"), 8)
    if not MODE.fullmatch(mode):
        raise RecipeError(f"`{key}.mode` must be three octal digits such as \"0644\"")
    if "content" in value:
        data = _string(f"{key}.content", value["content"], RECIPE_MAX).encode()
    else:
        data = _read_source(f"{key}.source", _string(f"{key}.source", value["source"], 1024), directory)
    return FileEntry(_root_path(f"{key}.path", value["path"]), data, int(mode, 8), owner)


def _read_source(key: str, source: str, directory: str) -> bytes:
    """A file beside the recipe. It may not lie outside that directory: recipes travel between machines and people."""
    real = os.path.realpath(os.path.join(directory, source))
    base = os.path.realpath(directory)
    if os.path.commonpath([real, base]) != base:
        raise RecipeError(f"`{key}`: \"{source[:80]}\" lies outside the recipe's directory")
    try:
        with open(real, "rb") as stream:
            data = stream.read(FILE_MAX + 1)
    except OSError as problem:
        raise RecipeError(f"`{key}`: cannot read \"{source[:80]}\": {problem.strerror}") from None
    if len(data) > FILE_MAX:
        raise RecipeError(f"`{key}`: \"{source[:80]}\" is larger than {FILE_MAX >> 20} MiB")
    return data


_template_name = _matching(NAME, "a template name (lower-case letters, digits, '.', '_', '-'; at most 63)")
_package = _matching(APT_NAME, "a Debian package name")
_requirement = _matching(REQUIREMENT, "a requirement (it may not start with '-' or contain blanks)")

FIELDS = {
    "name": _template_name,
    "aliases": _list_of(_template_name, 32),
    "description": _text(400),
    "base": _matching(BASE, "a base; \"debian:bookworm\" is one"),
    "apt": _list_of(_package, 2000),
    "leave_out": _list_of(_package, 100),
    "pip": _list_of(_requirement, 500),
    "npm": _list_of(_requirement, 500),
    "env": _env,
    "files": _list_of(_file, 500),
    "preload": _text(65536),
    "limits": _limits,
}
