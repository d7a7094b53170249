"""How many models that learned nothing may support a claim before its harness is broken?"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from mechtest.errors import SampleError
from mechtest.stats.levels import reaches
from mechtest.stats.validation import fraction

__all__ = ["TwinCount", "count_twins"]

CHANCE = 0.05
"""Support in untrained twins that is this unlikely at the claim's level is no chance."""


@dataclass(frozen=True)
class TwinCount:
    """In how many untrained twins a claim was supported.

    Attributes:
        supported: x.
        twins: s.
        level: Level each was tested at.
        p: P(Bin(s, level) >= x): how often a sound claim does as badly.
        broken: Whether that is too unlikely: the claim is supported whatever the model knows.
    """

    supported: int
    twins: int
    level: float
    p: float
    broken: bool

    def __str__(self) -> str:
        return (
            f"{self.supported} of {self.twins} untrained twins supported too "
            f"(P {self.p:.2g} at level {self.level:.3g})"
        )


def count_twins(supported: int, twins: int, level: float) -> TwinCount:
    """Judge how many untrained twins supported a claim.

    Null hypothesis: on a model that learned nothing the claim is supported with a probability of
        at most its level, twin by twin.
    Unit: one twin, its discovery included.
    Exactness: exact binomial tail for independent twins.

    Args:
        supported: Twins in which the claim was supported; one without the behaviour counts as not.
        twins: Twins it was checked in.
        level: Level of the claim.

    Raises:
        SampleError: No twins, or more supported than there are.

    Sources: Meloux et al. 2025 (dead salmons of interpretability).
    """
    x, s = operator.index(supported), operator.index(twins)
    if s < 1 or not 0 <= x <= s:
        raise SampleError("twins are counted from 0 to all of them", given=f"{x} of {s}")
    from scipy.special import bdtrc

    p = 1.0 if x == 0 else float(bdtrc(x - 1, s, fraction(level, "level")))
    return TwinCount(x, s, level, p, broken=x > 0 and reaches(p, CHANCE))
