"""Drives the real Python client (run by its own interpreter, see test_mcp_clients.py) through a session; prints what it saw as one JSON object."""

import asyncio
import json
import os
import sys

from mcp import Client, StdioServerParameters


def text(result):
    return "".join(block.text for block in result.content if block.type == "text")


async def main(order):
    server = order["url"] if "url" in order else StdioServerParameters(command=order["command"], args=order["args"], env={**os.environ, **order["env"]})
    seen = {}
    async with Client(server, mode=order["mode"]) as client:
        handle = {}

        async def call(name, progress=None, **arguments):
            return await client.call_tool(name, {**handle, **arguments}, read_timeout_seconds=240, **({"progress_callback": progress} if progress else {}))

        seen["version"] = client.protocol_version
        seen["server"] = client.server_info.name if client.server_info else None
        seen["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        first = await call("run_code", code="x = 40\nprint('hello')")
        seen["first"] = text(first)
        if order.get("handle"):
            handle["sandbox"] = first.meta["cella/sandbox"]
        seen["state"] = text(await call("run_code", code="x + 2"))
        failed = await call("run_code", code="1 / 0")
        seen["failed"] = {"isError": failed.is_error, "text": text(failed)}
        drawn = await call("run_code", code="import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
        seen["images"] = [[block.mime_type, block.data[:8]] for block in drawn.content if block.type == "image"]
        await call("write_file", path="note.txt", content="grüße")
        seen["read"] = text(await call("read_file", path="note.txt"))
        seen["shell"] = text(await call("run_shell", command="cat note.txt | wc -c"))
        children = (await call("fork", count=2)).structured_content["children"]
        await asyncio.gather(*(call("run_code", code=f"x += {i + 1}", sandbox=child) for i, child in enumerate(children)))
        seen["parent"] = text(await call("run_code", code="x"))
        await call("merge", winner=children[1])
        seen["merged"] = text(await call("run_code", code="x"))
        seen["progress"] = []

        async def hear(progress, total, message):
            seen["progress"].append(message or "")

        seen["slow"] = text(await call("run_code", progress=hear, code="import time\nfor i in range(3):\n    print('step', i, flush=True)\n    time.sleep(0.7)"))
        seen["after"] = text(await call("run_code", code="x"))
    print(json.dumps(seen))


asyncio.run(main(json.loads(sys.argv[1])))
