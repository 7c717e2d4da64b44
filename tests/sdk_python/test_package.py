"""The package as it is delivered: one text for both clients, typed, built, installed elsewhere, documented."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Set, Tuple

import cella
import pytest
from support.server import Server

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "python"


def run(*command: object, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=250, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_synchronous_client_is_made_from_the_other() -> None:
    run(sys.executable, SDK / "make_sync.py", "--check")


def test_nothing_asynchronous_is_left_in_it() -> None:
    import re

    for path in (SDK / "cella" / "_sync").glob("*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text("utf-8"), flags=re.S)
        assert not re.search(r"\b(async|await|asyncio)\b|Async", code), path


def test_the_reference_is_up_to_date() -> None:
    run(sys.executable, ROOT / "tools" / "reference_python.py", "--check")


def twins() -> Iterator[Tuple[type, type]]:
    for name in cella.__all__:
        if name.startswith("Async"):
            yield getattr(cella, name[len("Async") :]), getattr(cella, name)


def public(kind: type) -> Set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and name != "from_json"}


def test_both_clients_have_the_same_surface() -> None:
    pairs = list(twins())
    assert len(pairs) >= 10
    for plain, other in pairs:
        assert public(plain) == public(other), plain
        for name in sorted(public(plain)) + ["__init__"]:
            ours, theirs = getattr(plain, name), getattr(other, name)
            assert callable(ours) == callable(theirs), name
            if callable(ours):
                mine, its = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
                assert [(p.name, p.kind, repr(p.default)[:20]) for p in mine.values()] == [(p.name, p.kind, repr(p.default)[:20]) for p in its.values()], name
            if callable(ours) or isinstance(ours, property):
                assert inspect.getdoc(ours), f"{plain.__name__}.{name} has no docstring"


def test_every_error_carries_code_and_hint() -> None:
    kinds = [v for v in vars(cella).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 20 and all(issubclass(kind, cella.CellaError) for kind in kinds)


def test_types_are_strict(tools: Path, tmp_path: Path) -> None:
    """Without the framework adapters: they are checked where their frameworks are."""
    command = [tools, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "--exclude", "cella/integrations", "cella"]
    assert "no issues found" in run(*command, cwd=SDK)


CONSUMER = """
from cella import AsyncSandbox, Event, Execution, Sandbox, Stream

def plain() -> str | None:
    with Sandbox(env={"A": "b"}) as sandbox:
        run: Execution = sandbox.run_code("1", on_stdout=print, on_input=lambda prompt: None)
        text: str = sandbox.filesystem.read("f")
        data: bytes = sandbox.filesystem.read("f", "bytes")
        pieces: Stream[bytes] = sandbox.filesystem.read("f", "stream")
        event: Event
        for event in sandbox.run_code_stream("2"):
            print(event.text, text, data, pieces)
        with sandbox.fork(2) as branches:
            child: Sandbox = branches[0]
            sandbox.merge_into(child)
        return run.text

async def other() -> str | None:
    async with AsyncSandbox() as sandbox:
        run: Execution = await sandbox.run_code("1")
        async for event in sandbox.exec_stream("ls"):
            print(event.command)
        made: AsyncSandbox = await AsyncSandbox("default")
        await made.close()
        wrong: int = run.text
        await sandbox.run_code(1)
        sandbox.no_such_method()
        return run.text
"""


@pytest.fixture(scope="session")
def installed(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources and put into a new environment beside the packages that it needs."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(SDK, place / "source", ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache", "dist"))
    run(tools, "-m", "build", "--no-isolation", "--wheel", "--outdir", place / "dist", place / "source")
    [wheel] = (place / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    python = place / "venv" / "bin" / "python"
    needed = next((tools.parents[1] / "lib").glob("python*/site-packages"))
    # What the wheel asks for comes from the pinned packages; the wheel itself is installed by pip, offline.
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", wheel)
    site = next((place / "venv" / "lib").glob("python*/site-packages"))
    (site / "pinned.pth").write_text(f"{needed}\n")
    return python


def test_the_wheel_works_where_the_checkout_is_not(installed: Path, server: Server, tmp_path: Path) -> None:
    program = (
        "import asyncio, cella, os\n"
        "assert 'site-packages' in cella.__file__ and os.path.exists(os.path.join(os.path.dirname(cella.__file__), 'py.typed'))\n"
        "with cella.Sandbox() as s: print(s.run_code('6 * 7').text)\n"
        "async def main():\n"
        "    async with cella.AsyncSandbox() as s:\n"
        "        print((await s.exec('echo hi')).stdout, end='')\n"
        "        async with await s.spawn('cat') as p:\n"
        "            await p.write('typed'); await p.end()\n"
        "            print((await p.wait()).stdout)\n"
        "    await cella.close_connections_async()\n"
        "asyncio.run(main())\n"
        "with cella.Sandbox() as s, s.pty(cmd='echo screen') as t: print(b''.join(t).decode().strip())\n"
        "cella.close_connections()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    output = run(installed, "-W", "error", "-c", program, cwd=tmp_path, env=dict(environment, CELLA_URL=server.url))
    assert output == "42\nhi\ntyped\nscreen\n"


def test_the_wheel_says_what_it_needs(installed: Path) -> None:
    program = "from importlib.metadata import metadata; m = metadata('cella'); print(m['Version'], m.get_all('Requires-Dist'))"
    version, needs = run(installed, "-c", program).split(" ", 1)
    assert version == cella.__version__ and "httpx" in needs and 'websockets' in needs and "terminal" in needs


def test_users_get_types(installed: Path, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [tools, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "--python-executable", installed, "consumer.py"]
    done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=250)
    lines = CONSUMER.split("\n")
    wrong = {lines[int(line.split(":")[1]) - 1].strip() for line in done.stdout.splitlines() if ": error: " in line}
    assert wrong == {"wrong: int = run.text", "await sandbox.run_code(1)", "sandbox.no_such_method()"}, done.stdout + done.stderr
