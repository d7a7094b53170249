"""What puts in an activation of the user's own for each prompt and position?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64

from mechtest.errors import ShapeError
from mechtest.interventions.spec import Intervention, Places

__all__ = ["GivenRows", "PatchFrom"]

FAR = 2**31
"""More than any prompt has tokens: a place is one number, prompt * FAR + distance from the end."""


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Activations of one hook, a row for each place.

    Attributes:
        values: "row ...", shaped like the hook's own activations.
        prompt: Prompt of each row, as its index in the whole set (`EncodedPairs.order`).
        from_end: Position of each row, counted from the end: 1 is the last token.
    """

    values: torch.Tensor
    prompt: Int64[torch.Tensor, " row"]
    from_end: Int64[torch.Tensor, " row"]


@dataclass(frozen=True, eq=False)
class PatchFrom(Intervention):
    """Put in given activations, for example those of other prompts than the twin.

    Attributes:
        rows: What to put in, by hook name without position.

    Sources: Chan et al. 2022 (resampling from prompts that agree in what a place should say).
    """

    rows: Mapping[str, GivenRows]
    name: str = "patch from"
    _sorted: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for site, given in self.rows.items():
            keys, order = (given.prompt * FAR + given.from_end).cpu().sort()
            if bool((keys[1:] == keys[:-1]).any()):
                raise ShapeError(f"two rows are given for one place of {site}", given=len(keys))
            self._sorted[site] = keys, order

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the rows given for these places.

        Raises:
            ShapeError: None is given for a place, or one of another shape.
        """
        del reference
        if site not in self.rows:
            raise ShapeError(
                f"nothing is given to be put in at {site}",
                given=", ".join(self.rows) or "no hook",
                expected="rows for every hook that is edited",
            )
        keys, order = self._sorted[site]
        wanted = (places.prompt * FAR + places.from_end).cpu()
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        missing = keys[found] != wanted
        if bool(missing.any()):
            raise ShapeError(
                f"nothing is given for {int(missing.sum())} of {len(wanted)} places of {site}",
                given=f"{len(keys)} rows",
                expected="a row for each prompt and position that is edited",
            )
        rows = self.rows[site].values
        if rows.shape[1:] != value.shape[1:]:
            raise ShapeError(
                f"the rows given for {site} have another shape",
                given=tuple(rows.shape[1:]),
                expected=f"{tuple(value.shape[1:])}",
            )
        return rows[order[found].to(rows.device)].to(value)
