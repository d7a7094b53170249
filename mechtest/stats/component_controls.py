"""Which sets of components, or which positions, is a claimed set compared with?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mechtest.errors import ControlsError, SampleError, UnattainableLevelError, closest_names
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import ceiling
from mechtest.stats.validation import fraction

__all__ = ["ComponentControls", "ComponentDraw", "position_strata"]

NAMED = 5


@dataclass(frozen=True)
class ComponentDraw:
    """One set of components.

    Attributes:
        number: Number of the control, from 0.
        members: Names, sorted.
        identical: Whether it is the claimed set; its effect then ties, which counts against the
            claim.
    """

    number: int
    members: tuple[str, ...]
    identical: bool


@dataclass(frozen=True)
class ComponentControls:
    """A claimed set of components and the family of sets of the same make-up.

    A control has as many components of each stratum as the claim, drawn without replacement.
    Members of the claim may be drawn again: leaving them out would break exchangeability.

    Null hypothesis of a rank among them: within strata, the claimed components were chosen without
        regard to the behaviour.
    Exchange unit: the set; components of one stratum are exchangeable.
    Exactness: exact.

    Args:
        claim: Names of the claimed components.
        strata: Stratum of every component that could have been claimed (layer, type, ...),
            the claimed ones included.
        seed: Root seed of the run.
        claim_id: Claim id.

    Raises:
        SampleError: An empty claim, a component twice, or one without a stratum.
        ControlsError: The claim is all there is in each of its strata.

    Sources: Shi et al. 2024, section 4 (sets of the same size); Edgington & Onghena 2007, ch. 3.
    """

    claim: tuple[str, ...]
    strata: Mapping[str, Hashable]
    seed: int
    claim_id: str

    def __post_init__(self) -> None:
        if isinstance(self.claim, str) or not self.claim:
            raise SampleError(
                "a claim names its components",
                given=repr(self.claim),
                expected="one or more names",
            )
        object.__setattr__(self, "claim", tuple(sorted(self.claim)))
        if len(set(self.claim)) < len(self.claim):
            raise SampleError("a component is claimed twice", given=", ".join(self.claim))
        unknown = [name for name in self.claim if name not in self.strata]
        if unknown:
            raise SampleError(
                f"{len(unknown)} claimed components are in no stratum",
                given=", ".join(unknown[:NAMED]),
                closest=closest_names(unknown[0], self.strata),
            )
        if self.family_size == 1:
            sizes = ", ".join(f"{len(members)} in {key!r}" for key, members, _ in self._plan)
            raise ControlsError(
                "the claim is everything in its strata, so no control can differ from it",
                given=f"{len(self.claim)} components; there are {sizes}",
                next_step="claim fewer components, or use wider strata",
            )

    @property
    def family_size(self) -> int:
        """Number of different sets, the claimed one included."""
        return math.prod(math.comb(len(members), count) for _, members, count in self._plan)

    def require_level(self, level: float) -> None:
        """Raise `UnattainableLevelError` when the whole family is smaller than 1 / level.

        Even the best of N sets has rank 1 of N: drawing some sets twice does not make it rarer.
        """
        needed = ceiling(1 / fraction(level, "level"))
        if self.family_size < needed:
            raise UnattainableLevelError(
                f"{self.family_size} sets of components can never give p <= {level:.4g}",
                given=f"{len(self.claim)} claimed of {len(self.strata)} components",
                expected=f"a family of at least {needed} sets",
                next_step="use wider strata, or smaller components",
            )

    def draw(self, number: int) -> ComponentDraw:
        """Return control `number`, the same whoever asks and in whatever order."""
        generator = keyed_generator(self.seed, self.claim_id, "control", "components", number)
        members: list[str] = []
        for _, stratum, count in self._plan:
            chosen = generator.choice(len(stratum), size=count, replace=False)
            members += [stratum[index] for index in chosen]
        drawn = tuple(sorted(members))
        return ComponentDraw(number, drawn, identical=drawn == self.claim)

    @cached_property
    def _plan(self) -> list[tuple[Hashable, list[str], int]]:
        """Return (stratum, its components sorted, how many are claimed), in a fixed order."""
        claimed = [self.strata[name] for name in self.claim]
        return [
            (key, sorted(name for name in self.strata if self.strata[name] == key), count)
            for key, count in {key: claimed.count(key) for key in claimed}.items()
        ]


def position_strata(
    classes: Sequence[str], *, width: int, first: int = 0
) -> dict[str, tuple[str, int]]:
    """Return strata for `ComponentControls` over positions: token class and distance to the last.

    Late positions matter trivially in a recurrence, so positions are compared with others at a
    similar distance from the last one. Distances are cut into fixed bands: a window around the
    claimed position would not be exchangeable, since its neighbours have other windows.

    Args:
        classes: Class of the token at every position ("name", "verb", "."...).
        width: Positions in one band of distance.
        first: First position that may be drawn (1 leaves out a bos token).

    Returns:
        Position as text -> (class, band). Claim a position by that text.

    Raises:
        SampleError: No position, or a band without width.
    """
    if width < 1 or not 0 <= first < len(classes):
        raise SampleError(
            "positions cannot be put into bands",
            given=f"{len(classes)} positions from {first}, width {width}",
            expected="width >= 1 and first below the number of positions",
        )
    last = len(classes) - 1
    return {
        str(position): (classes[position], (last - position) // width)
        for position in range(first, len(classes))
    }
