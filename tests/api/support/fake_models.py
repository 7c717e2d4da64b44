"""A model provider for tests: it speaks the wire of three APIs and says what its script says.

    POST /v1/chat/completions    OpenAI chat completions
    POST /v1/responses           OpenAI Responses
    POST /v1/messages            Anthropic Messages            each plain, and as server-sent events with "stream": true

In Python:

    with FakeModels([call("run_python", code="6 * 7"), say("It is {output}.")]) as models:
        client = OpenAI(base_url=models.url + "/v1", api_key="none")
        ...
        assert models.requests[-1].outputs[0].text == "42"

From any other language, a process of its own; the first line it prints is its URL:

    PYTHONPATH=tests/api python3 -m support.fake_models --script turns.json [--port N]
    GET /requests      everything that came, as JSON: [{"path", "body", "outputs", …}]
    PUT /script        a new script; what was recorded is forgotten

A script is a list of turns; every request takes the next one. A turn is {"text": "…"}, {"calls": [{"name", "arguments", "id"?,
"server"?}], "text"?} or {"status": 429, "error": "…"}; in Python also a function of the Request that returns one. A script may
also be {"model name": [turns], …, "*": [turns]}: a conversation each. "{output}" in a text becomes what the newest tools answered.
"server": true makes Anthropic's server_tool_use of a call.

It is as strict as the providers are: a tool that was called must have been declared, every call must be answered and every
answer must belong to a call. Otherwise, and when the script is over, the answer is 400, which no client tries again.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

from .fake_wires import WIRES, Output, Wire

JSON = Dict[str, Any]


@dataclass
class Request:
    """One request that came, and what the model got to see."""

    path: str
    body: JSON
    headers: Dict[str, str]
    outputs: List[Output] = field(default_factory=list)  #: of all tools so far in this conversation, oldest first
    whole: JSON = field(default_factory=dict, repr=False)  #: the body with what it only refers to: earlier turns, their tools

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def tools(self) -> List[str]:
        """Names of the tools that were declared."""
        return [str((t.get("function") or t).get("name") or t.get("type")) for t in self.whole.get("tools") or []]


Turn = Union[JSON, Callable[[Request], JSON]]
Script = Union[List[Turn], Dict[str, List[Turn]]]


def say(text: str) -> JSON:
    return {"text": text}


def call(_name: str, _id: Optional[str] = None, _server: bool = False, **arguments: Any) -> JSON:
    """A turn with one call; `calls` is for several."""
    return {"calls": [{"name": _name, "arguments": arguments, "id": _id, "server": _server}]}


def calls(*turns: JSON) -> JSON:
    """The calls of several turns in one, side by side."""
    return {"calls": [c for turn in turns for c in turn["calls"]]}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeModels:
    """A server on 127.0.0.1 with a thread of its own, up when the object is made. Any thread may look at it."""

    def __init__(self, script: Optional[Script] = None, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._ids = 0
        self._said: Dict[str, JSON] = {}  # id of an answer: the whole conversation up to it
        self.script(script or [])
        models = self

        class Handler(_Handler):
            server_models = models

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def script(self, script: Script) -> None:
        """What comes next; what was recorded is forgotten."""
        with self._lock:
            self._turns = {k: list(v) for k, v in (script if isinstance(script, dict) else {"*": script}).items()}
            self.requests: List[Request] = []

    @property
    def environment(self) -> Dict[str, str]:
        """For programs that are to meet this server instead of a provider."""
        return {
            "OPENAI_BASE_URL": self.url + "/v1", "OPENAI_API_KEY": "sk-fake",
            "ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": "sk-ant-fake",
        }  # fmt: skip

    def left(self) -> int:
        """Turns that nobody asked for."""
        with self._lock:
            return sum(len(turns) for turns in self._turns.values())

    def outputs(self) -> List[Output]:
        """Everything tools answered, each once, in the order in which it came."""
        seen: Dict[str, Output] = {}
        for request in self.requests:
            for output in request.outputs:
                seen.setdefault(output.call_id, output)
        return list(seen.values())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "FakeModels":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- answering ----

    def _take(self, wire: Wire, request: Request) -> JSON:
        """The next turn, its calls with ids; Refused when a provider would refuse the request."""
        before = wire.refers_to(request.body)
        with self._lock:
            self.requests.append(request)
            if before is not None and before not in self._said:
                raise Refused(404, f"there is no {before!r} to go on from")
            request.whole = wire.continued(self._said[before], request.body) if before is not None else request.body
        request.outputs = wire.outputs(request.whole)
        problem = _problem(wire, request)
        if problem:
            raise Refused(400, problem)
        with self._lock:
            turns = self._turns.get(request.model, self._turns.get("*", []))
            if not turns:
                raise Refused(400, f"the script has no further turn for model {request.model!r}")
            turn = turns.pop(0)
        said = dict(turn(request)) if callable(turn) else dict(turn)
        if "status" in said:
            raise Refused(int(said["status"]), str(said.get("error", "scripted")))
        said["calls"] = [dict(c, id=c.get("id") or f"call_{self.number()}") for c in said.get("calls") or []]
        missing = [c["name"] for c in said["calls"] if c["name"] not in request.tools and not c.get("server")]
        if missing:
            raise Refused(400, f"the script calls {missing}, but the request declares {request.tools}")
        if said.get("text"):
            said["text"] = said["text"].replace("{output}", wire.newest(request.outputs))
        return said

    def _keep(self, wire: Wire, request: Request, turn: JSON, number: int) -> None:
        """A later request may go on from here."""
        answer = wire.whole(turn, request.whole, number)
        with self._lock:
            self._said[answer["id"]] = wire.with_answer(request.whole, answer)

    def number(self) -> int:
        with self._lock:
            self._ids += 1
            return self._ids


def _shown(request: Request) -> JSON:
    return {k: v for k, v in asdict(request).items() if k != "whole"}


def _problem(wire: Wire, request: Request) -> Optional[str]:
    """What a provider would not accept about calls and answers."""
    made, answered = wire.call_ids(request.whole), [o.call_id for o in request.outputs]
    strangers = [i for i in answered if i not in made]
    if strangers:
        return f"answers to calls that nobody made: {strangers}"
    open_calls = [i for i in made if i not in answered]
    if open_calls:
        return f"calls without an answer: {open_calls}"
    if len(set(answered)) != len(answered):
        return f"a call was answered twice: {answered}"
    return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_models: FakeModels

    def do_POST(self) -> None:
        path, body = self.path.split("?")[0], self._body()
        wire = WIRES.get(path)
        if wire is None:
            return self._json(404, {"error": {"message": f"no such path: {path}", "type": "invalid_request_error"}})
        request = Request(path, body, {k.lower(): v for k, v in self.headers.items()})
        try:
            turn = self.server_models._take(wire, request)
        except Refused as refused:
            return self._json(refused.status, wire.error(str(refused)))
        number = self.server_models.number()
        self.server_models._keep(wire, request, turn, number)
        if body.get("stream"):
            return self._events(wire.stream(turn, body, number))
        self._json(200, wire.whole(turn, body, number))

    def do_GET(self) -> None:
        if self.path != "/requests":
            return self._json(404, {"error": {"message": f"no such path: {self.path}"}})
        self._json(200, [_shown(r) for r in self.server_models.requests])

    def do_PUT(self) -> None:
        if self.path != "/script":
            return self._json(404, {"error": {"message": f"no such path: {self.path}"}})
        self.server_models.script(self._body())
        self._json(200, {})

    def _body(self) -> Any:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return json.loads(b"".join(pieces) or b"{}")
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, events: Iterator[Tuple[Optional[str], Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for name, data in events:
            text = (f"event: {name}\n" if name else "") + f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
            self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: Any) -> None:
        pass


def main() -> None:
    options = argparse.ArgumentParser(description="A scripted model provider.")
    options.add_argument("--script", help="file with the script as JSON; without it PUT /script brings one")
    options.add_argument("--port", type=int, default=0)
    given = options.parse_args()
    script = json.load(open(given.script, encoding="utf-8")) if given.script else []
    with FakeModels(script, given.port) as models:
        print(models.url, flush=True)
        sys.stdin.read()  # until whoever started it closes that end or goes


if __name__ == "__main__":
    main()
