"""Do autoencoders trained from different seeds find the same features?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.record import About, DiscoveryRecord, read_only
from mechtest.discovery.sae.autoencoder import SAE
from mechtest.errors import ShapeError
from mechtest.records import ModelIdentity
from mechtest.stats import keyed_generator
from mechtest.tasks import Fingerprints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SAEMatch", "match_features"]

SAME = 0.9
"""Cosine from which two features count as one."""


@dataclass(frozen=True, eq=False, repr=False)
class SAEMatch(DiscoveryRecord):
    """How well features of one autoencoder are found in others.

    Attributes:
        sites: Site of each autoencoder.
        mmcs: Mean over living features of the largest cosine with a living feature of the other,
            "from to"; 1 on the diagonal.
        same: Share of them above 0.9, "from to".
        best: For each living feature of the first autoencoder, its largest cosine in each of the
            others, "feature other".
        features: Which features of the first these are.
        by_chance: What `mmcs` is between the first's features and as many random directions.
    """

    sites: tuple[str, ...]
    mmcs: Float[np.ndarray, "sae sae"]
    same: Float[np.ndarray, "sae sae"]
    best: Float[np.ndarray, "feature other"]
    features: tuple[int, ...]
    by_chance: float

    def lines(self) -> tuple[str, ...]:
        """Return the mean maximal cosine of the first with each other one."""
        head = (
            f"{len(self.features)} features in {len(self.sites)} autoencoders: mean maximal cosine "
            f"(random directions: {self.by_chance:.2f})"
        )
        return (
            head,
            *(
                f"first in number {index}: {self.mmcs[0, index]:.3f}, "
                f"{100 * self.same[0, index]:.0f} % above {SAME}"
                for index in range(1, len(self.sites))
            ),
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the largest cosines of the first autoencoder's features."""
        from mechtest.discovery.sae.picture import plot_match

        return plot_match(self, path)


@torch.no_grad()
def match_features(saes: Sequence[SAE], *, seed: int = 0) -> SAEMatch:
    """Compare the directions of autoencoders of one site, dead features left out.

    Args:
        saes: Two or more, for example of several seeds.
        seed: Of the random directions they are compared with.

    Raises:
        ShapeError: Fewer than two, different widths, or one without living features.

    Sources: Sharkey et al. 2022 (mean maximal cosine similarity).
    """
    if len(saes) < 2 or len({sae.d_in for sae in saes}) != 1 or not all(s.alive for s in saes):
        raise ShapeError(
            "features are matched between two or more autoencoders of one width",
            given=f"{len(saes)}, with {', '.join(str(s.d_in) for s in saes)} coordinates and "
            f"{', '.join(str(len(s.alive)) for s in saes)} living features",
        )
    frames = [_unit(sae.W_dec[list(sae.alive)].double().cpu().numpy()) for sae in saes]
    largest = [[(one @ other.T).max(1) for other in frames] for one in frames]
    generator = keyed_generator(seed, "match_features", "directions")
    chance = _unit(generator.standard_normal(frames[-1].shape))
    origin = saes[0].origin
    known = [sae.origin.fitted_on for sae in saes if sae.origin.fitted_on is not None]
    fitted_on = Fingerprints()
    for one in known:
        fitted_on = fitted_on | one
    return SAEMatch(
        about=About(
            tool="match_features",
            model=ModelIdentity(name=origin.model, weights="", tokenizer="", dtype="", device=""),
            prompt_ids=(),
            templates=(),
            fitted_on=fitted_on,
            settings={"seed": seed, "same": SAME},
        ),
        sites=tuple(sae.site for sae in saes),
        mmcs=read_only(np.array([[cosines.mean() for cosines in row] for row in largest])),
        same=read_only(np.array([[(cosines > SAME).mean() for cosines in row] for row in largest])),
        best=read_only(np.stack(largest[0][1:], axis=1)),
        features=saes[0].alive,
        by_chance=float((frames[0] @ chance.T).max(1).mean()),
    )


def _unit(rows: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, "row dim"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
