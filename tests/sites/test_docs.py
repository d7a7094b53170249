"""The tables of docs/sites.md are those of the code."""

from pathlib import Path

from mechtest.sites import MAMBA1_HOOKS
from mechtest.sites.aliases import aliases_of

PAGE = Path(__file__).parents[2] / "docs/sites.md"


def full_name(spec):
    name = spec.name + (".{p}" if spec.per_position else "")
    return name if spec.scope == "model" else f"blocks.{{l}}.{name}"


def hook_rows():
    """Return the rows as they should stand on the page: paste them when this test fails."""
    for spec in MAMBA1_HOOKS:
        kind = "fused" if spec.fused else "extra" if spec.extra else ""
        yield f"| `{full_name(spec)}` | `{' '.join(spec.axes)}` | {spec.meaning} | {kind} |"


def alias_rows():
    for spec in MAMBA1_HOOKS:
        if aliases_of(spec.name):
            names = ", ".join(f"`{alias}`" for alias in aliases_of(spec.name))
            yield f"| `{full_name(spec).removesuffix('.{p}')}` | {names} |"


def rows_below(heading):
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_table_of_hooks_is_the_codes():
    assert rows_below("Hooks") == list(hook_rows())


def test_the_table_of_aliases_is_the_codes():
    assert rows_below("Other names") == list(alias_rows())
