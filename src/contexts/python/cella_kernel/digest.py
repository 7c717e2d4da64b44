"""Digests of values: equal digests mean equal contents, and None that it cannot be told.

The walk does not depend on addresses, sharing, interning, hash secrets or the order of a set or dict, so that two copies of
one context, or one context today and tomorrow, agree. Types count: 1, 1.0 and True differ. What is too large, does not
say what it is made of (generators, open files, locks, connections) or holds such a thing has no digest.

Objects are taken apart as pickle and copy do it (copyreg, __reduce_ex__), which may run code of the user's.
"""
import copyreg
import marshal
import sys
import types
from collections import OrderedDict
from hashlib import blake2b
from itertools import islice

NODES = 300_000  # steps of the walk in Python: about half a second
BYTES = 256 << 20  # taken in at once: about a third of a second
CHUNK = 4096  # elements
PIECE = 8 << 20  # bytes of an array copied at once

# Their marshal form of version 2 (no references, no interning) says all about them.
SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})
_SIZED = frozenset({str, bytes})
_METHODS = (types.MethodType, types.MethodWrapperType, types.BuiltinFunctionType)
_OPAQUE = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType, types.TracebackType)


class Unknown(Exception):
    """Nobody can tell."""


class Budget:
    """What one question may cost. All of it counts for contents, not time: two copies give up at the same value."""

    def __init__(self, nodes=NODES, size=BYTES):
        self.nodes, self.bytes = nodes, size

    def spend(self, nodes, size=0):
        self.nodes -= nodes
        self.bytes -= size
        if self.nodes < 0 or self.bytes < 0:
            raise Unknown


def digest(value, budget=None):
    """The digest in hexadecimal, or None. Raises only what interrupts it."""
    try:
        return _Walk(budget or Budget()).of(value).hex()
    except Exception:
        return None


def _name(thing):
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if type(name) is not str:
        raise Unknown
    return ("%s.%s" % (module, name)).encode("utf-8", "surrogatepass")


