"""Which subspace do these columns span, and how much of it is another one?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import ControlsError, SampleError
from mechtest.stats.validation import refuse_non_finite

__all__ = ["haar_frame", "mean_squared_cosine", "orthonormal_frame", "positive_qr"]

RANK_TOLERANCE = 1e-6
"""Directions below this share of the largest singular value are not there: float32 columns."""

Frame = Float[np.ndarray, "dim rank"]


def orthonormal_frame(columns: ArrayLike, dim: int, name: str = "frame") -> Frame:
    """Return an orthonormal basis "dim rank" of what the columns span.

    Columns need not be orthonormal, but they must be independent: `rank` is what the claim says,
    and a claim of more dimensions than there are is a mistake. A vector is one column.

    Raises:
        SampleError: Not a "dim rank" array, empty, or rank-deficient (the rank is named).
        ControlsError: The subspace is the whole site.
        NonFiniteError: NaN or infinity in it.
    """
    array = np.asarray(columns, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != dim or array.shape[1] == 0:
        raise SampleError(
            f"{name} should have one column a direction",
            given=f"an array of shape {np.shape(columns)}",
            expected=f"shape ({dim}, rank) with rank >= 1",
        )
    refuse_non_finite(array, name, "coordinate")
    lengths = np.linalg.norm(array, axis=0)
    unit = array / np.where(lengths > 0, lengths, 1.0)
    singular = np.linalg.svd(unit, compute_uv=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum()) if singular[0] > 0 else 0
    if rank < array.shape[1]:
        raise SampleError(
            f"{name} is rank-deficient",
            given=f"{array.shape[1]} columns of rank {rank}",
            expected="independent columns",
            next_step=f"claim {rank} dimensions" if rank else "give columns that are not zero",
        )
    if rank >= dim:
        raise ControlsError(
            f"{name} is the whole site, so no control can differ from it",
            given=f"rank {rank} of {dim} dimensions",
            expected=f"rank < {dim}",
            next_step="claim the site itself, with other sites as controls",
        )
    return positive_qr(unit)[0]


def mean_squared_cosine(one: Frame, other: Frame) -> float:
    """Return the mean squared cosine of the principal angles of two orthonormal frames.

    1 when the smaller subspace lies in the other, 0 when they are orthogonal; rank / dim on
    average for random subspaces.

    Sources: Björck & Golub 1973, section 2.
    """
    return float(((one.T @ other) ** 2).sum() / min(one.shape[1], other.shape[1]))


def haar_frame(dim: int, rank: int, generator: np.random.Generator) -> Frame:
    """Return a uniformly distributed orthonormal frame "dim rank".

    Sources: Mezzadri 2007, section 5 (why the signs of the R diagonal must be taken out).
    """
    return positive_qr(generator.standard_normal((dim, rank)))[0]


def positive_qr(
    columns: Float[np.ndarray, "dim rank"],
) -> tuple[Float[np.ndarray, "dim least"], Float[np.ndarray, "least rank"]]:
    """Return the QR factors whose R has no negative diagonal: they move smoothly with `columns`.

    Without that, rounding could flip the sign of a control's direction between two machines.
    """
    q, r = np.linalg.qr(columns)
    signs = np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.asarray(q * signs), np.asarray(r * signs[:, None])
