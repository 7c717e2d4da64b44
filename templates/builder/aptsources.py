"""Where packages come from: the Debian sources and proxies that this host's own apt is set up with.

A recipe never names a mirror. A host without a source for the suite (another release, another distribution) gets
mmdebstrap's own default, or what `--mirror` says.
"""
from __future__ import annotations

import glob
import re
import subprocess

_OPTION = re.compile(r"\[([^\]]*)\]")


def host_sources(suite: str, directory: str = "/etc/apt") -> list[str]:
    """`deb …` lines of the host for `suite` and its -updates and -security, official components only."""
    lines: list[str] = []
    for path in [f"{directory}/sources.list", *sorted(glob.glob(f"{directory}/sources.list.d/*"))]:
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        if path.endswith(".sources"):
            found = _from_deb822(text, suite)
        elif path.endswith(".list"):
            found = _from_lines(text, suite)
        else:
            continue
        lines += [line for line in found if line not in lines]
    # Updates and security alone are no distribution.
    return lines if any(re.search(rf" {suite} ", line) for line in lines) else []


def _line(uri: str, suite: str, components: list[str], signed_by: str) -> str:
    option = f"[signed-by={signed_by}] " if signed_by.startswith("/") else ""
    return f"deb {option}{uri} {suite} {' '.join(components)}"


def _wanted(name: str, suite: str) -> bool:
    return name in (suite, f"{suite}-updates", f"{suite}-security")


def _from_lines(text: str, suite: str) -> list[str]:
    found = []
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        if not line.startswith("deb "):
            continue
        option = _OPTION.search(line)
        words = _OPTION.sub(" ", line).split()
        if len(words) >= 4 and _wanted(words[2], suite) and "main" in words[3:]:
            signed = re.search(r"signed-by=(\S+)", option.group(1)) if option else None
            found.append(_line(words[1], words[2], ["main"], signed.group(1) if signed else ""))
    return found


def _from_deb822(text: str, suite: str) -> list[str]:
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(l for l in text.splitlines() if not l.startswith("#"))):
        fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.*)$", paragraph, re.M))
        fields = {key.lower(): value for key, value in fields.items()}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        if "main" not in fields.get("components", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for name in fields.get("suites", "").split():
                if _wanted(name, suite):
                    found.append(_line(uri, name, ["main"], fields.get("signed-by", "")))
    return found


def proxy_options() -> list[str]:
    """The proxy lines of the host's apt configuration, as --aptopt values."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.rstrip(";") for line in dump.splitlines()
            if re.match(r'Acquire::(https?|ftp)::.*[Pp]roxy.* "[^"]+";$', line)]
