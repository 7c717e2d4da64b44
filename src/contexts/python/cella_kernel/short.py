"""Short texts of values, for a list of variables: as repr() where that is short, but a list of a billion elements costs
nothing. Runs the __repr__ of classes that have their own."""
import array
import collections
import dataclasses
import re
import sys
import types
from itertools import islice

ITEMS = 6  # of a container that are shown
DEPTH = 3  # of containers in containers

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LINES = re.compile(r"\s*\n\s*")
_NAMEDTUPLE_FILE = collections.namedtuple.__code__.co_filename
_DATACLASS_FILE = dataclasses.dataclass.__code__.co_filename


def type_name(value):
    """The qualified name of a value's type; built-in ones go without their module."""
    return qualified(type(value))


def qualified(kind):
    module, name = kind.__module__, kind.__qualname__
    if type(module) is not str or type(name) is not str:
        return type.__repr__(kind)
    return name if module == "builtins" else module + "." + name


def cut(text, size):
    """At most `size` bytes of UTF-8; "..." at the end says that something is missing."""
    data = text.encode("utf-8", "replace")
    if len(data) <= size:
        return data.decode()
    return data[: max(size - 3, 0)].decode("utf-8", "ignore") + "..."[:size]


def text(value, size):
    """On one line."""
    return cut(_LINES.sub(" ", _ADDRESS.sub("", _Short(size).of(value, 0))), size)


