"""Does the model need this circuit for the behaviour, or can it do without?"""

from __future__ import annotations

from typing import Unpack

from mechtest.assertions.asking import Asked, Options, ask
from mechtest.assertions.candidates import Candidates
from mechtest.assertions.control_sets import control_kind
from mechtest.assertions.outcome import conclude
from mechtest.assertions.terms import Terms
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.tasks import PromptPairs

__all__ = ["assert_necessary", "check_necessary", "necessity_terms"]


def necessity_terms(circuit: Circuit, threshold: float, asked: Asked) -> Terms:
    """Return the terms of a claim of necessity."""
    return Terms(
        kind="necessity",
        mode="ablate",
        circuit=circuit,
        intervention=asked.intervention,
        threshold=threshold,
        controls=control_kind(circuit, asked.controls),
        losses=asked.losses,
        max_controls=asked.max_controls,
        illusion=asked.illusion if circuit.subspace is not None else None,
        min_accuracy=asked.min_accuracy,
    )


def check_necessary(
    model: HookedMamba,
    circuit: Circuit | Candidates,
    prompts: PromptPairs,
    *,
    threshold: float = 0.5,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that ablating a circuit destroys more than a share of the behaviour.

    Two questions, both at the claim's level: is the effect above `threshold`, over templates; and
    does hardly any matched control do as much?

    Null hypothesis: the effect is at most `threshold`, or the circuit is exchangeable with its
        controls.
    Exchange unit: the sign of a template's score; a whole set of components, or a subspace.
    Exactness: as `mechtest.stats.effect_test` and `ControlTest`; the larger p decides.

    Args:
        model: The model.
        circuit: Ablated, by default with what the twin prompt says there; or `best_of` several.
        prompts: A whole collection; its test half is used, and controls of subspaces are drawn in
            coordinates of its discovery half.
        threshold: theta0, the smallest share of interest.
        **options: See `Options`.

    Returns:
        The record, whatever the verdict: also `invalid`, when the claim cannot be tested as stated.
        Nothing is attached to a running test.

    Sign: 1 when the answer becomes what it is on the corrupted prompt, 0 when nothing happens.
    Sources: Zhang & Nanda 2023 (ablation by resampling); Shi et al. 2024 (sets of equal size).

    Example:
        >>> record = check_necessary(model, Circuit("blocks.1.state@last"), prompts)
        >>> record.verdict, record.evidence[0].effect.estimate
        (<Verdict.SUPPORTED: 'supported'>, 0.9563)
    """
    asked = Asked(**options)
    return ask(
        "necessity", lambda c: necessity_terms(c, threshold, asked), model, circuit, prompts, asked
    )


def assert_necessary(
    model: HookedMamba,
    circuit: Circuit | Candidates,
    prompts: PromptPairs,
    *,
    threshold: float = 0.5,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_necessary` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted: The effect is smaller than claimed, or many controls do as much.
        ClaimInconclusive: The data do not decide; the text says what would.
        ClaimInvalid: The claim cannot be tested as stated.
    """
    __tracebackhide__ = True
    return conclude(
        check_necessary(model, circuit, prompts, threshold=threshold, **options), circuit.name
    )
