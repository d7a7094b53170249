"""How much of a state can the past write, and how much of it will be read?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.dynamics.gramian_matrices import (
    balanced_values,
    controllability,
    entropy_rank,
    observability,
    participation,
)
from mechtest.discovery.dynamics.pictures import BLUE, ORANGE, named_axes
from mechtest.discovery.dynamics.prompt_tables import template_means
from mechtest.discovery.dynamics.recurrence import (
    Recurrence,
    chosen_layers,
    read_recurrences,
    rows_of,
)
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.record import DiscoveryRecord, read_only
from mechtest.errors import PositionError, ShapeError
from mechtest.interventions import Run
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gramians", "gramians"]

MEMORY = 2**27


@dataclass(frozen=True, eq=False, repr=False)
class Gramians(DiscoveryRecord):
    """Reachable and visible parts of one layer's state at one token, templates weighted equally.

    Attributes:
        layer: Which layer.
        cut: Token whose state is meant, counted from the end (-1 is the last).
        channels: Channels looked at.
        singular_values: Balanced singular values, read-only "channel d_state", largest first.
        participation: Effective rank of each channel, (sum v)^2 / sum v^2, read-only.
        entropy_rank: exp of the entropy of their shares, read-only.
        reached: Diagonal of the controllability Gramian, read-only "channel d_state".
        seen: Diagonal of the observability Gramian, read-only "channel d_state".
        energy: Mean over prompts of their product: what a single coordinate carries, read-only.
    """

    layer: int
    cut: int
    channels: tuple[int, ...]
    singular_values: Float[np.ndarray, "channel d_state"]
    participation: Float[np.ndarray, " channel"]
    entropy_rank: Float[np.ndarray, " channel"]
    reached: Float[np.ndarray, "channel d_state"]
    seen: Float[np.ndarray, "channel d_state"]
    energy: Float[np.ndarray, "channel d_state"]

    def lines(self) -> tuple[str, ...]:
        """Return the mean effective rank, and the channels that carry most."""
        states = self.singular_values.shape[1]
        strongest = np.argsort(-self.singular_values[:, 0], kind="stable")[:3]
        rank = (
            f"layer {self.layer} at {self.cut}: effective rank {self.participation.mean():.2f} of "
            f"{states} states a channel ({self.entropy_rank.mean():.2f} by entropy)"
        )
        return (
            rank,
            *(
                f"channel {self.channels[place]}: largest singular value "
                f"{self.singular_values[place, 0]:.3g}"
                for place in strongest.tolist()
            ),
        )

    def scores(self) -> Mapping[str, float]:
        """Return each channel's largest balanced singular value."""
        site = f"blocks.{self.layer}.hook_h@{self.cut}"
        return {
            f"{site}#{channel}": float(value)
            for channel, value in zip(self.channels, self.singular_values[:, 0], strict=True)
        }

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw how singular values fall, and how channels differ in effective rank."""
        require_picture_path(path)
        figure = new_figure(7.2, 2.7)
        left, right = figure.subplots(1, 2)
        states = np.arange(self.singular_values.shape[1]) + 1
        low, middle, high = np.quantile(self.singular_values, (0.1, 0.5, 0.9), axis=0)
        named_axes(
            left, f"layer {self.layer}, state at {self.cut}", "rank", "balanced singular value"
        )
        # Below, there is nothing but rounding: these values are 0.
        shown = high > 1e-7 * float(high[0])
        states, low, middle, high = states[shown], low[shown], middle[shown], high[shown]
        left.fill_between(
            states, low, high, color=BLUE, alpha=0.2, lw=0, label="10 to 90 % of channels"
        )
        left.plot(states, middle, "o-", ms=3, color=BLUE, lw=1.4, label="median channel")
        left.set_yscale("log")
        left.set_xticks(states[:: max(1, len(states) // 8)])
        left.legend(fontsize=7, frameon=False)
        named_axes(right, "effective rank of channels", "participation ratio", "channels").hist(
            self.participation, bins=24, color=ORANGE
        )
        return write_figure(figure, path, "Gramians")


@torch.no_grad()
def gramians(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    layer: int,
    *,
    cut: int = -1,
    start: int = 0,
    end: int = -1,
    channels: Sequence[int] | None = None,
    run: Run = "clean",
    progress: bool = True,
) -> Gramians:
    """Return controllability and observability of the state at a token, along each prompt.

    The recurrence of a channel is linear once its prompt is given, with N inputs and outputs in
    time: tokens `start` to `cut` can write to the state, tokens `cut` to `end` read it. Directions
    that are not both written and read carry nothing inside this layer, however large they are. The
    step sizes, B and C are held as the prompt has them.

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layer: Which layer.
        cut: Token whose state is meant; negative from the end of each prompt, else from its start.
        start: First token that may write, counted alike.
        end: Last token that reads.
        channels: Which; None for all.
        run: Which prompt of each pair.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        PositionError: A prompt without these tokens, or in another order.
        ShapeError: A layer or channel the model does not have.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: channels in chunks of 128 MiB of "channel d_state d_state"; the record holds 4 "channel
    d_state".
    Sources: Kailath 1980, section 9.2; Moore 1981 (balancing); Verriest & Kailath 1983 for systems
    that change in time.
    """
    (at,) = chosen_layers(model, layer)
    settings = {"layer": at, "cut": cut, "start": start, "end": end}
    rows = rows_of(model, prompts, tool="gramians", run=run, **settings)
    part = list(range(model.cfg.E)) if channels is None else list(channels)
    if not part or not all(0 <= channel < model.cfg.E for channel in part):
        raise ShapeError(
            f"a layer of this model has {model.cfg.E} channels",
            given=f"channels={channels!r}",
            expected=f"some of 0 to {model.cfg.E - 1}",
        )
    shape = (len(rows), len(part), model.cfg.N)
    found = {name: np.zeros(shape) for name in ("values", "reached", "seen")}
    for one in read_recurrences(model, rows, [at], progress=progress):
        spots = _spots(one, rows.about.prompt_ids[one.prompt], start, cut, end)
        _fill(found, one, part, spots)
    values = torch.from_numpy(found["values"])
    templates = rows.about.templates

    def mean(each: np.ndarray) -> np.ndarray:
        return read_only(template_means(each, templates))

    return Gramians(
        rows.about,
        at,
        cut,
        tuple(part),
        mean(found["values"]),
        mean(participation(values).numpy()),
        mean(entropy_rank(values).numpy()),
        mean(found["reached"]),
        mean(found["seen"]),
        mean(found["reached"] * found["seen"]),
    )


def _fill(
    found: Mapping[str, np.ndarray],
    one: Recurrence,
    channels: Sequence[int],
    spots: tuple[int, int, int],
) -> None:
    first, cut, last = spots
    states = one.A.shape[1]
    size = max(1, MEMORY // (8 * 8 * states**2))
    for start in range(0, len(channels), size):
        part = list(channels[start : start + size])
        delta, A = one.delta[:, part], one.A[part]
        reach = controllability(delta[first : cut + 1], A, one.B[first : cut + 1])
        seen = observability(delta[cut : last + 1], A, one.C[cut : last + 1])
        place = (one.prompt, slice(start, start + len(part)))
        found["values"][place] = balanced_values(reach, seen).cpu().numpy()
        found["reached"][place] = reach.diagonal(dim1=1, dim2=2).cpu().numpy()
        found["seen"][place] = seen.diagonal(dim1=1, dim2=2).cpu().numpy()


def _spots(one: Recurrence, prompt: str, start: int, cut: int, end: int) -> tuple[int, int, int]:
    length = len(one.delta)
    first, middle, last = (at + length if at < 0 else at for at in (start, cut, end))
    if not 0 <= first <= middle <= last < length:
        raise PositionError(
            f"prompt {prompt!r} has no such tokens in this order",
            given=f"start={start}, cut={cut}, end={end}, {length} tokens",
            expected="start <= cut <= end inside every prompt",
        )
    return first, middle, last
