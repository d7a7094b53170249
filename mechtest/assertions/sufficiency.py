"""Is this circuit enough to bring the behaviour back?"""

from __future__ import annotations

from typing import Literal, Unpack

from mechtest.assertions.asking import Asked, Options, ask
from mechtest.assertions.candidates import Candidates
from mechtest.assertions.control_sets import control_kind
from mechtest.assertions.outcome import conclude
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.tasks import PromptPairs

__all__ = ["assert_sufficient", "check_sufficient", "sufficiency_terms"]

Sufficiency = Literal["restore", "keep"]


def sufficiency_terms(
    circuit: Circuit,
    threshold: float,
    asked: Asked,
    mode: Sufficiency = "restore",
    equivalent: float | None = None,
) -> Terms:
    """Return the terms of a claim of sufficiency."""
    if mode not in ("restore", "keep"):
        raise ClaimInvalid(
            f"there is no mode {mode!r} of sufficiency",
            given=f"mode={mode!r}",
            expected="'restore' (patch the circuit into the corrupted run) or 'keep' (ablate all "
            "else of its kind)",
        )
    return Terms(
        kind="sufficiency",
        mode=mode,
        circuit=circuit,
        intervention=asked.intervention,
        threshold=threshold,
        controls=control_kind(circuit, asked.controls),
        losses=asked.losses,
        max_controls=asked.max_controls,
        illusion=asked.illusion if circuit.subspace is not None else None,
        min_accuracy=asked.min_accuracy,
        equivalent=equivalent,
    )


def check_sufficient(
    model: HookedMamba,
    circuit: Circuit | Candidates,
    prompts: PromptPairs,
    *,
    threshold: float = 0.8,
    mode: Sufficiency = "restore",
    equivalent: float | None = None,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that a circuit alone gives more than a share of the behaviour.

    `restore` patches the circuit's clean activations into the corrupted run: (patched - corrupted)
    / (clean - corrupted). `keep` leaves the circuit alone in the clean run and ablates everything
    else of its kind, in all layers at its positions: (kept - empty) / (clean - empty), where
    "empty" has the circuit ablated too. The two differ where several paths have to meet (AND) or
    each will do (OR).

    Null hypothesis, exchange unit, exactness: as `check_necessary`.

    Args:
        model: The model.
        circuit: The circuit; for `restore` also `best_of` several.
        prompts: As for `check_necessary`.
        threshold: theta0, the smallest share of interest.
        mode: `restore` or `keep`.
        equivalent: Also show that the circuit does not give more than 1 + this share: a circuit
            without what holds the model back overshoots, and is not what the model does. With
            `threshold` one minus this share that is a two one-sided test of "the same". None
            leaves the effect open above.
        **options: See `Options`.

    Returns:
        As `check_necessary`. A circuit that cuts the model in two is invalid: restoring it restores
        everything in any model.

    Sign: 1 when the answer is as clear as on the clean prompt; above 1 is possible.
    Sources: Zhang & Nanda 2023 (denoising); Hanna et al. 2024 and MIB 2025 (faithfulness, whose
        CMD counts what is above 1 as a deviation too); Schuirmann 1987 for `equivalent`.
    """
    asked = Asked(**options)
    return ask(
        "sufficiency",
        lambda c: sufficiency_terms(c, threshold, asked, mode, equivalent),
        model,
        circuit,
        prompts,
        asked,
    )


def assert_sufficient(
    model: HookedMamba,
    circuit: Circuit | Candidates,
    prompts: PromptPairs,
    *,
    threshold: float = 0.8,
    mode: Sufficiency = "restore",
    equivalent: float | None = None,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_sufficient` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_sufficient(
        model, circuit, prompts, threshold=threshold, mode=mode, equivalent=equivalent, **options
    )
    return conclude(record, circuit.name)
