"""Turns a bare Debian root into a template: packages left out, pip and npm, the cell's user, files, caches."""
from __future__ import annotations

import os
import subprocess
import tempfile

from .chroot import Runner
from .errors import BuildError
from .recipe import Recipe

USER, UID, HOME = "user", 1000, "/workspace"
MPL_CACHE = "/var/cache/matplotlib"


def inside(root: str, path: str) -> str:
    """Host path of `path` in the root; a symbolic link on the way may not lead out of it."""
    host = os.path.join(root, path.lstrip("/"))
    parent = os.path.realpath(os.path.dirname(host))
    if os.path.commonpath([parent, os.path.realpath(root)]) != os.path.realpath(root):
        raise BuildError(f"\"{path}\" would lie outside the template's root")
    return host


def write(root: str, path: str, data: bytes | str, mode: int = 0o644, uid: int = 0) -> None:
    host = inside(root, path)
    missing, parent = [], os.path.dirname(host)
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for directory in reversed(missing):
        os.mkdir(directory, 0o755)
        os.chown(directory, uid, uid)
    if os.path.isdir(host) and not os.path.islink(host):
        raise BuildError(f"\"{path}\" is a directory in the template")
    if os.path.lexists(host):
        os.unlink(host)
    descriptor = os.open(host, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
        os.fchown(stream.fileno(), uid, uid)
        os.fchmod(stream.fileno(), mode)


def leave_out(root: str, packages: list[str], runner: Runner) -> None:
    """Replace packages by an empty one that provides them, then let apt remove what only they needed."""
    versions = installed(root)
    present = {name: versions[name] for name in packages if name in versions}
    if not present:
        return
    provides = ", ".join(f"{name} (= {version})" for name, version in present.items())
    with tempfile.TemporaryDirectory() as directory:
        os.makedirs(f"{directory}/deb/DEBIAN")
        with open(f"{directory}/deb/DEBIAN/control", "w", encoding="utf-8") as control:
            control.write("Package: cella-left-out\nVersion: 1\nArchitecture: all\nMaintainer: Cella <root@localhost>\n"
                          f"Provides: {provides}\nConflicts: {', '.join(present)}\nReplaces: {', '.join(present)}\n"
                          "Description: stands in for packages that this template leaves out\n")
        os.chmod(directory, 0o755)
        runner.run(["dpkg-deb", "--root-owner-group", "--build", f"{directory}/deb", f"{root}/var/cache/left-out.deb"])
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    runner.inside(root, ["dpkg", "--purge", "--force-depends", *present], env=quiet)
    runner.inside(root, ["dpkg", "-i", "/var/cache/left-out.deb"], env=quiet)
    runner.inside(root, ["apt-get", "-y", "--purge", "-o", "Dpkg::Use-Pty=0", "-o", "APT::AutoRemove::RecommendsImportant=0",
                         "-o", "APT::AutoRemove::SuggestsImportant=0", "autoremove"], env=quiet)
    os.unlink(f"{root}/var/cache/left-out.deb")


def language_packages(root: str, recipe: Recipe, runner: Runner) -> None:
    if recipe.pip:
        runner.inside(root, ["python3", "-m", "pip", "install", "--break-system-packages", "--no-cache-dir",
                             "--root-user-action=ignore", "--", *recipe.pip], network=True)
    if recipe.npm:
        runner.inside(root, ["npm", "install", "--global", "--no-audit", "--no-fund", "--cache", "/tmp/npm", "--",
                             *recipe.npm], network=True)


def user(root: str) -> None:
    """`user`, 1000:1000, at home in /workspace: who the code of a cell is."""
    for path, line in (("/etc/passwd", f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n"), ("/etc/group", f"{USER}:x:{UID}:\n"),
                       ("/etc/shadow", f"{USER}:!:1::::::\n"), ("/etc/gshadow", f"{USER}:!::\n")):
        host = inside(root, path)
        if not os.path.exists(host):
            continue
        with open(host, encoding="utf-8") as stream:
            lines = stream.readlines()
        for other in lines:
            fields = other.split(":")
            if fields[0] == USER or (path in ("/etc/passwd", "/etc/group") and fields[2] == str(UID)):
                raise BuildError(f"{path} of the root already has \"{other.strip()}\"")
        with open(host, "a", encoding="utf-8") as stream:
            stream.write(line)
    os.makedirs(f"{root}{HOME}", exist_ok=True)
    os.chown(f"{root}{HOME}", UID, UID)
    os.chmod(f"{root}{HOME}", 0o755)


def identity(root: str) -> None:
    """Files that would tell of this host, replaced by what every cell may know."""
    write(root, "/etc/hostname", "cell\n")
    write(root, "/etc/hosts", "127.0.0.1 localhost cell\n::1 localhost ip6-localhost ip6-loopback\n")
    write(root, "/etc/resolv.conf", "")
    write(root, "/etc/apt/sources.list", "")
    write(root, "/etc/timezone", "Etc/UTC\n")
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if os.path.lexists(host := inside(root, path)):
            os.unlink(host)


def files(root: str, recipe: Recipe) -> None:
    write(root, "/etc/cella/environment", "".join(f"{name}={value}\n" for name, value in recipe.env.items()))
    write(root, "/etc/cella/preload.py", recipe.preload)
    for entry in recipe.files:
        write(root, entry.path, entry.data, entry.mode, UID if entry.owner == "user" else 0)


def caches(root: str, runner: Runner) -> None:
    """Work that would otherwise be done again in every cell: the font list and bytecode."""
    if has_module(root, "matplotlib"):
        os.makedirs(root + MPL_CACHE, exist_ok=True)
        # Writable by all, because matplotlib ignores a directory that it cannot write; each cell writes on its own layer.
        os.chmod(root + MPL_CACHE, 0o1777)
        runner.inside(root, ["python3", "-c", "import matplotlib.font_manager"], env={"MPLCONFIGDIR": MPL_CACHE})
        for name in os.listdir(root + MPL_CACHE):
            os.chmod(f"{root}{MPL_CACHE}/{name}", 0o666)
    if os.path.exists(f"{root}/usr/bin/python3"):
        # Not an error when a package ships a file that is a template or is for another Python.
        runner.inside(root, ["sh", "-c", "python3 -m compileall -q -j2 /usr/lib/python3 /usr/local/lib || true"])


def verify(root: str, recipe: Recipe, runner: Runner) -> list[str]:
    """Run the preload code as the cell's user; return the languages that the root can speak."""
    languages = []
    environment = {"HOME": HOME} | recipe.env
    as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    if os.path.exists(f"{root}/usr/bin/python3"):
        if recipe.preload.strip():
            runner.inside(root, [*as_user, "python3", "-B", "/etc/cella/preload.py"], env=environment, name="the preload code")
        if has_module(root, "IPython"):
            runner.inside(root, [*as_user, "python3", "-B", "-c", "import IPython"], env=environment, name="import IPython")
            languages.append("python")
    elif recipe.preload.strip():
        raise BuildError("the recipe has preload code but no python3", "add \"python3\" and \"python3-ipython\" to `apt`")
    if os.path.exists(f"{root}/bin/bash"):
        languages.append("shell")
    return languages


def has_module(root: str, name: str) -> bool:
    for base in ("usr/lib/python3", "usr/local/lib"):
        for directory, subdirectories, _files in os.walk(f"{root}/{base}"):
            if os.path.basename(directory) == "dist-packages":
                if os.path.exists(f"{directory}/{name}/__init__.py"):
                    return True
                subdirectories.clear()
    return False


def installed(root: str) -> dict[str, str]:
    """Debian packages of the root: name → version."""
    text = subprocess.run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
                          capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in text.splitlines())
    return {name: version for status, name, version in rows if status == "installed"}


def resolved(root: str) -> list[str]:
    """Everything installed, as `name=version`, `pip:name=version`, `npm:name=version`: part of the template's identity."""
    import importlib.metadata
    import json
    found = [f"{name}={version}" for name, version in installed(root).items()]
    for base in ("usr/local/lib",):
        for directory, _subs, _files in os.walk(f"{root}/{base}"):
            if os.path.basename(directory) == "dist-packages":
                found += [f"pip:{d.metadata['Name']}={d.version}" for d in importlib.metadata.distributions(path=[directory])]
    for modules in (f"{root}/usr/local/lib/node_modules", f"{root}/usr/lib/node_modules"):
        for package in sorted(os.listdir(modules)) if os.path.isdir(modules) else []:
            try:
                with open(f"{modules}/{package}/package.json", encoding="utf-8") as stream:
                    about = json.load(stream)
                found.append(f"npm:{about['name']}={about['version']}")
            except (OSError, ValueError, KeyError):
                continue
    return sorted(found)
