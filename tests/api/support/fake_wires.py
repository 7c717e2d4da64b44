"""The three wire formats of fake_models.py: how each writes a turn, and where a request holds what tools answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

JSON = Dict[str, Any]
Events = Iterator[Tuple[Optional[str], Union[JSON, str]]]
PIECE = 7  #: characters of a streamed delta: small, so that whoever puts them together has to


@dataclass
class Output:
    """What a tool answered, whatever the wire."""

    call_id: str
    text: str
    images: List[str] = field(default_factory=list)  #: data URLs
    is_error: Optional[bool] = None  #: Anthropic's flag
    raw: Any = None  #: the message, item or block it came in


def pieces(text: str) -> List[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


class Wire:
    """One format. `turn` is {"text"?, "calls"} with ids, `number` a fresh one for the answer's id."""

    def whole(self, turn: JSON, body: JSON, number: int) -> JSON:
        raise NotImplementedError

    def stream(self, turn: JSON, body: JSON, number: int) -> Events:
        raise NotImplementedError

    def outputs(self, body: JSON) -> List[Output]:
        raise NotImplementedError

    def call_ids(self, body: JSON) -> List[str]:
        """Of every call in the conversation that a client has to answer."""
        raise NotImplementedError

    def refers_to(self, body: JSON) -> Optional[str]:
        """Id of the answer that a request goes on from, when it does not bring the conversation itself."""
        return None

    def continued(self, before: JSON, body: JSON) -> JSON:
        """Such a request with the conversation."""
        return body

    def with_answer(self, body: JSON, answer: JSON) -> JSON:
        """The conversation with the answer at its end."""
        return body

    def newest(self, outputs: List[Output]) -> str:
        """Text of what the newest call brought."""
        return outputs[-1].text.strip() if outputs else ""

    def error(self, message: str) -> JSON:
        return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


