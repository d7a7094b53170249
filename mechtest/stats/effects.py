"""How big is an effect, with the template cluster as the unit?

The effect is a ratio of means, never a mean of ratios: a prompt whose denominator is near zero
would carry any average of ratios.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.validation import cluster_labels, finite_number, finite_vector

__all__ = ["ClusterEffect", "Heterogeneity", "cluster_effect"]

Weight = Literal["cluster", "prompt"]
Scores = Float[np.ndarray, " cluster"]


@dataclass(frozen=True)
class ClusterEffect:
    """A ratio-of-means effect and the cluster means it is made of, in the order of the labels.

    Attributes:
        estimate: mean(numerators) / mean(denominators); None where the denominator's mean is not
            positive, because there is then no behaviour to take a share of.
        labels: Cluster labels, sorted.
        numerators: A_g, the part of the behaviour that was moved, one a cluster.
        denominators: B_g, the behaviour there was to move, one a cluster.
        counts: Prompts in each cluster.
        weight: What counts once: each `"cluster"`, or each `"prompt"` (cluster means are then
            scaled by the cluster's size; clusters stay the unit of every test).
    """

    estimate: float | None
    labels: tuple[str, ...]
    numerators: tuple[float, ...]
    denominators: tuple[float, ...]
    counts: tuple[int, ...]
    weight: Weight = "cluster"

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return len(self.labels)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return sum(self.counts)

    @property
    def error(self) -> float | None:
        """Standard error of the estimate over clusters (delta method); None without an estimate."""
        if self.estimate is None:
            return None
        scores = self.scores(self.estimate)
        share = float(np.mean(self.denominators))
        return float(scores.std(ddof=1) / (np.sqrt(len(scores)) * share))

    def scores(self, threshold: float) -> Scores:
        """Return r_g = A_g - threshold * B_g, float "cluster".

        Its mean is positive exactly when the effect is above the threshold (for a positive mean
        denominator), which turns a question about a ratio into one about a mean.
        """
        theta0 = finite_number(threshold, "threshold")
        return np.array(self.numerators) - theta0 * np.array(self.denominators)

    def heterogeneity(self, threshold: float) -> Heterogeneity:
        """Return how differently the clusters speak about `threshold`."""
        scores = self.scores(threshold)
        worst = int(scores.argmin())
        return Heterogeneity(
            positive=int((scores > 0).sum()),
            clusters=len(scores),
            worst=self.labels[worst],
            worst_score=float(scores[worst]),
            skewness=skewness(scores),
        )


@dataclass(frozen=True)
class Heterogeneity:
    """Do all clusters agree?

    Attributes:
        positive: Clusters whose score is above zero.
        clusters: All clusters.
        worst: Label of the cluster with the lowest score.
        worst_score: That score, in units of the metric.
        skewness: Third standardised moment of the scores; 0 where they do not vary.
    """

    positive: int
    clusters: int
    worst: str
    worst_score: float
    skewness: float


def cluster_effect(
    numerators: ArrayLike,
    denominators: ArrayLike,
    labels: Sequence[Hashable],
    *,
    weight: Weight = "cluster",
) -> ClusterEffect:
    """Return the ratio-of-means effect theta = E[A_g] / E[B_g] over clusters.

    Also serves paired excess: pass the claim's numerators minus the mean of the controls'.

    Args:
        numerators: a_i, what the intervention moved, one a prompt, in units of the metric.
        denominators: b_i, what there was to move, one a prompt, in the same units.
        labels: Cluster (template) of each prompt.
        weight: Whether each cluster or each prompt counts once.

    Raises:
        SampleError: Empty, of different lengths, or a single cluster.
        NonFiniteError: NaN or infinity; names the prompts.

    Sign: positive when the intervention moves the metric the way the denominator points; values
        outside [0, 1] are possible.
    Numerics: float64. The order of prompts changes nothing beyond rounding.
    Sources: Fieller 1954 and Canay, Romano & Shaikh 2017 for what follows from cluster means.
    """
    a = finite_vector(numerators, "numerators")
    b = finite_vector(denominators, "denominators")
    if len(a) != len(b):
        raise SampleError(
            "numerators and denominators differ in length",
            given=f"{len(a)} numerators, {len(b)} denominators",
            expected="one of each a prompt",
        )
    if weight not in ("cluster", "prompt"):
        raise SampleError("unknown weight", given=weight, expected="'cluster' or 'prompt'")
    names, member, counts = np.unique(
        np.array(cluster_labels(labels, len(a))), return_inverse=True, return_counts=True
    )
    if len(names) < 2:
        raise SampleError(
            "all prompts belong to one cluster, so nothing can be said beyond it",
            given=f"{len(a)} prompts of cluster {str(names[0])!r}",
            expected="at least 2 clusters; most tests need 5 or more",
            next_step="write prompts in more templates",
        )
    size = counts / counts.mean() if weight == "prompt" else np.ones(len(names))
    means_a = np.bincount(member, weights=a) / counts * size
    means_b = np.bincount(member, weights=b) / counts * size
    total = means_b.mean()
    return ClusterEffect(
        estimate=float(means_a.mean() / total) if total > 0 else None,
        labels=tuple(names.tolist()),
        numerators=tuple(means_a.tolist()),
        denominators=tuple(means_b.tolist()),
        counts=tuple(counts.tolist()),
        weight=weight,
    )


def skewness(scores: Scores) -> float:
    """Return the third standardised moment (population form), 0 for scores that do not vary."""
    centred = scores - scores.mean()
    spread = float(np.sqrt((centred**2).mean()))
    if spread <= 1e-12 * max(1e-300, float(np.abs(scores).max())):
        return 0.0
    return float(((centred / spread) ** 3).mean())
