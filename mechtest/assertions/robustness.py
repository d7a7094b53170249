"""Does a circuit still do its work when prompts are asked in another way?

Three questions, and never one answered for another: is there a prompt that breaks it (a search),
how much is left over a fair sample of perturbed prompts (a test), and how much is left by the worst
kind of edit, which is looked for on the discovery half and tested on the other (both in turn).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from mechtest.assertions.asking import Asked, Options
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.perturbed_sample import answer_sample, answer_worst_kind
from mechtest.assertions.perturbed_search import answer_search
from mechtest.assertions.robust_terms import RobustTerms, robust_terms
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim
from mechtest.tasks import PromptPairs
from mechtest.tasks.perturbation import Perturbation, Source

__all__ = ["Form", "assert_robust", "check_robust"]

Form = Literal["worst_case", "distribution", "worst_kind"]


def check_robust(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    perturbations: Sequence[Source],
    form: Form = "worst_case",
    floor: float = 0.5,
    rho: float = 0.8,
    fraction: float | None = None,
    n: int | None = None,
    max_edits: int = 2,
    mode: Literal["ablate", "restore"] = "ablate",
    examples: Sequence[Perturbation] = (),
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that a circuit keeps its effect when prompts are perturbed.

    What is kept is a share: what the circuit moves on the perturbed prompt, over what it moves on
    the prompt as it is, both in the metric's unit. Edits leave the answer as it is, which is
    checked; those that a prompt does not allow are left out and counted in the notes.

    | form | the claim | what counts |
    | --- | --- | --- |
    | `worst_case` | no perturbed prompt keeps less than `floor` | one counter-example refutes |
    | `distribution` | more than `rho` is kept over perturbed prompts | a p value over templates |
    | `worst_kind` | the same, of the worst kind of edit, found on the discovery half | likewise |

    `worst_case`: Hypothesis tries up to `n` prompts and makes a counter-example small. None found
    is reported as that, never as a probability; there is no p value, so the claim has to be marked
    `exact=True` and takes no part in the error rate.

    Null hypothesis (of the other two): over templates, at most `rho` of the effect is kept; with
        `fraction`, also: at most this share of templates keeps `rho` on every prompt drawn.
    Exchange unit: the sign of a template's score, mean kept - rho * mean effect; with `fraction`
        the template.
    Exactness: as `mechtest.stats.effect_test`; `fraction` is exactly binomial. Perturbed prompts
        are drawn by a keyed generator, with replacement, and are nested in their prompt's template:
        more of them make a template's score steadier, and are no further templates.

    Args:
        model: The model.
        circuit: What is ablated, or restored.
        prompts: A whole collection; its test half is used.
        perturbations: Edits and tables of edits, simplest first.
        form: See above.
        floor: Of `worst_case`; choose it clearly below what matters.
        rho: Of the other two.
        fraction: Of the other two; None does not ask.
        n: Prompts tried (200), or draws for every prompt (8).
        max_edits: Most edits of one prompt, each of another kind; `worst_kind` makes one.
        mode: `ablate`: what ablating destroys is kept. `restore`: what restoring brings back is.
        examples: Of `worst_case`: perturbed prompts that are tried first, as they were printed.
        **options: See `Options`; those about controls have no use here.

    Sources: Canay, Romano & Shaikh 2017 (sign changes over clusters); MacIver & Hatfield-Dodds 2020
        (test-case reduction).
    """
    asked = Asked(**options)

    def check(claim: RunningClaim) -> ClaimRecord:
        terms = robust_terms(
            circuit,
            asked,
            form=form,
            mode=mode,
            floor=floor,
            rho=rho,
            fraction=fraction,
            draws=n,
            max_edits=max_edits,
            sources=perturbations,
        )
        return _ANSWERS[form](model, prompts, terms, asked.metric, claim, tuple(examples))

    statement = f"{circuit.name} does its work on perturbed prompts"
    return checked(RobustTerms.KIND, check, level=asked.level, statement=statement)


_ANSWERS = {
    "worst_case": answer_search,
    "distribution": answer_sample,
    "worst_kind": answer_worst_kind,
}


def assert_robust(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    perturbations: Sequence[Source],
    form: Form = "worst_case",
    floor: float = 0.5,
    rho: float = 0.8,
    fraction: float | None = None,
    n: int | None = None,
    max_edits: int = 2,
    mode: Literal["ablate", "restore"] = "ablate",
    examples: Sequence[Perturbation] = (),
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_robust` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted: A counter-example, printed as a line to paste; or less is kept than claimed.
        ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_robust(
        model,
        circuit,
        prompts,
        perturbations=perturbations,
        form=form,
        floor=floor,
        rho=rho,
        fraction=fraction,
        n=n,
        max_edits=max_edits,
        mode=mode,
        examples=examples,
        **options,
    )
    return conclude(record, circuit.name)
