"""Do two quantities agree, when the architecture says that they must?

An identity holds for every prompt or it does not: nothing is estimated, there is no p value, and it
takes no share of the error rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.study import identity_of
from mechtest.errors import ClaimInvalid, NonFiniteError, ShapeError
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Effect, Evidence, Verdict
from mechtest.running_claim import RunningClaim

__all__ = ["assert_identity", "check_identity"]


def check_identity(
    observed: ArrayLike,
    expected: ArrayLike,
    *,
    tolerance: float,
    what: str,
    model: HookedMamba,
    ids: Sequence[str] = (),
) -> ClaimRecord:
    """Check that two arrays agree to a tolerance, element by element.

    Args:
        observed: Any shape.
        expected: The same shape, or one that broadcasts to it.
        tolerance: Largest absolute difference that rounding may make.
        what: What is compared, for the report.
        model: The model it was observed in.
        ids: Names of the prompts, where `observed` has one element a prompt.

    Returns:
        A record without a p value: supported, refuted, or invalid (nothing to compare, NaN).
    """

    def check(claim: RunningClaim) -> ClaimRecord:
        settings = {"kind": "identity", "what": what, "tolerance": tolerance}
        if claim.planning:
            claim.plans.append(
                {"settings": settings, "attainable": True, "problem": "", "seeds": 1}
            )
        values = np.atleast_1d(np.asarray(observed, dtype=np.float64))
        if not values.size or not tolerance > 0:
            raise ClaimInvalid(
                f"{what}: there is nothing to compare",
                given=f"{values.size} values, tolerance {tolerance:g}",
                expected="at least one value and a positive tolerance",
            )
        off = np.abs(values - _like(expected, values, what))
        bad = np.argwhere(~np.isfinite(off))
        if len(bad):
            raise NonFiniteError(
                f"{what} holds NaN or infinity at {len(bad)} of {off.size} places",
                given=", ".join(_named(place, off, ids) for place in bad[:5]),
            )
        worst = float(off.max())
        name = _named(np.unravel_index(int(off.argmax()), off.shape), off, ids)
        verdict = Verdict.SUPPORTED if worst <= tolerance else Verdict.REFUTED
        reason = f"largest difference {worst:.3g}, at {name}; tolerance {tolerance:g}"
        evidence = Evidence(
            kind="identity",
            label="",
            circuit=(what,),
            intervention="none",
            metric="difference",
            effect=Effect(worst, None, None, 1.0, "absolute difference", "nothing is estimated"),
            verdict=verdict,
            threshold=tolerance,
            direction="less",
            p_effect=None,
            method="exact: nothing is estimated",
            clusters=0,
            clusters_positive=0,
            worst_cluster=name,
            prompts=len(ids) or values.size,
            accuracy=None,
            moved=None,
            broken=None,
            model=identity_of(model),
        )
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or what,
            kind="identity",
            verdict=verdict,
            binding="difference",
            reason=reason,
            settle="",
            level=claim.level,
            seed=claim.seed,
            prompts="",
            settings=settings,
            evidence=(evidence,),
        )

    return checked("identity", check, level=None, statement=what)


def _like(expected: ArrayLike, values: np.ndarray, what: str) -> np.ndarray:
    """Return the expected values in the shape of the observed ones."""
    wanted = np.asarray(expected, dtype=np.float64)
    try:
        return np.broadcast_to(wanted, values.shape)
    except ValueError as error:
        raise ShapeError(
            f"{what}: observed and expected values do not line up",
            given=f"{wanted.shape} expected of {values.shape} observed",
            expected="equal shapes, or expected values that broadcast to the observed ones",
        ) from error


def _named(place: Any, off: np.ndarray, ids: Sequence[str]) -> str:
    """Return the name of the prompt at some place, or the place."""
    if len(ids) == len(off):
        return ids[int(place[0])]
    return str(tuple(int(index) for index in place))


def assert_identity(
    observed: ArrayLike,
    expected: ArrayLike,
    *,
    tolerance: float,
    what: str,
    model: HookedMamba,
    ids: Sequence[str] = (),
) -> ClaimRecord:
    """Assert what `check_identity` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted: They differ by more than the tolerance.
        ClaimInvalid: There is nothing to compare, or NaN.
    """
    __tracebackhide__ = True
    record = check_identity(
        observed, expected, tolerance=tolerance, what=what, model=model, ids=ids
    )
    return conclude(record, what)
