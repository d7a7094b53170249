"""How do numbers of rows, columns and prompts become the table that sweeps return?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mechtest.discovery.record import About
from mechtest.interventions import SweepResult

__all__ = ["prompt_table", "template_means"]


def prompt_table(
    core: About,
    values: Float[np.ndarray, "row column prompt"],
    *,
    rows: tuple[Sequence[str], str],
    columns: tuple[Sequence[str], str],
    sites: Sequence[Sequence[str]],
    what: str,
    effect: tuple[str, str],
    reasons: Mapping[tuple[int, int], str] | None = None,
    prompt_columns: tuple[tuple[str, ...], ...] = (),
    run: str = "clean",
) -> SweepResult:
    """Return a table of numbers that a tool read off, without a sweep of interventions.

    Args:
        core: Of the record the table stands in.
        values: A number for each prompt at each place; NaN only where a reason is given.
        rows: Their labels, and what they are.
        columns: The same.
        sites: Site of each place.
        what: What was looked at, as the title says it.
        effect: What a number says, and its unit.
        reasons: Why numbers are missing.
        prompt_columns: See `SweepResult`.
        run: Which run was looked at.
    """
    return SweepResult(
        rows=tuple(rows[0]),
        columns=tuple(columns[0]),
        row_name=rows[1],
        column_name=columns[1],
        sites=tuple(tuple(line) for line in sites),
        values=values,
        reasons={} if reasons is None else reasons,
        prompt_ids=core.prompt_ids,
        templates=core.templates,
        effect_name=effect[0],
        unit=effect[1],
        intervention=what,
        base=run,
        metric=core.metric,
        model=core.model,
        prompt_columns=prompt_columns,
    )


def template_means(
    values: Float[np.ndarray, "prompt ..."], templates: Sequence[str]
) -> Float[np.ndarray, "..."]:
    """Return the mean over templates of each template's mean."""
    labels = np.array(templates, dtype=str)
    means = [values[labels == name].mean(0) for name in np.unique(labels)]
    return np.asarray(np.mean(means, axis=0))
