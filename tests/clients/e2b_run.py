"""Runs a program of programs/ with one of E2B's packages, unmodified, against a daemon: nothing but its environment says where that is."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

import pytest
from support.packages import node, npm_tree, python_tree

HERE = Path(__file__).resolve().parent
JS, PYTHON = "E2B JS SDK 2.51.0", "E2B Python SDK 2.63.0"
CODE_JS, CODE_PYTHON = "E2B code interpreter JS 2.8.0", "E2B code interpreter Python 2.11.5"
CLI = "E2B CLI 2.19.0"
SECONDS = 240


def environment(url: str, **more: str) -> Dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    return {**clean, "E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_API_KEY": "e2b_any", **more}


def outcomes(command: List[str], env: Dict[str, str]) -> Dict[str, Any]:
    """{step: {"value"} | {"error", "message"}}, as e2b_steps.mjs and e2b_steps.py print it."""
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command[-1]}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    steps: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return steps


def javascript(program: str, package: str, url: str, **more: str) -> Dict[str, Any]:
    module = npm_tree(HERE / "npm" / "e2b") / "node_modules" / package / "dist" / "index.mjs"
    return outcomes([str(node()), str(HERE / "programs" / program)], environment(url, E2B_MODULE=str(module), **more))


def python(program: str, url: str, **more: str) -> Dict[str, Any]:
    return outcomes([str(python_tree(HERE / "requirements-e2b.txt")), str(HERE / "programs" / program)], environment(url, **more))


def side_by_side(program: str, package: str, url: str) -> Dict[str, Dict[str, Any]]:
    """The outcomes of NAME.mjs and NAME.py, run at the same time."""
    with ThreadPoolExecutor(2) as pool:
        js, py = pool.submit(javascript, f"{program}.mjs", package, url), pool.submit(python, f"{program}.py", url)
        return {"js": js.result(), "python": py.result()}


def both(call: str, js: str, py: str, state: str = "") -> pytest.MarkDecorator:
    """A test of one call, once with each language's package; what `steps` is."""
    more = {"state": state} if state else {}
    return pytest.mark.parametrize(
        "steps",
        [
            pytest.param("js", id="js", marks=pytest.mark.client(js, call, **more)),
            pytest.param("python", id="python", marks=pytest.mark.client(py, call, **more)),
        ],
        indirect=True,
    )


def value(steps: Dict[str, Any], name: str) -> Any:
    assert "value" in steps[name], f"{name}: {steps[name]}"
    return steps[name]["value"]


def failure(steps: Dict[str, Any], name: str) -> str:
    """"Class: message" of a step that had to fail; the class without the ending in which the two languages differ."""
    assert "error" in steps[name], f"{name} did not fail: {steps[name]}"
    return f"{steps[name]['error'].removesuffix('Exception').removesuffix('Error')}: {steps[name]['message']}"
