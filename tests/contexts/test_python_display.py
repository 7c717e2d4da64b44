"""Rich results: MIME bundles, display(), figures."""
import base64
import re
import time

import harness


def png(data):
    raw = base64.b64decode(data["image/png"])
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    return raw


def test_dataframe_text_and_html(py):
    e = py.run("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\ndf")
    assert "<table" in e.result["text/html"] and "a" in e.text and "x" in e.text


def test_representations(py):
    e = py.run(
        "class Rich:\n"
        "    def _repr_html_(self): return '<b>h</b>'\n"
        "    def _repr_markdown_(self): return '*m*'\n"
        "    def _repr_latex_(self): return '$l$'\n"
        "    def _repr_svg_(self): return '<svg/>'\n"
        "    def _repr_json_(self): return {'j': [1, None]}\n"
        "    def _repr_jpeg_(self): return b'jpeg'\n"
        "    def _repr_pdf_(self): return b'%PDF'\n"
        "    def __repr__(self): return 'plain'\n"
        "Rich()"
    )
    d = e.result
    assert d["text/plain"] == "plain" and d["text/html"] == "<b>h</b>" and d["text/markdown"] == "*m*"
    assert d["text/latex"] == "$l$" and d["image/svg+xml"] == "<svg/>" and d["application/json"] == {"j": [1, None]}
    assert base64.b64decode(d["image/jpeg"]) == b"jpeg" and base64.b64decode(d["application/pdf"]) == b"%PDF"


def test_mimebundle_with_metadata(py):
    e = py.run(
        "class M:\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'application/vnd.x+json': {'k': 1}, 'text/plain': 'm'}, {'text/plain': {'isolated': True}}\n"
        "M()"
    )
    r = e.of(harness.RESULT)[0]
    assert r["data"]["application/vnd.x+json"] == {"k": 1} and r["metadata"]["text/plain"] == {"isolated": True}


def test_json_is_strict(py):
    e = py.run(
        "from IPython.display import JSON, display\nimport numpy as np\n"
        "display({'application/json': {'nan': float('nan'), 'inf': [float('inf')], 3: 'key', 'np': np.float64(2.5),\n"
        "  'arr': np.arange(3), 'b': b'x', 'set': {1}, 'obj': object}}, raw=True)"
    )
    got = e.displays[0]["application/json"]
    assert got["nan"] is None and got["inf"] == [None] and got["3"] == "key" and got["np"] == 2.5
    assert got["arr"] == [0, 1, 2] and got["b"] == "eA==" and got["set"] == [1] and "object" in got["obj"]
    e = py.run("a = {}\na['self'] = a\ndisplay({'application/json': a}, raw=True)")
    assert e.status == "ok"


def test_display_comes_while_it_runs(py):
    py.start("import time\ndisplay('first')\ntime.sleep(5)")
    start = time.monotonic()
    f = py.next(4)
    assert f.kind == harness.DISPLAY and time.monotonic() - start < 4
    py.interrupt()
    py.finish()


def test_display_variants(py):
    e = py.run(
        "from IPython.display import HTML, Markdown, Image, clear_output, update_display\n"
        "display(HTML('<i>x</i>'), Markdown('**m**'))\n"
        "h = display('one', display_id='me')\n"
        "h.update('two')\n"
        "clear_output(wait=True)\n"
        "HTML('<u>r</u>')"
    )
    assert [d.get("text/html") for d in e.displays[:1]] == ["<i>x</i>"]
    assert e.displays[1]["text/markdown"] == "**m**"
    first, second = e.of(harness.DISPLAY)[2:]
    assert first["display_id"] == second["display_id"] == "me" and second["update"] is True
    assert e.result["text/html"] == "<u>r</u>"
    e = py.run("import base64\nImage(data=base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='))")
    png(e.result)


def test_ipython_display_method(py):
    e = py.run("class D:\n    def _ipython_display_(self): display('by itself')\nD()")
    assert e.result is None and e.displays[0]["text/plain"] == "'by itself'"


def test_registered_formatter_for_a_basic_type(py):
    py.run("f = get_ipython().display_formatter.formatters['text/plain']\nold = f.for_type(int, lambda n, p, c: p.text('int %d' % n))")
    e = py.run("5")
    py.run("f.for_type(int, old)")
    assert e.text == "int 5"
    py.run("h = get_ipython().display_formatter.formatters['text/html']\nh.for_type(int, lambda n: '<b>%d</b>' % n)")
    e = py.run("6")
    py.run("h.pop(int)")
    assert e.result == {"text/plain": "6", "text/html": "<b>6</b>"}
    assert py.run("7").result == {"text/plain": "7"}


