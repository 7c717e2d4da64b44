#!/usr/bin/env python3
"""An MCP client (PyPI: mcp) and Cella's MCP server: a sandbox, forked to try three things side by side, the best one kept.

    pip install mcp; sudo cella up -d; examples/mcp_client.py
    examples/mcp_client.py cella mcp         # the same over a program's standard input and output

CELLA_URL says where the daemon is.
"""

import asyncio
import os
import sys
from typing import Any

from mcp import Client, StdioServerParameters

URL = os.environ.get("CELLA_URL", "http://127.0.0.1:7070")
DATA = "import numpy as np\nx = np.linspace(0, 3, 200)\ny = np.exp(-x) + np.random.default_rng(1).normal(0, 0.01, 200)"
FIT = "fit = np.polynomial.Polynomial.fit(x, y, {degree})\nerror = float(np.sqrt(np.mean((fit(x) - y) ** 2)))\nround(error, 4)"
PLOT = "import matplotlib.pyplot as plt\nplt.plot(x, y, '.', x, fit(x)); None"


def server() -> Any:
    """The daemon itself, or a program that speaks for it."""
    if len(sys.argv) > 1:
        return StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    return f"{URL}/mcp"


async def main() -> None:
    async with Client(server()) as client:

        async def call(tool: str, **arguments: Any) -> Any:
            result = await client.call_tool(tool, arguments)
            text = "".join(block.text for block in result.content if block.type == "text")
            if result.is_error:
                raise SystemExit(f"{tool}: {text}")
            return result, text

        print("tools:", *(tool.name for tool in (await client.list_tools()).tools))
        # A client of the newest protocol has no session that would remember its sandbox: name it.
        home = (await call("create_sandbox"))[0].structured_content["sandbox"]
        await call("run_code", code=DATA, sandbox=home)

        children = (await call("fork", count=3, sandbox=home))[0].structured_content["children"]
        tried = await asyncio.gather(*(call("run_code", code=FIT.format(degree=d), sandbox=c) for d, c in enumerate(children)))
        errors = [float(text) for _, text in tried]
        for degree, error in enumerate(errors):
            print(f"degree {degree}: error {error}")
        best = children[errors.index(min(errors))]
        await call("merge", winner=best, sandbox=home)
        print("kept:", (await call("run_code", code="fit.degree()", sandbox=home))[1])

        await call("write_file", path="report.txt", content="the best one\n", sandbox=home)
        print("files:", (await call("list_files", sandbox=home))[1])
        print("shell:", (await call("run_shell", command="cat report.txt", sandbox=home))[1])
        drawn = (await call("run_code", code=PLOT, sandbox=home))[0]
        print("image:", *(f"{block.mime_type}, {len(block.data)} characters" for block in drawn.content if block.type == "image"))
        for sandbox in {home, *children} - {best}:
            await call("delete_sandbox", sandbox=sandbox)


if __name__ == "__main__":
    asyncio.run(main())
