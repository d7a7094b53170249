"""Does this subspace do more than subspaces like it?"""

from __future__ import annotations

from typing import Unpack

from mechtest.assertions.asking import Asked, Options, ask
from mechtest.assertions.control_sets import control_kind
from mechtest.assertions.outcome import conclude
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.tasks import PromptPairs

__all__ = ["assert_beats_random_subspaces", "check_beats_random_subspaces", "specificity_terms"]


def specificity_terms(circuit: Circuit, asked: Asked) -> Terms:
    """Return the terms of a claim about a rank only."""
    if circuit.subspace is None:
        raise ClaimInvalid(
            "only a subspace can be compared with random subspaces",
            given=repr(circuit),
            expected="Circuit(site, subspace=...)",
            next_step="for a whole site use assert_necessary, whose controls are other components",
        )
    return Terms(
        kind="specificity",
        mode="ablate",
        circuit=circuit,
        intervention=asked.intervention,
        threshold=None,
        controls=control_kind(circuit, asked.controls),
        losses=asked.losses,
        max_controls=asked.max_controls,
        min_accuracy=asked.min_accuracy,
    )


def check_beats_random_subspaces(
    model: HookedMamba, circuit: Circuit, prompts: PromptPairs, **options: Unpack[Options]
) -> ClaimRecord:
    """Check that hardly any matched random subspace of the site has as large an effect.

    How large the effect is, is reported and not judged: use `check_necessary` for both questions.

    Null hypothesis: the subspace is exchangeable with its controls (by default, subspaces turned
        within blocks of nearly equal variance).
    Exchange unit: a subspace of the site, on the same model and prompts.
    Exactness: as `mechtest.stats.ControlTest`.

    Args:
        model: The model.
        circuit: One site with a subspace.
        prompts: As for `check_necessary`.
        **options: See `Options`.

    Sign: as `check_necessary`.
    Sources: Besag & Clifford 1991; docs/statistics.md for the control families.
    """
    asked = Asked(**options)
    return ask("specificity", lambda c: specificity_terms(c, asked), model, circuit, prompts, asked)


def assert_beats_random_subspaces(
    model: HookedMamba, circuit: Circuit, prompts: PromptPairs, **options: Unpack[Options]
) -> ClaimRecord:
    """Assert what `check_beats_random_subspaces` checks, and attach the record.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    return conclude(check_beats_random_subspaces(model, circuit, prompts, **options), circuit.name)
