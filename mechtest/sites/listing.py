"""How is the list of a model's sites shown?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mechtest.sites.aliases import aliases_of
from mechtest.sites.table import MAMBA1_HOOKS, HookSpec

_NAME = re.compile(r"[a-z]\w*")


def site_table(
    model: str, n_layers: int, sizes: Mapping[str, int], *, aliases: bool = False
) -> str:
    """Return the sites of a Mamba-1 model as text, in firing order, with shapes.

    Args:
        model: What to call the model.
        n_layers: Its blocks.
        sizes: Length of each axis whose length the model fixes (`d_model`, `d_inner` ...).
        aliases: Add a line with the other accepted names of each site.
    """
    rows: list[tuple[str, str, HookSpec | None]] = [
        (_shown(spec, n_layers), _shape(spec, sizes), spec) for spec in MAMBA1_HOOKS
    ]
    state = (f"blocks.{_layers(n_layers)}.state@{{pos}}", "h and conv_state", None)
    rows.insert([spec.name for spec in MAMBA1_HOOKS].index("hook_h") + 1, state)
    name_width = max(len(name) for name, _, _ in rows)
    shape_width = max(len(shape) for _, shape, _ in rows)
    count = sum(n_layers if spec.scope == "block" else 1 for spec in MAMBA1_HOOKS)
    lines = [f"{model}: {n_layers} layers, {count} hooks and one more per position", ""]
    for name, shape, spec in rows:
        meaning = spec.meaning if spec else "the complete recurrent state of a layer"
        lines.append(f"{name:<{name_width}}  {shape:<{shape_width}}  {meaning}")
        if aliases and spec is not None and aliases_of(spec.name):
            lines.append(f"    also: {', '.join(aliases_of(spec.name))}")
    lines += [
        "",
        "Any site takes positions after @: @3  @-1  @last  @2:6  @3:",
        "(a prompt file adds its roles: @S2  @S2+1  @S2:)",
        "* stands for any layer, hook or position: blocks.*.hook_h",
    ]
    return "\n".join(lines)


def _layers(n_layers: int) -> str:
    return "0" if n_layers == 1 else f"{{0..{n_layers - 1}}}"


def _shown(spec: HookSpec, n_layers: int) -> str:
    name = spec.name + (".{pos}" if spec.per_position else "")
    return name if spec.scope == "model" else f"blocks.{_layers(n_layers)}.{name}"


def _shape(spec: HookSpec, sizes: Mapping[str, int]) -> str:
    """Return `batch pos d_inner=128`, sums and products worked out."""
    parts = []
    for axis in spec.axes:
        filled = _NAME.sub(lambda match: str(sizes.get(match[0], match[0])), axis)
        value = _arithmetic(filled)
        parts.append(axis if value is None else f"{axis}={value}")
    return " ".join(parts)


def _arithmetic(text: str) -> int | None:
    """Return the value of `2*128` or `4+2*16` or `4-1`; None if a name is left."""
    total = 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", text):
        product = 1
        for factor in term.split("*"):
            if not factor.isdigit():
                return None
            product *= int(factor)
        total += -product if sign == "-" else product
    return total
