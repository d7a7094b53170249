"""Do all of several comparisons hold, and which one speaks against the claim if not?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechtest.errors import SampleError
from mechtest.stats.effect_test import EffectTest, effect_p_value, effect_test
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.multiplicity import holm

__all__ = ["AllParts", "Part", "all_parts_test"]


@dataclass(frozen=True)
class Part:
    """One of several effects that should all lie above a threshold.

    Attributes:
        name: Which one.
        test: Its test against the threshold, in the direction of the claim.
        against: Holm-adjusted p value of the opposite (that it lies below), over all parts.
    """

    name: str
    test: EffectTest
    against: float

    @property
    def p(self) -> float:
        """Of this part alone."""
        return self.test.p


@dataclass(frozen=True)
class AllParts:
    """What is known about "every one of these effects is above the threshold".

    Attributes:
        parts: In the order given.
        p: p value of the claim, the largest of the parts'.
        binding: Name of the part with that p value.
    """

    parts: tuple[Part, ...]
    p: float
    binding: str


def all_parts_test(
    effects: Mapping[str, ClusterEffect], threshold: float, level: float, *, seed: int, claim: str
) -> AllParts:
    """Test whether every one of several effects lies above a threshold.

    Null hypothesis: at least one effect is <= threshold.
    Exchange unit: the sign of a cluster's score A_g - threshold * B_g, part by part.
    Exactness: an intersection-union test: every part at the full level, whatever their dependence,
        and no correction; each part is as exact as `effect_test`. That some part lies *below* the
        threshold is tested by the same scores with the other sign, adjusted by Holm over the parts,
        so that P(any part is wrongly said to be below) <= the rate it is read at.

    Args:
        effects: Name of a part -> its effect, usually a difference of two interventions.
        threshold: Common to all.
        level: Level of the claim.
        seed: Root seed of the run.
        claim: Claim id; flips are keyed by it and the part's name.

    Raises:
        SampleError: No part.

    Sign: a small p speaks for the claim, a small `Part.against` against it.
    Sources: Berger 1982 (intersection-union); Holm 1979.
    """
    if not effects:
        raise SampleError("there is no part to test", expected="at least one effect")
    for_it, against = [], []
    for name, effect in effects.items():
        key = f"{claim}|{name}"
        for_it.append(effect_test(effect, threshold, level, seed=seed, claim=key))
        against.append(effect_p_value(effect, threshold, seed=seed, claim=key, alternative="less"))
    parts = tuple(map(Part, effects, for_it, holm(against)))
    worst = max(parts, key=lambda part: part.p)
    return AllParts(parts, worst.p, worst.name)
