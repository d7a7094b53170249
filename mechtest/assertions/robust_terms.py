"""On which terms is a claim of robustness made?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mechtest.assertions.asking import Asked
from mechtest.assertions.question import Mode
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit, Cost
from mechtest.running_claim import RunningClaim
from mechtest.stats import require_sets
from mechtest.tasks.perturbation import Source

__all__ = ["RobustTerms", "require_no_level", "robust_terms"]

TRIES = 200
DRAWS = 8
FORMS = ("worst_case", "distribution", "worst_kind")


@dataclass(frozen=True, eq=False)
class RobustTerms(Terms):
    """The terms of a claim of robustness; the lock registers `settings`.

    Attributes:
        form: `worst_case`, `distribution` or `worst_kind`.
        sources: Edits and tables of edits.
        max_edits: Most edits of one prompt.
        draws: Prompts tried, or draws for every prompt.
        fraction: Share of templates that have to keep it on every draw; None does not ask.
        tested: Digest of the whole test half, whatever part of it allows an edit.
    """

    KIND: ClassVar[str] = "robustness"

    form: str = "worst_case"
    sources: tuple[Source, ...] = field(default=(), kw_only=True)
    max_edits: int = 2
    draws: int = TRIES
    fraction: float | None = None
    tested: str = ""

    def settings(self, study: Study) -> dict[str, Any]:
        """Return what the lock registers, as plain JSON values."""
        return {
            **super().settings(study),
            "prompts": (self.tested or study.tested.digest)[:16],
            "form": self.form,
            "perturbations": [repr(source) for source in self.sources],
            "max_edits": self.max_edits,
            "draws": self.draws,
            "fraction": self.fraction,
        }

    def require_attainable(self, study: Study, level: float) -> None:
        """Raise when no data could support the claim; nothing has been run by then."""
        super().require_attainable(study, level)
        if self.fraction is not None:
            require_sets(study.templates, self.fraction, level)

    def cost(self, study: Study, level: float, seed: int) -> Cost:
        """Return what it will cost if perturbed prompts are as long as the others."""
        once = super().cost(study, level, seed)
        total = once
        for _ in range(self._batches(study)):
            total += once
        return total

    def plan(self, study: Study, level: float) -> dict[str, Any]:
        """Return what checking this claim will take, without running anything."""
        found = super().plan(study, level)
        return {**found, "forward_passes": found["forward_passes"] + 3 * self._batches(study)}

    def _batches(self, study: Study) -> int:
        """Return how many times as many prompts as there are will be asked."""
        if self.form == "worst_case":
            return -(-self.draws // len(study.pairs))
        return self.draws


def robust_terms(
    circuit: Circuit,
    asked: Asked,
    *,
    form: str,
    mode: Mode,
    floor: float,
    rho: float,
    fraction: float | None,
    draws: int | None,
    max_edits: int,
    sources: Sequence[Source],
) -> RobustTerms:
    """Return the terms of a claim.

    Raises:
        ClaimInvalid: Something that no claim can be made with; names it.
    """
    count = draws if draws is not None else TRIES if form == "worst_case" else DRAWS
    shares = [floor, rho, *([] if fraction is None else [fraction])]
    if form not in FORMS or mode not in ("ablate", "restore"):
        raise ClaimInvalid(
            "there is no such form of robustness",
            given=f"form={form!r}, mode={mode!r}",
            expected=f"form= one of {', '.join(FORMS)}; mode= ablate or restore",
        )
    if not all(0 < share < 1 for share in shares) or isinstance(count, bool) or count < 1:
        raise ClaimInvalid(
            "floor, rho and fraction are shares, and something has to be tried",
            given=f"floor={floor!r}, rho={rho!r}, fraction={fraction!r}, n={count!r}",
            expected="shares between 0 and 1, and n of at least 1",
        )
    if asked.ablations is not None:
        raise ClaimInvalid(
            "robustness is that of one ablation", given="ablations=", expected="intervention="
        )
    if not isinstance(sources, (list, tuple)):
        raise ClaimInvalid(
            "edits come as a list",
            given=f"perturbations={sources!r}",
            expected="perturbations=[mt.Prefix(...), ...]",
        )
    searching = form == "worst_case"
    return RobustTerms(
        kind=RobustTerms.KIND,
        mode=mode,
        circuit=circuit,
        intervention=asked.intervention,
        threshold=floor if searching else rho,
        min_accuracy=asked.min_accuracy,
        judged=not searching,
        form=form,
        sources=tuple(sources),
        max_edits=1 if form == "worst_kind" else max_edits,
        draws=count,
        fraction=None if searching else fraction,
    )


def require_no_level(claim: RunningClaim) -> None:
    """Refuse a search in a test that takes part in the error rate: it has no p value."""
    if claim.id and not claim.exact:
        raise ClaimInvalid(
            "a search has no p value, so it takes no part in the error rate",
            given="a claim that does",
            expected='@mt.claim("...", exact=True)',
            next_step='mark it exact=True, or ask how much is kept: form="distribution"',
        )
