"""How much of an activation, and of what the model does with it, does an autoencoder keep?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.looking import behaviour_of, looking_runner, mean_over_templates
from mechtest.discovery.record import DiscoveryRecord, about, read_only
from mechtest.discovery.sae.activations import Sequences, one_hook, read_rows, sequences_of
from mechtest.discovery.sae.autoencoder import SAE
from mechtest.discovery.sae.splice import Replacement, logits_with, losses_of, reconstruction
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SAEQuality", "sae_quality", "slices"]

MEMORY = 2**27
"""Bytes of activations, features or logits that are held at once."""

NOTHING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class SAEQuality(DiscoveryRecord):
    """How good a sparse autoencoder is on some prompts.

    Attributes:
        site: Where it stands in.
        l0: Features active, a mean over rows.
        explained_variance: 1 minus squared error over variance about the mean.
        dead: Share of features that are active nowhere.
        behaviour_kept: Share of the behaviour that is left with reconstructions in the place of
            activations, in clean and corrupted runs both.
        behaviour_without: The same with zeros there.
        loss: Next-token cross-entropy of the clean prompts, in nats.
        loss_reconstructed: With reconstructions.
        loss_without: With zeros.
        loss_recovered: (without - reconstructed) / (without - loss); None where zeros cost nothing.
        frequencies: Share of rows at which each feature is active.
    """

    site: str
    l0: float
    explained_variance: float
    dead: float
    behaviour_kept: float
    behaviour_without: float
    loss: float
    loss_reconstructed: float
    loss_without: float
    loss_recovered: float | None
    frequencies: Float[np.ndarray, " d_sae"]

    def lines(self) -> tuple[str, ...]:
        """Return the numbers, one a line."""
        recovered = "-" if self.loss_recovered is None else f"{self.loss_recovered:.3f}"
        sparse = f"by {self.l0:.1f} features at a time, {100 * self.dead:.0f} % dead"
        losses = f"{self.loss_reconstructed:.3f} reconstructed, {self.loss_without:.3f} without"
        return (
            f"{self.site}: {self.explained_variance:.3f} of the variance {sparse}",
            f"behaviour kept {self.behaviour_kept:.3f} (zeros keep {self.behaviour_without:.3f})",
            f"cross-entropy {self.loss:.3f}, {losses}: recovered {recovered}",
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw how often features are active."""
        from mechtest.discovery.sae.picture import plot_frequencies

        return plot_frequencies(self, path)


@torch.no_grad()
def sae_quality(
    model: HookedMamba,
    sae: SAE,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    metric: Metric = logit_difference,
) -> SAEQuality:
    """Measure a sparse autoencoder on the discovery half of some prompts.

    Args:
        model: The model.
        sae: Trained on one of its sites.
        prompts: A collection (its discovery half is taken), or encoded prompts.
        metric: Reads logits.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        MetricError: The model does not do the task.
        ShapeError: The autoencoder does not fit the site.

    Sources: Bricken et al. 2023 (loss recovered); Gao et al. 2024, section 4.1 (downstream loss).
    """
    runner = looking_runner(model, prompts)
    pairs, site = runner.pairs, one_hook(model, sae.site)
    behaviour = behaviour_of(runner, metric)
    whole = sequences_of(model, pairs, str(site), sae.origin.positions)
    rows = _Rows(sae)
    for part in _parts(sae, whole):
        rows.add(read_rows(model, site, part))
    spliced = _Spliced(model, site, pairs, whole, metric)
    clean = spliced(None)
    with_sae = spliced(reconstruction(sae))
    zeros = spliced(torch.zeros_like)
    lost = zeros[1] - clean[1]
    return SAEQuality(
        about=about("sae_quality", model, pairs, metric=metric.name, kind=sae.kind),
        site=f"{site}@{sae.origin.positions}",
        l0=rows.active / rows.count,
        explained_variance=rows.explained(),
        dead=float((rows.frequency == 0).double().mean()),
        behaviour_kept=with_sae[0] / behaviour.gap,
        behaviour_without=zeros[0] / behaviour.gap,
        loss=clean[1],
        loss_reconstructed=with_sae[1],
        loss_without=zeros[1],
        loss_recovered=(zeros[1] - with_sae[1]) / lost if abs(lost) > NOTHING else None,
        frequencies=read_only((rows.frequency / rows.count).cpu().numpy()),
    )


def slices(count: int, bytes_each: int) -> Iterator[slice]:
    """Yield slices of `count` things, each of which takes at most `MEMORY`."""
    size = max(1, MEMORY // max(1, bytes_each))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _parts(sae: SAE, whole: Sequences) -> Iterator[Sequences]:
    each = 4 * whole.tokens.shape[1] * (sae.d_in + sae.d_sae)
    for part in slices(len(whole), each):
        yield whole.some(torch.arange(part.start, part.stop))


class _Rows:
    """Sums over rows of activations, in float64."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.count, self.active, self.error = 0, 0.0, 0.0
        self.total = torch.zeros(sae.d_in, dtype=torch.float64)
        self.square = 0.0
        self.frequency = torch.zeros(sae.d_sae, dtype=torch.float64)

    def add(self, rows: Float[torch.Tensor, "row d_in"]) -> None:
        features = self.sae.encode(rows)
        self.count += len(rows)
        self.active += float((features > 0).sum())
        self.error += float((rows - self.sae.decode(features)).double().square().sum())
        self.total += rows.double().sum(0).cpu()
        self.square += float(rows.double().square().sum())
        self.frequency += (features > 0).double().sum(0).cpu()

    def explained(self) -> float:
        about_mean = self.square - float(self.total.square().sum()) / self.count
        return 1 - self.error / about_mean if about_mean > 0 else 0.0


class _Spliced:
    """Returns (behaviour in the metric's unit, cross-entropy of clean prompts) under an edit."""

    def __init__(
        self, model: HookedMamba, site: Site, pairs: EncodedPairs, whole: Sequences, metric: Metric
    ) -> None:
        self.model, self.site, self.pairs = model, site, pairs
        self.whole, self.metric = whole, metric

    def __call__(self, replacement: Replacement | None) -> tuple[float, float]:
        last, losses = [], []
        each = 4 * self.whole.tokens.shape[1] * self.model.cfg.d_vocab
        for part in slices(len(self.whole), each):
            sequences = self.whole.some(torch.arange(part.start, part.stop))
            logits = logits_with(self.model, self.site, sequences, replacement)
            last.append(logits[:, -1])
            losses.append(losses_of(logits, sequences.tokens, sequences))
        logits = torch.cat(last)
        half = len(self.pairs)
        clean, corrupted = (self.metric(one, self.pairs) for one in logits.split(half))
        gap = mean_over_templates(clean - corrupted, self.pairs)
        return gap, mean_over_templates(torch.cat(losses)[:half], self.pairs)
