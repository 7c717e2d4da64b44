"""The template builder: where packages come from, what a root may hold, how a template appears, and one small real build."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
sys.path.insert(0, str(TEMPLATES))

from builder import customise, shrink  # noqa: E402
from builder.aptsources import host_sources  # noqa: E402
from builder.errors import BuildError  # noqa: E402
from builder.recipe import parse  # noqa: E402
from builder.store import Cache, Store, recipe_hash, template_id  # noqa: E402

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# ---- sources ----


def test_sources_of_both_kinds(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one/debian bookworm main contrib # tail\n"
        "deb-src http://one/debian bookworm main\n"
        "deb http://three/debian trixie main\n")
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: http://two/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /d.gpg\n\n"
        "Types: deb\nURIs: http://two/security\nSuites: bookworm-security\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n")
    (tmp_path / "sources.list.d" / "other.list").write_text("deb http://vendor/apt stable main\ndeb http://vendor/apt bookworm nonfree\n")
    assert host_sources("bookworm", str(tmp_path)) == [
        "deb [signed-by=/k.gpg] http://one/debian bookworm main",
        "deb [signed-by=/d.gpg] http://two/debian bookworm main",
        "deb [signed-by=/d.gpg] http://two/debian bookworm-updates main",
        "deb http://two/security bookworm-security main",
    ]
    assert host_sources("trixie", str(tmp_path)) == ["deb http://three/debian trixie main"]
    assert host_sources("sid", str(tmp_path)) == []


def test_security_alone_is_no_distribution(tmp_path):
    (tmp_path / "sources.list").write_text("deb http://one bookworm-security main\n")
    assert host_sources("bookworm", str(tmp_path)) == []


# ---- roots ----


@root_only
def test_harden_strips_privileges(tmp_path):
    program = tmp_path / "bin" / "su"
    program.parent.mkdir()
    program.write_bytes(b"x" * 5000)
    program.chmod(0o4755)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    os.setxattr(program, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    program.chmod(0o6755)
    size = shrink.harden(str(tmp_path))
    assert size >= 5000
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o775
    assert "security.capability" not in os.listxattr(program)


@root_only
@pytest.mark.parametrize("make", [lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 3)), lambda p: os.mkfifo(p), lambda p: (p.touch(), os.chown(p, 100000, 0))])
def test_harden_refuses_what_no_template_holds(tmp_path, make):
    make(tmp_path / "thing")
    with pytest.raises(BuildError, match="/thing"):
        shrink.harden(str(tmp_path))


@root_only
def test_files_stay_inside_the_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(BuildError, match="outside"):
        customise.write(str(root), "/out/escaped", "x")
    assert not (tmp_path / "escaped").exists()
    (root / "link").symlink_to(tmp_path / "target")
    customise.write(str(root), "/link", "x")
    assert not (tmp_path / "target").exists() and (root / "link").read_text() == "x"
    customise.write(str(root), "/deep/er/file", b"\xff", 0o600, 1000)
    info = (root / "deep/er/file").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o600, 1000) and (root / "deep").stat().st_uid == 1000
    with pytest.raises(BuildError, match="is a directory"):
        customise.write(str(root), "/deep", "x")


@root_only
def test_the_user_is_made_once(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    customise.user(str(tmp_path))
    assert (tmp_path / "etc/passwd").read_text().endswith("user:x:1000:1000::/workspace:/bin/bash\n")
    assert (tmp_path / "workspace").stat().st_uid == 1000
    with pytest.raises(BuildError, match="already has"):
        customise.user(str(tmp_path))


# ---- how a template appears ----


def manifest_of(store: Store, name: str, text: str = "", packages: tuple[str, ...] = ("a=1",)) -> dict:
    recipe = parse(f'name = "{name}"\nbase = "debian:bookworm"\n{text}'.encode())
    return {"id": template_id(recipe, list(packages)), "name": name, "aliases": recipe.aliases, "recipe_sha256": recipe_hash(recipe)}


def publish(store: Store, manifest: dict, content: str = "x") -> Path:
    work = Path(store.workspace())
    (work / "root").mkdir()
    (work / "root" / "file").write_text(content)
    place = store.publish(str(work), manifest)
    store.name(manifest)
    return Path(place)


def test_publish_and_names(tmp_path):
    store = Store(str(tmp_path))
    with store.locked():
        first = manifest_of(store, "geo", 'aliases = ["maps"]')
        place = publish(store, first)
        assert sorted(os.listdir(store.names)) == ["geo", "maps"]
        assert os.readlink(Path(store.names) / "maps") == f"../{first['id']}"
        assert store.manifest("maps")["id"] == first["id"] == store.manifest(first["id"])["id"]
        assert store.manifest("nothing") is None
        # new package versions: another template, the names move, the old one stays for those who use it
        second = manifest_of(store, "geo", 'aliases = ["maps"]', ("a=2",))
        publish(store, second)
        assert second["id"] != first["id"] and store.manifest("geo")["id"] == second["id"] and place.is_dir()
        # the same again: what is there is kept
        publish(store, second, "another content")
        assert (Path(store.directory) / second["id"] / "root" / "file").read_text() == "x"
        assert not [n for n in os.listdir(store.directory) if n.startswith(".building-")]


def test_a_broken_off_build_is_cleaned_up_by_the_next(tmp_path):
    store = Store(str(tmp_path))
    with store.locked():
        left = Path(store.workspace())
        (left / "root").mkdir()
    with store.locked():
        assert not left.exists()


def test_a_recipe_cannot_take_another_templates_name(tmp_path):
    store = Store(str(tmp_path))
    with store.locked():
        publish(store, manifest_of(store, "python", 'aliases = ["default"]'))
        store.check_names(parse(b'name = "mine"\nbase = "debian:bookworm"\naliases = ["default"]'))  # an alias may move
        with pytest.raises(BuildError, match="python"):
            store.check_names(parse(b'name = "mine"\nbase = "debian:bookworm"\naliases = ["python"]'))


def test_a_damaged_cache_costs_a_build_and_nothing_more(tmp_path):
    cache, work = Cache(str(tmp_path / "cache")), tmp_path / "work"
    work.mkdir()
    assert not cache.has("k") and cache.fetch("k", str(work)) is None
    (tmp_path / "cache" / "k").mkdir(parents=True)
    (tmp_path / "cache" / "k" / "manifest.json").write_text("{")
    assert cache.fetch("k", str(work)) is None
    (tmp_path / "cache" / "k" / "manifest.json").write_text("{}")
    assert cache.fetch("k", str(work)) is None and os.listdir(work) == []


# ---- a real one ----


@root_only
def test_a_small_template_is_built(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.toml").write_text(
        'name = "tiny"\naliases = ["small"]\nbase = "debian:bookworm"\napt = ["bash", "netbase"]\n[env]\nA = "b"\n[limits]\npids = 32\n'
        '[[files]]\npath = "/workspace/in/data.txt"\ncontent = "hello"\nowner = "user"\n')

    def build(state: str) -> dict:
        done = subprocess.run(["/usr/bin/python3", "-B", str(TEMPLATES / "build_template.py"), "--state", str(tmp_path / state), "--cache", str(tmp_path / "cache"),
                               str(tmp_path / "recipes" / "tiny.toml")], capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    built = build("one")
    assert built["how"] == "built" and built["languages"] == ["shell"]
    place = tmp_path / "one" / "templates" / built["id"]
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["id"] == built["id"] and manifest["limits"] == {"pids": 32} and manifest["env"] == {"A": "b"}
    assert any(p.startswith("bash=") for p in manifest["packages"])
    root = place / "root"
    assert (root / "etc/cella/environment").read_text() == "A=b\n"
    assert (root / "workspace/in/data.txt").stat().st_uid == 1000
    assert (root / "etc/resolv.conf").read_text() == "" and not (root / "etc/machine-id").exists()
    assert (root / "etc/hostname").read_text() == "cell\n"
    assert os.listdir(root / "dev") == os.listdir(root / "proc") == os.listdir(root / "var/lib/apt/lists/partial") == []
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    hostname = os.uname().nodename
    for directory, _subdirectories, names in os.walk(root):
        for name in names:
            info = os.lstat(os.path.join(directory, name))
            assert not info.st_mode & (stat.S_ISUID | stat.S_ISGID) and info.st_uid < 65536
    assert len(hostname) < 4 or subprocess.run(["grep", "-rlw", hostname, str(root / "etc")], capture_output=True, text=True).stdout == ""
    assert os.path.realpath(tmp_path / "one/templates/names/small") == str(place)
    assert build("one")["how"] == "present"
    again = build("two")
    assert (again["how"], again["id"]) == ("cached", built["id"])
    assert subprocess.run(["diff", "-r", "--no-dereference", str(root), str(tmp_path / "two/templates" / built["id"] / "root")]).returncode == 0
