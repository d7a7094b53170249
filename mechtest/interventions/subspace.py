"""Which directions of a site's activations are meant?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mechtest.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace of a site's activations, flattened over their feature axes.

    Attributes:
        frame: Orthonormal columns, float "dim rank", in standardised coordinates.
        scale: What each coordinate is divided by before projecting, float "dim"; None for 1. A
            recurrent state's coordinates differ in size by two orders of magnitude, and an
            unscaled projection is then about the few largest.
    """

    frame: Float[torch.Tensor, "dim rank"]
    scale: Float[torch.Tensor, " dim"] | None = None

    @classmethod
    def spanned_by(
        cls,
        directions: Float[torch.Tensor, "dim rank"],
        scale: Float[torch.Tensor, " dim"] | None = None,
    ) -> Subspace:
        """Return the span of some directions, given in raw coordinates.

        Raises:
            ShapeError: Directions that are dependent, not finite, or as many as coordinates; a
                scale that is not positive.
        """
        if scale is not None and not bool((scale > 0).all()):
            raise ShapeError(
                "a scale has to be positive in every coordinate",
                given=f"{int((scale <= 0).sum())} of {len(scale)} coordinates are not",
                next_step="leave out coordinates that never vary, or floor their scale",
            )
        wide = directions.double() if scale is None else directions.double() / scale[:, None]
        if not bool(wide.isfinite().all()):
            raise ShapeError("directions hold NaN or infinity", given=tuple(directions.shape))
        dim, rank = wide.shape
        found = int(torch.linalg.matrix_rank(wide))
        if found < rank or rank >= dim:
            raise ShapeError(
                "these directions span no proper subspace of that many dimensions",
                given=f"{rank} directions of rank {found} in {dim} dimensions",
                expected="independent directions, fewer than there are dimensions",
            )
        frame = torch.linalg.qr(wide).Q.to(directions.dtype)
        return cls(frame, scale)

    @property
    def dim(self) -> int:
        """Coordinates of the site."""
        return self.frame.shape[0]

    @property
    def rank(self) -> int:
        """Dimensions of the subspace."""
        return self.frame.shape[1]

    def project(
        self, change: Float[torch.Tensor, "prompt dim"]
    ) -> Float[torch.Tensor, "prompt dim"]:
        """Return the part of `change` that lies in the subspace (oblique where there is a scale).

        Raises:
            ShapeError: The site has another number of coordinates.
        """
        if change.shape[1] != self.dim:
            raise ShapeError(
                "the subspace does not fit the site",
                given=f"a frame over {self.dim} coordinates, a site with {change.shape[1]}",
                expected="the site the subspace was found on, flattened over its feature axes",
            )
        frame = self.frame.to(change)
        if self.scale is None:
            return (change @ frame) @ frame.T
        scale = self.scale.to(change)
        return ((change / scale) @ frame) @ frame.T * scale
