"""How much of the behaviour goes through a circuit, and how much past it?

Whoever changes the prompt changes the answer: that is the total effect. What goes through the
circuit is seen by changing only its activations; what goes past it, by changing all but them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import DiscoveryRecord, about, read_only
from mechtest.discovery.tracing.answer_probability import metric_named
from mechtest.discovery.tracing.trace_record import template_interval, template_mean
from mechtest.errors import DiscoveryError, closest_names
from mechtest.interventions import Circuit, Patch, ResampleAblation
from mechtest.models import HookedMamba
from mechtest.stats import Interval
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EFFECTS", "MediatedEffects", "mediated_effects"]

EFFECTS: Mapping[str, str] = {
    "total": "clean - corrupted",
    "indirect, denoising": "corrupted with the clean circuit - corrupted",
    "indirect, noising": "clean - clean with the corrupted circuit",
    "direct, denoising": "clean - corrupted with the clean circuit",
    "direct, noising": "clean with the corrupted circuit - corrupted",
}
"""The effects, and the runs each is a difference of. Indirect and direct effects of opposite kinds
sum to the total: denoising with denoising, noising with noising."""


@dataclass(frozen=True, eq=False, repr=False)
class MediatedEffects(DiscoveryRecord):
    """Total, direct and indirect effects of the prompt, with a circuit as mediator.

    Attributes:
        sites: The circuit.
        clean: Metric of each prompt.
        corrupted: Of its twin.
        restored: Of the twin with the circuit's clean activations (denoising).
        ablated: Of the prompt with the circuit's corrupted ones (noising).
        unit: Of the metric.
    """

    sites: tuple[str, ...]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    restored: Float[np.ndarray, " prompt"]
    ablated: Float[np.ndarray, " prompt"]
    unit: str

    def per_prompt(self, effect: str) -> Float[np.ndarray, " prompt"]:
        """Return one of `EFFECTS` for each prompt, in the metric's unit.

        Raises:
            DiscoveryError: No such effect.
        """
        found = {
            "total": self.clean - self.corrupted,
            "indirect, denoising": self.restored - self.corrupted,
            "indirect, noising": self.clean - self.ablated,
            "direct, denoising": self.clean - self.restored,
            "direct, noising": self.ablated - self.corrupted,
        }
        if effect not in found:
            raise DiscoveryError(
                f"there is no effect {effect!r}",
                given=effect,
                closest=closest_names(effect, found),
                expected=f"one of {'; '.join(found)}",
            )
        return found[effect]

    def mean(self, effect: str) -> float:
        """Return an effect in the metric's unit, templates weighted equally."""
        return template_mean(self.per_prompt(effect), self.about.templates)

    def share(self, effect: str) -> float:
        """Return an effect as a share of the total one."""
        return self.mean(effect) / self.mean("total")

    @property
    def interaction(self) -> float:
        """Indirect effect of noising minus that of denoising, as a share of the total.

        Not 0: whether the circuit matters depends on what stands around it. Positive where it is
        needed but not enough (an "and"), negative where something else can stand in (an "or").
        """
        return self.share("indirect, noising") - self.share("indirect, denoising")

    def interval(self, effect: str, confidence: float = 0.95) -> Interval:
        """Return the interval of an effect in the metric's unit, with templates as the unit."""
        key = f"{'+'.join(self.sites)} {effect}"
        return template_interval(self.per_prompt(effect), self.about.templates, key, confidence)

    def lines(self) -> tuple[str, ...]:
        """Return the effects in words."""
        found = [f"{', '.join(self.sites)}: {len(self.about.prompt_ids)} prompts"]
        for effect, runs in EFFECTS.items():
            ends = self.interval(effect)
            told = "" if not ends.bounded else f" [{ends.low:.3g}, {ends.high:.3g}]"
            found.append(
                f"{effect} effect: {self.mean(effect):.4g} {self.unit}{told}, "
                f"{self.share(effect):.3g} of the total ({runs})"
            )
        return (*found, f"interaction: {self.interaction:.3g} of the total")

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the effects as bars with their intervals."""
        from mechtest.discovery.tracing.mediated_picture import draw_mediated

        return draw_mediated(self, path)


@torch.no_grad()
def mediated_effects(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    circuit: Circuit | str | Sequence[str],
    *,
    metric: Metric | str = logit_difference,
) -> MediatedEffects:
    """Split the effect of the prompt into what goes through a circuit and what goes past it.

    Args:
        model: The model.
        prompts: Their discovery half is taken.
        circuit: The mediator: a circuit, or sites.
        metric: A metric, or its name.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        MetricError: Clean and corrupted prompts score alike.
        NothingChangedError: The circuit does not differ between the runs.
        UnknownSiteError, PositionError, ShapeError: The circuit does not fit.

    Sources: Robins & Greenland 1992 and Pearl 2001 (natural effects; "pure" and "total" ones are
    those of denoising and of noising); Vig et al. 2020, section 3.
    """
    if not isinstance(circuit, Circuit):
        circuit = Circuit(*([circuit] if isinstance(circuit, str) else circuit))
    runner = looking_runner(model, prompts)
    chosen = metric_named(metric)
    behaviour = behaviour_of(runner, chosen)
    ablated = runner.run(circuit, ResampleAblation())
    restored = runner.run(circuit, Patch("clean"), base="corrupted")
    sites = tuple(str(site) for site in circuit.sites)
    return MediatedEffects(
        about=about(
            "mediated_effects", model, runner.pairs, metric=chosen.name, circuit=list(sites),
            channels=list(circuit.channels or ()),
        ),
        sites=sites,
        clean=_array(behaviour.clean),
        corrupted=_array(behaviour.corrupted),
        restored=_array(chosen(restored.logits, runner.pairs)),
        ablated=_array(chosen(ablated.logits, runner.pairs)),
        unit=chosen.unit,
    )  # fmt: skip


def _array(values: torch.Tensor) -> np.ndarray:
    return read_only(values.cpu().double().numpy())
