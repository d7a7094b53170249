"""Imports go down the floors only, and neighbours on one floor never import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    {"errors", "sites", "records", "running_claim", "_lazy"},
    {"kernels", "stats", "report", "claim_template"},
    {"checkpoints", "comparison", "runs"},
    {"models", "tasks"},
    {"interventions"},
    {"discovery"},
    {"assertions"},
    {"study"},
    {"plugin"},
    {"__init__", "cli", "run_commands", "study_commands", "__main__"},
]
"""From the ground up. A new top-level module or package is registered here, on purpose, and drawn
in the floor map of README.md."""

# errors is below every room of the ground floor: it is imported everywhere and imports nothing.
ALLOWED_NEIGHBOURS = {
    ("sites", "errors"),
    ("records", "errors"),
    ("running_claim", "records"),
    ("_lazy", "errors"),
    ("__init__", "_lazy"),
    ("__main__", "cli"),
    ("cli", "run_commands"),
    ("cli", "study_commands"),
}

# Reading the version or a lazy name off the package costs nothing and pulls nothing in.
VERSION_READERS = {"plugin", "cli"}

REFUSED_ROOMS = {"utils", "util", "common", "helpers", "helper", "misc", "shared", "tools"}


def violations(package):
    """Return one line for every import that goes up, sideways, or from an unregistered room."""
    package = Path(package)
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        found += [
            f"{relative}: a room named {part!r} says nothing; name what the code is about"
            for part in (*relative.parts[:-1], relative.stem)
            if part in REFUSED_ROOMS
        ]
        room = relative.parts[0].removesuffix(".py")
        if room not in _floor_of():
            found.append(
                f"{relative}: {room!r} stands on no floor; register it in FLOORS of "
                "tests/test_floors.py and in the floor map of README.md"
            )
            continue
        module = ".".join([package.name, *relative.with_suffix("").parts])
        found += [
            f"{relative}:{line}: {room} (floor {_name(room)}) imports {target} "
            f"(floor {_name(target)})"
            for line, target in _rooms_imported(path, module, package.name)
            if not _allowed(room, target)
        ]
    return found


def _floor_of():
    return {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _name(room):
    floor = _floor_of().get(room)
    return {None: "unregistered", len(FLOORS) - 1: "roof"}.get(floor, floor)


def _allowed(room, target):
    floors = _floor_of()
    if target not in floors:
        return False
    if room == target or (room, target) in ALLOWED_NEIGHBOURS:
        return True
    if target == "__init__":
        return room in VERSION_READERS
    return floors[target] < floors[room]


def _rooms_imported(path, module, package):
    """Yield (line, room) for imports anywhere in a file, in functions and TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _absolute(node, module, package)
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == package:
                yield node.lineno, parts[1] if len(parts) > 1 else "__init__"


def _absolute(node, module, package):
    base = node.module or ""
    if node.level:
        parents = module.split(".")
        # `module` of a package's own file ends with `__init__`, which counts as a level.
        keep = parents[: len(parents) - node.level]
        base = ".".join([*keep, base]) if base else ".".join(keep)
    if base != package:
        return [base]
    # `from mechtest import x` means the room x where there is one, else a lazy name of the roof.
    rooms = _floor_of()
    return [f"{package}.{a.name}" if a.name in rooms else package for a in node.names]


def test_the_package_obeys_the_floors():
    assert violations(ROOT / "mechtest") == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("kernels/scan.py", "import mechtest.models", "kernels (floor 1) imports models (floor 3)"),
        ("kernels/scan.py", "from mechtest.stats import x", "kernels (floor 1) imports stats"),
        ("models/a.py", "from mechtest.tasks.b import x", "models (floor 3) imports tasks"),
        ("checkpoints/a.py", "def f():\n    from mechtest.models import x", "imports models"),
        ("checkpoints/a.py", "from ..models import x", "imports models"),
        ("checkpoints/__init__.py", "from ..models import x", "imports models"),
        ("checkpoints/a.py", "from .. import models", "imports models"),
        ("errors.py", "from mechtest.sites import Site", "errors (floor 0) imports sites"),
        ("models/a.py", "from mechtest import HookedMamba", "imports __init__ (floor roof)"),
        ("models/a.py", "import mechtest as mt", "imports __init__ (floor roof)"),
        (
            "sites/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mechtest.models.x",
            "sites (floor 0) imports models",
        ),
        ("models/utils.py", "", "a room named 'utils' says nothing"),
        ("common/a.py", "", "a room named 'common' says nothing"),
        ("attention/a.py", "", "register it in FLOORS of tests/test_floors.py"),
        ("models/a.py", "from mechtest.attention import x", "(floor unregistered)"),
    ],
)
def test_the_checker_catches(tmp_path, file, code, complaint):
    path = tmp_path / "mechtest" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = violations(tmp_path / "mechtest")
    assert found
    assert complaint in "\n".join(found)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("models/a.py", "from mechtest.kernels import x\nfrom .b import y\nimport torch"),
        ("plugin/__init__.py", "import mechtest\nfrom mechtest import report"),
        ("cli.py", "import mechtest\nfrom mechtest.models import x"),
        ("__init__.py", "from mechtest._lazy import x\nfrom mechtest.models import y"),
    ],
)
def test_the_checker_lets_pass(tmp_path, file, code):
    path = tmp_path / "mechtest" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert violations(tmp_path / "mechtest") == []


def test_the_floor_map_of_the_readme_names_every_room():
    """A room that exists is drawn where a newcomer looks."""
    rooms = {path.stem for path in (ROOT / "mechtest").iterdir() if _is_room(path)}
    text = (ROOT / "README.md").read_text()
    assert {room for room in rooms if room not in text} == set()


def _is_room(path):
    is_python = path.suffix == ".py" or (path / "__init__.py").is_file()
    return is_python and path.stem not in {"__init__", "__main__", "_lazy"}