class Chat(Wire):
    def whole(self, turn: JSON, body: JSON, number: int) -> JSON:
        message: JSON = {"role": "assistant", "content": turn.get("text"), "refusal": None}
        if turn["calls"]:
            message["tool_calls"] = [self._call(c) for c in turn["calls"]]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._why(turn)}
        return dict(self._head(body, number, "chat.completion"), choices=[choice], usage=self._usage())

    def stream(self, turn: JSON, body: JSON, number: int) -> Events:
        head = self._head(body, number, "chat.completion.chunk")

        def chunk(delta: JSON, why: Optional[str] = None) -> JSON:
            return dict(head, choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": why}])

        yield None, chunk({"role": "assistant", "content": ""})
        for piece in pieces(turn.get("text") or ""):
            yield None, chunk({"content": piece})
        for i, c in enumerate(turn["calls"]):
            whole = self._call(c)
            yield None, chunk({"tool_calls": [dict(whole, index=i, function={"name": c["name"], "arguments": ""})]})
            for piece in pieces(whole["function"]["arguments"]):
                yield None, chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
        yield None, chunk({}, self._why(turn))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield None, dict(head, choices=[], usage=self._usage())
        yield None, "[DONE]"

    def outputs(self, body: JSON) -> List[Output]:
        found = []
        for message in body.get("messages") or []:
            if message.get("role") == "tool":
                content = message.get("content")
                text = content if isinstance(content, str) else "".join(p.get("text", "") for p in content or [])
                found.append(Output(str(message.get("tool_call_id")), text, raw=message))
        return found

    def call_ids(self, body: JSON) -> List[str]:
        return [c["id"] for m in body.get("messages") or [] for c in m.get("tool_calls") or []]

    @staticmethod
    def _call(c: JSON) -> JSON:
        return {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}}

    @staticmethod
    def _why(turn: JSON) -> str:
        return "tool_calls" if turn["calls"] else "stop"

    @staticmethod
    def _head(body: JSON, number: int, kind: str) -> JSON:
        return {"id": f"chatcmpl-{number}", "object": kind, "created": 1_700_000_000, "model": body.get("model", "")}

    @staticmethod
    def _usage() -> JSON:
        return {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


class Responses(Wire):
    def whole(self, turn: JSON, body: JSON, number: int) -> JSON:
        return self._response(body, number, "completed", self._items(turn, number))

    def stream(self, turn: JSON, body: JSON, number: int) -> Events:
        count = iter(range(1 << 30))

        def event(name: str, /, **fields: Any) -> Tuple[str, JSON]:
            return name, dict(fields, type=name, sequence_number=next(count))

        items = self._items(turn, number)
        yield event("response.created", response=self._response(body, number, "in_progress", []))
        for i, item in enumerate(items):
            where = {"item_id": item["id"], "output_index": i}
            if item["type"] == "message":
                part = dict(where, content_index=0)
                [content] = item["content"]
                yield event("response.output_item.added", output_index=i, item=dict(item, content=[], status="in_progress"))
                yield event("response.content_part.added", part=dict(content, text=""), **part)
                for piece in pieces(content["text"]):
                    yield event("response.output_text.delta", delta=piece, logprobs=[], **part)
                yield event("response.output_text.done", text=content["text"], logprobs=[], **part)
                yield event("response.content_part.done", part=content, **part)
            else:
                yield event("response.output_item.added", output_index=i, item=dict(item, arguments="", status="in_progress"))
                for piece in pieces(item["arguments"]):
                    yield event("response.function_call_arguments.delta", delta=piece, **where)
                yield event("response.function_call_arguments.done", name=item["name"], arguments=item["arguments"], **where)
            yield event("response.output_item.done", output_index=i, item=item)
        yield event("response.completed", response=self._response(body, number, "completed", items))

    def outputs(self, body: JSON) -> List[Output]:
        found = []
        for item in self._input(body):
            if item.get("type") == "function_call_output":
                value = item.get("output")
                parts = [{"type": "input_text", "text": value}] if isinstance(value, str) else value or []
                text = "".join(p.get("text") or "" for p in parts)
                images = [p["image_url"] for p in parts if p.get("type") == "input_image"]
                found.append(Output(str(item.get("call_id")), text, images, raw=item))
        return found

    def call_ids(self, body: JSON) -> List[str]:
        return [i["call_id"] for i in self._input(body) if i.get("type") == "function_call"]

    def refers_to(self, body: JSON) -> Optional[str]:
        return body.get("previous_response_id")

    def continued(self, before: JSON, body: JSON) -> JSON:
        return dict(body, input=before["input"] + self._input(body))

    def with_answer(self, body: JSON, answer: JSON) -> JSON:
        return dict(body, input=self._input(body) + answer["output"])

    @staticmethod
    def _input(body: JSON) -> List[JSON]:
        value = body.get("input")
        return [i for i in value if isinstance(i, dict)] if isinstance(value, list) else []

    @staticmethod
    def _items(turn: JSON, number: int) -> List[JSON]:
        items: List[JSON] = []
        if turn.get("text"):
            content = {"type": "output_text", "text": turn["text"], "annotations": [], "logprobs": []}
            items.append({"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [content]})
        for c in turn["calls"]:
            arguments = json.dumps(c["arguments"])
            items.append({"id": f"fc_{c['id']}", "type": "function_call", "status": "completed", "call_id": c["id"], "name": c["name"], "arguments": arguments})
        return items

    @staticmethod
    def _response(body: JSON, number: int, status: str, items: List[JSON]) -> JSON:
        usage = {
            "input_tokens": 1, "output_tokens": 1, "total_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        return {
            "id": f"resp_{number}", "object": "response", "created_at": 1_700_000_000, "status": status, "model": body.get("model", ""),
            "output": items, "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
            "parallel_tool_calls": True, "tool_choice": body.get("tool_choice") or "auto", "tools": body.get("tools") or [],
            "previous_response_id": body.get("previous_response_id"), "usage": usage if status == "completed" else None,
        }  # fmt: skip


class Messages(Wire):
    def whole(self, turn: JSON, body: JSON, number: int) -> JSON:
        return dict(self._head(body, number), content=self._blocks(turn), stop_reason=self._why(turn))

    def stream(self, turn: JSON, body: JSON, number: int) -> Events:
        yield "message_start", {"type": "message_start", "message": self._head(body, number)}
        for i, block in enumerate(self._blocks(turn)):
            text = block["type"] == "text"
            empty = dict(block, text="") if text else dict(block, input={})
            yield "content_block_start", {"type": "content_block_start", "index": i, "content_block": empty}
            for piece in pieces(block["text"] if text else json.dumps(block["input"])):
                delta = {"type": "text_delta", "text": piece} if text else {"type": "input_json_delta", "partial_json": piece}
                yield "content_block_delta", {"type": "content_block_delta", "index": i, "delta": delta}
            yield "content_block_stop", {"type": "content_block_stop", "index": i}
        end = {"stop_reason": self._why(turn), "stop_sequence": None}
        yield "message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}}
        yield "message_stop", {"type": "message_stop"}

    def outputs(self, body: JSON) -> List[Output]:
        found = []
        for block in self._content(body):
            kind = str(block.get("type"))
            if kind == "tool_result":
                parts = block.get("content")
                parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts or []
                text = "".join(p.get("text", "") for p in parts if p["type"] == "text")
                images = [f"data:{p['source']['media_type']};base64,{p['source']['data']}" for p in parts if p["type"] == "image"]
                found.append(Output(str(block.get("tool_use_id")), text, images, bool(block.get("is_error")), block))
            elif kind.endswith("_tool_result"):
                content = block.get("content") or {}
                text = content.get("stdout") or content.get("content") or ""
                found.append(Output(str(block.get("tool_use_id")), str(text), is_error=str(content.get("type")).endswith("_error"), raw=block))
        return found

    def call_ids(self, body: JSON) -> List[str]:
        return [b["id"] for b in self._content(body) if b.get("type") in ("tool_use", "server_tool_use")]

    def error(self, message: str) -> JSON:
        return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}

    def refers_to(self, body: JSON) -> Optional[str]:
        thread = body.get("thread") or {}
        return thread.get("previous_message_id") if thread.get("type") == "continue" else None

    def continued(self, before: JSON, body: JSON) -> JSON:
        return dict({**before, **body}, messages=before["messages"] + body["messages"])

    def with_answer(self, body: JSON, answer: JSON) -> JSON:
        return dict(body, messages=[*body["messages"], {"role": "assistant", "content": answer["content"]}])

    @staticmethod
    def _content(body: JSON) -> List[JSON]:
        return [b for m in body.get("messages") or [] if isinstance(m.get("content"), list) for b in m["content"]]

    @staticmethod
    def _blocks(turn: JSON) -> List[JSON]:
        blocks: List[JSON] = [{"type": "text", "text": turn["text"], "citations": None}] if turn.get("text") else []
        for c in turn["calls"]:
            kind = "server_tool_use" if c.get("server") else "tool_use"
            blocks.append({"type": kind, "id": c["id"], "name": c["name"], "input": c["arguments"]})
        return blocks

    @staticmethod
    def _why(turn: JSON) -> str:
        if any(c.get("server") for c in turn["calls"]):
            return "pause_turn"
        return "tool_use" if turn["calls"] else "end_turn"

    @staticmethod
    def _head(body: JSON, number: int) -> JSON:
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": body.get("model", ""), "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
        }  # fmt: skip


WIRES: Dict[str, Wire] = {"/v1/chat/completions": Chat(), "/v1/responses": Responses(), "/v1/messages": Messages()}
