"""How is one control subspace drawn, for each kind of control?

Every function takes the claimed frame in standardised coordinates and returns another frame of the
same rank there. What the kinds preserve, and what they are good for, is in `controls.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mechtest.errors import ControlsError
from mechtest.stats.frames import Frame, haar_frame, positive_qr
from mechtest.stats.spectrum import Spectrum

__all__ = ["flip_axes", "match_power", "rotate_blocks", "uniform"]

POWER_TOLERANCE = 0.1
"""Relative difference of captured variance at which a `power` draw is accepted."""

POWER_TRIES = 50
STEEPEST = 8.0
BISECTIONS = 40
FLOOR = 1e-6
SMALL = 1e-12


def rotate_blocks(claim: Frame, spectrum: Spectrum, generator: np.random.Generator) -> Frame:
    """Rotate the claimed frame inside each block of nearly equal variance (kind `block`).

    Null hypothesis served: the orientation of the subspace within blocks is arbitrary.
    Exchange unit: the frame under the group of independent Haar rotations of the blocks, and of
        the part of the space that never varies.
    Exactness: the rotations are a group, so ranks are exact for a claim whose orientation within
        blocks carries no information. How much of the frame lies in each block is kept exactly;
        captured variance changes by as much as variances differ inside a block.
    """
    noise = generator.standard_normal(claim.shape)
    claimed, turned = spectrum.axes.T @ claim, spectrum.axes.T @ noise
    drawn = np.zeros_like(claim)
    for block in spectrum.blocks:
        drawn += spectrum.axes[:, block] @ _rotated(claimed[block], turned[block])
    free = spectrum.dim - spectrum.axes.shape[1]
    rest = claim - spectrum.axes @ claimed
    if free and np.abs(rest).max() > SMALL:
        drawn += _rotated(rest, noise - spectrum.axes @ turned, dimensions=free)
    return _orthonormal(drawn)


def flip_axes(claim: Frame, spectrum: Spectrum, generator: np.random.Generator) -> Frame:
    """Flip the signs of the claimed frame's coordinates on the principal axes (kind `sign`).

    Exchange unit: the frame under sign flips of principal coordinates (one common sign for the
        part that never varies).
    Exactness: a group; the covariance of activations inside the frame is kept exactly. A claim
        made of principal axes is only ever mapped to itself.
    """
    coordinates = spectrum.axes.T @ claim
    signs = generator.choice([-1.0, 1.0], size=len(coordinates) + 1)
    rest = claim - spectrum.axes @ coordinates
    return _orthonormal(spectrum.axes @ (signs[:-1, None] * coordinates) + signs[-1] * rest)


def uniform(claim: Frame, spectrum: Spectrum, generator: np.random.Generator) -> Frame:
    """Draw a uniformly distributed frame of the same rank (kinds `haar` and `haar_norm`)."""
    return haar_frame(spectrum.dim, claim.shape[1], generator)


def match_power(claim: Frame, spectrum: Spectrum, generator: np.random.Generator) -> Frame:
    """Draw orth(Sigma^(a/2) Z) that captures as much variance as the claim (kind `power`).

    For each Gaussian Z the power a is found by bisection, to the captured variance of the claim;
    what misses it by more than a tenth is drawn again.

    Exactness: none by a group; dimension and captured variance are matched, the spectrum inside
        the frame is not.
    """
    target = spectrum.captured(claim)
    for _ in range(POWER_TRIES):
        noise = generator.standard_normal(claim.shape)
        frame = _bisected(noise, spectrum, target)
        if abs(spectrum.captured(frame) - target) <= POWER_TOLERANCE * target:
            return frame
    raise ControlsError(
        "no subspace of the kind 'power' captures as much variance as the claim",
        given=f"the claim captures {target:.3g} of the variance with {claim.shape[1]} dimensions",
        next_step="use controls='block'",
    )


def _rotated(
    part: Float[np.ndarray, "axis rank"],
    noise: Float[np.ndarray, "axis rank"],
    *,
    dimensions: int | None = None,
) -> Float[np.ndarray, "axis rank"]:
    """Return O @ part for a Haar orthogonal O of the space that `part` and `noise` lie in.

    Only what O does to the columns of `part` is drawn: they go to orthonormalised noise. The result
    does not depend on the basis of the block, whose axes may be swapped by rounding.
    """
    count = min(len(part) if dimensions is None else dimensions, part.shape[1])
    shape = positive_qr(part)[1][:count]
    return np.asarray(positive_qr(noise[:, :count])[0] @ shape)


def _bisected(noise: Frame, spectrum: Spectrum, target: float) -> Frame:
    """Return orth(Sigma^(a/2) noise) with a chosen for the target, a in [-8, 8]."""
    inside = spectrum.axes.T @ noise
    outside, rest = positive_qr(noise - spectrum.axes @ inside)
    relative = np.maximum(spectrum.variances / spectrum.variances[0], FLOOR)
    low, high = -STEEPEST, STEEPEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        scaled = [relative[:, None] ** (middle / 2) * inside, FLOOR ** (middle / 2) * rest]
        q = positive_qr(np.concatenate(scaled))[0]
        q_inside, q_outside = q[: len(relative)], q[len(relative) :]
        found = float((q_inside**2).sum(axis=1) @ spectrum.variances) / spectrum.total
        if abs(found - target) <= 0.01 * POWER_TOLERANCE * target:
            break
        low, high = (middle, high) if found < target else (low, middle)
    return _orthonormal(spectrum.axes @ q_inside + outside @ q_outside)


def _orthonormal(columns: Frame) -> Frame:
    """Return an orthonormal basis of independent columns (takes out rounding)."""
    return positive_qr(columns)[0]
