"""Which directions of a site's activations are meant?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from mechtest.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace of a site's activations, flattened over their feature axes.

    The part of a change inside it is `basis @ dual.T @ change`: an orthogonal projection in
    coordinates divided by their spread, oblique in the activation's own. A recurrent state's
    coordinates differ in size by two orders of magnitude, and an orthogonal projection would be
    about the few largest.

    Attributes:
        basis: Columns that span the subspace, float "dim rank".
        dual: Columns that read a change's coordinates along the basis, float "dim rank".
        outside: Whether everything but these directions is meant.
    """

    basis: Float[torch.Tensor, "dim rank"]
    dual: Float[torch.Tensor, "dim rank"]
    outside: bool = False

    @classmethod
    def from_edit(cls, basis: Any, dual: Any, gain: float = 1.0) -> Subspace:
        """Return the subspace of a drawn control or claim (`mechtest.stats.SubspaceDraw`).

        Args:
            basis: "dim rank", anything `torch.as_tensor` takes.
            dual: The same.
            gain: Factor on the edit.
        """
        return cls(gain * torch.as_tensor(basis), torch.as_tensor(dual))

    @classmethod
    def spanned_by(
        cls,
        directions: Float[torch.Tensor, "dim rank"],
        scale: Float[torch.Tensor, " dim"] | None = None,
    ) -> Subspace:
        """Return the span of some directions, given in the activation's own coordinates.

        Args:
            directions: One a column.
            scale: Spread of each coordinate (`fit_spectrum(...).scale`); None for 1.

        Raises:
            ShapeError: Directions that are none, dependent, not finite, or as many as coordinates;
                a scale that is not positive.
        """
        wide = directions.double()
        spread = torch.ones(len(wide), dtype=torch.float64)
        if scale is not None:
            spread = torch.as_tensor(scale, dtype=torch.float64)
        if not bool((spread > 0).all()):
            raise ShapeError(
                "a scale has to be positive in every coordinate",
                given=f"{int((spread <= 0).sum())} of {len(spread)} coordinates are not",
            )
        if not bool(wide.isfinite().all()):
            raise ShapeError("directions hold NaN or infinity", given=tuple(directions.shape))
        wide = wide / spread[:, None]
        dim, rank = wide.shape
        found = int(torch.linalg.matrix_rank(wide)) if rank else 0
        if not rank or found < rank or rank >= dim:
            raise ShapeError(
                "these directions span no proper subspace of that many dimensions",
                given=f"{rank} directions of rank {found} in {dim} dimensions",
                expected="independent directions, fewer than there are dimensions",
            )
        frame = torch.linalg.qr(wide).Q
        return cls(frame * spread[:, None], frame / spread[:, None])

    @property
    def dim(self) -> int:
        """Coordinates of the site."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Dimensions of the subspace."""
        return self.basis.shape[1]

    def complement(self) -> Subspace:
        """Return everything of the site that is not in this subspace."""
        return Subspace(self.basis, self.dual, not self.outside)

    def project(
        self, change: Float[torch.Tensor, "prompt dim"]
    ) -> Float[torch.Tensor, "prompt dim"]:
        """Return the part of `change` that lies in the subspace.

        Raises:
            ShapeError: The site has another number of coordinates.
        """
        if change.shape[1] != self.dim:
            raise ShapeError(
                "the subspace does not fit the site",
                given=f"a subspace of {self.dim} coordinates, a site with {change.shape[1]}",
                expected="the site the subspace was found on, flattened over its feature axes",
            )
        inside = (change @ self.dual.to(change)) @ self.basis.to(change).T
        return change - inside if self.outside else inside
