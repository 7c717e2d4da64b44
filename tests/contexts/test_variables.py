"""INSPECT: names, types, short values and digests of the user's variables."""
import json
import time

import pytest

import harness


def one(kernel, expression, setup="", **asked):
    e = kernel.run("%s\nit = %s" % (setup, expression))
    assert e.status == "ok", e.error
    return kernel.look("it", **asked)["it"]


def test_only_the_users_own_names(fresh):
    fresh.run("import os, sys as system\nfrom math import pi\n'shown'\n!true")
    fresh.run("mine = 1\n_private = 2\ndef f(): pass\nclass C: pass\n3")
    assert sorted(fresh.look()) == ["C", "_private", "f", "mine", "pi"]
    fresh.run("exit = 'own now'\n_ = 3")
    assert sorted(fresh.look()) == ["C", "_private", "exit", "f", "mine", "pi"]
    assert fresh.look("os", "nothing", "In", "mine").keys() == {"os", "In", "mine"}
    assert fresh.look("os")["os"]["type"] == "module"


def test_it_leaves_no_trace(fresh):
    fresh.run("x = [1]\nx")
    before = fresh.run("sorted(globals()), list(Out), len(In), get_ipython().execution_count")
    for _ in range(3):
        fresh.look()
    after = fresh.run("sorted(globals()), list(Out), len(In), get_ipython().execution_count")
    assert after.done["execution_count"] == before.done["execution_count"] + 1
    assert fresh.run("_ is Out[%d]" % after.done["execution_count"]).text == "True"
    assert fresh.run("import threading; [t.name for t in threading.enumerate()]").text == "['MainThread']"


def test_a_new_daemon_is_told_of_the_execution_before(fresh):
    fresh.run("1")
    fresh.look()
    fresh.send(harness.frame(harness.HELLO))
    frames = [fresh.next() for _ in range(3)]
    assert [f.kind for f in frames] == [harness.RESULT, harness.DONE, harness.STATUS]
    assert frames[-1].json == {"last": 1}


VALUES = [
    ("1", "int", "1"), ("10 ** 5000", "int", "<int of 16610 bits>"), ("True", "bool", "True"), ("None", "NoneType", "None"),
    ("1.5", "float", "1.5"), ("'é'", "str", "'é'"), ("b'x'", "bytes", "b'x'"), ("[]", "list", "[]"),
    ("[1, 'a']", "list", "[1, 'a']"), ("(1,)", "tuple", "(1,)"), ("set()", "set", "set()"), ("{1}", "set", "{1}"),
    ("frozenset({1})", "frozenset", "frozenset({1})"), ("{'a': [1]}", "dict", "{'a': [1]}"),
    ("list(range(10**6))", "list", "[0, 1, 2, 3, 4, 5, ... (1000000)]"),
    ("dict.fromkeys(range(9))", "dict", "{0: None, 1: None, 2: None, 3: None, 4: None, 5: None, ... (9)}"),
    ("'x' * 10**6", "str", "'" + "x" * 170 + "'... (1000000 characters)"),
    ("bytearray(10**6)", "bytearray", "bytearray(b'" + "\\x00" * 40 + "')... (1000000 bytes)"),
    ("[[[[[[[1]]]]]]]", "list", "[[[[... (1)]]]]"), ("range(10**12)", "range", "range(0, 1000000000000)"),
    ("collections.OrderedDict(a=1)", "collections.OrderedDict", "OrderedDict({'a': 1})"),
    ("collections.Counter('aab')", "collections.Counter", "Counter({'a': 2, 'b': 1})"),
    ("collections.deque([1])", "collections.deque", "deque([1])"), ("Point(1, [2])", "__main__.Point", "Point(x=1, y=[2])"),
    ("Data(1, list(range(99)))", "__main__.Data", "Data(n=1, items=[0, 1, 2, 3, 4, 5, ... (99)])"),
    ("Plain()", "__main__.Plain", "<__main__.Plain object>"), ("Own()", "__main__.Own", "two lines"),
    ("Plain", "type", "<class __main__.Plain>"), ("lambda a, *, b: 0", "function", "<function <lambda>(a, b)>"),
    ("[].append", "builtin_function_or_method", "<bound method list.append>"), ("ValueError('no')", "ValueError", "ValueError('no')"),
    ("(i for i in ())", "generator", "<generator object <genexpr>>"), ("L([1])", "__main__.L", "L([1])"),
    ("numpy.zeros((2, 3))", "numpy.ndarray", "array (2, 3) float64: 0.0, 0.0, 0.0, 0.0, 0.0, 0.0"),
    ("numpy.arange(10**7, dtype='u1')", "numpy.ndarray", "array (10000000,) uint8: 0, 1, 2, 3, 4, 5, ... (10000000)"),
    ("numpy.float64(2)", "numpy.float64", "2.0"),
    ("pandas.DataFrame({'a': [1], 'b': ['x']})", "pandas.core.frame.DataFrame", "DataFrame (1, 2): a int64, b object"),
    ("pandas.Series([1.5] * 9, name='s')", "pandas.core.series.Series", "Series (9,) float64: 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, ... (9)"),
]  # fmt: skip
CLASSES = """
import collections, dataclasses, numpy, pandas
Point = collections.namedtuple("Point", "x y")
@dataclasses.dataclass
class Data:
    n: int
    items: list
class Plain: pass
class L(list): pass
class Own:
    def __repr__(self): return "two\\n   lines"
"""


