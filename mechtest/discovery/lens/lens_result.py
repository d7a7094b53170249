"""What did a lens show, layer by layer and token by token?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError
from mechtest.interventions import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Guesses", "LensResult"]

BITS = 1 / math.log(2)
"""Bits in a nat."""


@part_of_records
@dataclass(frozen=True)
class Guesses:
    """The likeliest next tokens of one prompt at every place of a lens.

    Attributes:
        prompt: Its name.
        read: Its own token at each column; empty where nothing was read.
        tokens: Texts, "row column guess", the likeliest first; empty where nothing was read.
        probabilities: Of them, shaped alike.
    """

    prompt: str
    read: tuple[str, ...]
    tokens: tuple[tuple[tuple[str, ...], ...], ...]
    probabilities: tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True, eq=False, repr=False)
class LensResult(DiscoveryRecord):
    """The residual stream read as if the model ended there.

    Every map has layers as rows and tokens as columns, and a number for each prompt; the last row
    is the model itself. Means weigh templates equally.

    Attributes:
        map: The metric, in its unit.
        kl: KL(model || lens) of the next-token distributions at that token, in nats.
        cross_entropy: -log probability of the token that follows, in nats; at the last token, of
            the answers.
        probability: Of the answers, together.
        rank: One more than the number of tokens that are no answers and likelier than every answer.
        guesses: The likeliest tokens, for the prompts on display.
    """

    map: SweepResult
    kl: SweepResult
    cross_entropy: SweepResult
    probability: SweepResult
    rank: SweepResult
    guesses: tuple[Guesses, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, the earliest first."""
        return self.map.rows

    def by_row(self, numbers: SweepResult) -> Float[np.ndarray, " row"]:
        """Return one of the maps averaged over its columns, a number a row."""
        return np.asarray(np.nanmean(numbers.mean(), axis=1))

    @property
    def kl_by_row(self) -> Float[np.ndarray, " row"]:
        """KL(model || lens) of each row in nats, averaged over all tokens read."""
        return self.by_row(self.kl)

    @property
    def bits_by_row(self) -> Float[np.ndarray, " row"]:
        """Cross-entropy of each row in bits a token, averaged over all tokens read."""
        return self.by_row(self.cross_entropy) * BITS

    def scores(self) -> Mapping[str, float]:
        """Return how far each block moves the metric at the last token, in its unit.

        The absolute difference between the rows after and before a block, under the name of what
        the block adds there. A reading of the stream, not an effect: nothing is intervened in.

        Raises:
            DiscoveryError: The last token was not read, or the rows are no states of the stream.
        """
        if self.about.settings["hook"] == "hook_out_proj":
            raise DiscoveryError(
                "what single blocks add is no state of the stream, and has no steps",
                given="hook='hook_out_proj'",
                expected="hook='hook_resid_post' or 'hook_resid_pre'",
            )
        mean = self.map.mean()[:, self._last_column()]
        steps = np.abs(np.diff(mean))
        return {
            f"blocks.{layer}.hook_out_proj@last": float(step) for layer, step in enumerate(steps)
        }

    def lines(self) -> tuple[str, ...]:
        """Return the rows with their numbers."""
        column = self.map.shape[1] - 1
        found = [self._first_line(column)]
        kl, bits = self.kl_by_row, self.bits_by_row
        metric, rank = self.map.mean()[:, column], self.rank.mean()[:, column]
        share = self.probability.mean()[:, column]
        place = self.map.columns[column]
        for row, name in enumerate(self.rows):
            found.append(
                f"{name}: {self.map.effect_name} {metric[row]:.3g}, answers' probability "
                f"{share[row]:.3g}, rank {rank[row]:.1f} (at {place}); KL {kl[row]:.3g} nats, "
                f"cross-entropy {bits[row]:.3g} bits (all tokens read)"
            )
        return tuple(found)

    def plot(self, path: str | Path | None = None, *, prompt: str | None = None) -> Figure:
        """Draw the likeliest tokens of one prompt at every place, and each row's distance.

        Args:
            path: Where the picture goes (.png or .svg), if anywhere.
            prompt: Name of a prompt on display; by default the first.
        """
        from mechtest.discovery.lens.lens_picture import draw_lens

        return draw_lens(self, path, prompt)

    def _first_line(self, column: int) -> str:
        on_top = self.rank.mean()[:, column] < 1.5
        since = len(on_top) - int(np.argmin(on_top[::-1])) if not on_top.all() else 0
        told = (
            "no row has the answer on top for most prompts"
            if since == len(on_top)
            else f"an answer is on top from {self.rows[since]} on"
        )
        return f"{self.about.tool}, {self.map.which_prompts()}: {told}"

    def _last_column(self) -> int:
        sites = self.map.sites[-1]
        for column, site in enumerate(sites):
            if site.endswith(("@last", "@-1")):
                return column
        if self.map.column_name == "token" and sites[-1].endswith(f"@{len(sites) - 1}"):
            return len(sites) - 1
        raise DiscoveryError(
            "layers are scored at the last token, which this lens did not read",
            given=", ".join(self.map.columns),
            expected="positions='*', or 'last' among them",
        )
