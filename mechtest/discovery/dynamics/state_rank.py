"""In how many directions does the state differ between prompts, layer by layer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from mechtest.discovery.dynamics.pictures import named_axes
from mechtest.discovery.dynamics.recurrence import chosen_layers
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import DiscoveryRecord, about, read_only
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, Run, collect_activations
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StateRank", "covariance_rank", "state_rank"]

MEMORY = 2**28


@dataclass(frozen=True, eq=False, repr=False)
class StateRank(DiscoveryRecord):
    """Effective rank of activations across prompts.

    Attributes:
        hook: What was looked at.
        layers: Rows.
        positions: Columns, in the notation of sites.
        rank: Participation ratio of the covariance over prompts, read-only "layer position"; 0
            where prompts do not differ.
        scaled: The same with every coordinate divided by its spread (coordinates that do not vary
            left out), so that a few large ones do not decide alone.
        largest: What it could be at most: prompts - 1, or the number of coordinates.
    """

    hook: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    rank: Float[np.ndarray, "layer position"]
    scaled: Float[np.ndarray, "layer position"]
    largest: int

    def lines(self) -> tuple[str, ...]:
        """Return each layer's effective ranks."""
        return tuple(
            f"layer {layer}: "
            + ", ".join(
                f"{position} {self.rank[row, column]:.1f} ({self.scaled[row, column]:.1f} scaled)"
                for column, position in enumerate(self.positions)
            )
            + f" of at most {self.largest}"
            for row, layer in enumerate(self.layers)
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw both as lines over positions, a line a layer."""
        require_picture_path(path)
        figure = new_figure(2.6 + 0.5 * len(self.positions), 2.8)
        axes = figure.subplots(1, 2, sharey=True)
        titles = ("as it is", "coordinates scaled")
        for panel, values, title in zip(axes, (self.rank, self.scaled), titles, strict=True):
            named_axes(panel, title, "position", f"effective rank of {self.hook}")
            for row, layer in enumerate(self.layers):
                panel.plot(range(len(self.positions)), values[row], "o-", ms=3, lw=1,
                           label=f"layer {layer}")  # fmt: skip
            panel.set_xticks(range(len(self.positions)), self.positions, rotation=60, ha="right")
            panel.set_ylim(0, 1.08 * max(self.rank.max(), self.scaled.max(), 1.0))
        if len(self.layers) <= 12:
            axes[0].legend(fontsize=7, frameon=False)
        return write_figure(figure, path, "effective rank of the state")


@torch.no_grad()
def state_rank(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Sequence[str] = ("last",),
    hook: str = "hook_h",
    run: Run = "clean",
    progress: bool = True,
) -> StateRank:
    """Return in how many directions the state differs between prompts.

    Variance is not use: a state may differ in many directions that nothing reads. `mode_effects`
    asks which are used.

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layers: Which; None for all.
        positions: One token each, in the notation of sites; from the end where prompts differ in
            length.
        hook: Inside a block, without `blocks.{l}.`.
        run: Which prompt of each pair.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        ShapeError: Fewer than three prompts, no position, or one that means several tokens.
        UnknownSiteError, PositionError: A hook or position that is not there.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: "prompt d_inner d_state" of as many layers as fit in 256 MiB, at least one.
    Sources: Gao et al. 2017 (participation ratio); Roy & Vetterli 2007 on effective ranks.
    """
    chosen = chosen_layers(model, layers)
    runner = looking_runner(model, prompts)
    if len(runner.pairs) < 3 or not positions:
        raise ShapeError(
            "an effective rank is taken over three prompts or more, at one position or more",
            given=f"{len(runner.pairs)} prompts, positions={list(positions)}",
        )
    width = len(runner.pairs) * model.cfg.E * model.cfg.N * 4
    step = max(1, MEMORY // width)
    rank, scaled = (np.zeros((len(chosen), len(positions))) for _ in range(2))
    largest = len(runner.pairs) - 1
    total = len(chosen) * len(positions)
    with tqdm(total=total, desc="state_rank", disable=None if progress else True) as bar:
        for column, position in enumerate(positions):
            for start in range(0, len(chosen), step):
                part = chosen[start : start + step]
                circuit = Circuit(*(f"blocks.{layer}.{hook}@{position}" for layer in part))
                found = collect_activations(runner, circuit, run)
                for row, values in enumerate(found.values(), start):
                    if len(values) != len(runner.pairs):
                        raise ShapeError(
                            "an effective rank is of one token a prompt", given=f"@{position}"
                        )
                    flat = values.flatten(1)
                    largest = min(largest, flat.shape[1])
                    rank[row, column], scaled[row, column] = covariance_rank(flat)
                    bar.update()
    core = about(
        "state_rank", model, runner.pairs, layers=list(chosen), positions=list(positions),
        hook=hook, run=run,
    )  # fmt: skip
    return StateRank(
        core, hook, chosen, tuple(positions), read_only(rank), read_only(scaled), largest
    )


def covariance_rank(values: Float[torch.Tensor, "prompt dim"]) -> tuple[float, float]:
    """Return (tr S)^2 / tr S^2 of the covariance S, and of the correlations; 0 without variance.

    From products between prompts: nothing of "dim dim" is built.
    """
    centred = values.double() - values.double().mean(0)
    spread = centred.square().mean(0).sqrt()
    # What only rounding makes vary would count fully once it is divided by its spread.
    varies = spread > 1e-9 * values.double().abs().amax(0).clamp(min=1e-300)
    return _ratio(centred[:, varies]), _ratio(centred[:, varies] / spread[varies])


def _ratio(rows: torch.Tensor) -> float:
    products = rows @ rows.T
    squares = float(products.square().sum())
    return float(products.trace()) ** 2 / squares if squares > 0 else 0.0
