"""Do subspaces of two models say the same about the same prompts?

Bases of different models have nothing to do with each other, so activations are compared and not
directions: how alike are the prompts arranged inside one subspace and inside the other?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.controls import SubspaceControls
from mechtest.stats.monte_carlo import LOSSES, ControlSummary, ControlTest
from mechtest.stats.validation import refuse_non_finite

__all__ = ["MatchSide", "linear_cka", "match_test"]


@dataclass(frozen=True, eq=False)
class MatchSide:
    """A subspace of one model, its activations on the prompts, and its controls.

    Attributes:
        activations: "sample dim", in the site's own coordinates.
        controls: The claimed subspace and the family of its controls in this model.
    """

    activations: Float[np.ndarray, "sample dim"]
    controls: SubspaceControls

    def inside(self, frame: Float[np.ndarray, "dim rank"]) -> Float[np.ndarray, "sample rank"]:
        """Return the activations' standardised coordinates in a frame."""
        return np.asarray((self.activations / self.controls.spectrum.scale) @ frame)

    @property
    def claimed(self) -> Float[np.ndarray, "sample rank"]:
        """Coordinates in the claimed subspace."""
        return self.inside(self.controls.observed.frame)


def linear_cka(left: ArrayLike, right: ArrayLike) -> float:
    """Return the linear CKA of two sets of activations on the same samples.

    ||Y' X||^2 / (||X' X|| ||Y' Y||), Frobenius norms, columns centred.

    Args:
        left: "sample dim".
        right: "sample other_dim", rows in the same order.

    Returns:
        In [0, 1]; 1 where the samples are arranged alike up to rotation and scale.

    Raises:
        SampleError: Not the same samples, fewer than 3, or no variance on one side.
        NonFiniteError: NaN or infinity; names the samples.

    Sources: Kornblith et al. 2019, section 3.
    """
    x, y = _centred(left, "left"), _centred(right, "right")
    if len(x) != len(y):
        raise SampleError(
            "the two sides hold different samples", given=f"{len(x)} and {len(y)} rows"
        )
    shared = float((y.T @ x).ravel() @ (y.T @ x).ravel())
    spread = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return min(1.0, shared / spread)


def match_test(
    held: MatchSide, drawn: MatchSide, level: float, *, losses: int = LOSSES, cap: int | None = None
) -> ControlSummary:
    """Rank the claimed pair among pairs of the held subspace with controls of the other.

    Null hypothesis: the subspace of `drawn` is exchangeable with its controls in that model: it was
        chosen without regard to what `held` says. A match needs both directions; p is the larger.
    Exchange unit: a subspace of one model, on the same prompts.
    Exactness: as `ControlTest`, conditional on prompts and both models.

    Permuting prompts instead would test whether activations have anything in common: in .97 of
    cases unrelated subspaces of two models that read the same prompts do.

    Args:
        held: Kept as it is.
        drawn: Compared with its controls.
        level: Level of the claim.
        losses: As for `ControlTest`.
        cap: Likewise.

    Raises:
        SampleError: As `linear_cka`.
        UnattainableLevelError: As `ControlTest`.

    Sources: Besag & Clifford 1991; Kornblith et al. 2019.
    """
    fixed = held.claimed
    test = ControlTest(linear_cka(fixed, drawn.claimed), level, losses=losses, cap=cap)
    while test.stop == "running":
        frame = drawn.controls.draw(test.next_control).frame
        test.feed(linear_cka(fixed, drawn.inside(frame)))
    return test.summary()


def _centred(values: ArrayLike, name: str) -> Float[np.ndarray, "sample dim"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 3 or not array.shape[1]:
        raise SampleError(
            f"the {name} side should be at least 3 samples by dimensions",
            given=f"shape {array.shape}",
        )
    refuse_non_finite(array, f"the {name} side", "sample")
    centred = array - array.mean(axis=0)
    if float(np.abs(centred).max()) <= 1e-12 * max(1e-300, float(np.abs(array).max())):
        raise SampleError(f"activations on the {name} side do not vary over the samples")
    return np.asarray(centred)
