"""Every error has one code, one text in four parts, and survives the trip between processes."""

import inspect
import pickle
import re
from pathlib import Path

import pytest

from mechtest import errors
from mechtest.errors import MechtestError, UnknownSiteError, closest_names

DOCS = Path(__file__).parents[1] / "docs/errors.md"


def family(cls=MechtestError):
    return [cls, *(deeper for child in cls.__subclasses__() for deeper in family(child))]


ALL = sorted({cls for cls in family() if cls.__module__ == errors.__name__}, key=lambda c: c.code)


def test_codes_are_unique_and_named_by_their_branch():
    codes = [cls.code for cls in ALL]
    assert len(codes) == len(set(codes))
    for cls in ALL:
        parents = [base for base in cls.__mro__[1:] if base in ALL and base is not MechtestError]
        assert all(base.code[:3] == cls.code[:3] for base in parents), cls


def test_no_error_of_ours_lives_elsewhere():
    """One tree in one file: what a user can be told is read in one place."""
    assert [
        cls for cls in family() if cls.__module__.startswith("mechtest.") and cls not in ALL
    ] == []


def test_the_list_of_names_is_complete():
    assert set(errors.__all__) == {cls.__name__ for cls in ALL} | {"closest_names"}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_the_drawing_shows_every_error_with_its_code(cls):
    drawing = errors.__doc__
    code = cls.code if cls.__subclasses__() == [] else cls.code[:3]
    if cls is not MechtestError:
        assert re.search(rf"-- {cls.__name__} +{code}", drawing)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_the_text_has_its_parts_in_order(cls):
    text = str(
        cls("it failed", given="x", closest=["y", "z"], expected="a number", next_step="read on")
    )
    assert text.splitlines() == [
        f"[{cls.code}] it failed",
        "  given     x",
        "  closest   y, z",
        "  expected  a number",
        "  next      read on",
    ]


def test_absent_parts_leave_no_line():
    assert str(MechtestError("it failed")) == "[MT000] it failed"
    assert str(MechtestError("it failed", given=0)) == "[MT000] it failed\n  given     0"


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling(cls):
    error = cls("it failed", given=3, closest=("y",), expected="a number", next_step="read on")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert str(back) == str(error)
    assert (back.what, back.closest, back.expected) == ("it failed", ("y",), "a number")


def test_a_site_error_is_caught_as_what_python_users_expect():
    for name, builtin in {
        "UnknownSiteError": KeyError,
        "NotCachedError": KeyError,
        "CheckpointNotFoundError": FileNotFoundError,
        "ConfigError": ValueError,
        "PromptError": ValueError,
        "ShapeError": ValueError,
    }.items():
        assert issubclass(getattr(errors, name), builtin)


def test_a_key_error_of_ours_keeps_its_line_breaks():
    """KeyError shows the repr of its argument, which would flatten the message."""
    with pytest.raises(KeyError) as caught:
        raise UnknownSiteError("no site 'x'", given="x")
    assert str(caught.value) == "[MT101] no site 'x'\n  given     x"


def test_closest_names_come_best_first_and_only_when_near():
    known = ["hook_h", "hook_y", "hook_h_start", "hook_resid_pre"]
    assert closest_names("hook_hh", known)[0] == "hook_h"
    assert closest_names("qqqq", known) == ()


# --- the page of the documentation -----------------------------------------------------------


def documented():
    return re.findall(r"^### `(\w+)` \((MT\d+)\)$", DOCS.read_text(), re.M)


def test_every_error_is_documented_under_its_code():
    assert sorted(documented()) == sorted((cls.__name__, cls.code) for cls in ALL)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_entry_says_what_to_do(cls):
    sections = DOCS.read_text().split("\n### ")
    (entry,) = [text for text in sections if text.startswith(f"`{cls.__name__}` ")]
    assert len(entry.split()) > 15
    assert inspect.getdoc(cls)
