"""At which level is each claim tested, when many claims share one error rate?

Levels are static: they follow from the registered claims alone, so that a worker can decide one
claim without knowing the others, whatever was selected to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mechtest.errors import SampleError
from mechtest.stats.validation import finite_vector, fraction

__all__ = ["ClaimFamily", "closed_gates", "fixed_sequence", "holm", "static_levels"]


@dataclass(frozen=True)
class ClaimFamily:
    """Claims about one circuit, which share one part of the error rate.

    Attributes:
        claims: Claim ids; their order is the order of the gates in an ordered family.
        ordered: Whether a claim counts only if all claims before it are supported. Each claim then
            gets the whole level of the family.
    """

    claims: tuple[str, ...]
    ordered: bool = True


def static_levels(families: Mapping[str, ClaimFamily], alpha: float = 0.05) -> dict[str, float]:
    """Return the level of every claim, so that P(any false "supported") <= alpha.

    Families share alpha equally (Bonferroni). Inside a family, ordered claims are gates and each
    has the whole share; unordered ones divide it.

    Raises:
        SampleError: No claim, a family without claims, or a claim that is registered twice.

    Sources: Bonferroni; Maurer, Hothorn & Lehmacher 1995 (fixed sequence: gates are free).
    """
    fraction(alpha, "alpha")
    if not families:
        raise SampleError("no family of claims to share the error rate", next_step="register one")
    levels: dict[str, float] = {}
    for name, family in families.items():
        if not family.claims:
            raise SampleError(f"family {name!r} has no claims")
        share = alpha / len(families)
        for claim in family.claims:
            if claim in levels:
                raise SampleError("a claim is registered twice", given=claim)
            levels[claim] = share if family.ordered else share / len(family.claims)
    return levels


def closed_gates(family: ClaimFamily, supported: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the claims of an ordered family that come after one that is not supported.

    A claim that has no entry (it was not run) is not supported and closes the gates behind it.
    Returns nothing for an unordered family.
    """
    if not family.ordered:
        return ()
    for place, claim in enumerate(family.claims):
        if not supported.get(claim, False):
            return family.claims[place + 1 :]
    return ()


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm-adjusted p values, in the order given.

    Null hypothesis: each p value's own; rejecting those with adjusted p <= alpha keeps
    P(any false rejection) <= alpha under any dependence, shared prompts and controls included.

    Claims that crashed or were invalid must be entered as 1, never left out: leaving them out would
    make the family smaller than it was registered.

    Raises:
        SampleError: A p value outside [0, 1].
        NonFiniteError: NaN (some libraries then adjust to NaN and reject all the same).

    Sources: Holm 1979. Equals `statsmodels.stats.multitest.multipletests(method="holm")`.
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return tuple(adjusted.tolist())


def fixed_sequence(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the adjusted p values of ordered gates: the largest p so far.

    Null hypothesis: each p value's own, under any dependence, in an order fixed beforehand.
    Sources: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001.
    """
    return tuple(np.maximum.accumulate(_p_values(p_values)).tolist())


def _p_values(p_values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(p_values) == 0:
        return np.zeros(0)
    p = finite_vector(p_values, "p values", item="claim")
    if p.min() < 0 or p.max() > 1:
        raise SampleError("p values lie outside [0, 1]", given=f"{p.min():.3g} to {p.max():.3g}")
    return p
