"""What are the activations that probes read, place by place?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from mechtest.discovery.probes.fitting import Samples, without_rounding
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, PlannedEdit, Runner

__all__ = ["Place", "read_places", "single_hook"]

MEMORY = 2**28
"""Bytes of activations that are held at once, beside one place at the least."""

Place = tuple[int, int]
"""Row and column of a table."""


def single_hook(runner: Runner, circuit: Circuit) -> PlannedEdit:
    """Return where a circuit of one hook at one position a prompt is.

    Raises:
        ShapeError: Several hooks, a hook without positions, or several positions a prompt.
    """
    plan = runner.planner.plan(circuit)
    if len(plan) != 1 or plan[0].where is None:
        raise ShapeError(
            "a probe reads one hook",
            given=circuit.name,
            expected="one hook with positions: blocks.0.hook_h for the state alone, "
            "blocks.0.hook_conv_state for the window",
        )
    if not bool((plan[0].where.sum(1) == 1).all()):
        raise ShapeError(
            "a probe reads one position of each prompt",
            given=circuit.name,
            expected="a single position, for example last",
        )
    return plan[0]


@torch.no_grad()
def read_places(
    runner: Runner, circuits: Mapping[Place, Circuit]
) -> Iterator[tuple[Place, Samples]]:
    """Yield the clean activations at each place, flattened over their feature axes, float64.

    As many hooks as fit `MEMORY` are read in one pass; states are kept at the positions asked for
    and nowhere else. With 500 prompts of the largest Mamba-1 (5120 channels, 16 states), a state
    takes 330 MB in float64, and is read alone.
    """
    edits = {place: single_hook(runner, circuit) for place, circuit in circuits.items()}
    names = list(dict.fromkeys(edit.name for edit in edits.values()))
    while names:
        chosen = _that_fit(runner, names, edits)
        for place, samples in _read(runner, chosen, edits):
            yield place, without_rounding(samples)
        names = names[len(chosen) :]


def _that_fit(
    runner: Runner, names: Sequence[str], edits: Mapping[Place, PlannedEdit]
) -> list[str]:
    chosen: list[str] = []
    total = 0
    for name in names:
        own = [edit for edit in edits.values() if edit.name == name]
        total += 8 * len(own) * len(runner.pairs) * _width(runner, own[0])
        if chosen and total > MEMORY:
            break
        chosen.append(name)
    return chosen


def _width(runner: Runner, edit: PlannedEdit) -> int:
    """Return how many numbers an activation of a hook has."""
    cfg = runner.model.cfg
    sizes = {
        "d_model": cfg.d_model, "d_inner": cfg.E, "d_state": cfg.N, "dt_rank": cfg.R,
        "2*d_inner": 2 * cfg.E, "dt_rank+2*d_state": cfg.R + 2 * cfg.N, "d_conv-1": cfg.d_conv - 1,
        "batch": 1, "pos": 1, "d_vocab": cfg.d_vocab,
    }  # fmt: skip
    width = 1
    for axis in edit.site.spec.axes:
        width *= int(sizes[axis])
    return width


def _read(
    runner: Runner, names: Sequence[str], edits: Mapping[Place, PlannedEdit]
) -> Iterator[tuple[Place, Samples]]:
    own = {place: edit for place, edit in edits.items() if edit.name in names}
    wanted = [name for edit in own.values() for name in _concrete(edit)]
    widest = max(_width(runner, edit) for edit in own.values())
    columns = runner.pairs.clean_tokens.shape[1]
    size = max(1, min(runner.batch_size, MEMORY // (4 * widest * columns * len(names))))
    found: dict[Place, list[np.ndarray]] = {place: [] for place in own}
    for start, batch in enumerate(runner.pairs.batches(size)):
        part = slice(start * size, start * size + len(batch))
        _, cache = runner.model.run_with_cache(
            batch.clean_tokens, attention_mask=batch.attention_mask, names_filter=wanted,
            return_type=None,
        )  # fmt: skip
        runner.count(batch.clean_tokens)
        for place, edit in own.items():
            found[place].append(_rows(cache, edit, part).flatten(1).double().cpu().numpy())
    for place in own:
        yield place, np.concatenate(found.pop(place))


def _concrete(edit: PlannedEdit) -> list[str]:
    if not edit.site.spec.per_position:
        return [edit.name]
    return [f"{edit.name}.{position}" for position in edit.positions()]


def _rows(cache: Mapping[str, torch.Tensor], edit: PlannedEdit, part: slice) -> torch.Tensor:
    assert edit.where is not None
    column = edit.where[part].int().argmax(1)
    if not edit.site.spec.per_position:
        value = cache[edit.name]
        return value[torch.arange(len(column), device=value.device), column]
    first = cache[f"{edit.name}.{int(column[0])}"]
    rows = torch.empty_like(first)
    for position in column.unique().tolist():
        here = column == position
        rows[here] = cache[f"{edit.name}.{position}"][here]
    return rows
