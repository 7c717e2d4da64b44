import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List

import httpx
from e2b import Sandbox, SandboxQuery, SandboxState, Template, Volume
from e2b_steps import finish, step, until

mark = f"py-{os.getpid()}-{time.time_ns()}"
metadata = {"mark": mark, "odd": "a b&c=d%20é/+"}
made: List[Sandbox] = []


def keep(s: Sandbox) -> Sandbox:
    made.append(s)
    return s


def out(s: Sandbox, command: str) -> str:
    return s.commands.run(command).stdout


def left(s: Sandbox) -> float:
    return (s.get_info().end_at - datetime.now(timezone.utc)).total_seconds() * 1000


def pages(p: Any) -> List[List[str]]:
    every = []
    while p.has_next:
        every.append([s.sandbox_id for s in p.next_items()])
    return every


def flat(p: Any) -> List[str]:
    return [one for page in pages(p) for one in page]


class Now:
    s: Sandbox


@step("create")
def create() -> Dict[str, Any]:
    Now.s = s = keep(Sandbox.create(metadata=metadata, envs={"GREETING": "hällo"}, timeout=600))
    return {"id": s.sandbox_id, "env": out(s, "echo $GREETING"), "home": out(s, "cd /home/user && touch here && ls /home/user"), "host": s.get_host(3000)}


s = Now.s
step("create_unknown")(lambda: str(Sandbox.create("no-such-template")))
step("create_no_internet")(lambda: keep(Sandbox.create(allow_internet_access=False, timeout=600)).get_info().allow_internet_access)
step("create_allow_list")(lambda: str(Sandbox.create(network={"allow_out": ["1.1.1.1"], "deny_out": ["0.0.0.0/0"]})))
step("create_volume")(lambda: str(Sandbox.create(volume_mounts={"/data": "mine"})))


@step("info")
def info() -> Dict[str, Any]:
    i = s.get_info()
    return {
        "sandboxId": i.sandbox_id, "templateId": i.template_id, "metadata": i.metadata, "state": i.state.value, "envdVersion": i.envd_version,
        "cpuCount": i.cpu_count, "memoryMB": i.memory_mb, "allowInternetAccess": i.allow_internet_access,
        "startedAt": i.started_at.astimezone(timezone.utc).isoformat(), "endAt": i.end_at.astimezone(timezone.utc).isoformat(),
    }  # fmt: skip


step("info_static")(lambda: Sandbox.get_info(s.sandbox_id).sandbox_id)
step("info_missing")(lambda: str(Sandbox.get_info("sbx_" + "0" * 32)))
step("is_running")(lambda: s.is_running())
step("list_by_metadata")(lambda: pages(Sandbox.list(query=SandboxQuery(metadata=metadata))))
step("list_other_metadata")(lambda: pages(Sandbox.list(query=SandboxQuery(metadata={"mark": mark, "odd": "else"}))))


@step("list_pages")
def list_pages() -> Dict[str, Any]:
    three = [keep(Sandbox.create(metadata={"mark": mark + "p"}, timeout=600)).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata={"mark": mark + "p"})
    return {"three": three, "newest": pages(Sandbox.list(query=query, limit=2)), "oldest": pages(Sandbox.list(query=query, limit=2, order="asc"))}


step("list_template")(
    lambda: [len(flat(Sandbox.list(query=SandboxQuery(metadata=metadata, template=name)))) for name in ("base", "code-interpreter-v1", "no-such-template")]
)
step("list_later")(lambda: len(flat(Sandbox.list(query=SandboxQuery(metadata=metadata, started_after=datetime.now() + timedelta(hours=1))))))


@step("set_timeout")
def set_timeout() -> List[float]:
    s.set_timeout(1200)
    later = left(s)
    s.set_timeout(900)
    return [later, left(s)]


@step("metrics")
def metrics() -> List[Dict[str, Any]]:
    return [
        {"cpuCount": m.cpu_count, "cpuUsedPct": m.cpu_used_pct, "memUsed": m.mem_used, "memTotal": m.mem_total, "diskUsed": m.disk_used, "diskTotal": m.disk_total,
         "timestamp": isinstance(m.timestamp, datetime)}
        for m in s.get_metrics()
    ]  # fmt: skip