def test_values(py):
    py.run(CLASSES)
    py.run("\n".join("v%d = %s" % (i, expression) for i, (expression, _, _) in enumerate(VALUES)))
    found = py.look(names=["v%d" % i for i in range(len(VALUES))])
    got = [(e, found["v%d" % i]["type"], found["v%d" % i]["value"]) for i, (e, _, _) in enumerate(VALUES)]
    assert got == VALUES


def test_bytes(py):
    assert one(py, "numpy.zeros(1000)", "import numpy")["bytes"] == 8000
    assert one(py, "pandas.DataFrame({'a': range(1000)})", "import pandas")["bytes"] in range(8000, 9000)
    assert one(py, "'x' * 1000")["bytes"] in range(1000, 1100)


def test_length_of_values(py):
    for size in (4, 10, 50, 1000, 10**9):
        value = one(py, "'é' * 5000 + 'x' * 100000", value_bytes=size)["value"]
        assert len(value.encode()) <= min(size, 64 << 10)
    assert one(py, "Long()", "class Long:\n    def __repr__(self): return 'y' * 10**6", value_bytes=20)["value"] == "y" * 17 + "..."
    assert one(py, "'\\ud800'")["value"] == "'\\ud800'"


def test_reprs_that_misbehave(py):
    py.run(
        "import os, sys\n"
        "class Raises:\n    def __repr__(self): raise ValueError('secret')\n"
        "class Prints:\n    def __repr__(self):\n        print('LEAK'); print('LEAK', file=sys.stderr); kept.write('LEAK'); display('LEAK')\n        return 'printed'\n"
        "class Exits:\n    def __repr__(self): raise SystemExit(3)\n"
        "class Asks:\n    def __repr__(self): return input('?')\n"
        "class Not:\n    def __repr__(self): return 3\n"
        "class Forks:\n    def __repr__(self):\n        child = os.fork()\n        if child: os.waitpid(child, 0)\n        return 'forked'\n"
        "class Deep:\n    def __repr__(self): return repr(self)\n"
        "kept = sys.stdout\n"
        "raises, prints, exits, asks, wrong, forks, deep = Raises(), Prints(), Exits(), Asks(), Not(), Forks(), Deep()"
    )
    v = py.look("raises", "prints", "exits", "asks", "wrong", "forks", "deep")
    assert {name: x["value"] for name, x in v.items()} == {
        "raises": "<no text: ValueError>", "prints": "printed", "exits": "<no text: SystemExit>", "asks": "<no text: EOFError>",
        "wrong": "<no text: TypeError>", "forks": "forked", "deep": "<no text: RecursionError>",
    }  # fmt: skip
    e = py.run("print('after')")
    assert (e.out, e.err) == ("after\n", "")


