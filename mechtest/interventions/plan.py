"""Which rows of which hooks does a circuit mean for these prompts?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64

from mechtest.errors import PositionError, ShapeError
from mechtest.interventions.circuit import Circuit
from mechtest.sites import Site, SiteResolver
from mechtest.tasks import EncodedPairs


@dataclass(frozen=True, eq=False)
class PlannedEdit:
    """One hook and the rows to edit.

    Attributes:
        site: Layer and hook, its position left out.
        where: True at the prompts and positions meant; None for a hook without positions.
    """

    site: Site
    where: Bool[torch.Tensor, "prompt pos"] | None

    @property
    def name(self) -> str:
        """Hook name without position."""
        return str(self.site)

    def positions(self) -> list[int]:
        """Return the positions at which any prompt is edited."""
        assert self.where is not None
        return self.where.any(0).nonzero().flatten().tolist()

    @cached_property
    def places(self) -> tuple[Int64[torch.Tensor, " place"], Int64[torch.Tensor, " place"]]:
        """Prompt and column of every place meant, in order."""
        assert self.where is not None
        prompt, column = self.where.cpu().nonzero(as_tuple=True)
        return prompt, column

    @cached_property
    def edited(self) -> Bool[torch.Tensor, " prompt"]:
        """Whether a prompt is edited anywhere."""
        assert self.where is not None
        return self.where.cpu().any(1)

    @cached_property
    def first_columns(self) -> Int64[torch.Tensor, " prompt"]:
        """First column edited in each prompt; its last one where none is."""
        assert self.where is not None
        last = torch.tensor(self.where.shape[1] - 1)
        return torch.where(self.edited, self.where.cpu().int().argmax(1), last)

    def of_prompts(self, start: int, stop: int) -> PlannedEdit:
        """Return the part of the plan for some of the prompts."""
        assert self.where is not None
        key = (start, stop)
        if key not in self._parts:
            self._parts[key] = PlannedEdit(self.site, self.where[start:stop])
        return self._parts[key]

    @cached_property
    def _parts(self) -> dict[tuple[int, int], PlannedEdit]:
        return {}


def plan_edits(
    resolver: SiteResolver, circuit: Circuit, pairs: EncodedPairs
) -> tuple[PlannedEdit, ...]:
    """Work out the edits of a circuit; parts on the same hook are joined.

    Raises:
        UnknownSiteError: A layer the model does not have.
        PositionError: A role some prompt lacks, or a position outside a prompt.
        ShapeError: A position on a hook that fires once for all positions.
    """
    planned: dict[Site, PlannedEdit] = {}
    for part in circuit.parts:
        site = resolver.site(str(part))
        bare = Site(site.hook, site.layer)
        if site.spec.position_axis is None and not site.spec.per_position:
            planned[bare] = PlannedEdit(bare, None)
            continue
        where = _where(site, pairs)
        before = planned.get(bare)
        if before is not None and before.where is not None:
            where = where | before.where
        planned[bare] = PlannedEdit(bare, where)
    return tuple(planned.values())


def _where(site: Site, pairs: EncodedPairs) -> torch.Tensor:
    n_pos = pairs.clean_tokens.shape[1]
    where = torch.zeros(len(pairs), n_pos, dtype=torch.bool)
    columns = {role: pairs.positions(role).tolist() for role in site.position.roles}
    for row, length in enumerate(pairs.lengths.tolist()):
        padding = n_pos - length
        roles = {role: places[row] - padding for role, places in columns.items()}
        try:
            indices = site.position.indices(length, roles)
        except PositionError as error:
            raise PositionError(
                f"prompt {pairs.ids[row]!r}: {error.what}",
                given=error.given,
                closest=error.closest,
                expected=error.expected,
                next_step=error.next_step,
            ) from error
        where[row, padding + indices.start : padding + indices.stop] = True
    return where.to(pairs.device)


def channel_mask(site: Site, channels: tuple[int, ...], shape: torch.Size) -> torch.Tensor:
    """Return True at the channels meant, shaped to broadcast over one activation "...".

    Raises:
        ShapeError: A channel the site does not have.
    """
    features = [axis for axis in site.spec.axes if axis not in ("batch", "pos")]
    axis = features.index("d_inner") if "d_inner" in features else len(features) - 1
    size = shape[axis - len(features)]
    outside = [channel for channel in channels if not 0 <= channel < size]
    if outside:
        raise ShapeError(
            f"{site} has no channel {outside[0]}",
            given=f"channels {outside[:5]}",
            expected=f"0 to {size - 1} along {features[axis]}",
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(channels)] = True
    return mask.reshape([size if i == axis else 1 for i in range(len(features))])
