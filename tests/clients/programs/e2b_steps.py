"""Steps of a program that runs E2B's Python package: as in e2b_steps.mjs."""

import json
import time
from typing import Any, Callable, Dict

outcomes: Dict[str, Any] = {}


def step(name: str) -> Callable[[Callable[[], Any]], None]:
    """@step("write") above a function without arguments: run now."""

    def run(f: Callable[[], Any]) -> None:
        try:
            outcomes[name] = {"value": f()}
        except Exception as e:  # noqa: BLE001 - every outcome is told
            result = {k: getattr(e, k) for k in ("exit_code", "stdout", "stderr", "error") if hasattr(e, k)}
            outcomes[name] = {"error": type(e).__name__, "message": str(e), "result": result}

    return run


def until(what: str, f: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while True:
        got = f()
        if got:
            return got
        if time.monotonic() > end:
            raise TimeoutError(f"never came: {what}")
        time.sleep(0.05)


def finish() -> None:
    print(json.dumps(outcomes))
