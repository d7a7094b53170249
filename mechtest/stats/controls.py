"""Which subspaces is a claimed subspace compared with?

"Special" means special among something: the kind of control says among what. A uniformly random
subspace of a site is rarely like a claimed one, since activations vary in few directions, so it is
reported as weak; the default matches the spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from mechtest.errors import ControlsError, SampleError, closest_names
from mechtest.stats.frames import Frame, mean_squared_cosine, orthonormal_frame
from mechtest.stats.keys import keyed_generator
from mechtest.stats.spectrum import Spectrum
from mechtest.stats.subspace_draws import flip_axes, match_power, rotate_blocks, uniform

__all__ = ["KINDS", "ControlKind", "SubspaceControls", "SubspaceDraw"]

SAME = 0.98
"""Mean squared cosine from which on a control counts as the claim itself."""

SAME_SHARE = 0.2
"""Share of such controls at which a family is refused."""

PROBES = 40

Draw = Callable[[Frame, Spectrum, np.random.Generator], Frame]


@dataclass(frozen=True)
class ControlKind:
    """One kind of control over subspaces.

    Attributes:
        name: Name in claims and records.
        draw: How one control is drawn.
        preserves: What controls share with the claim.
        rescaled: Whether a control is also compared as if it captured the claim's variance.
        matches_norm: Whether edits are scaled to the size of the claim's (`SubspaceDraw.gain`).
        weak: Whether it may be shown but cannot make a claim supported alone.
    """

    name: str
    draw: Draw
    preserves: str
    rescaled: bool = False
    matches_norm: bool = False
    weak: bool = False


KINDS: Mapping[str, ControlKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            ControlKind("block", rotate_blocks, "dimension, share in each block", rescaled=True),
            ControlKind("power", match_power, "dimension, captured variance"),
            ControlKind("sign", flip_axes, "dimension, covariance inside the subspace"),
            ControlKind("haar", uniform, "dimension", weak=True),
            ControlKind(
                "haar_norm", uniform, "dimension, size of the edit", matches_norm=True, weak=True
            ),
        )
    }
)
"""Kinds by name; `block` is the default."""


@dataclass(frozen=True, eq=False)
class SubspaceDraw:
    """One subspace, as the intervention needs it: the claim's own or a control's.

    Attributes:
        number: Number of the control, from 0; -1 for the claim.
        frame: Orthonormal frame in standardised coordinates, "dim rank".
        basis: First factor of the edit in the site's coordinates; see `Spectrum.edit_frames`.
        dual: Second factor.
        captured: Share of standardised variance inside the frame.
        gain: Factor on the edit: 1 unless the kind matches norms.
        overlap: Mean squared cosine with the claim.
    """

    number: int
    frame: Frame
    basis: Frame
    dual: Frame
    captured: float
    gain: float
    overlap: float

    @property
    def rank(self) -> int:
        """Dimensions of the subspace."""
        return int(self.frame.shape[1])


@dataclass(frozen=True, eq=False)
class SubspaceControls:
    """A claimed subspace and the family its controls are drawn from.

    Null hypothesis of a rank among them: the claimed subspace is exchangeable with its controls.
    Exactness: exact for a claim that was drawn from the family; see the functions of
        `subspace_draws.py` for what that means for each kind. `power`, `haar` and `haar_norm`
        ignore the claim's direction altogether, and are exact only for claims that did too.

    Args:
        claim: Directions "dim rank" in the site's own coordinates (a vector is one direction);
            they are standardised and orthonormalised here.
        spectrum: From the discovery split: `measure_spectrum`.
        kind: One of `KINDS`.
        seed: Root seed of the run.
        claim_id: Claim id; control k depends on seed, claim id, kind and k only.

    Raises:
        SampleError: An unknown kind, a claim of the wrong shape or rank-deficient.
        ControlsError: The claim is the whole site, captures no variance, or its controls are the
            claim itself.

    Sources: Lehmann & Romano 2005, section 15.2 (randomisation under a group).
    """

    claim: ArrayLike
    spectrum: Spectrum
    kind: str
    seed: int
    claim_id: str
    observed: SubspaceDraw = field(init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SampleError(
                "unknown kind of control",
                given=self.kind,
                closest=closest_names(self.kind, KINDS),
                expected=", ".join(KINDS),
            )
        columns = self.spectrum.standardised(self.claim)
        frame = orthonormal_frame(columns, self.spectrum.dim, "the claimed subspace")
        captured = self.spectrum.captured(frame)
        if captured <= 1e-9:
            raise ControlsError(
                "activations do not vary inside the claimed subspace, so it can carry nothing",
                given=f"a captured share of {captured:.2g}",
                next_step="check that the subspace belongs to this site and position",
            )
        object.__setattr__(self, "observed", self._built(-1, frame, frame, captured))
        self._refuse_copies()

    def draw(self, number: int) -> SubspaceDraw:
        """Return control `number`, the same whoever asks and in whatever order."""
        generator = keyed_generator(self.seed, self.claim_id, "control", self.kind, number)
        claimed = self.observed
        frame = KINDS[self.kind].draw(claimed.frame, self.spectrum, generator)
        return self._built(number, frame, claimed.frame, claimed.captured)

    def statistic(self, effect: float, drawn: SubspaceDraw) -> float:
        """Return what is ranked, in units of the effect; for the claim it is the effect.

        Inside a block variances differ by up to 2.5, so a control of kind `block` can capture more
        or less than the claim. It counts as at least as extreme when its effect is, or when its
        effect per captured variance is: the larger of the effect and the effect rescaled to the
        claim's captured variance. Either comparison alone calls blind claims special too often
        (.17 and .13 at .05 for claims at one end of a block, against .02 and .05 with both).
        """
        if not KINDS[self.kind].rescaled:
            return effect
        return max(effect, effect * self.observed.captured / drawn.captured)

    def _built(self, number: int, frame: Frame, claimed: Frame, target: float) -> SubspaceDraw:
        basis, dual = self.spectrum.edit_frames(frame)
        captured = self.spectrum.captured(frame)
        matches_norm = KINDS[self.kind].matches_norm
        return SubspaceDraw(
            number=number,
            frame=frame,
            basis=basis,
            dual=dual,
            captured=captured,
            gain=float(np.sqrt(target / captured)) if matches_norm else 1.0,
            overlap=mean_squared_cosine(frame, claimed),
        )

    def _refuse_copies(self) -> None:
        """Raise where the family can hardly give anything but the claim."""
        draw = KINDS[self.kind].draw
        claimed = self.observed.frame
        copies = 0
        for number in range(PROBES):
            generator = keyed_generator(self.seed, self.claim_id, "family check", self.kind, number)
            frame = draw(claimed, self.spectrum, generator)
            copies += mean_squared_cosine(frame, claimed) > SAME
        if copies > SAME_SHARE * PROBES:
            raise ControlsError(
                "controls are identical to the claim",
                given=f"{copies} of {PROBES} controls of kind {self.kind!r} are the claimed "
                f"subspace of rank {claimed.shape[1]} itself",
                expected=f"at most {SAME_SHARE:.0%}",
                next_step="the claim is made of whole blocks of the spectrum: claim fewer "
                "dimensions, or compare with other sites instead",
            )