class _Walk:
    def __init__(self, budget):
        self._budget = budget
        self._path = {}  # id -> depth of what is being walked: the ways up of a cycle
        self._known = {}  # id -> digest of what was walked
        self._alive = []  # no id may be given to another object meanwhile
        self._highest = sys.maxsize  # the smallest depth that a cycle led back to

    def of(self, value):
        kind = type(value)
        if kind in SCALARS:
            size = len(value) if kind in _SIZED else 8
            self._budget.spend(1, size)
            return self._hash(b"scalar", marshal.dumps(value, 2))
        key = id(value)
        found = self._known.get(key)
        if found is not None:
            return found
        depth = self._path.get(key)
        if depth is not None:
            self._highest = min(self._highest, depth)
            return self._hash(b"cycle", b"%d" % (len(self._path) - depth))
        self._budget.spend(1)
        self._alive.append(value)
        depth = self._path[key] = len(self._path)
        outer, self._highest = self._highest, sys.maxsize
        try:
            done = self._contents(value, kind)
        finally:
            del self._path[key]
        if self._highest >= depth:  # else it looks different from another place of the cycle
            self._known[key] = done
        self._highest = min(outer, self._highest)
        return done

    def _hash(self, tag, *parts):
        h = blake2b(tag, digest_size=16)
        for part in parts:
            h.update(b"%d:" % len(part))
            h.update(part)
        return h.digest()

    def _contents(self, value, kind):
        if kind is list or kind is tuple:
            return self._sequence(kind.__name__.encode(), value)
        if kind is dict:
            return self._mapping(b"dict", value.items())
        if kind is set or kind is frozenset:
            return self._unordered(kind.__name__.encode(), value)
        if kind is OrderedDict:
            return self._sequence(b"OrderedDict", list(value.items()))
        if kind is bytearray or kind is memoryview:
            return self._buffer(kind.__name__.encode(), memoryview(value))
        if kind is types.MappingProxyType:
            return self._mapping(b"mapping proxy", dict(value).items())
        if kind is range or kind is slice:
            return self._hash(kind.__name__.encode(), *map(self.of, (value.start, value.stop, value.step)))
        if isinstance(value, _OPAQUE):
            raise Unknown
        if isinstance(value, type):
            return self._type(value)
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.CodeType:
            return self._code(value)
        if kind is types.ModuleType:
            return self._hash(b"module", value.__name__.encode("utf-8", "surrogatepass"))
        if isinstance(value, _METHODS):
            return self._method(value)
        if isinstance(value, (staticmethod, classmethod)):
            return self._hash(_name(kind), self.of(value.__func__))
        if isinstance(value, property):
            return self._hash(b"property", *map(self.of, (value.fget, value.fset, value.fdel, value.__doc__)))
        if isinstance(value, types.CellType):
            return self._hash(b"cell", self._cell(value))
        known = self._library(value, kind)
        return self._reduced(value, kind) if known is None else known

    # ---- containers -----------------------------------------------------------------------------------------

    def _sequence(self, tag, items):
        """In order. A piece of scalars is taken at once: 20 times faster."""
        h = blake2b(tag, digest_size=16)
        items, count = iter(items), 0
        while piece := tuple(islice(items, CHUNK)):
            count += len(piece)
            kinds = set(map(type, piece))
            if kinds <= SCALARS and self._modest(piece, kinds):
                packed = marshal.dumps(piece, 2)
                self._budget.spend(len(piece) >> 5, len(packed))
                h.update(b"scalars")
                h.update(packed)
            else:
                for item in piece:
                    h.update(self.of(item))
        h.update(b"%d" % count)
        return h.digest()

    def _modest(self, piece, kinds):
        return not kinds & _SIZED or sum(len(x) for x in piece if type(x) in _SIZED) < PIECE

    def _unordered(self, tag, items):
        self._budget.spend(len(items) >> 2)
        return self._hash(tag, *sorted(map(self._short, items)))

    def _mapping(self, tag, pairs):
        self._budget.spend(len(pairs) >> 2)
        return self._hash(tag, *sorted([self._short(k) + self._short(v) for k, v in pairs]))

    def _short(self, value):
        """The same for an element of many: small scalars are their own digest, said by a length in front."""
        if type(value) in SCALARS and (type(value) not in _SIZED or len(value) < 64):
            packed = marshal.dumps(value, 2)
            return b"%d:" % len(packed) + packed
        return b"=" + self.of(value)

    def _buffer(self, tag, view):
        self._budget.spend(1, view.nbytes)
        shape = repr((view.format, view.shape)).encode()
        return self._hash(tag, shape, view if view.c_contiguous else view.tobytes())

    # ---- code -----------------------------------------------------------------------------------------------

    def _cell(self, cell):
        try:
            return self.of(cell.cell_contents)
        except ValueError:
            return b"empty"

    def _function(self, f):
        if f.__module__ != "__main__" and "<" not in f.__qualname__:
            return self._hash(b"library", _name(f))
        closure = [self._cell(cell) for cell in f.__closure__ or ()]
        return self._hash(
            b"function", _name(f), self._code(f.__code__), self.of(f.__defaults__), self.of(f.__kwdefaults__),
            self.of(f.__dict__), *closure,
        )  # fmt: skip

    def _code(self, code):
        """What it does, not where it was written."""
        self._budget.spend(1, len(code.co_code))
        return self._hash(
            b"code", code.co_code, code.co_exceptiontable, self.of(code.co_consts), self.of(code.co_names),
            self.of(code.co_varnames), self.of(code.co_freevars), self.of(code.co_cellvars), self.of(code.co_name),
            b"%d %d %d %d" % (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        )  # fmt: skip

    def _type(self, kind):
        """A class of the user's by what it is made of, one of a library by its name."""
        if kind.__module__ != "__main__":
            return self._hash(b"type", _name(kind))
        skip = ("__dict__", "__weakref__", "__module__", "__abstractmethods__", "_abc_impl")
        body = {name: value for name, value in vars(kind).items() if name not in skip}
        for name, value in body.items():
            if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                body[name] = "slot"
        bases = [_name(base) if base.__module__ != "__main__" else self.of(base) for base in kind.__bases__]
        return self._hash(b"class", _name(kind), _name(type(kind)), self.of(body), *bases)

    def _method(self, method):
        inner = getattr(method, "__func__", None)
        owner = getattr(method, "__self__", None)
        at = b"" if owner is None or isinstance(owner, types.ModuleType) else self.of(owner)
        return self._hash(b"method", _name(method) if inner is None else self.of(inner), at)

    # ---- objects --------------------------------------------------------------------------------------------

    def _reduced(self, value, kind):
        reducer = copyreg.dispatch_table.get(kind)
        parts = reducer(value) if reducer else value.__reduce_ex__(4)
        if type(parts) is str:
            return self._hash(b"global", _name(kind), parts.encode("utf-8", "surrogatepass"))
        maker, arguments, state, items, pairs, *_ = (*parts, None, None, None, None)
        named = isinstance(maker, (type, types.FunctionType, types.BuiltinFunctionType))
        return self._hash(
            b"object", _name(kind), _name(maker) if named else self.of(maker), self._arguments(arguments),
            self.of(state), self._sequence(b"items", items or ()), self._mapping(b"pairs", list(pairs or ())),
        )  # fmt: skip

    def _arguments(self, arguments):
        """Classes in here only say what the object is an instance of."""
        return self._hash(b"arguments", *[_name(a) if isinstance(a, type) else self.of(a) for a in arguments])

    def _library(self, value, kind):
        """Arrays and frames, whose pickles depend on their layout."""
        numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
        if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
            return self._array(value, kind, numpy)
        if pandas is None or not hasattr(pandas, "DataFrame"):
            return None
        if isinstance(value, pandas.DataFrame):
            columns = [self._column(value.iloc[:, at]._values) for at in range(value.shape[1])]
            self._budget.spend(value.shape[1] * 20)
            return self._hash(b"frame", _name(kind), self.of(value.index), self.of(value.columns), self.of(value.attrs), *columns)
        if isinstance(value, pandas.Series):
            return self._hash(b"series", _name(kind), self.of(value.index), self.of(value.name), self.of(value.attrs), self._column(value._values))
        if isinstance(value, pandas.RangeIndex):
            return self._hash(b"range index", *map(self.of, (value.start, value.stop, value.step, value.name)))
        if isinstance(value, pandas.MultiIndex):
            levels = [self._column(value.get_level_values(at)._values) for at in range(value.nlevels)]
            return self._hash(b"multi index", self.of(list(value.names)), *levels)
        if isinstance(value, pandas.Index):
            return self._hash(b"index", _name(kind), self.of(value.name), self._column(value._values))
        return self._column(value) if isinstance(value, pandas.api.extensions.ExtensionArray) else None

    def _column(self, values):
        """The values of a column: an array of numpy's or one of pandas' own."""
        numpy = sys.modules["numpy"]
        if isinstance(values, numpy.ndarray):
            return self._array(values, type(values), numpy)
        kind = str(values.dtype).encode("utf-8", "surrogatepass")
        if hasattr(values, "asi8"):  # times
            return self._hash(b"times", kind, self._array(values.asi8, numpy.ndarray, numpy))
        if hasattr(values, "codes") and hasattr(values, "categories"):
            return self._hash(b"categories", kind, self.of(values.codes), self.of(values.categories), self.of(bool(values.ordered)))
        self._budget.spend(len(values))
        return self._hash(b"column", kind, self._sequence(b"values", values.astype(object).tolist()))

    def _array(self, array, kind, numpy):
        head = repr((array.dtype.descr if array.dtype.names else array.dtype.str, array.shape)).encode()
        parts = [_name(kind), head]
        if isinstance(array, numpy.ma.MaskedArray):
            mask = numpy.ma.getmaskarray(array)
            parts.append(self.of(mask))
            array = numpy.where(mask, numpy.zeros((), array.dtype), array.data)
        elif kind is not numpy.ndarray and kind is not numpy.memmap:
            parts.append(self.of(getattr(array, "__dict__", None)))
        self._budget.spend(1, array.nbytes)
        h = blake2b(b"array", digest_size=16)
        self._bulk(h, array.view(numpy.ndarray), numpy)
        return self._hash(b"array", *parts, h.digest())

    def _bulk(self, h, array, numpy):
        if array.dtype.hasobject and not array.dtype.names:
            h.update(self._sequence(b"objects", array.flat))
        elif array.dtype.names:  # field by field: what lies between them is not contents
            for name in array.dtype.names:
                self._budget.spend(1)
                self._bulk(h, array[name], numpy)
        elif array.flags.c_contiguous:
            h.update(array.reshape(-1).view(numpy.uint8))
        elif array.nbytes <= PIECE or array.ndim == 0:
            h.update(array.tobytes())
        else:
            for part in array:
                self._budget.spend(1)
                self._bulk(h, part, numpy)