def test_streams_of_the_user_get_nothing_either(py):
    py.run("import io, sys\nreal, mine = sys.stdout, io.StringIO()\nsys.stdout = mine")
    py.run("class Prints:\n    def __repr__(self):\n        print('LEAK')\n        return 'printed'\nit = Prints()")
    assert py.look("it")["it"]["value"] == "printed"
    assert py.run("(sys.stdout is mine, mine.getvalue(), setattr(sys, 'stdout', real))[:2]").text == "(True, '')"


def test_other_threads_go_on_printing(fresh):
    fresh.run(
        "import threading, time\n"
        "def work():\n    while not stop.is_set():\n        print('from the thread', flush=True); time.sleep(0.02)\n"
        "stop = threading.Event()\nthreading.Thread(target=work).start()\n"
        "class Slow:\n    def __repr__(self): time.sleep(0.3); return 'slow'\nit = Slow()"
    )
    fresh.drain()
    fresh.stdout = b""
    fresh.start_look(names=["it"])
    e = fresh.finish()
    assert e.out.count("from the thread") >= 5
    fresh.run("stop.set()")


def test_slow_ones_are_given_up(py):
    py.run(
        "import time\n"
        "class Sleeps:\n    def __repr__(self): time.sleep(100)\n"
        "class Loops:\n    def __repr__(self):\n        while True: pass\n"
        "a, b, c = Sleeps(), Loops(), 1"
    )
    v = py.look("a", "b", "c", timeout=30)
    assert [v[n]["value"] for n in "abc"] == ["<takes longer than 0.5 s>"] * 2 + ["1"]
    e = py.run("sum(range(1000000))")
    assert e.status == "ok"


def test_interrupt(py):
    py.run("class Loops:\n    def __reduce__(self):\n        while True: pass\nit = Loops()")
    py.start_look(names=["it"])
    time.sleep(0.3)
    py.interrupt()
    e = py.finish(timeout=4)  # its own limit is five seconds
    assert e.status == "interrupted" and e.error["name"] == "KeyboardInterrupt" and not e.of(harness.VARIABLES)
    assert py.run("1").text == "1"


def test_malformed_questions(fresh):
    fresh.send(harness.frame(harness.INSPECT, '{"names": 3}', 1))
    assert harness.wait_exit(fresh) == 3


def test_many_and_large_ones(fresh):
    fresh.run("for i in range(20000): globals()['name%d' % i] = i")
    v = fresh.look()
    assert len(v) == 20001 and fresh.skipped == 0
    fresh.run("for i in range(200): globals()['name%d' % i] = 'x' * 60000")
    v = fresh.look(value_bytes=65536)
    assert 0 < fresh.skipped and len(v) + fresh.skipped == 20001


# ---- digests ------------------------------------------------------------------------------------------------------

