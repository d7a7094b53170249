"""On which terms is a claim made: everything that is chosen before the test half is looked at?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mechtest.assertions._decide import REFUTATION
from mechtest.assertions.control_sets import (
    COMPONENTS,
    channel_sets,
    control_blocks,
    control_kind,
)
from mechtest.assertions.guards import BEHAVIOUR_LEVEL
from mechtest.assertions.question import Direction, Mode, Question
from mechtest.assertions.study import Study
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit, Cost, Intervention
from mechtest.stats import (
    LOSSES,
    ControlTest,
    most_controls,
    needed_clusters,
    needed_controls,
    require_clusters,
)

__all__ = ["Terms"]


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of one claim; the lock registers `settings`.

    Attributes:
        kind: `necessity`, `sufficiency`, `absence` or `specificity`.
        mode: How effects are measured (`question.py`).
        circuit: The claimed circuit.
        intervention: The ablation.
        threshold: What the effect is held against; None where only its rank counts.
        direction: On which side of it the claim is.
        two_sided: For "less": also above -threshold.
        controls: Kind of control; None where none are asked for.
        losses: Controls that may be as good before the test gives up.
        max_controls: Most controls to draw; None for as many as can matter.
        illusion: delta of the illusion guard; None where it does not apply.
        min_accuracy: Share of prompts the untouched model has to answer right.
        refutation: Rate of false "refuted".
        judged: Whether the effect is held against `threshold` here; False where it is one of
            several whose mean is.
        others: Ablations that are measured and reported beside, and decide nothing.
        equivalent: Also show that the effect is below 1 + this share; None to leave it open above.
    """

    kind: str
    mode: Mode
    circuit: Circuit
    intervention: Intervention
    threshold: float | None
    direction: Direction = "greater"
    two_sided: bool = False
    controls: str | None = None
    losses: int = LOSSES
    max_controls: int | None = None
    illusion: float | None = None
    min_accuracy: float = 0.5
    refutation: float = REFUTATION
    judged: bool = True
    others: tuple[Intervention, ...] = ()
    equivalent: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.intervention, Intervention):
            raise ClaimInvalid(
                "a claim needs an intervention",
                given=f"intervention={self.intervention!r}",
                expected="ResampleAblation(), MeanAblation(...), ZeroAblation() ...",
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ClaimInvalid(
                "a threshold has to be a finite number", given=f"threshold={self.threshold!r}"
            )
        if self.equivalent is not None and not 0 < self.equivalent < math.inf:
            raise ClaimInvalid(
                "the margin of an equivalence is a share of the behaviour",
                given=f"equivalent={self.equivalent!r}",
                expected="a positive number, for example equivalent=0.1",
            )

    def settings(self, study: Study) -> dict[str, Any]:
        """Return what the lock registers, as plain JSON values."""
        circuit = self.circuit
        return {
            "kind": self.kind,
            "mode": self.mode,
            "circuit": [str(site) for site in circuit.sites],
            "channels": circuit.channel_total,
            "rank": None if circuit.subspace is None else circuit.subspace.rank,
            "origin": "declared" if circuit.fitted_on is None else "found on discovery prompts",
            "intervention": self.intervention.name,
            "metric": study.metric.name,
            "threshold": self.threshold,
            "direction": self.direction,
            "two_sided": self.two_sided,
            "controls": self.controls,
            "losses": self.losses,
            "max_controls": self.max_controls,
            "illusion": self.illusion,
            "min_accuracy": self.min_accuracy,
            "prompts": study.tested.digest[:16],
            **({"others": [one.name for one in self.others]} if self.others else {}),
            **({} if self.equivalent is None else {"equivalent": self.equivalent}),
        }

    def require_attainable(self, study: Study, level: float) -> None:
        """Raise when no data could support the claim; nothing has been run by then.

        Raises:
            UnattainableLevelError: Too few templates or controls for the level.
            ControlsError, ClaimInvalid: Controls that cannot be, or do not fit.
        """
        require_clusters(study.templates, self._strictest(level))
        if self.controls is None:
            return
        kind = control_kind(self.circuit, self.controls)
        ControlTest(0.0, level, losses=self.losses, cap=self.max_controls)
        if kind == COMPONENTS:
            channel_sets(study.model, self.circuit, 0, level)
        elif study.looked_at is None:
            raise ClaimInvalid(
                "controls of a subspace are drawn in coordinates measured on discovery prompts",
                given=f"{study.tested!r} alone",
                expected="the whole collection, which both halves are taken from",
                next_step="pass `prompts`, not `prompts.test`",
            )

    def _strictest(self, level: float) -> float:
        """Return the smallest level of any test over templates: that there is a behaviour, too."""
        held = self.threshold is not None and self.judged
        return min(level, BEHAVIOUR_LEVEL) if held else BEHAVIOUR_LEVEL

    def cost(self, study: Study, level: float, seed: int) -> Cost:
        """Return what measuring the circuit and the controls needed for support will cost.

        Unedited runs and guards are left out. Nothing is run.

        Raises:
            ControlsError, UnattainableLevelError: As `require_attainable`.
            SiteNotServedError: The engine that is asked for cannot carry it out.
        """
        question = Question(study, self.mode, self.intervention, self.circuit)
        total = question.cost([[self.circuit]])
        for other in self.others:
            total += Question(study, self.mode, other, self.circuit).cost([[self.circuit]])
        if self.controls is None:
            return total
        sets = None  # all subspaces of a site cost the same
        if control_kind(self.circuit, self.controls) == COMPONENTS:
            sets = channel_sets(study.model, self.circuit, seed, level)
        for block in control_blocks(needed_controls(level, losses=self.losses)):
            total += question.cost(
                [[self.circuit] if sets is None else sets.draw(n).circuits for n in block]
            )
        return total

    def plan(self, study: Study, level: float) -> dict[str, Any]:
        """Return what checking this claim will take at most, without running anything."""
        controls = 0 if self.controls is None else most_controls(level, losses=self.losses)
        if self.max_controls is not None:
            controls = min(controls, self.max_controls)
        fewest = 0 if self.controls is None else needed_controls(level, losses=self.losses)
        batches = -(-len(study.pairs) // study.runner.batch_size)
        found = 0 if self.circuit.fitted_on is None else 4  # on the half it was found on
        others = 6 + found + (2 if self.illusion is not None else 0) + len(self.others)
        return {
            "settings": self.settings(study),
            "clusters": study.templates,
            "needed_clusters": needed_clusters(self._strictest(level)),
            "controls": controls,
            "needed_controls": fewest,
            "seeds": 1,
            "prompts": len(study.pairs),
            "forward_passes": batches * (others + controls),
        }
