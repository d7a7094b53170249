"""Which modes does the task use: by ablation, not by how much they vary?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from tqdm import tqdm

from mechtest.discovery.dynamics.agreement import rank_correlation
from mechtest.discovery.dynamics.eigenmodes import mode_half_lives
from mechtest.discovery.dynamics.mode_groups import By, Groups, grouped
from mechtest.discovery.dynamics.mode_shares import mode_energies, mode_variances
from mechtest.discovery.dynamics.pictures import BLUE, GREY, ORANGE, named_axes
from mechtest.discovery.dynamics.prompt_tables import prompt_table
from mechtest.discovery.dynamics.recurrence import chosen_layers, rows_of
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import ShapeError
from mechtest.interventions import (
    Circuit,
    Intervention,
    Places,
    ResampleAblation,
    Run,
    Runner,
    Subspace,
    SweepResult,
)
from mechtest.interventions.jobs import Variant
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ModeEffects", "ModeGroup", "ResampleModes", "mode_effects"]

CHUNK = 64
"""Interventions at once; the engine splits their rows further by its own bound."""
LARGEST_BASIS = 2**28
UNCHANGED = "the runs do not differ in these modes"


@dataclass(frozen=True, eq=False)
class ResampleModes(Intervention):
    """Put in the twin's values of some modes of a state, and keep the others.

    Attributes:
        modes: True at the modes meant.
    """

    modes: Bool[torch.Tensor, "d_inner d_state"]
    name: str = "resample modes"

    def source(self, base: Run) -> Run:
        """Return the run the values come from."""
        return "corrupted" if base == "clean" else "clean"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the reference at the modes, and the value elsewhere."""
        del site, places
        assert reference is not None
        return torch.where(self.modes.to(value.device), reference, value)


@part_of_records
@dataclass(frozen=True)
class ModeGroup:
    """One group of modes.

    Attributes:
        label: Its name.
        modes: How many there are.
        half_life: Geometric mean of their half-lives, in tokens.
        effect: Share of the behaviour lost when the twin's values stand in them; None where the
            runs do not differ there.
        low: Lower end of its 95 % interval over templates; None where there is none.
        high: Upper end.
        variance: Their share of the state's variance over clean prompts.
        difference: Their share of the squared difference between clean and corrupted.
        energy: Their share of the Gramians' diagonal products.
    """

    label: str
    modes: int
    half_life: float
    effect: float | None
    low: float | None
    high: float | None
    variance: float
    difference: float
    energy: float


