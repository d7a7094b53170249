"""What is a sparse autoencoder, once it is trained?

Sparse autoencoders write an activation as a sum of few out of many directions, the features. How
they came about is no part of what they compute: see `training`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float

from mechtest.errors import NonFiniteError, ShapeError, closest_names
from mechtest.interventions import Circuit, Subspace
from mechtest.tasks import Fingerprints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "SAE", "SAEKind", "SAEPoint", "few_largest"]

SAEKind = Literal["relu", "topk", "jumprelu"]
KINDS: dict[SAEKind, str] = {
    "relu": "relu(pre)",
    "topk": "relu of the k largest pre-activations, the others 0",
    "jumprelu": "pre where it is above the feature's threshold, else 0",
}


@dataclass(frozen=True, slots=True)
class SAEPoint:
    """How training stood after a step, on the batch of that step.

    Attributes:
        step: Steps done.
        loss: Squared error plus penalty; 1 is the activations' mean square about their centre.
        explained_variance: 1 minus squared error over variance.
        l0: Features active, a mean over rows.
        dead: Share of features that were not active for a while.
    """

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead: float


@dataclass(frozen=True)
class Origin:
    """Where a sparse autoencoder comes from.

    Attributes:
        site: Hook without position.
        positions: Positions trained on: `*` or one in the notation of sites.
        model: Which model, as its fingerprint or source.
        settings: Everything training was asked for, as plain JSON values.
        fitted_on: Fingerprints of everything trained on; None if that is not known.
        log: How training went.
        dead: Features that were not active at the end of training.
    """

    site: str
    positions: str = "*"
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fitted_on: Fingerprints | None = None
    log: tuple[SAEPoint, ...] = ()
    dead: tuple[int, ...] = ()


class SAE(torch.nn.Module):
    """A sparse autoencoder of one site's activations, flattened over their feature axes.

    With pre = (x - b_dec) @ W_enc + b_enc, features are `KINDS[kind]` of pre, and the
    reconstruction is features @ W_dec + b_dec. Everything is in the activations' own units; the
    directions, rows of W_dec, have length 1.

    Args:
        kind: See `KINDS`.
        weights: `W_enc` "d_in d_sae", `b_enc` "d_sae", `W_dec` "d_sae d_in", `b_dec` "d_in", and
            `threshold` "d_sae" for jumprelu.
        origin: Where it comes from.
        k: Features active at once, for topk.

    Raises:
        ShapeError: Weights that are missing, too many, or do not fit each other.
        NonFiniteError: NaN or infinity among them.

    Sources: Bricken et al. 2023 (relu); Gao et al. 2024 (topk); Rajamanoharan et al. 2024
        (jumprelu).
    """

    W_enc: torch.nn.Parameter
    b_enc: torch.nn.Parameter
    W_dec: torch.nn.Parameter
    b_dec: torch.nn.Parameter

    def __init__(
        self,
        kind: SAEKind,
        weights: Mapping[str, torch.Tensor],
        origin: Origin,
        *,
        k: int | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.origin, self.k = kind, origin, k
        _require_fitting(kind, weights, k)
        for name, value in weights.items():
            self.register_parameter(name, torch.nn.Parameter(value.detach().clone()))
        self.requires_grad_(requires_grad=False)

    @property
    def d_in(self) -> int:
        """Coordinates of an activation."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    @property
    def site(self) -> str:
        """The hook it was trained on, without position."""
        return self.origin.site

    @property
    def alive(self) -> tuple[int, ...]:
        """Features that were active at the end of training."""
        gone = set(self.origin.dead)
        return tuple(index for index in range(self.d_sae) if index not in gone)

    def encode(self, x: Float[torch.Tensor, "*rows d_in"]) -> Float[torch.Tensor, "*rows d_sae"]:
        """Return the features of some activations.

        Raises:
            ShapeError: Another number of coordinates.
        """
        if x.shape[-1] != self.d_in:
            raise ShapeError(
                "activations do not fit this sparse autoencoder",
                given=f"{x.shape[-1]} coordinates",
                expected=f"{self.d_in}: {self.site}, flattened over its feature axes",
            )
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        if self.kind == "topk":
            assert self.k is not None
            return few_largest(pre, self.k)
        if self.kind == "jumprelu":
            return torch.relu(pre) * (pre > self.get_parameter("threshold"))
        return torch.relu(pre)

    def decode(
        self, features: Float[torch.Tensor, "*rows d_sae"]
    ) -> Float[torch.Tensor, "*rows d_in"]:
        """Return the activations that some features stand for."""
        return features @ self.W_dec + self.b_dec

    def forward(self, x: Float[torch.Tensor, "*rows d_in"]) -> Float[torch.Tensor, "*rows d_in"]:
        """Return the reconstruction of some activations."""
        return self.decode(self.encode(x))

    def circuit(
        self,
        features: Iterable[int],
        position: str | int | None = None,
        *,
        scale: torch.Tensor | None = None,
        name: str | None = None,
    ) -> Circuit:
        """Return the directions of some features as a circuit.

        Args:
            features: Indices.
            position: Where, in the notation of sites; by default where it was trained.
            scale: Spread of each coordinate (`fit_spectrum(...).scale`), for sites whose
                coordinates differ in size; None for 1.
            name: How reports call it.

        Returns:
            A circuit with the fingerprints of everything the autoencoder was trained on.

        Raises:
            ShapeError: No such feature, or directions that depend on each other.
        """
        chosen = sorted(set(features))
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < self.d_sae:
            raise ShapeError(
                "these are no features of this sparse autoencoder",
                given=", ".join(map(str, chosen)) or "none",
                expected=f"indices from 0 to {self.d_sae - 1}",
            )
        where = self.origin.positions if position is None else str(position)
        site = self.site if where == "*" else f"{self.site}@{where}"
        directions = self.W_dec[chosen].T.double().cpu()
        return Circuit(
            site,
            subspace=Subspace.spanned_by(directions, scale),
            name=name or f"features {', '.join(map(str, chosen))} of {site}",
            fitted_on=self.origin.fitted_on,
        )

    def lines(self) -> tuple[str, ...]:
        """Return in a few lines what it is and how training went."""
        about = f"{self.kind} SAE of {self.site}@{self.origin.positions}: {self.d_in} to "
        head = f"{about}{self.d_sae} features, {len(self.origin.dead)} of them dead"
        return (head, *(_line(point) for point in self.origin.log[-1:]))

    def extra_repr(self) -> str:
        """Return what stands between the brackets of its `repr`."""
        return self.lines()[0]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw how training went."""
        from mechtest.discovery.sae.picture import plot_training

        return plot_training(self, path)

    def save(self, directory: str | Path) -> Path:
        """Write `cfg.json` and `sae_weights.safetensors`, as SAELens reads them."""
        from mechtest.discovery.sae.sae_file import save_sae

        return save_sae(self, directory)

    @classmethod
    def load(cls, directory: str | Path) -> SAE:
        """Read what `save` or SAELens wrote.

        Raises:
            DiscoveryFileError: Files are missing, or hold something else.
        """
        from mechtest.discovery.sae.sae_file import load_sae

        return load_sae(directory)


def few_largest(
    pre: Float[torch.Tensor, "*rows d_sae"], k: int
) -> Float[torch.Tensor, "*rows d_sae"]:
    """Return relu of the `k` largest along the last axis, the others 0."""
    values, places = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, places, values.relu())


def _line(point: SAEPoint) -> str:
    return (
        f"step {point.step}: explained variance {point.explained_variance:.3f}, "
        f"{point.l0:.1f} features active, {100 * point.dead:.0f} % dead"
    )


def _require_fitting(kind: SAEKind, weights: Mapping[str, torch.Tensor], k: int | None) -> None:
    if kind not in KINDS:
        raise ShapeError(
            "there is no such kind of sparse autoencoder",
            given=repr(kind),
            closest=closest_names(str(kind), list(KINDS)),
            expected=", ".join(KINDS),
        )
    names = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if kind == "jumprelu" else set())
    if set(weights) != names:
        raise ShapeError(
            f"a {kind} SAE has other weights",
            given=", ".join(sorted(weights)),
            expected=", ".join(sorted(names)),
        )
    d_sae, d_in = weights["W_dec"].shape
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}
    for name, value in weights.items():
        if name in shapes and tuple(value.shape) != shapes[name]:
            raise ShapeError(
                f"{name} does not fit W_dec", given=tuple(value.shape), expected=str(shapes[name])
            )
        if not bool(value.isfinite().all()):
            raise NonFiniteError(f"{name} holds NaN or infinity", expected="finite weights")
    if kind == "topk" and not (k is not None and 0 < k <= d_sae):
        raise ShapeError("a topk SAE needs k", given=f"k={k}", expected=f"1 to {d_sae}")