def test_subclass_of_a_basic_type_shows_itself(py):
    assert py.run("class I(int):\n    def __repr__(self): return 'mine'\nI(3)").text == "mine"
    assert py.run("class L(list):\n    def _repr_html_(self): return '<ul/>'\nL([1])").result["text/html"] == "<ul/>"


def test_basic_values_look_as_in_ipython(py):
    for value in ("1.5", "[1, 'a', None]", "{'k': (1,)}", "(1,)", "{1}", "b'x'", "1j", "-7", "True", "'q\\n'", "[]",
                  "float('nan')", "...", "range(3)", "[[1], [2]]"):  # fmt: skip
        assert py.run(value).text == repr(eval(value)), value
    assert py.run("list(range(2000))").text.rstrip().endswith("...]")
    assert "\n" in py.run("['a' * 60, 'b' * 60]").text
    assert py.run("a = [1]\na.append(a)\na").text == "[1, [...]]" or "<Recursion" in py.run("a").text
    py.run("%precision 2")
    e = py.run("3.14159")
    py.run("%precision")
    assert e.text == "3.14"


def test_huge_text_is_cut_and_says_so(py):
    e = py.run("'x' * 3_000_000")
    assert "cut here: the first 1048576 of 3000002 characters" in e.text
    assert len(e.text) < 1_100_000


def test_huge_bundle_is_replaced_by_a_sentence(py):
    e = py.run("display({'text/html': 'h' * 40_000_000, 'text/plain': 'small'}, raw=True)")
    d = e.displays[0]
    assert "text/html" not in d and d["text/plain"].startswith("small\n[text/html of 4000000")


def test_large_display_travels_in_parts(py):
    e = py.run("display({'text/html': 'h' * 5_000_000}, raw=True)")
    assert len(e.displays[0]["text/html"]) == 5_000_000


def test_open_figures_are_shown_once(py):
    e = py.run("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.figure()\nplt.plot([3, 2])\nNone")
    assert len(e.displays) == 2
    for d in e.displays:
        png(d)
        assert "image/svg+xml" not in d and d["text/plain"].startswith("<Figure size")
    assert not py.run("1").displays


def test_show_shows_right_then(py):
    e = py.run("plt.plot([1])\nplt.show()\nprint('after')\ndisplay('marker')")
    assert len(e.displays) == 2
    png(e.displays[0])
    assert e.displays[1]["text/plain"] == "'marker'" and e.err == ""


def test_figure_as_result_is_shown_once(py):
    e = py.run("fig, ax = plt.subplots()\nax.plot([1, 2])\nfig")
    png(e.result)
    assert not e.displays
    e = py.run("fig, ax = plt.subplots()\ndisplay(fig)\nNone")
    assert len(e.displays) == 1
    e = py.run("fig, ax = plt.subplots()\nfig.show()")
    assert len(e.displays) == 1


def test_svg_on_request(py):
    e = py.run("plt.plot([1, 2])\nNone", flags=harness.SVG)
    png(e.displays[0])
    assert re.search(r"<svg", e.displays[0]["image/svg+xml"])
    e = py.run("plt.plot([1, 2])\nNone")
    assert "image/svg+xml" not in e.displays[0]


def test_figures_of_a_failed_cell_are_shown(py):
    e = py.run("plt.plot([1])\n1/0")
    assert e.status == "error" and len(e.displays) == 1


def test_saved_and_closed_figures_are_not_shown(py, tmp_path):
    e = py.run("plt.plot([1])\nplt.savefig(%r)\nplt.close()" % str(tmp_path / "a.png"))
    assert not e.displays and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_matplotlib_magic_and_backends(py):
    assert py.run("%matplotlib inline").status == "ok"
    assert len(py.run("plt.plot([1])\nNone").displays) == 1
    e = py.run("import matplotlib; matplotlib.use('Agg')\nplt.plot([1]); plt.show()")
    assert len(e.displays) == 1 and e.err == ""


def test_a_figure_that_cannot_be_drawn(py):
    e = py.run("plt.plot([1])\nplt.gca().xaxis.set_major_formatter(lambda x, p: 1 / 0)\nplt.figure()\nplt.plot([2])\nNone")
    assert e.status == "error" and len(e.displays) == 1
    assert not py.run("1").displays


def test_plots_of_pandas(py):
    e = py.run("import pandas as pd\npd.Series([1, 2, 3]).plot()")
    assert e.text.startswith("<Axes") and len(e.displays) == 1
