"""The public names are few, listed, documented, and each one is really there."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import mechtest

ROOT = Path(__file__).parents[1]
NAMES = sorted(set(mechtest.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name):
    found = getattr(mechtest, name)
    assert inspect.getdoc(found)
    # A dataclass without a docstring gets its signature as one.
    assert not inspect.getdoc(found).startswith(f"{name}(")


def test_dir_lists_the_public_names():
    assert set(NAMES) <= set(dir(mechtest))


def test_star_import_gives_the_public_names():
    namespace = {}
    exec("from mechtest import *", namespace)
    assert set(mechtest.__all__) <= set(namespace)


def test_a_wrong_name_gets_the_closest_one():
    with pytest.raises(AttributeError, match=r"no attribute 'HookedMambo'; did you mean Hooked"):
        mechtest.HookedMambo  # noqa: B018


def test_a_name_far_from_all_others_gets_no_guess():
    with pytest.raises(AttributeError, match=r"no attribute 'qqqq'$"):
        mechtest.qqqq  # noqa: B018


def test_the_list_is_the_table_of_the_documentation():
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", (ROOT / "docs/api.md").read_text(), re.M)
    assert sorted(name for name, _ in rows) == NAMES
    homes = {name: getattr(mechtest, name) for name, _ in rows}
    for name, home in rows:
        assert getattr(importlib.import_module(home), name) is homes[name], name


def test_type_checkers_see_every_public_name():
    """The lazy table is invisible to them: the TYPE_CHECKING block repeats it."""
    tree = ast.parse((ROOT / "mechtest/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [alias.asname for node in block.body for alias in node.names]
    assert sorted(seen) == NAMES
