"""Every skip and expected failure has a row in QUARANTINES.md that says when it goes, and back."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
MARKS = {"skip", "skipif", "xfail", "importorskip"}


def quarantined(folder):
    """Return `path::function` of every skip or expected failure below `folder`."""
    found = set()
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        _collect(tree, path.relative_to(folder).as_posix(), [], found)
    return found


def _collect(node, path, inside, found):
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    inside = [*inside, node.name] if isinstance(node, named) else inside
    if isinstance(node, ast.Attribute) and node.attr in MARKS and _is_pytest(node.value):
        found.add("::".join([path, *inside]))
    for child in ast.iter_child_nodes(node):
        _collect(child, path, inside, found)


def _is_pytest(node):
    """True for `pytest` and `pytest.mark`, or `mark` imported on its own."""
    if isinstance(node, ast.Attribute):
        return node.attr == "mark"
    return isinstance(node, ast.Name) and node.id in {"pytest", "mark"}


def rows():
    """Return {test: (reason, un-skip condition)} of the list."""
    text = (TESTS / "QUARANTINES.md").read_text()
    cells = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*?) \|$", text, re.M)
    return {test: (reason, until) for test, reason, until in cells}


def test_every_quarantine_has_a_row():
    assert quarantined(TESTS) - rows().keys() == set()


def test_every_row_has_a_quarantine():
    assert rows().keys() - quarantined(TESTS) == set()


def test_every_row_says_why_and_until_when():
    assert all(len(cell) > 10 for row in rows().values() for cell in row)


def test_the_search_finds_every_form(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.skip\ndef test_a(): pass\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.xfail)])\n"
        "def test_b(x): pass\n"
        "def test_c():\n    pytest.skip('x')\n"
        "class TestD:\n    def test_e(self):\n        pytest.importorskip('y')\n"
        "def test_fine():\n    'pytest.skip'\n"
        "pytestmark = pytest.mark.skipif(True, reason='z')\n"
    )
    assert quarantined(tmp_path) == {
        "test_x.py",
        "test_x.py::test_a",
        "test_x.py::test_b",
        "test_x.py::test_c",
        "test_x.py::TestD::test_e",
    }
