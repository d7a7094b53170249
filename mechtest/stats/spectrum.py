"""How do activations of a site vary, in coordinates where its dimensions are comparable?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.frames import Frame
from mechtest.stats.validation import refuse_non_finite

__all__ = ["BLOCK_RATIO", "Spectrum", "measure_spectrum", "spectrum_of_covariance"]

BLOCK_RATIO = 2.5
"""Largest ratio of variances inside one block."""

NOTHING = 1e-10
"""Variances below this share of the largest are zero: rounding of float32 activations."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Principal axes of a site's standardised activations.

    Standardised means divided by `scale`, one number a dimension. Frames of claims and controls
    live in these coordinates; `edit_frames` takes them back to the site's own.

    Attributes:
        scale: Standard deviation of each dimension, or ones, "dim".
        variances: Positive eigenvalues of the standardised covariance, largest first, "axis".
        axes: Their eigenvectors, "dim axis". With fewer prompts than dimensions there are fewer
            axes than dimensions; what is orthogonal to them has no variance.
        samples: Activations it was measured on; 0 for a covariance that was given.
    """

    scale: Float[np.ndarray, " dim"]
    variances: Float[np.ndarray, " axis"]
    axes: Float[np.ndarray, "dim axis"]
    samples: int = 0

    @property
    def dim(self) -> int:
        """Dimensions of the site."""
        return len(self.scale)

    @cached_property
    def total(self) -> float:
        """Total standardised variance."""
        return float(self.variances.sum())

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """Runs of axes of nearly equal variance, largest first; what has no variance is not here.

        A block starts at its largest variance and takes every axis down to 1 / 2.5 of it.
        """
        starts = [0]
        for axis in range(1, len(self.variances)):
            if self.variances[starts[-1]] > BLOCK_RATIO * self.variances[axis]:
                starts.append(axis)
        ends = [*starts[1:], len(self.variances)]
        return tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))

    def captured(self, frame: Frame) -> float:
        """Return the share of the total standardised variance inside a frame, in [0, 1]."""
        inside = ((self.axes.T @ frame) ** 2).sum(axis=1) @ self.variances
        return min(1.0, float(inside) / self.total)

    def standardised(self, columns: ArrayLike) -> Float[np.ndarray, "dim rank"]:
        """Return directions given in the site's coordinates in standardised ones."""
        array = np.asarray(columns, dtype=np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or len(array) != self.dim:
            raise SampleError(
                "directions do not belong to this site",
                given=f"shape {np.shape(columns)}",
                expected=f"shape ({self.dim}, rank)",
            )
        return np.asarray(array / self.scale[:, None])

    def edit_frames(self, frame: Frame) -> tuple[Frame, Frame]:
        """Return (basis, dual), both "dim rank", in the site's own coordinates.

        The edit of an activation x towards x' inside the subspace is
        x + basis @ dual.T @ (x' - x): a projection that is orthogonal in standardised coordinates.
        The claim and its controls must be carried out with the same formula.
        """
        return frame * self.scale[:, None], frame / self.scale[:, None]


def measure_spectrum(
    activations: ArrayLike, *, standardise: bool = True, name: str = "activations"
) -> Spectrum:
    """Return the principal axes of activations, from the discovery split or a neutral text.

    Args:
        activations: "sample dim". Never from the split the claim is tested on.
        standardise: Divide each dimension by its standard deviation first. The default, because
            isotropic draws in raw coordinates break a model whose state has dimensions with
            standard deviations of .7 and of 108. A dimension that never varies keeps the scale of
            the smallest one that does.
        name: Name of the site, for messages.

    Raises:
        SampleError: Fewer than two samples, not "sample dim", or no variance at all.
        NonFiniteError: NaN or infinity; names the samples.
    """
    array = np.asarray(activations, dtype=np.float64)
    if array.ndim != 2 or min(array.shape) < 1 or len(array) < 2:
        raise SampleError(
            f"{name} should be samples by dimensions, with at least two samples",
            given=f"shape {array.shape}",
        )
    refuse_non_finite(array, name, "sample")
    centred = array - array.mean(axis=0)
    deviations = np.sqrt((centred**2).mean(axis=0))
    varies = deviations > NOTHING * max(float(deviations.max()), float(np.abs(array).max()))
    if not varies.any():
        raise SampleError(f"{name} do not vary", next_step="measure them on different prompts")
    scale = np.ones(array.shape[1])
    if standardise:
        scale = np.where(varies, deviations, deviations[varies].min())
    _, singular, axes = np.linalg.svd(np.where(varies, centred, 0.0) / scale, full_matrices=False)
    variances = singular**2 / len(array)
    keep = variances > NOTHING * variances[0]
    return Spectrum(scale, variances[keep], axes[keep].T, len(array))


def spectrum_of_covariance(covariance: ArrayLike, *, standardise: bool = True) -> Spectrum:
    """Return the principal axes of a covariance "dim dim"; see `measure_spectrum`."""
    array = np.asarray(covariance, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise SampleError("a covariance is square", given=f"shape {array.shape}")
    refuse_non_finite(array, "covariance", "row")
    deviations = np.sqrt(np.clip(np.diagonal(array), 0, None))
    varies = deviations > NOTHING * deviations.max()
    if not varies.any():
        raise SampleError("the covariance is zero", next_step="measure it on different prompts")
    scale = np.ones(len(array))
    if standardise:
        scale = np.where(varies, deviations, deviations[varies].min())
    symmetric = (array + array.T) / 2 / np.outer(scale, scale)
    variances, axes = np.linalg.eigh(symmetric)
    if variances[0] < -1e-6 * variances[-1]:
        raise SampleError(
            "a covariance has no negative eigenvalues", given=f"smallest {variances[0]:.3g}"
        )
    keep = np.flatnonzero(variances > NOTHING * variances[-1])[::-1]
    return Spectrum(scale, variances[keep], axes[:, keep])
