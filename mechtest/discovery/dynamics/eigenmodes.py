"""Which modes does a layer's recurrence have, and how long does each last on these prompts?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64

from mechtest.discovery.dynamics.pictures import BLUE, named_axes
from mechtest.discovery.dynamics.prompt_tables import template_means
from mechtest.discovery.dynamics.recurrence import (
    TextRows,
    chosen_layers,
    read_recurrences,
    rows_of,
)
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.record import DiscoveryRecord, read_only
from mechtest.interventions import Run
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Eigenmodes", "eigenmodes", "mode_half_lives"]

LONGEST = 2.0**40
"""Tokens; a mode that lasts longer counts as this long."""


@dataclass(frozen=True, eq=False, repr=False)
class Eigenmodes(DiscoveryRecord):
    """The modes of one layer: A is diagonal, so each (channel, state) is one.

    Attributes:
        layer: Which layer.
        half_lives: Tokens in which each mode halves, over the mean step size of the prompts,
            read-only "channel d_state".
    """

    layer: int
    half_lives: Float[np.ndarray, "channel d_state"]

    @property
    def octaves(self) -> Int64[np.ndarray, "channel d_state"]:
        """Octave of each mode: floor(log2(half-life))."""
        return np.floor(np.log2(self.half_lives)).astype(np.int64)

    def groups(self) -> dict[str, Int64[np.ndarray, "mode two"]]:
        """Return the (channel, state) pairs of each octave, the fastest first, by its label."""
        found = self.octaves
        return {
            octave_label(octave): np.argwhere(found == octave)
            for octave in np.unique(found).tolist()
        }

    def lines(self) -> tuple[str, ...]:
        """Return how many modes each octave has."""
        return tuple(f"{label}: {len(modes)} modes" for label, modes in self.groups().items())

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw how many modes each octave has."""
        require_picture_path(path)
        counts = {label: len(modes) for label, modes in self.groups().items()}
        figure = new_figure(1.4 + 0.42 * len(counts), 2.6)
        axes = named_axes(
            figure.add_subplot(), f"modes of layer {self.layer}", "half-life (tokens)", "modes"
        )
        axes.bar(range(len(counts)), list(counts.values()), color=BLUE, width=0.85)
        labels = [label.removesuffix(" tokens") for label in counts]
        axes.set_xticks(range(len(counts)), labels, rotation=60, ha="right")
        return write_figure(figure, path, "modes")


def octave_label(octave: int) -> str:
    """Return what an octave of half-lives is called: `4-8 tokens`."""
    low, high = (f"{2.0**power:.3g}" for power in (octave, octave + 1))
    return f"{low}-{high} tokens"


@torch.no_grad()
def eigenmodes(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    layer: int,
    *,
    run: Run = "clean",
    progress: bool = True,
) -> Eigenmodes:
    """Return the half-life of every mode of a layer on some prompts.

    A prompt multiplies a mode by exp(A sum delta) in all: the mean step size is therefore the one
    that counts, and a mode's half-life is ln 2 / (mean delta |A|).

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layer: Which layer.
        run: Which prompt of each pair.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        ShapeError: A layer the model does not have.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: a few "pos d_inner"; the record holds one "d_inner d_state".
    """
    (at,) = chosen_layers(model, layer)
    rows = rows_of(model, prompts, tool="eigenmodes", run=run, layer=at)
    lives = mode_half_lives(model, rows, at, progress=progress)
    return Eigenmodes(rows.about, at, read_only(lives))


def mode_half_lives(
    model: HookedMamba, rows: TextRows, layer: int, *, progress: bool = False
) -> Float[np.ndarray, "channel d_state"]:
    """Return ln 2 / (mean delta |A|) of each mode, templates weighted equally."""
    steps = np.zeros((len(rows), model.cfg.E))
    rates = np.ones((model.cfg.E, model.cfg.N))
    for one in read_recurrences(model, rows, [layer], progress=progress):
        steps[one.prompt] = one.delta.double().mean(0).cpu().numpy()
        rates = one.A.abs().double().cpu().numpy()
    mean = template_means(steps, rows.about.templates)
    return np.asarray(np.minimum(math.log(2) / np.maximum(mean[:, None] * rates, 1e-300), LONGEST))
