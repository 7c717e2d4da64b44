"""Recipes: what is right, what is wrong and how it is said, and ten seconds of mutated ones."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
sys.path.insert(0, str(TEMPLATES))

from builder.recipe import RECIPE_MAX, Recipe, RecipeError, load, parse  # noqa: E402

HEAD = 'name = "geo"\nbase = "debian:bookworm"\n'


def recipe(text: str, directory: str = ".") -> Recipe:
    return parse((HEAD + text).encode(), directory)


def refused(text: str, *words: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    for word in words:
        assert word in str(caught.value) + caught.value.hint
    return caught.value


def test_every_recipe_of_the_project_is_right():
    found = sorted(TEMPLATES.glob("*.toml"))
    assert found
    for path in found:
        assert load(str(path)).name == path.stem


def test_the_python_recipe_has_what_is_promised():
    python = load(str(TEMPLATES / "python.toml"))
    assert python.aliases == ["default", "base", "code-interpreter", "python-datasci", "code-interpreter-v1"]
    assert {"python3-ipython", "python3-numpy", "python3-pandas", "python3-matplotlib", "python3-scipy", "python3-requests",
            "python3-pil", "bash"} <= set(python.apt)
    assert "import pandas" in python.preload


def test_a_whole_recipe(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"a,b\n\xff\n")
    got = recipe("""
