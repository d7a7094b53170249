"""A picture of a sweep shows every number truly, and touches nothing else of matplotlib."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mechtest.errors import MissingPackageError, ShapeError, SweepFileError
from mechtest.interventions import sweep_glyphs, sweep_plot
from mechtest.interventions.sweep_labels import token_label
from tests.interventions.sweep_example import BEFORE, example

ROOT = Path(__file__).parents[2]
UGLY = [
    "<|endoftext|>", "\n", "  ", "$x$", "_{a}^", "internationalization_of_things", "\u200b",
    "\ud83d", "\U000f0000", "&<>", "\x1b", "%", "\\alpha", "",
]  # fmt: skip


def axes_of(figure):
    """The axes with the cells; the other ones are the colour bar."""
    return figure.axes[0]


def mesh_of(figure):
    return axes_of(figure).collections[0]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def written(axes):
    """Text inside the cells by (row, column)."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}


def colour(figure, value):
    return mesh_of(figure).to_rgba(value)


def lightness(rgba):
    return float(np.dot(rgba[:3], (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"], ids=["png", "svg", "upper case"])
def test_a_picture_is_written_by_its_suffix(tmp_path, suffix):
    path = tmp_path / "deep" / f"sweep{suffix}"
    figure = example().plot(path)
    assert isinstance(figure, Figure)
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix != ".svg" else b"<svg" in path.read_bytes()
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["a.jpg", "a.pdf", "a"], ids=["jpg", "pdf", "none"])
def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path, monkeypatch, name):
    monkeypatch.setattr("mechtest.interventions.sweep_plot._matplotlib", None)
    with pytest.raises(SweepFileError, match="PNG or SVG") as caught:
        example().plot(tmp_path / name)
    assert ".png or .svg" in caught.value.expected


def test_without_matplotlib_the_command_that_installs_it_is_told(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="needs matplotlib") as caught:
        example().plot()
    assert caught.value.next_step == "pip install 'mechtest[plots]'"
    assert example()._repr_svg_() is None


def test_a_notebook_gets_the_picture():
    ET.fromstring(example()._repr_svg_())


def test_cells_have_the_numbers_and_gaps_show_the_hatched_ground():
    result = example()
    figure = result.plot()
    drawn = mesh_of(figure).get_array()
    assert drawn.mask.tolist() == np.isnan(result.mean()).tolist()
    assert np.array_equal(drawn.compressed(), result.mean()[~drawn.mask])
    assert axes_of(figure).patch.get_hatch()
    assert f"Hatched, no number: {BEFORE} (1 cell)." in figure.get_supxlabel().replace("\n", " ")


def test_without_gaps_nothing_is_said_about_them():
    assert example(missing=()).plot().get_supxlabel() == ""


def test_many_reasons_are_counted():
    reasons = {(0, 0): "x", (0, 1): "x", (0, 2): "y", (0, 3): "z", (1, 0): "w"}
    result = example(missing=tuple(reasons), reasons=reasons)
    note = result.plot().get_supxlabel().replace("\n", " ")
    assert note == "Hatched, no number: x (2 cells); y (1 cell); 2 other reasons."


def test_layers_grow_upwards_and_other_rows_are_read_from_the_top():
    layers = axes_of(example().plot())
    assert layers.get_ylim() == (0, 3)
    assert ticks(layers.yaxis) == ["0", "1", "2"]
    assert layers.get_ylabel() == "layer"
    names = ("embed", "blocks.0.hook_h", "norm")
    listed = axes_of(example(row_name="site").plot())
    assert listed.get_ylim() == (3, 0)
    other = example(row_name="site")
    object.__setattr__(other, "rows", names)
    assert ticks(axes_of(other.plot()).yaxis) == list(names)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), (-0.2, 1.0), (-1.0, 0.1), (0.0, 1.0), (-1.0, 0.0)]
)
def test_zero_is_the_lightest_colour_and_equal_distances_are_equally_strong(low, high):
    values = np.linspace(low, high, 4).reshape(1, 4, 1).repeat(4, axis=2)
    figure = example(1, 4, missing=(), values=values).plot()
    assert mesh_of(figure).get_clim() == (low, high)
    zero = lightness(colour(figure, 0.0))
    assert zero > 0.9
    far = max(-low, high)
    for side in (end for end in (low, high) if end):
        shades = [lightness(colour(figure, side * share)) for share in np.linspace(0, 1, 6)]
        assert shades == sorted(shades, reverse=True)
        red, _, blue, _ = colour(figure, side)
        assert (red > blue) == (side > 0)
    if -low == high:
        assert lightness(colour(figure, far)) < 0.2
        assert lightness(colour(figure, -far)) < 0.2