# Pairs that are equal although made in different ways; each of them differs from every other line.
EQUAL = [
    ("1", "int('1')"), ("1.0", "float('1')"), ("True", "bool(7)"), ("'ab' * 50", "''.join(['ab'] * 50)"), ("b'x'", "bytes([120])"),
    ("[[1, 2], [1, 2]]", "[shared, shared]"), ("(1, 2)", "tuple([1, 2])"), ("{'a': 1, 'b': 2}", "dict([('b', 2), ('a', 1)])"),
    ("{'x', 'y', 'z', 1, 17, 33, 65}", "set([65, 33, 17, 1, 'z', 'y', 'x'])"), ("frozenset([1])", "frozenset([1, 1])"),
    ("collections.OrderedDict(a=1, b=2)", "collections.OrderedDict([('a', 1), ('b', 2)])"),
    ("collections.OrderedDict(b=2, a=1)", "collections.OrderedDict([('b', 2), ('a', 1)])"),
    ("list(range(100000))", "[int(str(i)) for i in range(100000)]"), ("list(range(100001))", "[*range(100001)]"),
    ("[*range(4096), [1]]", "[*range(4096)] + [[1]]"), ("ring()", "ring()"), ("float('nan')", "float('nan')"), ("0.0", "-(-0.0)"),
    ("Thing(1)", "Thing(int('1'))"), ("Thing(2)", "Thing(2)"), ("Slots(1)", "Slots(1)"), ("L([1])", "L((1,))"),
    ("Data(1, [2])", "Data(int('1'), list((2,)))"), ("datetime.date(2020, 1, 1)", "datetime.date.fromisoformat('2020-01-01')"),
    ("decimal.Decimal('1.50')", "decimal.Decimal('1.5') * decimal.Decimal('1.0')"), ("collections.deque([1, 2])", "collections.deque((1, 2))"),
    ("collections.defaultdict(list, a=[1])", "collections.defaultdict(list, {'a': [1]})"), ("re.compile('a')", "re.compile(str(b'a', 'ascii'))"),
    ("functools.partial(int, base=2)", "functools.partial(int, **{'base': 2})"), ("Colour.RED", "Colour['RED']"),
    ("lambda x: x + 1", "make(1)"), ("lambda x: x + 2", "make(2)"), ("array.array('i', [1])", "array.array('i', (1,))"),
    ("len", "__builtins__.len"), ("numpy.mean", "numpy.mean"), ("slice(1, None)", "slice(1, None, None)"), ("range(3)", "range(0, 3)"),
    ("numpy.arange(6).reshape(2, 3)", "numpy.arange(6).reshape(3, 2).reshape(2, 3)"), ("numpy.arange(6)", "numpy.arange(12)[::2] // 2"),
    ("numpy.arange(6.).reshape(2, 3)", "numpy.asfortranarray(numpy.arange(6.).reshape(2, 3))"), ("numpy.int64(3)", "numpy.int64('3')"),
    ("numpy.array([1, 'a', None], object)", "numpy.array([int('1'), 'a', None], object)"),
    ("numpy.ones(2000000)[::2]", "numpy.zeros(1000000) + 1"), ("padded(0)", "padded(255)"),
    ("numpy.ma.masked_array([1, 2], [0, 1])", "numpy.ma.masked_array([1, 9], [0, 1])"),
    ("numpy.ma.masked_array([1, 2], [1, 0])", "numpy.ma.masked_array([7, 2], [1, 0])"),
    ("pandas.DataFrame({'a': [1, 2], 'b': ['x', None]})", "split({'a': [1, 2], 'b': ['x', None]})"),
    ("pandas.DataFrame({'a': [1, 2], 'b': ['x', 'y']})", "pandas.DataFrame({'a': [1, 2], 'b': ['x', 'y']}).copy()"),
    ("pandas.DataFrame({'a': [1, 2]}, index=[5, 6])", "pandas.DataFrame({'a': [0, 1, 2]}, index=[0, 5, 6]).loc[[5, 6]]"),
    ("pandas.Series(['a', 'b'], dtype='category')", "pandas.Series(['a', 'b']).astype('category')"),
    ("pandas.Series(['a', 'b'])", "pandas.Series(list('ab'))"), ("pandas.Series(['a', 'b'], name='n')", "pandas.Series(['a', 'b']).rename('n')"),
    ("pandas.Series([1, None], dtype='Int64')", "pandas.Series([1, 2], dtype='Int64').mask([False, True])"),
    ("pandas.to_datetime(['2020-01-01']).tz_localize('UTC')", "pandas.DatetimeIndex(['2020-01-01T00:00Z'])"),
    ("pandas.MultiIndex.from_tuples([(1, 'a'), (2, 'b')])", "pandas.MultiIndex.from_product([[1, 2, 3], list('abc')])[[0, 4]]"),
    ("numpy.random.default_rng(1)", "numpy.random.default_rng(1)"), ("scipy.sparse.eye(3, format='csr')", "scipy.sparse.csr_matrix(numpy.eye(3))"),
]  # fmt: skip
SETUP = """
import array, collections, dataclasses, datetime, decimal, enum, functools, numpy, pandas, re, scipy.sparse
shared = [1, 2]
def ring():
    r = [1, {}]
    r[1]["up"] = r
    return r
class Thing:
    def __init__(self, n): self.n, self.more = n, {"k": [n]}
class Slots:
    __slots__ = ("n",)
    def __init__(self, n): self.n = n
class L(list): pass
@dataclasses.dataclass
class Data:
    n: int
    items: list
class Colour(enum.Enum):
    RED, GREEN = 1, 2
def make(n):
    return eval("lambda x: x + %d" % n)
def padded(fill):
    kind = numpy.dtype([("a", "u1"), ("b", "u4")], align=True)
    x = numpy.full(kind.itemsize * 3, fill, "u1").view(kind)
    x["a"], x["b"] = 1, 2
    return x
def split(columns):
    df = pandas.DataFrame(index=range(2))
    for name, values in columns.items(): df[name] = values
    return df
"""