class _Short:
    def __init__(self, size):
        self._size = size

    def of(self, value, depth):
        if depth > DEPTH:
            return "..."
        kind = type(value)
        if isinstance(value, type):
            return "<class %s>" % qualified(value)
        representation = kind.__repr__
        short = _SHORT.get(representation)
        if short is not None:
            return short(self, value, depth)
        for library in (self._numpy, self._pandas):
            found = library(value, representation, depth)
            if found is not None:
                return found
        written_in = getattr(getattr(representation, "__code__", None), "co_filename", None)
        if written_in == _DATACLASS_FILE and dataclasses.is_dataclass(kind):
            fields = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(kind) if f.repr]
            return self._fields(kind, fields, depth)
        if written_in == _NAMEDTUPLE_FILE and isinstance(value, tuple) and hasattr(kind, "_fields"):
            return self._fields(kind, list(zip(kind._fields, tuple.__iter__(value))), depth)
        found = repr(value)
        return found if len(found) <= self._size else found[: self._size] + "..."

    def _fields(self, kind, fields, depth):
        shown = ["%s=%s" % (name, self.of(value, depth + 1)) for name, value in fields[:ITEMS]]
        return "%s(%s)" % (kind.__qualname__, ", ".join(shown + ["..."] * (len(fields) > ITEMS)))

    def _items(self, items, count, depth):
        shown = [self.of(item, depth + 1) for item in islice(items, ITEMS)] if depth < DEPTH else []
        if count > len(shown):
            shown.append("... (%d)" % count)
        return ", ".join(shown)

    def _pairs(self, value, depth):
        pairs = islice(dict.items(value), ITEMS) if depth < DEPTH else ()
        shown = ["%s: %s" % (self.of(k, depth + 1), self.of(v, depth + 1)) for k, v in pairs]
        if dict.__len__(value) > len(shown):
            shown.append("... (%d)" % dict.__len__(value))
        return "{%s}" % ", ".join(shown)

    def integer(self, value, _depth):
        bits = int.bit_length(value)
        return "<int of %d bits>" % bits if bits > self._size * 4 else int.__repr__(value)

    def string(self, value, _depth):
        count = str.__len__(value)
        if count <= self._size:
            return str.__repr__(value)
        shown = max(self._size - 30, 3) // (1 if str.isascii(value) else 3)
        return "%s... (%d characters)" % (str.__repr__(str.__getitem__(value, slice(0, shown))), count)

    def data(self, value, _depth):
        if len(value) <= self._size // 2:
            return repr(value)
        return "%r... (%d bytes)" % (value[: max((self._size - 40) // 4, 1)], len(value))

    def sequence(self, value, depth):
        base = list if isinstance(value, list) else tuple
        opening, closing = "[]" if base is list else "()"
        comma = "," if base is tuple and len(value) == 1 else ""
        return self._titled(value, base, opening + self._items(base.__iter__(value), base.__len__(value), depth) + comma + closing)

    def unordered(self, value, depth):
        base = set if isinstance(value, set) else frozenset
        inside = self._items(base.__iter__(value), base.__len__(value), depth)
        if base is set and type(value) is set and inside:
            return "{%s}" % inside
        return "%s(%s)" % (type(value).__qualname__, "{%s}" % inside if inside else "")

    def mapping(self, value, depth):
        return self._titled(value, dict, self._pairs(value, depth))

    def _titled(self, value, base, inside):
        kind = type(value)
        return inside if kind is base else "%s(%s)" % (kind.__qualname__, inside)

    def view(self, value, depth):
        return "%s([%s])" % (type(value).__qualname__, self._items(iter(value), len(value), depth))

    def memory(self, value, _depth):
        return "<memory of %d bytes>" % value.nbytes

    def error(self, value, depth):
        return "%s(%s)" % (type(value).__qualname__, self._items(value.args, len(value.args), depth))

    def function(self, value, _depth):
        code = value.__code__
        return "<function %s(%s)>" % (value.__qualname__, ", ".join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]))

    def method(self, value, _depth):
        return "<bound method %s>" % getattr(value, "__qualname__", "?")

    def object(self, value, _depth):
        return "<%s object>" % type_name(value)

    def _numpy(self, value, representation, depth):
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, getattr(numpy, "ndarray", ())):
            return None
        if representation is not numpy.ndarray.__repr__:
            return "%s %s %s" % (type(value).__qualname__, value.shape, value.dtype)
        return "array %s %s: %s" % (value.shape, value.dtype, self._items(value.flat[:ITEMS].tolist(), value.size, depth))

    def _pandas(self, value, _representation, depth):
        pandas = sys.modules.get("pandas")
        if pandas is None or not hasattr(pandas, "DataFrame"):
            return None
        name = type(value).__qualname__
        if isinstance(value, pandas.DataFrame):
            pairs = zip(value.columns[: 2 * ITEMS], value.dtypes.iloc[: 2 * ITEMS])
            columns = ["%s %s" % (column, kind) for column, kind in pairs] + ["..."] * (value.shape[1] > 2 * ITEMS)
            return "%s %s: %s" % (name, value.shape, ", ".join(columns))
        if isinstance(value, (pandas.Series, pandas.Index)):
            head = list(value[:ITEMS]) if isinstance(value, pandas.Index) else value.iloc[:ITEMS].tolist()
            return "%s %s %s: %s" % (name, value.shape, value.dtype, self._items(head, len(value), depth))
        return None


_SHORT = {
    int.__repr__: _Short.integer, str.__repr__: _Short.string, bytes.__repr__: _Short.data, bytearray.__repr__: _Short.data,
    list.__repr__: _Short.sequence, tuple.__repr__: _Short.sequence, set.__repr__: _Short.unordered,
    frozenset.__repr__: _Short.unordered, dict.__repr__: _Short.mapping, collections.OrderedDict.__repr__: _Short.mapping,
    collections.defaultdict.__repr__: _Short.mapping, collections.Counter.__repr__: _Short.mapping,
    collections.deque.__repr__: _Short.view, array.array.__repr__: _Short.view, memoryview.__repr__: _Short.memory,
    type({}.keys()).__repr__: _Short.view, type({}.values()).__repr__: _Short.view, type({}.items()).__repr__: _Short.view,
    BaseException.__repr__: _Short.error, types.FunctionType.__repr__: _Short.function,
    types.MethodType.__repr__: _Short.method, types.BuiltinFunctionType.__repr__: _Short.method, object.__repr__: _Short.object,
}  # fmt: skip