def test_asked_for_ends_are_kept_and_what_lies_beyond_has_a_tip():
    values = np.array([[[-1.0] * 4, [0.0] * 4, [3.0] * 4]])
    result = example(1, 3, missing=(), values=values)

    def tips(**ends):
        figure = result.plot(**ends)
        return mesh_of(figure).get_clim(), figure.axes[1]._colorbar.extend

    assert tips() == ((-1.0, 3.0), "neither")
    assert tips(vmax=1.0) == ((-1.0, 1.0), "max")
    assert tips(vmin=-0.5) == ((-0.5, 3.0), "min")
    assert tips(vmin=0.5, vmax=1.0) == ((0.5, 1.0), "both")


@pytest.mark.parametrize(
    ("vmin", "vmax"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (None, -9.0)]
)
def test_colours_that_end_where_they_begin_are_refused(vmin, vmax):
    with pytest.raises(ShapeError, match="end where they begin"):
        example().plot(vmin=vmin, vmax=vmax)


@pytest.mark.parametrize("value", [np.nan, 0.0], ids=["no number", "zero"])
def test_nothing_to_see_is_drawn_all_the_same(tmp_path, value):
    reasons = {(0, 0): BEFORE} if np.isnan(value) else {}
    result = example(1, 1, missing=(), values=np.full((1, 1, 4), value), reasons=reasons)
    figure = result.plot(tmp_path / "a.png")
    assert mesh_of(figure).get_clim() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.5, -0.004, 1.25, 0.0), ["0.50", "0.00", "1.25", "0.00"]),
        ((0.05, -0.004, 0.0125, 0.0), ["0.050", "-0.004", "0.013", "0.000"]),
        ((50.0, -4.04, 1.25, 0.0), ["50.0", "-4.0", "1.2", "0.0"]),
        ((5000.0, -4.04, 1.25, 0.0), ["5000", "-4", "1", "0"]),
    ],
    ids=["ones", "hundredths", "tens", "thousands"],
)
def test_cells_bear_their_numbers(values, texts):
    array = np.array(values).reshape(1, 4, 1).repeat(4, axis=2)
    axes = axes_of(example(1, 4, missing=(), values=array).plot())
    assert [written(axes)[0, column] for column in range(4)] == texts


def test_cells_without_a_number_bear_none():
    assert (0, 0) not in written(axes_of(example().plot()))
    assert len(written(axes_of(example().plot()))) == 11


def test_numbers_are_written_where_they_can_be_read_or_when_asked():
    def count(result, **options):
        return len(written(axes_of(result.plot(**options))))

    wide = example(2, 40, missing=())
    assert count(wide) == 0
    assert count(wide, annotate=True) == 80
    assert count(example(), annotate=False) == 0
    tiny = example(missing=(), values=np.full((3, 4, 4), 1e-6))
    assert count(tiny) == 0
    assert set(written(axes_of(tiny.plot(annotate=True))).values()) == {"1e-06"}


def test_numbers_stand_out_from_their_cells():
    values = np.array([0.0, 1.0, -1.0, 0.5]).reshape(1, 4, 1).repeat(4, axis=2)
    figure = example(1, 4, missing=(), values=values).plot()
    for text, value in zip(axes_of(figure).texts, (0.0, 1.0, -1.0, 0.5), strict=True):
        ink = lightness(mpl.colors.to_rgba(text.get_color()))
        assert abs(ink - lightness(colour(figure, value))) > 0.35


def test_ugly_tokens_are_drawn_as_they_are(tmp_path):
    columns = tuple(token_label(index, token) for index, token in enumerate(UGLY))
    result = example(2, len(UGLY), columns=columns)
    figure = result.plot(tmp_path / "a.svg")
    result.plot(tmp_path / "a.png")
    assert ticks(axes_of(figure).xaxis) == [
        "0 <|endoftext|>", "1 \\n", "2 ␣␣", "3 $x$", "4 _{a}^", "5 internatio…hings", "6 \\u200b",
        "7 \\ud83d", "8 \\U000f0000", "9 &<>", "10 \\x1b", "11 %", "12 \\alpha", "13 ''",
    ]  # fmt: skip
    ET.parse(tmp_path / "a.svg")


def test_characters_that_no_font_has_become_codes(tmp_path, monkeypatch):
    """Whatever is installed here."""
    monkeypatch.setattr(sweep_glyphs, "_MORE_FONTS", ())
    figure = example(1, 2, missing=(), columns=("東 a", "🙂")).plot(tmp_path / "a.png")
    assert ticks(axes_of(figure).xaxis) == ["\\u6771 a", "\\U0001f642"]


