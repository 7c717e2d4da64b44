"""Another machine, as far as the network can tell: a network namespace with a cable to this one."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

from .wait import until

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _free_net() -> str:
    """The first three numbers of a network for measurements (RFC 2544) that nothing here uses."""
    used = {address["local"] for link in json.loads(_run("ip", "-j", "addr")) for address in link.get("addr_info", [])}
    while True:
        net = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}"
        if not any(address.startswith(net + ".") for address in used):
            return net


class Elsewhere:
    """`here` is this machine's address on the cable; what `at` runs has its sockets at the other end. Needs root."""

    def __init__(self) -> None:
        # It ends with us, however we end, and with it the namespace and the cable.
        self._holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        try:
            self._join()
        except BaseException:
            self._holder.kill()
            self._holder.wait()
            raise

    def _join(self) -> None:
        pid = self._holder.pid
        until(lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"), "a network namespace")
        net, name = _free_net(), f"cel{secrets.token_hex(4)}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "cable", "netns", str(pid))
        _run("ip", "addr", "add", f"{self.here}/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        inside = ("nsenter", "--target", str(pid), "--net")
        _run(*inside, "ip", "addr", "add", f"{self.there}/24", "dev", "cable")
        _run(*inside, "ip", "link", "set", "cable", "up")
        _run(*inside, "ip", "link", "set", "lo", "up")
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=self._enter, initargs=(pid,))

    @staticmethod
    def _enter(pid: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(namespace, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def at(self, f: Callable[..., T], *args: Any, **options: Any) -> T:
        """f(*args) in a thread whose new sockets are at the other end."""
        return self._thread.submit(f, *args, **options).result()

    def close(self) -> None:
        self._thread.shutdown()
        self._holder.kill()
        self._holder.wait()