step("network_none")(lambda: s.update_network({"deny_out": ["8.8.8.8"], "allow_internet_access": False}))
step("network")(lambda: s.update_network({"allow_out": ["1.1.1.1"]}))


@step("fork")
def fork() -> Dict[str, Any]:
    out(s, "echo parent > /home/user/fork.txt")
    children = s.fork(count=2, timeout=600)
    every = [s, *(keep(child) for child in children)]
    out(every[1], "echo child > /home/user/fork.txt")
    return {"ids": len({one.sandbox_id for one in every}), "files": [out(one, "cat /home/user/fork.txt") for one in every]}


@step("snapshot")
def snapshot() -> Dict[str, Any]:
    name = f"{mark}-snapshot"
    taken = s.create_snapshot(name=name)
    out(s, "echo later > /home/user/fork.txt")
    again, named = keep(Sandbox.create(taken.snapshot_id, timeout=600)), keep(Sandbox.create(name, timeout=600))
    listed = s.list_snapshots().next_items()
    return {
        "names": taken.names, "wanted": name, "listed": [x.snapshot_id for x in listed], "id": taken.snapshot_id,
        "files": [out(again, "cat /home/user/fork.txt"), out(named, "cat /home/user/fork.txt")],
        "deleted": [Sandbox.delete_snapshot(taken.snapshot_id), Sandbox.delete_snapshot(taken.snapshot_id)],
        "left": len(s.list_snapshots().next_items()),
    }  # fmt: skip


@step("pause")
def pause() -> Dict[str, Any]:
    out(s, "echo kept > /home/user/paused.txt")
    answers = [s.pause(), s.pause()]
    return {
        "answers": answers,
        "while_paused": {
            "running": s.is_running(), "state": s.get_info().state.value,
            "listed": flat(Sandbox.list(query=SandboxQuery(metadata=metadata, state=[SandboxState.PAUSED]))),
            "running_ones": flat(Sandbox.list(query=SandboxQuery(metadata=metadata, state=[SandboxState.RUNNING]))),
        },
    }  # fmt: skip


step("use_paused")(lambda: out(s, "true"))


@step("connect")
def connect() -> Dict[str, Any]:
    again = Sandbox.connect(s.sandbox_id, timeout=600)
    first = left(again)
    Sandbox.connect(s.sandbox_id, timeout=1)  # never less time than it has
    return {"same": again.sandbox_id == s.sandbox_id, "file": out(again, "cat /home/user/paused.txt"), "state": s.get_info().state.value, "left": first, "after": left(again)}


step("pause_without_memory")(lambda: s.pause(keep_memory=False))


@step("timeout_kills")
def timeout_kills() -> str:
    short = Sandbox.create(timeout=5)
    until("its end", lambda: not short.is_running())
    try:
        Sandbox.get_info(short.sandbox_id)
    except Exception as e:  # noqa: BLE001 - which one is the question
        return type(e).__name__
    return "there"


@step("timeout_pauses")
def timeout_pauses() -> Dict[str, Any]:
    short = keep(Sandbox.create(timeout=5, lifecycle={"on_timeout": "pause", "auto_resume": True}))
    asked = short.get_info().lifecycle
    until("its pause", lambda: short.get_info().state == SandboxState.PAUSED)

    def answer() -> str:
        try:
            return out(short, "echo awake")
        except Exception:  # noqa: BLE001 - it may have been paused again meanwhile
            return ""

    return {"asked": {"onTimeout": asked["on_timeout"], "autoResume": asked["auto_resume"]}, "resumed": until("an answer", answer)}


step("template_exists")(lambda: [Template.exists("base"), Template.exists("no-such-template")])
step("template_build")(lambda: str(Template.build(Template().from_image("debian"), f"{mark}-template")))
step("volume")(lambda: str(Volume.create("mine")))
# The name that get_host gives is looked up by a browser; here the address is known.
step("host")(lambda: (lambda a: [a.status_code, a.json()])(httpx.get(os.environ["E2B_SANDBOX_URL"], headers={"Host": s.get_host(3000)})))
step("kill")(lambda: [s.kill(), s.kill(), Sandbox.kill(s.sandbox_id), s.is_running()])
step("use_killed")(lambda: out(s, "true"))
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda one: one.kill(), made))
finish()