@dataclass(frozen=True, eq=False, repr=False)
class ModeEffects(DiscoveryRecord):
    """What groups of modes do, beside what they look like.

    Attributes:
        site: The state meant, for example `blocks.1.hook_h@last`.
        map: Share of the behaviour lost, one row, a column a group.
        groups: The groups, in the order of the columns.
        member: Group of each mode, -1 for none, read-only "channel d_state".
        agreement: Spearman's rank correlation over groups of each measure with the size of the
            effect; None where it is not defined. `modes` is the mere number of modes.
    """

    site: str
    map: SweepResult
    groups: tuple[ModeGroup, ...]
    member: Int64[np.ndarray, "channel d_state"]
    agreement: Mapping[str, float | None]

    def lines(self) -> tuple[str, ...]:
        """Return the groups by effect, and which measure would have found them."""
        told = []
        for place in self.map.top(5):
            one = self.groups[place.column_index]
            told.append(
                f"{one.label}: effect {place.effect:.3f}, {one.variance:.0%} of the variance, "
                f"{one.energy:.0%} of the Gramian energy ({one.modes} modes)"
            )
        ranks = ", ".join(
            f"{name} {'not known' if value is None else f'{value:.2f}'}"
            for name, value in self.agreement.items()
        )
        return (*told, f"rank correlation with the effect: {ranks}")

    def scores(self) -> Mapping[str, float]:
        """Return a number for each channel: the size of its groups' effects, shared out evenly.

        A group's effect is divided among its modes, and a channel gets those of its own: with
        groups of one channel, each channel's effect itself.
        """
        per_mode = [abs(one.effect or 0.0) / one.modes for one in self.groups]
        share = np.array([*per_mode, 0.0])[self.member]  # -1 is the last one
        return {
            f"{self.site}#{channel}": float(total) for channel, total in enumerate(share.sum(1))
        }

    def circuit(self, count: int = 1, *, name: str | None = None) -> Circuit:
        """Return the state restricted to the groups with the largest effects.

        Whole channels become channels, single modes a subspace of coordinates.

        Args:
            count: How many groups.
            name: How reports call the circuit.

        Raises:
            ShapeError: Fewer groups have an effect, or the modes of a large model, whose subspace
                would not fit in memory.
        """
        best = [one.column_index for one in self.map.top(count)]
        if not 0 < len(best) == count:
            raise ShapeError(
                "there are not that many groups with an effect",
                given=f"count={count}",
                expected=f"1 to {len(self.map.top(len(self.groups)))}",
            )
        inside = np.isin(self.member, best)
        seen = self.about.fitted_on
        if inside.all():
            return Circuit(self.site, name=name, fitted_on=seen)
        whole = np.asarray(inside.all(1))
        if np.array_equal(inside, np.repeat(whole[:, None], inside.shape[1], axis=1)):
            chosen = np.flatnonzero(whole).tolist()
            return Circuit(self.site, channels=chosen, name=name, fitted_on=seen)
        where = torch.from_numpy(np.flatnonzero(inside))
        if inside.size * len(where) * 4 > LARGEST_BASIS:
            raise ShapeError(
                "a subspace of so many modes does not fit in memory",
                given=f"{len(where)} of {inside.size} modes",
                expected=f"at most {LARGEST_BASIS // (4 * inside.size)} modes",
                next_step='mode_effects(..., by="channels")',
            )
        axes = torch.zeros(inside.size, len(where))
        axes[where, torch.arange(len(where))] = 1.0
        return Circuit(self.site, subspace=Subspace(axes, axes), name=name, fitted_on=seen)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw each group's effect, with its interval, beside its shares."""
        require_picture_path(path)
        count = len(self.groups)
        figure = new_figure(min(1.8 + 0.55 * count, 16.0), 3.4)
        axes = named_axes(
            figure.add_subplot(),
            self.site,
            "modes by half-life (tokens)" if "-" in self.map.columns[0] else "modes",
            "share",
        )
        at = np.arange(count)
        for step, (name, colour) in enumerate(
            (("effect", ORANGE), ("variance", BLUE), ("energy", GREY))
        ):
            heights = [getattr(one, name) or 0.0 for one in self.groups]
            label = {"effect": "effect of resampling (share of behaviour)",
                     "variance": "share of variance",
                     "energy": "share of Gramian energy"}[name]  # fmt: skip
            axes.bar(at + 0.27 * (step - 1), heights, width=0.25, color=colour, label=label)
        for place, one in enumerate(self.groups):
            if one.low is not None and one.high is not None:
                axes.plot([place - 0.27] * 2, [one.low, one.high], color="black", lw=0.9)
        axes.axhline(0, color="black", lw=0.5)
        every = max(1, count // 24)
        labels = [one.label.removesuffix(" tokens") for one in self.groups[::every]]
        axes.set_xticks(at[::every], labels, rotation=45, ha="right")
        figure.legend(fontsize=7, frameon=False, loc="outside upper right", ncols=3)
        return write_figure(figure, path, f"modes of {self.site}")


@torch.no_grad()
def mode_effects(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    layer: int,
    *,
    at: str = "last",
    groups: Groups = "octave",
    by: By = "modes",
    count: int = 8,
    metric: Metric = logit_difference,
    progress: bool = True,
) -> ModeEffects:
    """Resample groups of modes of a state, and compare the effects with what describes the modes.

    The twin's values are put into a group's coordinates of `hook_h` at one token, and the change
    propagates. Beside each effect stand the group's shares of variance, of the clean-corrupted
    difference and of Gramian energy: a description that is cheaper than an ablation, and right only
    where it ranks the groups alike. Groups of many modes have more of everything: see `modes` in
    `agreement`.

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layer: Which layer.
        at: One position, in the notation of sites: `last`, `S2+1`, `-3`.
        groups: See `mode_groups.grouped`.
        by: Group single modes, or whole channels.
        count: Groups for `rank`.
        metric: Reads logits.
        progress: Show bars on stderr, where that is a terminal.

    Raises:
        ShapeError: Unknown groups, several positions, a layer the model does not have.
        MetricError: Clean and corrupted prompts score alike.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: the states of all prompts at one token, twice ("prompt d_inner d_state"); interventions
    are chunked by the engine.
    Sources: Chan et al. 2022 (resampling); Moore 1981 for the energy.
    """
    (index,) = chosen_layers(model, layer)
    site = f"blocks.{index}.hook_h@{at}"
    runner = looking_runner(model, prompts)
    cuts = _tokens_meant(runner, site)
    rows = rows_of(model, runner.pairs, tool="mode_effects")
    lives = mode_half_lives(model, rows, index)
    labels, member = grouped(lives, groups, by=by, count=count)
    core = about(
        "mode_effects", model, runner.pairs, metric=metric.name,
        layer=index, at=at, by=by, count=count,
        groups=groups if isinstance(groups, str) else "own",
    )  # fmt: skip
    values, reasons = _effects(runner, site, member, len(labels), metric, progress=progress)
    table = prompt_table(
        core, values[None], rows=([f"layer {index}"], "layer"), columns=(labels, "modes"),
        sites=[[site] * len(labels)], what="resample of modes",
        effect=(f"{metric.name.replace('_', ' ')} lost", "share of behaviour"), reasons=reasons,
    )  # fmt: skip
    variance, difference = mode_variances(runner, site)
    shares = {
        "variance": variance,
        "difference": difference,
        "energy": mode_energies(model, rows, index, cuts),
    }
    described = tuple(
        _described(table, place, label, member == place, lives, shares)
        for place, label in enumerate(labels)
    )
    sizes = np.array([np.nan if one.effect is None else abs(one.effect) for one in described])
    measures = ("variance", "difference", "energy", "modes")
    agreement = {
        name: rank_correlation(np.array([float(getattr(one, name)) for one in described]), sizes)
        for name in measures
    }
    frozen = member.copy()
    frozen.flags.writeable = False
    return ModeEffects(core, site, table, described, frozen, agreement)


def _described(
    table: SweepResult,
    place: int,
    label: str,
    inside: np.ndarray,
    lives: np.ndarray,
    shares: Mapping[str, np.ndarray],
) -> ModeGroup:
    parts = {
        name: float(each[inside].sum() / total) if (total := each.sum()) else 0.0
        for name, each in shares.items()
    }
    mean = float(table.mean()[0, place])
    low = high = None
    if np.isfinite(mean) and len(set(table.templates)) > 1:
        found = table.interval(0, place)
        low, high = found.low, found.high
    return ModeGroup(
        label=label,
        modes=int(inside.sum()),
        half_life=float(np.exp(np.log(lives[inside]).mean())),
        effect=mean if np.isfinite(mean) else None,
        low=low,
        high=high,
        **parts,
    )


def _effects(
    runner: Runner, site: str, member: np.ndarray, count: int, metric: Metric, *, progress: bool
) -> tuple[Float[np.ndarray, "group prompt"], dict[tuple[int, int], str]]:
    """Return each group's effect on each prompt, and why numbers are missing."""
    behaviour = behaviour_of(runner, metric)
    values = np.full((count, len(runner.pairs)), np.nan)
    reasons: dict[tuple[int, int], str] = {}
    bar = tqdm(total=count, desc="groups", disable=None if progress else True)
    with bar:
        for start in range(0, count, CHUNK):
            part = range(start, min(start + CHUNK, count))
            variants = [_variant(runner, site, member == group) for group in part]
            logits, changed = runner.sweep_logits(variants, "clean")
            for group, one, touched in zip(part, logits, changed, strict=True):
                if not bool(touched.any()):
                    reasons[0, group] = UNCHANGED
                    continue
                lost = (behaviour.clean - metric(one, runner.pairs)) / behaviour.gap
                values[group] = lost.double().cpu().numpy()
            bar.update(len(part))
    return values, reasons


def _variant(runner: Runner, site: str, inside: np.ndarray) -> Variant:
    whole = inside.all(1)
    if whole.any() and np.array_equal(inside.any(1), whole):
        circuit = Circuit(site, channels=np.flatnonzero(whole).tolist())
        return runner.variant([circuit], ResampleAblation())
    return runner.variant([Circuit(site)], ResampleModes(torch.from_numpy(inside)))


def _tokens_meant(runner: Runner, site: str) -> list[int]:
    """Return the token of each prompt, counted without padding."""
    (edit,) = runner.planner.plan(Circuit(site))
    where = edit.where
    if where is None or not bool((where.sum(1) == 1).all()):
        raise ShapeError(
            "modes are resampled at one token of each prompt",
            given=site,
            expected="one position, for example last",
        )
    padding = where.shape[1] - runner.pairs.lengths
    return (where.int().argmax(1) - padding).tolist()