aliases = ["maps"]
description = "x"
apt = ["python3", "python3-pip", "npm"]
leave_out = ["python3-doc"]
pip = ["geopy==2.4.1", "x[extra]>=1"]
npm = ["@scope/name@1.0.0"]
preload = "import sys"
[env]
LANG = "C.UTF-8"
EMPTY = ""
[limits]
memory_mb = 512
cpus = 0.5
[[files]]
path = "/workspace/data.csv"
source = "data.csv"
owner = "user"
[[files]]
path = "/etc/motd"
content = "hello"
mode = "600"
""", str(tmp_path))
    assert got.suite == "bookworm"
    assert got.env["EMPTY"] == ""
    assert got.files[0].data == b"a,b\n\xff\n" and got.files[0].owner == "user" and got.files[0].mode == 0o644
    assert got.files[1].mode == 0o600
    assert got.limits == {"memory_mb": 512, "cpus": 0.5}


@pytest.mark.parametrize("data, word", [
    (b"", "`name` is missing"), (b'name = "x"', "`base` is missing"), (b"\xff\xfe", "UTF-8"), (b"name = ", "not valid TOML"),
    (b"name = 'x'\nname = 'y'", "not valid TOML"), (b"a = " + b"[" * 5000, "not valid TOML"), (b"#" * (RECIPE_MAX + 1), "larger"),
])  # fmt: skip
def test_not_a_recipe(data, word):
    with pytest.raises(RecipeError, match=word):
        parse(data)


@pytest.mark.parametrize("text, words", [
    ('ap = ["x"]', ["unknown key `ap`", "`apt`"]),
    ('apt = "python3"', ["`apt` must be a list", "a string"]),
    ('apt = [1]', ["apt[0]", "a whole number"]),
    ('apt = ["--allow-downgrades"]', ["apt[0]", "not a Debian package name"]),
    ('apt = ["a b"]', ["not a Debian package name"]),
    ('apt = ["jq", "jq"]', ["twice"]),
    ('apt = ["jq"]\nleave_out = ["jq"]', ["both"]),
    ('apt = ["python3-pip"]\npip = ["--index-url=x"]', ["pip[0]"]),
    ('apt = ["python3-pip"]\npip = ["-r/etc/passwd"]', ["pip[0]"]),
    ('pip = ["x"]', ["needs pip", "python3-pip"]),
    ('npm = ["x"]', ["needs npm"]),
    ('aliases = ["geo"]', ["repeats the name"]),
    ('aliases = ["../x"]', ["not a template name"]),
    ('env = "x"', ["must be a table"]),
    ('env = {"A B" = "x"}', ["environment variable"]),
    ('env = {A = "x\\ny"}', ["line break"]),
    ('env = {A = 1}', ["env.A", "a string"]),
    ('env = {A = "\\u0000"}', ["NUL"]),
    ('limits = {memory = 1}', ["unknown key `memory` in `limits`", "`memory_mb`"]),
    ('limits = {memory_mb = true}', ["a boolean"]),
    ('limits = {memory_mb = 1.5}', ["whole number"]),
    ('limits = {pids = 1}', ["between 16"]),
    ('limits = {cpus = nan}', ["between"]),
    ('limits = {cpus = inf}', ["between"]),
    ('limits = {disk_mb = 99999999999999999999999}', ["between"]),
    ('preload = ["x"]', ["a string"]),
    ('preload = 1979-05-27', ["a date or time"]),
    ('files = [{path = "/a"}]', ["`source` or `content`"]),
    ('files = [{path = "/a", source = "x", content = "y"}]', ["`source` or `content`"]),
    ('files = [{path = "a", content = "y"}]', ["absolute path"]),
    ('files = [{path = "/a/../b", content = "y"}]', ["simplest form"]),
    ('files = [{path = "//a", content = "y"}]', ["simplest form"]),
    ('files = [{path = "/proc/x", content = "y"}]', ["mounts anew"]),
    ('files = [{path = "/a\\nb", content = "y"}]', ["control character"]),
    ('files = [{path = "/a", content = "y", mode = "4755"}]', ["three octal digits"]),
    ('files = [{path = "/a", content = "y", owner = "bin"}]', ["owner"]),
    ('files = [{path = "/a", content = "y", uid = 0}]', ["unknown key `uid`"]),
    ('files = [{path = "/a", source = "../../../etc/shadow"}]', ["outside the recipe's directory"]),
    ('files = [{path = "/a", source = "nothing-here"}]', ["cannot read"]),
])  # fmt: skip
def test_wrong_recipes_are_refused_with_a_reason(text, words):
    refused(text, *words)


def test_wrong_bases_and_names():
    for base in ("ubuntu:noble", "debian", "debian:../x", "debian:bookworm;rm"):
        with pytest.raises(RecipeError, match="base"):
            parse(f'name = "x"\nbase = "{base}"'.encode())
    for name in ("", "Geo", "a/b", ".hidden", "x" * 64, "a b"):
        with pytest.raises(RecipeError, match="name"):
            parse(f'name = "{name}"\nbase = "debian:bookworm"'.encode())


def test_a_link_may_not_lead_out_of_the_recipes_directory(tmp_path):
    (tmp_path / "inside").symlink_to("/etc/hostname")
    with pytest.raises(RecipeError, match="outside"):
        recipe('files = [{path = "/a", source = "inside"}]', str(tmp_path))


def test_identity_follows_the_meaning():
    same = [recipe('apt = ["a1", "b1"]\n[limits]\npids = 20\n'), recipe('limits = {pids = 20}\n# a comment\napt = ["b1", "a1"]\n')]
    assert same[0].canonical() == same[1].canonical()
    others = ['apt = ["a1"]\nlimits = {pids = 20}', 'apt = ["a1", "b1"]\nlimits = {pids = 21}', 'apt = ["a1", "b1"]\nenv = {A = "1"}\nlimits = {pids = 20}',
              'apt = ["a1", "b1"]\nlimits = {pids = 20}\nfiles = [{path = "/a", content = "x"}]']
    assert len({recipe(text).canonical() for text in others} | {same[0].canonical()}) == 5


def test_mutated_recipes_are_read_or_refused_and_nothing_else(tmp_path):
    """Ten seconds. Only RecipeError may come out; and what is accepted must keep the promises that the builder relies on."""
    seeds = [path.read_bytes() for path in TEMPLATES.glob("*.toml")]
    seeds.append((HEAD + 'apt=["npm"]\nnpm=["a"]\n[env]\nA="b"\n[[files]]\npath="/a/b"\ncontent="c"\nmode="0644"\n[limits]\ncpus=1.5\npids=99\n').encode())
    pieces = [b'"', b"'", b"[", b"]", b"{", b"}", b"=", b"\n", b"\\", b"\0", b"-", b"/..", b"\xff", b"true", b"1e400", b"nan", b"[[files]]", b"\\u0000",
              b'"""', b"#", b".", b"1979-05-27T07:32:00Z", b"0x7fffffffffffffff", b"apt", b"path", b'"--x"', b"\r", "ü".encode()]
    choose = random.Random(int(time.time()))
    until, rounds, accepted = time.monotonic() + 10, 0, 0
    while time.monotonic() < until:
        data = bytearray(choose.choice(seeds))
        for _ in range(choose.randint(1, 6)):
            at = choose.randrange(len(data) + 1)
            action = choose.randrange(4)
            if action == 0:
                data[at:at] = choose.choice(pieces)
            elif action == 1:
                del data[at : at + choose.randint(1, 20)]
            elif action == 2 and at < len(data):
                data[at] = choose.randrange(256)
            else:
                other = choose.choice(seeds)
                start = choose.randrange(len(other))
                data[at:at] = other[start : start + choose.randint(1, 60)]
        rounds += 1
        try:
            got = parse(bytes(data), str(tmp_path))
        except RecipeError as problem:
            assert str(problem)
            continue
        accepted += 1
        assert all(not word.startswith("-") and not set(word) & set(" \n\0") for word in got.apt + got.leave_out + got.pip + got.npm)
        assert all(f.path.startswith("/") and "/../" not in f.path + "/" and f.mode <= 0o777 for f in got.files)
        assert all("\n" not in name + value and "=" not in name for name, value in got.env.items())
        assert "/" not in got.name and not got.name.startswith(".")
        got.canonical()
    assert rounds > 500 and accepted > 0
