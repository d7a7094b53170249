"""How long does each layer remember, token by token, and which tokens open and close its gate?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.dynamics.pictures import BLUE, ORANGE, named_axes
from mechtest.discovery.dynamics.prompt_tables import prompt_table, template_means
from mechtest.discovery.dynamics.recurrence import (
    Recurrence,
    chosen_layers,
    read_recurrences,
    rows_of,
)
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.record import DiscoveryRecord, read_only
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import ShapeError
from mechtest.interventions import Run, SweepResult
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GateToken", "Timescales", "octave_range", "timescales"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOWEST, HIGHEST, STEPS = -24, 40, 128
"""Half-lives are counted between 2**-24 and 2**40 tokens, in 128 steps an octave."""
MEMORY = 2**26


@part_of_records
@dataclass(frozen=True)
class GateToken:
    """One token as a layer's step size sees it.

    Attributes:
        layer: Which layer.
        token: Its text, or its id where there is no tokenizer.
        count: How often it occurred.
        delta: Mean step size over channels and occurrences.
    """

    layer: int
    token: str
    count: int
    delta: float


@dataclass(frozen=True, eq=False, repr=False)
class Timescales(DiscoveryRecord):
    """Half-lives of a model's states on some prompts.

    Attributes:
        map: Rows are layers, columns quantiles of the half-life in tokens, over the tokens,
            channels and states of each prompt; to half a percent.
        octaves: Share of tokens, channels and states whose half-life lies in each octave,
            read-only "layer octave", templates weighted equally.
        lowest: log2 of the half-life at which the first octave begins.
        fast: Share of each layer with a half-life of less than `fast_below` tokens.
        slow: Share with at least `slow_from` tokens.
        fast_below: Tokens.
        slow_from: Tokens.
        gate: Tokens with the largest and the smallest mean step size, layer by layer, from large
            (the state is overwritten) to small (it is kept).
    """

    map: SweepResult
    octaves: Float[np.ndarray, "layer octave"]
    lowest: int
    fast: tuple[float, ...]
    slow: tuple[float, ...]
    fast_below: float
    slow_from: float
    gate: tuple[GateToken, ...]

    def lines(self) -> tuple[str, ...]:
        """Return each layer's median half-life, its fast and slow shares, and its gate's ends."""
        medians = self.map.mean()[:, QUANTILES.index(0.5)]
        told = []
        for index, row in enumerate(self.map.rows):
            layer = int(row.removeprefix("layer "))
            tokens = [one for one in self.gate if one.layer == layer]
            told.append(
                f"{row}: median half-life {medians[index]:.3g} tokens, "
                f"{self.fast[index]:.0%} below {self.fast_below:g}, "
                f"{self.slow[index]:.0%} from {self.slow_from:g}; largest step at "
                f"{tokens[0].token!r}, smallest at {tokens[-1].token!r}"
            )
        return tuple(told)

    def table(self) -> tuple[str, ...]:
        """Return the gate's tokens as lines of text."""
        return tuple(
            f"layer {one.layer}  {one.token!r:20} delta {one.delta:.4g}  ({one.count} times)"
            for one in self.gate
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the shares of the octaves as a heat map, with each layer's median on it."""
        require_picture_path(path)
        layers, octaves = self.octaves.shape
        figure = new_figure(1.6 + 0.26 * octaves, 1.3 + max(0.24 * layers, 0.8))
        axes = named_axes(
            figure.add_subplot(), "timescales of the state", "half-life (tokens)", "layer"
        )
        edges = np.arange(octaves + 1) + self.lowest
        mesh = axes.pcolormesh(
            edges, np.arange(layers + 1) - 0.5, self.octaves, cmap="Blues", vmin=0
        )
        medians = np.log2(self.map.mean()[:, QUANTILES.index(0.5)])
        axes.plot(medians, np.arange(layers), "o", color=ORANGE, ms=5, label="median")
        for tokens in (self.fast_below, self.slow_from):
            axes.axvline(math.log2(tokens), color=BLUE, lw=0.8, ls=":")
        every = max(1, octaves // 10)
        axes.set_xticks(edges[::every], [_power(int(edge)) for edge in edges[::every]])
        step = max(1, layers // 16)
        axes.set_yticks(range(0, layers, step), [r[6:] for r in self.map.rows[::step]])
        axes.legend(loc="upper left", fontsize=7, frameon=False)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.set_label("share of tokens, channels, states", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        return write_figure(figure, path, "timescales")


@torch.no_grad()
def timescales(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    layers: int | Sequence[int] | None = None,
    *,
    fast_below: float = 1.0,
    slow_from: float = 16.0,
    top: int = 8,
    run: Run = "clean",
    progress: bool = True,
) -> Timescales:
    """Return how long states last: ln 2 / (delta_t |A|) tokens, for each token, channel and state.

    Step sizes depend on the input, so that a half-life is one of a token: the time in which the
    state would halve if every token were like this one.

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layers: Which; None for all.
        fast_below: Half-lives below this many tokens are fast.
        slow_from: Half-lives from this many tokens on are slow.
        top: Tokens listed at each end of the gate.
        run: Which prompt of each pair.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        ShapeError: A layer the model does not have, or limits that are not positive.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: one prompt and layer at a time, tokens in chunks of 64 MiB of "pos d_inner d_state"; the
    record holds five numbers a prompt and layer, and a histogram a layer.
    Sources: Gu & Dao 2023, section 3.5 (what delta does).
    """
    if not (0 < fast_below < math.inf and 0 < slow_from < math.inf and top > 0):
        raise ShapeError(
            "timescales are told apart at positive numbers of tokens",
            given=f"fast_below={fast_below}, slow_from={slow_from}, top={top}",
            expected="all above 0",
        )
    chosen = chosen_layers(model, layers)
    rows = rows_of(model, prompts, tool="timescales", run=run, layers=list(chosen))
    counts = np.zeros((len(chosen), (HIGHEST - LOWEST) * STEPS))
    weights = _template_weights(rows.about.templates)
    quantiles = np.zeros((len(chosen), len(QUANTILES), len(rows)))
    seen: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0, 0.0])
    for one in read_recurrences(model, rows, chosen, progress=progress):
        place = chosen.index(one.layer)
        histogram = _histogram(one)
        quantiles[place, :, one.prompt] = _quantiles(histogram)
        counts[place] += weights[one.prompt] * histogram / histogram.sum()
        means = one.delta.double().mean(1).tolist()
        for token, mean in zip(rows.of(one.prompt).tolist(), means, strict=True):
            entry = seen[one.layer, token]
            entry[0] += 1
            entry[1] += mean
    octaves = counts.reshape(len(chosen), -1, STEPS).sum(-1)
    first, last = octave_range(octaves)
    table = prompt_table(
        rows.about,
        quantiles,
        rows=([f"layer {layer}" for layer in chosen], "layer"),
        columns=([f"{share:.0%}" for share in QUANTILES], "quantile"),
        sites=[[f"blocks.{layer}.hook_delta"] * len(QUANTILES) for layer in chosen],
        what="timescales",
        effect=("half-life", "tokens"),
        run=run,
    )
    edges = np.arange(counts.shape[1]) / STEPS + LOWEST
    return Timescales(
        rows.about,
        table,
        read_only(octaves[:, first : last + 1]),
        LOWEST + first,
        tuple(counts[:, edges < math.log2(fast_below)].sum(1).tolist()),
        tuple(counts[:, edges >= math.log2(slow_from)].sum(1).tolist()),
        float(fast_below),
        float(slow_from),
        _gate(model, seen, chosen, top),
    )


def octave_range(octaves: Float[np.ndarray, "layer octave"]) -> tuple[int, int]:
    """Return the first and the last octave that anything lies in."""
    there = np.flatnonzero(octaves.sum(0) > 0)
    return int(there[0]), int(there[-1])


def _histogram(one: Recurrence) -> np.ndarray:
    """Return how many tokens, channels and states have a half-life in each step of an octave."""
    log_rate = one.A.abs().double().log2()
    size = max(1, MEMORY // (3 * 8 * log_rate.numel()))
    total = torch.zeros((HIGHEST - LOWEST) * STEPS, dtype=torch.float64)
    base = math.log2(math.log(2))
    for start in range(0, len(one.delta), size):
        log_step = one.delta[start : start + size].double().log2()
        places = ((base - log_step.unsqueeze(-1) - log_rate) - LOWEST) * STEPS
        # A step of 0 never forgets: it counts at the upper end.
        places = places.floor().clamp(0, len(total) - 1).long().flatten()
        total += torch.bincount(places, minlength=len(total)).cpu()
    return np.asarray(total.numpy())


def _quantiles(histogram: np.ndarray) -> np.ndarray:
    """Return half-lives below which each share lies, from the middle of their step."""
    share = np.cumsum(histogram) / histogram.sum()
    places = np.searchsorted(share, QUANTILES)
    return np.asarray(2.0 ** ((places + 0.5) / STEPS + LOWEST))


def _template_weights(templates: Sequence[str]) -> np.ndarray:
    """Return what each prompt counts where templates are weighted equally; they add up to 1."""
    return np.array([template_means(row, templates) for row in np.eye(len(templates))])


def _gate(
    model: HookedMamba,
    seen: dict[tuple[int, int], list[float]],
    layers: Sequence[int],
    top: int,
) -> tuple[GateToken, ...]:
    found: list[GateToken] = []
    for layer in layers:
        own = [(token, n, total / n) for (at, token), (n, total) in seen.items() if at == layer]
        own.sort(key=lambda one: (-one[2], one[0]))
        ends = own if len(own) <= 2 * top else own[:top] + own[-top:]
        for token, count, delta in ends:
            text = str(token)
            if model.tokens.available:
                (text,) = model.to_str_tokens(torch.tensor([token]))
            found.append(GateToken(layer, text, int(count), float(delta)))
    return tuple(found)


def _power(exponent: int) -> str:
    return f"{2**exponent}" if 0 <= exponent < 14 else f"$2^{{{exponent}}}$"
