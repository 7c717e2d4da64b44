"""What a model gets to read of an Execution. Every integration words it the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping

from ..models import Execution, Result

NAME = "run_python"
DESCRIPTION = (
    "Run Python code in an isolated sandbox. Variables, imports and files stay from call to call; the working directory is "
    "/workspace. Returns what the code prints, the value of its last expression, and its figures. "
    "numpy, pandas and matplotlib are installed."
)
PARAMETERS: Dict[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "Python code; several lines are fine."}},
    "required": ["code"],
    "additionalProperties": False,
}
TIMEOUT_SECONDS = 120.0  #: of one call; the code is interrupted then, its variables stay
MAX_CHARACTERS = 20_000  #: of one answer: some 5,000 tokens

#: Formats every provider takes, best first.
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_ENDS = {
    "timeout": "the time was over: the code was interrupted",
    "interrupted": "the code was interrupted",
    "oom": "the memory was full: the code was killed",
    "killed": "the code was killed",
    "lost": "what became of the code is not known",
}


@dataclass(frozen=True)
class Image:
    mime: str
    base64: str

    @property
    def data_url(self) -> str:
        return f"data:{self.mime};base64,{self.base64}"


@dataclass(frozen=True)
class Answer:
    """``text`` says everything but the images; what is in [square brackets] was not printed by the code."""

    text: str
    images: List[Image]
    is_error: bool

    @property
    def text_only(self) -> str:
        """For an API whose tool answers have no images: says that there were some."""
        notes = [f"[{image.mime} of {len(image.base64) * 3 // 4} bytes: cannot be shown here]" for image in self.images]
        return "\n".join(([] if self.images and self.text == EMPTY else [self.text]) + notes)


EMPTY = "[no output]"


def answer(execution: Execution, max_characters: int = MAX_CHARACTERS) -> Answer:
    images = [image for image in map(_image, execution.results) if image]
    parts = [execution.stdout, execution.stderr and f"stderr:\n{execution.stderr}"]
    parts += texts(execution)
    if execution.error:
        parts.append(execution.error.traceback or f"{execution.error.name}: {execution.error.value}")
    text = clip("\n".join(part.rstrip("\n") for part in parts if part.strip()), max_characters)
    lines = [text] * bool(text) + [f"[{note}]" for note in notes(execution)]
    return Answer("\n".join(lines) or EMPTY, images, not execution.ok)


def texts(execution: Execution) -> List[str]:
    """Of the results that are no images."""
    return [_text(result) for result in execution.results if not _image(result)]


def notes(execution: Execution) -> List[str]:
    """What the output itself does not say."""
    found = [f"{dropped.get('dropped_bytes')} bytes of {name} were dropped" for name, dropped in (execution.truncated or {}).items()]
    if execution.exit in _ENDS:
        found.append(_ENDS[execution.exit])
    elif execution.exit_code:
        found.append(f"exit code {execution.exit_code}")
    if execution.context_restarted:
        found.append("the interpreter was started anew: its variables are gone")
    return found


def clip(text: str, max_characters: int) -> str:
    """The beginning and the end of a long text, and how much is left out."""
    if len(text) <= max_characters:
        return text
    head, tail = max_characters * 2 // 3, max_characters // 3
    return f"{text[:head]}\n[{len(text) - head - tail} characters left out]\n{text[len(text) - tail :]}"


def code_of(arguments: Any) -> str:
    """The code a model sent, as a mapping or as JSON. ValueError with a sentence for the model when there is none."""
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as e:
        raise ValueError(f"the arguments are not JSON: {e}") from None
    code = given.get("code") if isinstance(given, Mapping) else None
    if not isinstance(code, str):
        raise ValueError('the arguments need "code", a string')
    return code


def _image(result: Result) -> "Image | None":
    return next((Image(mime, str(result.data[mime])) for mime in _IMAGES if result.data.get(mime)), None)


def _text(result: Result) -> str:
    if result.text is not None:
        return result.text
    if result.json is not None:
        return json.dumps(result.json)
    return result.markdown or result.html or f"[{', '.join(result.formats())}]"
