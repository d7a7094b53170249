"""At which tokens of which prompts is something read, and how are they called?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64

from mechtest.errors import PositionError
from mechtest.interventions.plan import Planner
from mechtest.interventions.sweep_places import lay_out_table
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs

__all__ = ["ReadPlaces", "places_to_read"]


@dataclass(frozen=True, eq=False)
class ReadPlaces:
    """Columns of a map, one token of every prompt each.

    Attributes:
        positions: In the notation of sites, one a column.
        labels: How columns are called.
        column_name: What columns are: `token` or `position`.
        prompt_columns: Labels of each prompt, where they differ between prompts; else empty.
        present: Columns of the map that every prompt has.
        index: Column of the padded tokens, for each prompt and present column.
        reasons: Why the other columns have no number.
    """

    positions: tuple[str, ...]
    labels: tuple[str, ...]
    column_name: str
    prompt_columns: tuple[tuple[str, ...], ...]
    present: tuple[int, ...]
    index: Int64[torch.Tensor, "prompt column"]
    reasons: Mapping[int, str]


def places_to_read(
    model: HookedMamba, pairs: EncodedPairs, positions: str | int | Sequence[str | int]
) -> ReadPlaces:
    """Work out the columns of a map that reads one token of every prompt in each.

    Args:
        model: The model.
        pairs: The prompts.
        positions: `"*"` for every position, or some in the notation of sites. Among prompts of
            different lengths, `"*"` counts from the end.

    Raises:
        PositionError: A position some prompt lacks, or one that means several tokens.
    """
    planner = Planner(model.resolver, pairs)
    table = lay_out_table(model, "hook_embed", planner, positions, None)
    wanted = tuple(site.partition("@")[2] for site in table.sites[0])
    present = tuple(sorted(column for _, column in table.circuits))
    columns = []
    for column in present:
        (edit,) = planner.plan(table.circuits[0, column])
        mask = edit.known_spots.mask.cpu()
        if not bool((mask.sum(1) == 1).all()):
            raise PositionError(
                f"@{wanted[column]} means several tokens, and a lens reads one",
                given=f"@{wanted[column]}: {int(mask[0].sum())} tokens of the first prompt",
                expected="an index, 'last', or a role",
            )
        columns.append(mask.long().argmax(1))
    if not columns:
        raise PositionError("no position is in every prompt", given=repr(positions))
    return ReadPlaces(
        positions=wanted,
        labels=table.columns,
        column_name=table.column_name,
        prompt_columns=table.prompt_columns,
        present=present,
        index=torch.stack(columns, 1).to(pairs.device),
        reasons={column: reason for (_, column), reason in table.reasons.items()},
    )
