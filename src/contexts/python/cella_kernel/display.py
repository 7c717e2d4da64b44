"""Values to MIME bundles, MIME bundles to strict JSON, and display()."""
import base64
import binascii
import json
import math
from json.encoder import encode_basestring

from IPython.core.displaypub import DisplayPublisher

from . import wire

PLAIN_MAX = 1 << 20  # characters of one text/plain
BUNDLE_MAX = wire.JSON_MAX - (64 << 10)  # the joined payload must stay below the daemon's bound

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True).encode
# Built-in types that IPython shows as plain text only, and those of them whose text is simply repr().
_BASIC = frozenset({int, bool, str, float, complex, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice})
_TRIVIAL = frozenset({int, bool, str})


def utf8(text):
    """UTF-8 that every parser accepts: lone surrogates become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def strict(value, depth=0):
    """A copy that JSON can hold: NaN and infinities become null, keys strings, bytes base64, the rest its text."""
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or type(value) in (bool, str) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if depth > 200:
        return "[nested too deeply]"
    if isinstance(value, dict):
        return {str(k): strict(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [strict(v, depth + 1) for v in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return strict(value.tolist(), depth + 1)
    return str(value)


def to_json(value):
    """Strict JSON as bytes. Runs code of the user's only for objects that JSON does not know."""
    try:
        return utf8(_encode(value))
    except (ValueError, TypeError, RecursionError):
        return utf8(_encode(strict(value)))


def plain(text):
    """text/plain within its bound, the cut said in the text."""
    if len(text) <= PLAIN_MAX:
        return text
    return "%s\n[cut here: the first %d of %d characters]" % (text[:PLAIN_MAX], PLAIN_MAX, len(text))


def tidy(data):
    """The values of a MIME bundle as they travel: text cut, bytes as base64."""
    out = {}
    for mime, value in data.items():
        if isinstance(value, (bytes, bytearray)):
            value = binascii.b2a_base64(value, newline=False).decode("ascii")
        elif mime == "text/plain":
            value = plain(value if type(value) is str else str(value))
        out[str(mime)] = value
    return out


def payload(data, metadata, extra=None):
    """The JSON of a DISPLAY or RESULT frame; what would not fit is replaced by a sentence that says so."""
    body = {"data": tidy(data), "metadata": metadata or {}}
    if extra:
        body.update(extra)
    encoded = to_json(body)
    while len(encoded) > BUNDLE_MAX:
        sizes = {mime: len(to_json(value)) for mime, value in body["data"].items()}
        largest = max(sizes, key=sizes.get, default=None)
        if largest is None or sizes[largest] < 1024:
            body["metadata"] = {}
            return to_json(body)
        said = "[%s of %d bytes left out: over the limit of %d bytes]" % (largest, sizes[largest], BUNDLE_MAX)
        del body["data"][largest]
        before = body["data"].get("text/plain")
        body["data"]["text/plain"] = said if before is None else "%s\n%s" % (before, said)
        encoded = to_json(body)
    return encoded


def basic_payload(value, shell):
    """The RESULT payload of a value of a built-in type without the ten formatters it does not have; else None."""
    kind = type(value)
    if kind not in _BASIC or not shell.plain_text_only(kind):
        return None
    text = repr(value) if kind in _TRIVIAL and shell.repr_is_plain_text(kind) else shell.plain_text(value)
    if text is None:  # the formatter failed; the error was collected
        return None
    return b'{"data":{"text/plain":%b},"metadata":{}}' % utf8(encode_basestring(plain(text)))


class Publisher(DisplayPublisher):
    """What display() and friends end up in: a DISPLAY frame right now."""

    executor = None  # set once by the kernel

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_kwargs):
        self._validate_data(data, metadata)
        extra = {}
        display_id = (transient or {}).get("display_id")
        if display_id is not None:
            extra["display_id"] = str(display_id)
        if update:
            extra["update"] = True
        if not self.executor.publish(data, metadata, extra):
            # A child process, or a thread that outlived its execution: there is no message it could belong to.
            print(data.get("text/plain", ""))

    def clear_output(self, wait=False):
        """Nothing is taken back: the client has what it has."""