def test_a_font_that_has_a_character_is_asked(monkeypatch):
    monkeypatch.setattr(sweep_glyphs, "_MORE_FONTS", ("Another", "STIXGeneral"))
    letters = sweep_glyphs.Lettering()
    monkeypatch.setattr(letters, "_known", frozenset("ab"))
    assert letters.drawn("ab\u2a0c") == "ab\u2a0c"
    assert letters.style(8)["fontfamily"][-1] == "STIXGeneral"


def test_no_text_is_read_as_a_formula():
    result = example(columns=("$a$", "b", "c", "$\\frac$"), effect_name="$e", unit="$u$")
    figure = result.plot()
    shown = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    assert {text.get_text() for text in shown} >= {"$a$", "$\\frac$", "$e\n($u$)"}
    assert not any(text.get_parse_math() for text in shown if "mathdefault" not in text.get_text())
    figure.savefig("/dev/null", format="png")


def test_labels_thin_out_and_the_axis_says_so():
    figure = example(3, 500, 2, missing=()).plot()
    axes = axes_of(figure)
    (every,) = re.findall(r"^token \(one of (\d+) is labelled\)$", axes.get_xlabel())
    assert ticks(axes.xaxis)[1] == f"{every} ␣word{every}"
    assert len(ticks(axes.xaxis)) < 150
    assert axes.get_ylabel() == "layer"
    assert max(figure.get_size_inches()) < 25


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (24, 17), (4, 60), (64, 200)],
    ids=["one cell", "square", "long", "large"],
)
def test_labels_do_not_overlap_and_everything_lies_inside_the_picture(shape):
    columns = tuple(f"{column} a-rather-long-token" for column in range(shape[1]))
    figure = example(*shape, 1, templates=("a",), columns=columns).plot(annotate=False)
    figure.canvas.draw()
    axes = axes_of(figure)
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert not any(one.overlaps(two) for one, two in pairwise(boxes))
    box = figure.get_tightbbox()
    wide, high = figure.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= wide
    assert 0 <= box.y0 < box.y1 <= high


def test_the_title_says_model_intervention_and_prompts():
    title = example().plot().get_suptitle().replace("\n", " ")
    assert title == (
        "resample of blocks.*.hook_h in the clean run prose/seed0/step-02500: mean of 4 prompts of "
        "2 templates, each template weighted equally"
    )
    one = example().plot(prompt="prompt-2")
    assert one.get_suptitle().endswith("prose/seed0/step-02500: prompt prompt-2")


def test_one_prompt_is_drawn_with_its_own_tokens():
    words = tuple(tuple(f"{c} p{p}" for c in range(4)) for p in range(4))
    result = example(prompt_columns=words)
    figure = result.plot(prompt=2)
    assert ticks(axes_of(figure).xaxis) == list(words[2])
    assert np.array_equal(mesh_of(figure).get_array().compressed(), result.of_prompt(2).ravel()[1:])
    assert ticks(axes_of(result.plot()).xaxis) == list(result.columns)


def test_axes_of_the_users_are_drawn_into_and_the_rest_left_alone(tmp_path):
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert example().plot(tmp_path / "a.png", ax=right) is figure
    assert not left.collections
    assert len(right.collections) == 1
    assert right.get_title(loc="left").startswith("resample of blocks.*.hook_h")
    assert BEFORE in right.get_xlabel().replace("\n", " ")
    assert tuple(figure.get_size_inches()) == (9, 4)
    assert figure.get_suptitle() == ""


def test_a_large_svg_holds_the_colours_as_an_image(monkeypatch):
    assert "<image" not in example(1, 10, missing=())._repr_svg_().partition("axes_2")[0]
    monkeypatch.setattr(sweep_plot, "_VECTOR_CELLS", 9)
    assert "<image" in example(1, 10, missing=())._repr_svg_().partition("axes_2")[0]


SCRIPT = """
import sys
from tests.interventions.sweep_example import example
import mechtest.interventions.sweep_result
assert not [name for name in sys.modules if name.startswith("matplotlib")]
result = example()
repr(result)
assert not [name for name in sys.modules if name.startswith("matplotlib")]
import matplotlib
def settings():  # as stored: asking for the backend would choose one
    return dict(dict.items(matplotlib.rcParams))
before = settings()
result.plot(sys.argv[1])
result.plot(sys.argv[1].replace("svg", "png"))
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.get_backend(auto_select=False) is None
"""


def test_the_same_sweep_gives_the_same_svg_in_any_process_and_leaves_no_state(tmp_path):
    for name in ("a.svg", "b.svg"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / name)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    assert "<dc:date>" not in first
