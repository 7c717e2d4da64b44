"""Running programs: on the host with their output in the build log, and inside the root that is being built.

Programs inside the root run in mount, pid, ipc and uts namespaces of their own (and without network unless they ask for
it), so that nothing they start or mount outlives the call.
"""
from __future__ import annotations

import os
import subprocess
from typing import Callable, Iterable

from .errors import BuildError

LOG_TAIL = 25  # lines of the log that are shown when a program fails

# $1 = root, $2 = "net" or "-", then the command. /tmp is a tmpfs, so nothing stays behind in it.
_ENTER = r"""
set -e
root=$1; net=$2; shift 2
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
if [ "$net" = net ]; then
  mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
  if [ -s /etc/ssl/certs/ca-certificates.crt ] && [ -e "$root/etc/ssl/certs/ca-certificates.crt" ]; then
    mount --bind /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  fi
  for f in "${PIP_CONFIG_FILE:-/etc/pip.conf}" "$HOME/.config/pip/pip.conf"; do [ -s "$f" ] && cat "$f"; done > "$root/tmp/pip.conf" || :
  [ -s "$HOME/.npmrc" ] && cp "$HOME/.npmrc" "$root/tmp/npmrc" || :
fi
exec chroot "$root" "$@"
"""


class Runner:
    """Runs commands and keeps everything they say in one log file."""

    def __init__(self, log_path: str, on_line: Callable[[str], None] = lambda line: None):
        self.log_path, self.on_line = log_path, on_line

    def run(self, argv: list[str], env: dict[str, str] | None = None, name: str = "") -> None:
        """name: what the command is called when it fails; otherwise its first word."""
        with open(self.log_path, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n$ {' '.join(word for word in argv if word != _ENTER)}\n")
            log.flush()
            start = log.tell()
            try:
                process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=subprocess.STDOUT, text=True, errors="replace")
            except OSError as problem:
                raise BuildError(f"cannot run {argv[0]}: {problem.strerror}") from None
            for line in process.stdout:
                log.write(line)
                self.on_line(line)
            if process.wait():
                log.flush()
                raise BuildError(f"{name or os.path.basename(argv[0])} failed with status {process.returncode}:\n{self.tail(start)}",
                                 f"the whole log: {self.log_path}")

    def inside(self, root: str, argv: list[str], *, network: bool = False, env: dict[str, str] | None = None,
               name: str = "") -> None:
        """Run argv in the root as root; the environment is `env` alone, plus the proxies when there is network."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
        if not network:
            command.append("--net")
        inner = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        if network:
            inner |= _host_network_settings()
        inner |= env or {}
        settings = [f"{name}={value}" for name, value in inner.items()]
        self.run(command + ["--", "/bin/sh", "-c", _ENTER, "sh", root, "net" if network else "-",
                            "/usr/bin/env", "-i", *settings, *argv], name=name or f"{argv[0]} (in the template)")

    def tail(self, start: int) -> str:
        """The last lines that the log got since it was `start` bytes long."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            log.seek(start)
            return "".join(f"  | {line}" for line in log.readlines()[-LOG_TAIL:])


def _host_network_settings() -> dict[str, str]:
    """How this machine reaches its package mirrors: proxies and the settings of pip and npm, never anything else."""
    wanted: Iterable[str] = (n for n in os.environ if n.upper().endswith("_PROXY") or n.startswith("PIP_")
                             or n.lower().startswith("npm_config_"))
    settings = {name: os.environ[name] for name in wanted}
    settings["PIP_CONFIG_FILE"] = "/tmp/pip.conf"
    settings["NPM_CONFIG_USERCONFIG"] = "/tmp/npmrc"
    return settings
