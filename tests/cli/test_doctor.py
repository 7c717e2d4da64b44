"""`cella doctor` against what this machine really has, read here in another way."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CELLA = str(Path(os.environ.get("CELLA_BUILD", ROOT / "build" / "bin")) / "cella")


def doctor(*words: str, **env: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "CELLA_URL"} | {"CELLA_URL": "http://127.0.0.1:9"} | env
    return subprocess.run([CELLA, "doctor", *words], capture_output=True, text=True, env=environment, timeout=60)


@pytest.fixture(scope="module")
def found() -> dict:
    before = mounts(), loops(), sorted(Path("/tmp").glob("cella-doctor-*"))
    done = doctor("--json")
    report = json.loads(done.stdout)
    report["exit"] = done.returncode
    assert (mounts(), loops(), sorted(Path("/tmp").glob("cella-doctor-*"))) == before, "the trials left something behind"
    return report


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def loops() -> set[str]:
    """Loop devices whose backing file is one of the doctor's."""
    backing = (p.read_text() for p in Path("/sys/block").glob("loop*/loop/backing_file"))
    return {text for text in backing if "cella-doctor" in text}


def check(report: dict, name: str) -> dict:
    return next(c for c in report["checks"] if c["name"] == name)


def test_shape(found):
    assert found["checks"]
    for c in found["checks"]:
        assert c["status"] in ("ok", "degraded", "missing")
        assert c["text"] and c["name"] and c["group"]
        assert c["status"] != "missing" or c["remedy"], f"{c['name']} is missing and nothing says what to do"
    worst = max((c["status"] for c in found["checks"]), key=["ok", "degraded", "missing"].index)
    assert found["status"] == worst
    assert found["exit"] == (1 if worst == "missing" else 0)
    assert (found["driver"] is None) == (worst == "missing")


def test_kernel(found):
    assert platform.release() in check(found, "version")["text"]
    assert (check(found, "root")["status"] == "ok") == (os.geteuid() == 0)


def test_landlock_and_mseal(found):
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(444, None, 0, 1)  # landlock_create_ruleset, VERSION
    landlock = check(found, "landlock")
    assert (landlock["status"] == "ok") == (abi >= 1)
    if abi >= 1:
        assert landlock["text"] == f"ABI {abi}"
    major, minor = (int(x) for x in platform.release().split(".")[:2])
    assert (check(found, "mseal")["status"] == "ok") == ((major, minor) >= (6, 10))


@pytest.mark.parametrize("controller", ["memory", "cpu", "pids"])
def test_cgroup_controllers(found, controller):
    v1, v2 = "", ""
    for line in mounts().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            v1 = v1 or point
        if kind == "cgroup2" and controller in (Path(point) / "cgroup.controllers").read_text().split():
            v2 = v2 or point
    c = check(found, controller)
    if v2:
        assert c["status"] == "ok" and c["text"] == f"v2 at {v2}"
    elif v1:
        assert c["status"] == "ok" and c["text"] == f"v1 at {v1}"
    else:
        assert c["status"] == "missing"


def test_kvm_is_not_believed_for_its_device_alone(found):
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "").split()
    virtual = "vmx" in flags or "svm" in flags
    assert (check(found, "CPU flag")["status"] == "ok") == virtual
    if not virtual:
        assert found["kvm_works"] is False
        assert found["driver"] in (None, "process")
    device = Path("/dev/kvm").exists()
    names = [c["name"] for c in found["checks"] if c["group"].startswith("KVM")]
    if not device:
        assert "device" in names and "No such file" in check(found, "device")["text"]
    elif os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert "trial" in names
        assert (check(found, "trial")["status"] == "ok") == found["kvm_works"]


def test_simple_quotas_need_linux_6_7(found):
    if os.geteuid() != 0 or check(found, "btrfs")["status"] != "ok":
        pytest.skip("no btrfs to ask")
    major, minor = (int(x) for x in platform.release().split(".")[:2])
    assert (check(found, "simple quotas")["status"] == "ok") == ((major, minor) >= (6, 7))


def test_text_says_the_same(found):
    text = doctor().stdout
    for c in found["checks"]:
        assert c["name"] in text
    assert f"driver: {found['driver'] or 'none'}" in text


def test_a_state_without_template_says_how_to_get_one(tmp_path):
    report = json.loads(doctor("--json", "--state", str(tmp_path)).stdout)
    template = check(report, "template")
    assert template["status"] == "degraded"
    assert "cella template build python" in template["remedy"] and str(tmp_path) in template["remedy"]


def test_without_root_it_asks_what_it_can():
    if os.geteuid() != 0:
        pytest.skip("every other test here ran without root already")
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", CELLA, "doctor", "--json"],
                          capture_output=True, text=True, env={"CELLA_URL": "http://127.0.0.1:9"}, timeout=60)  # fmt: skip
    report = json.loads(done.stdout)
    assert check(report, "root")["status"] == "degraded"
    assert check(report, "btrfs")["text"].startswith("not tried")
