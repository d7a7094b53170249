"""Is something in every one of a few sets, and what does that say about sets not seen?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechtest.errors import SampleError, UnattainableLevelError
from mechtest.stats.intervals import Interval
from mechtest.stats.levels import reaches
from mechtest.stats.proportions import clopper_pearson_interval, wilson_interval
from mechtest.stats.validation import fraction

__all__ = ["Membership", "membership_test", "require_sets"]


@dataclass(frozen=True)
class Membership:
    """In how many sets something is.

    Attributes:
        sets: Sets looked at.
        members: Those it is in.
        p: Exact binomial p value of "it is in more than a share of all sets".
        interval: Clopper-Pearson interval of that share, which a verdict may use.
        shown: Wilson interval, nearer to its nominal coverage on average; for show.
    """

    sets: int
    members: int
    p: float
    interval: Interval
    shown: Interval

    @property
    def every(self) -> bool:
        """Whether it is in all of them."""
        return self.members == self.sets


def membership_test(member: Sequence[bool], share: float, level: float) -> Membership:
    """Test whether something is in more than a share of all sets.

    Null hypothesis: it is in at most `share` of the sets that could have been recorded.
    Exchange unit: the set: one independent trial (a training seed).
    Exactness: exact binomial. In all of k sets, p = share ** k.

    Args:
        member: Whether it is in each set.
        share: Smallest share of interest.
        level: The intervals have confidence 1 - 2 * level.

    Raises:
        SampleError: No set, or a share outside (0, 1).

    Sign: a small p speaks for membership.
    Sources: Clopper & Pearson 1934; Wilson 1927. Equals `scipy.stats.binomtest`.
    """
    from scipy.special import bdtrc

    fraction(share, "share")
    if not len(member):
        raise SampleError("there is no set to look into", expected="at least one")
    count, found = len(member), sum(map(bool, member))
    confidence = 1 - 2 * level
    return Membership(
        sets=count,
        members=found,
        p=1.0 if found == 0 else float(bdtrc(found - 1, count, share)),
        interval=clopper_pearson_interval(found, count, confidence),
        shown=wilson_interval(found, count, confidence),
    )


def require_sets(sets: int, share: float, level: float) -> None:
    """Raise `UnattainableLevelError` unless being in all of so many sets can reach `level`."""
    fraction(share, "share")
    if sets < 1 or not reaches(share**sets, level):
        needed = 1
        while not reaches(share**needed, level):
            needed += 1
        raise UnattainableLevelError(
            f"being in all of {sets} sets can never give p <= {level:.4g}",
            given=f"{sets} sets, smallest p {share**sets:.3g} against a share of {share:g}",
            expected=f"at least {needed} sets",
            next_step="train more seeds, or claim a smaller share",
        )