def test_digests(py):
    assert py.run(SETUP).status == "ok"
    lines = ["v%d, w%d = %s, %s" % (i, i, a, b) for i, (a, b) in enumerate(EQUAL)]
    e = py.run("\n".join(lines))
    assert e.status == "ok", e.error
    found = py.look(names=[x + str(i) for i in range(len(EQUAL)) for x in "vw"])
    first = [found["v%d" % i]["digest"] for i in range(len(EQUAL))]
    second = [found["w%d" % i]["digest"] for i in range(len(EQUAL))]
    assert [pair for pair, a, b in zip(EQUAL, first, second) if a != b or a is None] == []
    seen = {}
    for pair, d in zip(EQUAL, first):
        seen.setdefault(d, []).append(pair)
    assert [pairs for pairs in seen.values() if len(pairs) > 1] == []


def test_digests_of_what_cannot_be_told(py):
    setup = (
        "import numpy, sqlite3, threading\n"
        "class Refuses:\n    def __reduce__(self): raise TypeError\n"
        "class Huge:\n    def __init__(self): self.all = [[i] for i in range(400000)]\n"
    )
    for expression in ("(i for i in ())", "open('/dev/null')", "threading.Lock()", "sqlite3.connect(':memory:')", "[object, [open('/dev/null')]]",
                       "Refuses()", "Huge()", "numpy.empty((256 << 20) + 1, 'u1')"):  # fmt: skip
        v = one(py, expression, setup)
        assert v["digest"] is None and v["value"], expression


@pytest.mark.parametrize("change", ["d['k'].append(1)", "f.a = 1", "C.x = 2", "C.m = lambda self: 2", "arr[-1] = 9", "df.loc[0, 'b'] = 'y'", "df.attrs['q'] = 1"])
def test_changes_in_place_are_seen(py, change):
    py.run("import numpy, pandas\nd = {'k': [0]}\ndef f(): pass\nclass C:\n    x = 1\n    def m(self): return 1\n"
           "arr = numpy.zeros(10**6)\ndf = pandas.DataFrame({'a': [1], 'b': ['x']})")  # fmt: skip
    name = change.replace("[", ".").split(".")[0].split()[0]
    before = py.look("d", "f", "C", "arr", "df")
    again = py.look("d", "f", "C", "arr", "df")
    assert {n: v["digest"] for n, v in before.items()} == {n: v["digest"] for n, v in again.items()}
    assert all(v["digest"] for v in before.values())
    py.run(change)
    after = py.look("d", "f", "C", "arr", "df")
    assert [n for n in after if after[n]["digest"] != before[n]["digest"]] == [name]


def test_two_contexts_agree(fresh):
    """Nothing of a digest depends on the process: addresses, order of imports, hash secret."""
    other = harness.Kernel(env={"PYTHONHASHSEED": "77"})
    try:
        padding = "keep = [object() for _ in range(12345)]\n"
        digests = []
        for kernel, before in ((fresh, ""), (other, padding)):
            kernel.run(before + SETUP)
            kernel.run("\n".join("v%d = %s" % (i, a) for i, (a, _) in enumerate(EQUAL)))
            found = kernel.look(names=["v%d" % i for i in range(len(EQUAL))] + ["Thing", "Slots", "Data", "Colour", "make"])
            digests.append({n: v["digest"] for n, v in found.items()})
        assert [n for n in digests[0] if digests[0][n] != digests[1][n]] == []
        assert None not in digests[0].values()
    finally:
        other.close()


def test_json_is_whole(py):
    """A long answer comes in several frames of one message."""
    py.run("for i in range(300): globals()['long%d' % i] = 'z' * 1000")
    v = py.look(value_bytes=1000)
    assert len([n for n in v if n.startswith("long")]) == 300 and json.dumps(v)
