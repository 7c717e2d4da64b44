"""How every program here begins and goes on: `start.main(globals())` takes one request after the other from standard input,
{"function", "arguments"}, and answers each with a line, {"value"} or {"error"}. Importing the frameworks takes seconds; so once."""

import asyncio
import inspect
import json
import sys
import traceback
from typing import Any, Dict


def main(names: Dict[str, Any]) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a framework prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            names.get("fresh", lambda: None)()
            value = names[asked["function"]](**asked["arguments"])
            said = {"value": asyncio.run(value) if inspect.iscoroutine(value) else value}
        except Exception:
            said = {"error": traceback.format_exc()}
        print(json.dumps(said), file=answers, flush=True)
