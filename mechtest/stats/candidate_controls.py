"""Which sets of components are several claimed candidates compared with, all at once?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

from mechtest.errors import ControlsError, SampleError, UnattainableLevelError
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import ceiling
from mechtest.stats.validation import fraction

__all__ = ["CandidateControls"]


@dataclass(frozen=True)
class CandidateControls:
    """Several claimed sets of components, and the family of as many sets of the same make-up.

    A control renames the components of each stratum at random, by one permutation for all
    candidates: each candidate becomes a set of its size, and candidates that overlapped, or did
    not, still do so. A maximum over candidates is then compared with maxima of the same kind.

    Null hypothesis of a rank among them: within strata, the candidates were written down without
        regard to the behaviour.
    Exchange unit: the names of components of one stratum.
    Exactness: exact (a group acts on all candidates together).

    Args:
        candidates: Names of the components of each candidate.
        strata: Stratum of every component that could have been claimed.
        seed: Root seed of the run.
        claim_id: Claim id.

    Raises:
        SampleError: No candidate, an empty one, or a component without a stratum.
        ControlsError: No renaming changes any candidate.

    Sources: Westfall & Young 1993 (maxima compared with maxima); Edgington & Onghena 2007, ch. 3.
    """

    candidates: tuple[tuple[str, ...], ...]
    strata: Mapping[str, Hashable]
    seed: int
    claim_id: str

    def __post_init__(self) -> None:
        if not self.candidates or not all(self.candidates):
            raise SampleError("a candidate names its components", given=repr(self.candidates))
        unknown = [n for found in self.candidates for n in found if n not in self.strata]
        if unknown:
            raise SampleError("claimed components are in no stratum", given=", ".join(unknown[:5]))
        if self.family_size == 1:
            raise ControlsError(
                "every candidate is everything in its strata, so no control can differ from it",
                given=f"{len(self.candidates)} candidates of {len(self.strata)} components",
                next_step="claim fewer components, or use wider strata",
            )

    @property
    def family_size(self) -> int:
        """Number of different tuples of sets that renaming can give."""
        size = 1
        for members in self._members.values():
            classes = Counter(
                tuple(name in chosen for chosen in self._chosen) for name in members
            ).values()
            size *= math.factorial(len(members))
            for count in classes:
                size //= math.factorial(count)
        return size

    def require_level(self, level: float) -> None:
        """Raise `UnattainableLevelError` when the family is too small for `level`.

        Tuples that differ by the order of the candidates have one maximum and count as one.
        """
        needed = ceiling(1 / fraction(level, "level"))
        different = self.family_size // math.factorial(len(self.candidates))
        if different < needed:
            raise UnattainableLevelError(
                f"{different} sets of candidates can never give p <= {level:.4g}",
                given=f"{len(self.candidates)} candidates of {len(self.strata)} components",
                expected=f"a family of at least {needed}",
                next_step="use wider strata, smaller components, or fewer candidates",
            )

    def draw(self, number: int) -> tuple[tuple[str, ...], ...]:
        """Return the sets of control `number`, the same whoever asks and in whatever order."""
        generator = keyed_generator(self.seed, self.claim_id, "control", "candidates", number)
        renamed: dict[str, str] = {}
        for members in self._members.values():
            order = generator.permutation(len(members))
            renamed.update(zip(members, (members[index] for index in order), strict=True))
        return tuple(tuple(sorted(renamed[n] for n in found)) for found in self.candidates)

    @cached_property
    def _chosen(self) -> tuple[frozenset[str], ...]:
        return tuple(map(frozenset, self.candidates))

    @cached_property
    def _members(self) -> dict[Hashable, list[str]]:
        """Return the components of each stratum that some candidate has a part of."""
        touched = dict.fromkeys(self.strata[name] for found in self.candidates for name in found)
        return {
            key: sorted(name for name in self.strata if self.strata[name] == key)
            for key in sorted(touched, key=str)
        }
