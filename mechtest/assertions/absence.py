"""Is a circuit's effect small enough to say that the model does not need it?"""

from __future__ import annotations

from typing import Unpack

from mechtest.assertions.asking import Asked, Options, ask
from mechtest.assertions.outcome import conclude
from mechtest.assertions.terms import Terms
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.tasks import PromptPairs

__all__ = ["absence_terms", "assert_not_necessary", "check_not_necessary"]


def absence_terms(
    circuit: Circuit, threshold: float, asked: Asked, two_sided: bool = True
) -> Terms:
    """Return the terms of a claim that an effect is absent."""
    return Terms(
        kind="absence",
        mode="ablate",
        circuit=circuit,
        intervention=asked.intervention,
        threshold=threshold,
        direction="less",
        two_sided=two_sided,
        min_accuracy=asked.min_accuracy,
    )


def check_not_necessary(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    threshold: float = 0.2,
    two_sided: bool = True,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that ablating a circuit moves less than a share of the behaviour.

    Finding nothing shows nothing: the effect has to be shown to lie below the threshold (and above
    its negative: an ablation that strongly helps is not absent either). No controls are asked for.
    An ablation that changes no activation at all makes the claim invalid, not supported.

    Null hypothesis: the effect is at least `threshold`, or at most -`threshold`.
    Exchange unit: the sign of a template's score.
    Exactness: as `mechtest.stats.equivalence_test`.

    Args:
        model: The model.
        circuit: The circuit.
        prompts: As for `check_necessary`.
        threshold: Effects below this are called absent.
        two_sided: Also bound the effect from below.
        **options: See `Options`; those about controls have no use here.

    Sign: as `check_necessary`.
    Sources: Schuirmann 1987 (two one-sided tests).
    """
    asked = Asked(**options)
    return ask(
        "absence",
        lambda c: absence_terms(c, threshold, asked, two_sided),
        model,
        circuit,
        prompts,
        asked,
    )


def assert_not_necessary(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    threshold: float = 0.2,
    two_sided: bool = True,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_not_necessary` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_not_necessary(
        model, circuit, prompts, threshold=threshold, two_sided=two_sided, **options
    )
    return conclude(record, circuit.name)
