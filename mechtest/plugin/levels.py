"""At which level is each claim tested, and what becomes of its p value among the others?

The rule is that of `mechtest.stats.static_levels`, in plain Python, because levels are needed while
tests are collected. Families share alpha by Bonferroni. Only claims that could be falsely
"supported" take part: estimated ones that expect to be supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Budget", "FamilyPlan", "RegisteredClaim", "adjusted_in_order", "budget", "holm"]


@dataclass(frozen=True, slots=True)
class RegisteredClaim:
    """A claim as far as its error rate goes.

    Attributes:
        key: Node id without the model's parameter.
        family: Name of its family.
        expect: Verdict it is written to come to.
        exact: Whether it is an identity.
    """

    key: str
    family: str
    expect: str = "supported"
    exact: bool = False

    @property
    def counts(self) -> bool:
        """Whether it takes part in the error rate."""
        return self.expect == "supported" and not self.exact


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """The claims of one family, in order.

    Attributes:
        ordered: Whether claims are gates for those after them.
        claims: Their keys.
    """

    ordered: bool
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """How alpha is shared.

    Attributes:
        alpha: Probability of any false "supported".
        families: By name.
        claims: By key.
    """

    alpha: float
    families: Mapping[str, FamilyPlan]
    claims: Mapping[str, RegisteredClaim]

    @property
    def shares(self) -> int:
        """Families among which alpha is divided."""
        return sum(any(self.counts(key) for key in f.claims) for f in self.families.values())

    def counts(self, key: str) -> bool:
        """Whether a registered claim takes part in the error rate."""
        return self.claims[key].counts

    def factor(self, key: str) -> int:
        """Return by how much a claim's p value is multiplied for there being other families."""
        return max(1, self.shares) if key in self.claims else self.shares + 1

    def level(self, key: str) -> float:
        """Return the level at which a claim is tested, registered or not."""
        claim = self.claims.get(key)
        share = self.alpha / self.factor(key)
        if claim is None or not claim.counts:
            return share
        family = self.families[claim.family]
        if family.ordered:
            return share
        return share / sum(self.counts(other) for other in family.claims)

    def order(self, key: str) -> int:
        """Return a claim's place in its family; claims that are not registered come last."""
        claim = self.claims.get(key)
        if claim is None:
            return 1_000_000
        return self.families[claim.family].claims.index(key)


def budget(alpha: float, claims: Sequence[RegisteredClaim], ordered: Mapping[str, bool]) -> Budget:
    """Return the budget of claims in the order they are given.

    Args:
        alpha: Shared by all.
        claims: In the order of their gates; a key that comes again is ignored.
        ordered: Of each family.
    """
    unique: dict[str, RegisteredClaim] = {}
    for claim in claims:
        unique.setdefault(claim.key, claim)
    names = dict.fromkeys(claim.family for claim in unique.values())
    families = {
        name: FamilyPlan(
            ordered.get(name, True), tuple(k for k, c in unique.items() if c.family == name)
        )
        for name in names
    }
    return Budget(alpha, families, unique)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm-adjusted p values; a claim that was not checked has to be entered as 1."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    ranked = sorted(p_values.items(), key=lambda item: item[1])
    for place, (key, p) in enumerate(ranked):
        largest = max(largest, p * (len(ranked) - place))
        adjusted[key] = min(1.0, largest)
    return adjusted


def adjusted_in_order(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the largest p value so far, for claims in the order of their gates."""
    largest = 0.0
    adjusted: dict[str, float] = {}
    for key, p in p_values.items():
        largest = max(largest, p)
        adjusted[key] = largest
    return adjusted
