"""Rich results: tables, figures, display()."""

from __future__ import annotations

import struct
from typing import Tuple

from cella import Sandbox

FIGURE = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2, 3], [2, 1, 3])\nax.set_title('t')\n"


def png_size(data: bytes) -> Tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_data_frame_is_text_and_html(shared: Sandbox) -> None:
    run = shared.run_code("import pandas as pd\npd.DataFrame({'region': ['north', 'south'], 'sales': [10, 20]})")
    assert run.text is not None and "region" in run.text and "south" in run.text and "20" in run.text
    assert run.html is not None and "<table" in run.html and "<td>north</td>" in run.html
    assert len(run.results) == 1 and run.results[0].is_main_result


def test_a_figure_comes_once(shared: Sandbox) -> None:
    run = shared.run_code(FIGURE + "None")
    pngs = [r for r in run.results if r.png]
    assert len(pngs) == 1
    assert min(png_size(pngs[0].png or b"")) > 100
    assert pngs[0].text and "Figure" in pngs[0].text
    assert all(r.svg is None for r in run.results)
    assert shared.run_code("1").png is None  # not shown a second time


def test_show_displays_once_and_closes(shared: Sandbox) -> None:
    run = shared.run_code(FIGURE + "plt.show()")
    assert len([r for r in run.results if r.png]) == 1
    assert shared.run_code("plt.get_fignums()").text == "[]"


def test_figure_as_last_expression_comes_once(shared: Sandbox) -> None:
    run = shared.run_code(FIGURE + "fig")
    assert len([r for r in run.results if r.png]) == 1
    run = shared.run_code(FIGURE + "plt.gcf()\nplt.show()")
    assert len([r for r in run.results if r.png]) == 1


def test_plot_of_a_data_frame(shared: Sandbox) -> None:
    run = shared.run_code("import pandas as pd\npd.DataFrame({'a': [1, 3, 2]}).plot.bar()")
    assert len([r for r in run.results if r.png]) == 1
    assert run.text is not None and "Axes" in run.text


def test_several_figures_in_order(shared: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nfor w in (2, 4, 6):\n    plt.figure(figsize=(w, 2))\n    plt.plot([1, 2])"
    run = shared.run_code(code)
    widths = [png_size(r.png)[0] for r in run.results if r.png]
    assert len(widths) == 3 and widths == sorted(widths) and len(set(widths)) == 3


def test_svg_only_on_request(shared: Sandbox) -> None:
    run = shared.run_code(FIGURE, svg=True)
    figures = [r for r in run.results if r.svg]
    assert len(figures) == 1 and "<svg" in (figures[0].svg or "") and figures[0].png
    assert shared.run_code(FIGURE).svg is None


def test_a_failed_run_still_shows_its_figure_state_cleanly(shared: Sandbox) -> None:
    run = shared.run_code(FIGURE + "raise RuntimeError('late')")
    assert run.exit == "error"
    after = shared.run_code("'clean'")
    assert [r for r in after.results if r.png] == []


def test_saving_a_figure_to_a_file(box: Sandbox) -> None:
    box.run_code(FIGURE + "fig.savefig('chart.png')", check=True)
    png_size(box.filesystem.read("chart.png", "bytes"))


def test_display_of_many_kinds_in_order(shared: Sandbox) -> None:
    code = """
from IPython.display import HTML, JSON, Latex, Markdown, SVG, Image, display
display(HTML('<b>h</b>'))
display(Markdown('**m**'))
display(JSON({'k': [1, None, 'ü']}))
display(Latex('$x$'))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"></svg>'))
display(1, 'two')
'last'
"""
    run = shared.run_code(code)
    assert run.exit == "ok", run.error
    html, markdown, json, latex, svg, one, two, last = run.results
    assert html.html == "<b>h</b>" and markdown.markdown == "**m**"
    assert json.json == {"k": [1, None, "ü"]}
    assert latex.latex == "$x$" and svg.svg and "<svg" in svg.svg
    assert one.text == "1" and two.text == "'two'"
    assert last.text == "'last'" and last.is_main_result
    assert [r.is_main_result for r in run.results[:-1]] == [False] * 7
    assert run.text == "'last'" and run.html == "<b>h</b>"


def test_repr_methods_of_ones_own(shared: Sandbox) -> None:
    code = """
class Shown:
    def __repr__(self): return 'plain'
    def _repr_html_(self): return '<i>rich</i>'
    def _repr_json_(self): return {'a': 1}
class Bundle:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {'text/plain': 'b', 'application/vnd.test+json': {'n': [1, 2]}}
from IPython.display import display
display(Bundle())
Shown()
"""
    run = shared.run_code(code)
    assert run.results[0].data["application/vnd.test+json"] == {"n": [1, 2]}
    assert run.text == "plain" and run.html == "<i>rich</i>" and run.json == {"a": 1}


def test_a_repr_that_raises_does_not_break_the_run(shared: Sandbox) -> None:
    run = shared.run_code("class Bad:\n    def __repr__(self): raise RuntimeError('in repr')\nBad()")
    assert "in repr" in run.stderr + (run.error.traceback if run.error else "")
    assert shared.run_code("3").text == "3"


def test_images_are_bytes(shared: Sandbox) -> None:
    run = shared.run_code("from PIL import Image\nImage.new('RGB', (7, 5), 'red')")
    assert run.png is not None and png_size(run.png) == (7, 5)
    code = (
        "import io\nfrom PIL import Image as I\nfrom IPython.display import Image\nb = io.BytesIO()\n"
        "I.new('RGB', (8, 8)).save(b, 'JPEG')\nImage(b.getvalue(), format='jpeg')"
    )
    jpeg = shared.run_code(code).jpeg
    assert jpeg is not None and jpeg.startswith(b"\xff\xd8\xff")


def test_a_result_of_megabytes(shared: Sandbox) -> None:
    run = shared.run_code("from IPython.display import HTML\nHTML('<p>' + 'y' * 3_000_000 + '</p>')")
    assert run.html is not None and len(run.html) == 3_000_007


def test_notebook_sees_the_bundle(shared: Sandbox) -> None:
    data, _ = shared.run_code("import pandas as pd\npd.DataFrame({'a': [1]})")._repr_mimebundle_()
    assert "text/html" in data and "text/plain" in data
    data, _ = shared.run_code("print('only printed')")._repr_mimebundle_()
    assert data == {"text/plain": "only printed\n"}
    data, _ = shared.run_code("1/0")._repr_mimebundle_()
    assert "ZeroDivisionError" in data["text/plain"]
