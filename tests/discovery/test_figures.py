"""Every room draws and writes its pictures the same way, and touches nothing of the user's."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib._pylab_helpers import Gcf

from mechtest.discovery.figures import (
    new_figure,
    plain_axes,
    require_matplotlib,
    require_picture_path,
    write_figure,
)
from mechtest.errors import DiscoveryFileError, MissingPackageError

ROOT = Path(__file__).parents[2]


def drawn():
    figure = new_figure(2.0, 1.5)
    plain_axes(figure.add_subplot()).plot([0, 1], [1, 0], "o-", label="falls")
    return figure


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"], ids=["png", "svg", "upper case"])
def test_the_same_picture_has_the_same_bytes_whatever_the_user_has_set(tmp_path, suffix):
    paths = [tmp_path / "deep" / f"{number}{suffix}" for number in range(2)]
    write_figure(drawn(), paths[0], "a < b\n")
    with mpl.rc_context({"svg.hashsalt": "the user's"}):
        figure = drawn()
        assert write_figure(figure, paths[1], "a < b\n") is figure
        assert mpl.rcParams["svg.hashsalt"] == "the user's"
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert {one.name for one in paths[0].parent.iterdir()} == {one.name for one in paths}
    if suffix == ".svg":
        titles = [one.text for one in ET.fromstring(first).iter() if one.tag.endswith("title")]
        assert titles[0] == "a < b\\n"
        assert b"<dc:date>" not in first
    else:
        assert first.startswith(b"\x89PNG")
        assert b"a < b" in first
        assert b"Software" not in first


def test_pictures_are_no_windows(tmp_path):
    before = Gcf.get_all_fig_managers()
    figure = write_figure(drawn(), None, "nowhere")
    assert Gcf.get_all_fig_managers() == before
    assert tuple(figure.get_size_inches()) == (2.0, 1.5)
    assert not list(tmp_path.iterdir())


def test_plain_axes_keep_the_edges_that_are_asked_for():
    (axes,) = drawn().axes
    assert [side for side, spine in axes.spines.items() if spine.get_visible()] == [
        "left",
        "bottom",
    ]
    assert plain_axes(axes, 6.0, hidden=("left",), axis="x") is axes
    assert not axes.spines["left"].get_visible()
    sizes = [one.get_ticklabels()[0].get_fontsize() for one in (axes.xaxis, axes.yaxis)]
    assert sizes == [6.0, 8.0]


@pytest.mark.parametrize("name", ["a.jpg", "a.pdf", "a", ".png/a"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(DiscoveryFileError, match="PNG or SVG") as caught:
        require_picture_path(tmp_path / name)
    assert ".png or .svg" in caught.value.expected
    with pytest.raises(DiscoveryFileError, match="PNG or SVG"):
        write_figure(drawn(), tmp_path / name, "never")
    assert not list(tmp_path.iterdir())
    require_picture_path(None)


def test_without_matplotlib_the_command_that_installs_it_is_told(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for asked in (require_matplotlib, lambda: new_figure(1, 1)):
        with pytest.raises(MissingPackageError, match="needs matplotlib") as caught:
            asked()
        assert caught.value.next_step == 'pip install "mechtest[discover]"'


@pytest.mark.parametrize("word", ["savefig(", "FigureCanvas", "pyplot", "svg.hashsalt"])
def test_no_room_has_a_way_of_its_own(word):
    rooms = [ROOT / "mechtest/discovery", ROOT / "mechtest/study"]
    found = [path for room in rooms for path in room.rglob("*.py") if word in path.read_text()]
    assert {path.name for path in found} <= {"figures.py"}
