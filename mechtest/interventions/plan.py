"""Which rows of which hooks does a circuit mean for these prompts?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64

from mechtest.errors import PositionError, ShapeError
from mechtest.interventions.circuit import Circuit
from mechtest.sites import Position, Site, SiteResolver
from mechtest.tasks import EncodedPairs


@dataclass(frozen=True, eq=False)
class Tokens:
    """Some tokens of a batch, in the order their activations stand.

    Attributes:
        prompt: Index of each one's prompt.
        column: Its column.
    """

    prompt: Int64[torch.Tensor, " token"]
    column: Int64[torch.Tensor, " token"]

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True, eq=False)
class Spots:
    """Where some prompts are edited; plans at the same positions share one.

    Attributes:
        mask: True at the prompts and positions meant.
    """

    mask: Bool[torch.Tensor, "prompt pos"]

    @cached_property
    def tokens(self) -> Tokens:
        """Every place meant, in order."""
        prompt, column = np.nonzero(self._array)
        return Tokens(torch.from_numpy(prompt), torch.from_numpy(column))

    @cached_property
    def columns(self) -> Bool[torch.Tensor, " pos"]:
        """Columns in which any prompt is edited."""
        return torch.from_numpy(self._array.any(0))

    @cached_property
    def edited(self) -> Bool[torch.Tensor, " prompt"]:
        """Whether a prompt is edited anywhere."""
        return torch.from_numpy(self._array.any(1))

    @cached_property
    def first_columns(self) -> Int64[torch.Tensor, " prompt"]:
        """First column edited in each prompt; its last one where none is."""
        last = self._array.shape[1] - 1
        return torch.from_numpy(np.where(self._array.any(1), self._array.argmax(1), last))

    def of_prompts(self, start: int, stop: int) -> Spots:
        """Return the part for some of the prompts; the same one for the same prompts."""
        if (start, stop) == (0, len(self.mask)):
            return self
        if (start, stop) not in self._parts:
            self._parts[start, stop] = Spots(self.mask[start:stop])
        return self._parts[start, stop]

    @cached_property
    def _array(self) -> np.ndarray:
        # Small questions about a small table: a call of numpy costs a fifth of one of torch.
        return np.asarray(self.mask.cpu().numpy())

    @cached_property
    def _parts(self) -> dict[tuple[int, int], Spots]:
        return {}


@dataclass(frozen=True, eq=False)
class PlannedEdit:
    """One hook and the rows to edit.

    Attributes:
        site: Layer and hook, its position left out.
        spots: Prompts and positions meant; None for a hook without positions.
    """

    site: Site
    spots: Spots | None

    @property
    def name(self) -> str:
        """Hook name without position."""
        return str(self.site)

    @property
    def where(self) -> Bool[torch.Tensor, "prompt pos"] | None:
        """True at the prompts and positions meant."""
        return None if self.spots is None else self.spots.mask

    @property
    def known_spots(self) -> Spots:
        """The spots of a hook that has positions."""
        assert self.spots is not None
        return self.spots

    def positions(self) -> list[int]:
        """Return the positions at which any prompt is edited."""
        return self.known_spots.columns.nonzero().flatten().tolist()


class Planner:
    """Plans edits on one set of prompts, each position of the notation worked out once.

    Args:
        resolver: Knows the model's sites.
        pairs: The prompts.
    """

    def __init__(self, resolver: SiteResolver, pairs: EncodedPairs) -> None:
        self.resolver, self.pairs = resolver, pairs
        self._spots: dict[Position, Spots] = {}
        self._plans: dict[tuple[Site, ...], tuple[PlannedEdit, ...]] = {}

    def plan(self, circuit: Circuit) -> tuple[PlannedEdit, ...]:
        """Work out the edits of a circuit; parts on the same hook are joined.

        Its sites decide, whatever its channels or subspace.

        Raises:
            UnknownSiteError: A layer the model does not have.
            PositionError: A role some prompt lacks, or a position outside a prompt.
            ShapeError: A position on a hook that fires once for all positions.
        """
        if circuit.sites not in self._plans:
            self._plans[circuit.sites] = self._planned(circuit)
        return self._plans[circuit.sites]

    def _planned(self, circuit: Circuit) -> tuple[PlannedEdit, ...]:
        planned: dict[Site, PlannedEdit] = {}
        for part in circuit.parts:
            site = self.resolver.in_model(part)
            bare = Site(site.hook, site.layer)
            if site.spec.position_axis is None and not site.spec.per_position:
                planned[bare] = PlannedEdit(bare, None)
                continue
            spots = self._spots_at(site.position)
            before = planned.get(bare)
            if before is not None and before.spots is not None:
                spots = Spots(spots.mask | before.spots.mask)
            planned[bare] = PlannedEdit(bare, spots)
        return tuple(planned.values())

    def _spots_at(self, position: Position) -> Spots:
        if position not in self._spots:
            self._spots[position] = Spots(mask_of(position, self.pairs))
        return self._spots[position]


def plan_edits(
    resolver: SiteResolver, circuit: Circuit, pairs: EncodedPairs
) -> tuple[PlannedEdit, ...]:
    """Work out the edits of one circuit; see `Planner.plan`."""
    return Planner(resolver, pairs).plan(circuit)


def mask_of(position: Position, pairs: EncodedPairs) -> Bool[torch.Tensor, "prompt pos"]:
    """Return True where a position of the notation is, prompt by prompt.

    Raises:
        PositionError: A role some prompt lacks, or a position outside a prompt; names the prompt.
    """
    n_pos = pairs.clean_tokens.shape[1]
    where = np.zeros((len(pairs), n_pos), dtype=bool)
    columns = {role: pairs.positions(role).tolist() for role in position.roles}
    for row, length in enumerate(pairs.lengths.tolist()):
        padding = n_pos - length
        roles = {role: places[row] - padding for role, places in columns.items()}
        try:
            indices = position.indices(length, roles)
        except PositionError as error:
            raise PositionError(
                f"prompt {pairs.ids[row]!r}: {error.what}",
                given=error.given,
                closest=error.closest,
                expected=error.expected,
                next_step=error.next_step,
            ) from error
        where[row, padding + indices.start : padding + indices.stop] = True
    return torch.from_numpy(where).to(pairs.device)


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
