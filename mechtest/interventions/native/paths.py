"""What reaches a position from others, through the recurrence and the convolution of one layer?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mechtest.errors import ShapeError
from mechtest.interventions.native.branches import tap_part
from mechtest.interventions.native.operator import LayerRun, NativeOperator
from mechtest.interventions.native.recurrence import RECURRENCE_HOOKS, Recurrence
from mechtest.sites import Position

__all__ = ["BlockPath", "CutCrossTalk", "EditDecay", "position_text"]


@dataclass(frozen=True)
class EditDecay(NativeOperator):
    """Change how fast a layer forgets, and leave what it writes alone.

    With `factor`: A_bar_t := exp(factor Delta_t A). With `half_life`: A_bar_t := 2^(-1/half_life)
    for all states alike. B_bar_t = Delta_t B_t stays: an edit of Delta would scale both.

    Circuits name `hook_A_bar`; a position is the step into it, and what it changes is read there
    and at all later positions. Factors near 1 stay close to the distribution; 0 forgets nothing, so
    that states grow with the length of the prompt.

    Attributes:
        factor: Multiplies the exponent, 0 or more: 1 is the model itself.
        half_life: In tokens, above 0; infinity forgets nothing.
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_y",)
    reads: ClassVar[tuple[str, ...]] = RECURRENCE_HOOKS

    factor: float | None = None
    half_life: float | None = None
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        given = {"factor": self.factor, "half_life": self.half_life}
        set_ = {key: value for key, value in given.items() if value is not None}
        factor, half_life = self.factor, self.half_life
        good = (factor is None or 0 <= factor < math.inf) and (half_life is None or half_life > 0)
        if len(set_) != 1 or not good:
            raise ShapeError(
                "a decay is edited by a factor or by a half-life",
                given=", ".join(f"{key}={value!r}" for key, value in given.items()),
                expected="factor= (finite, 0 or more) or half_life= (tokens, above 0), one of them",
            )
        ((key, value),) = set_.items()
        object.__setattr__(self, "name", f"edit decay, {key.replace('_', '-')} {value:g}")

    @property
    def site(self) -> str:
        """`hook_A_bar`."""
        return "hook_A_bar"

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return y of a recurrence with other decays."""
        del hook
        run = Recurrence.of(here)

        def change(
            pos: int, decay: torch.Tensor, write: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if self.half_life is not None:
                new = torch.full_like(decay, 2.0 ** (-1.0 / self.half_life))
            else:
                assert self.factor is not None
                new = torch.exp(run.delta[:, pos].unsqueeze(-1) * (self.factor * run.A))
            return torch.where(here.where[:, pos].unsqueeze(-1), new, decay), write

        return value + run.changed_readout(change).to(value.dtype)


@dataclass(frozen=True)
class BlockPath(NativeOperator):
    """Cut hidden attention of a layer: y_i -= sum over senders j of alpha_ij x_j.

    alpha_ij = C_i (A_bar_i ... A_bar_{j+1}) Delta_j B_j is the entry of the matrix that the
    recurrence is; a position that is its own sender loses alpha_ii too. What the senders wrote
    still reaches every other position. A sender's x mixes the last d_conv tokens, and paths through
    other layers stay open. Taking a part out of a sum need not stay on the distribution.

    Circuits name `hook_y`; their positions are the receivers.

    Attributes:
        sender: Positions in the notation of sites: `subject_last`, `S2`, -3, `2:5`.

    Sources: Ali et al. 2024, section 3 (hidden attention); Geva et al. 2023 (attention knockout).
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_y",)
    reads: ClassVar[tuple[str, ...]] = RECURRENCE_HOOKS

    sender: str | int = ""
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "sender", position_text(self.sender, "BlockPath('subject_last')"))
        object.__setattr__(self, "name", f"block path from {self.sender}")

    @property
    def site(self) -> str:
        """`hook_y`."""
        return "hook_y"

    @property
    def sender_position(self) -> str:
        """The senders."""
        return str(self.sender)

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return y without what the senders wrote."""
        del hook
        change = without_senders(Recurrence.of(here), here)
        return torch.where(here.where, value + change.to(value.dtype), value)


@dataclass(frozen=True)
class CutCrossTalk(NativeOperator):
    """Let a layer see one prompt at a position, and the twin at all others.

    At a position i of the circuit the taps -1, -2 ... of the convolution take the twin's inputs,
    and the state carried in is the twin's: y_i = C_i (A_bar_i h'_{i-1} + Delta_i B_i x_i), h' from
    the twin's run. Its own input, its gate and the direct path D x stay. What later positions
    receive from i is what i now writes. Each part is on the distribution; the mixture need not be.

    Circuits name `hook_ssm_output`.

    Sources: Ensign & Garriga-Alonso 2024 (removing cross-talk between tokens, layer by layer).
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_conv", "hook_y")
    reads: ClassVar[tuple[str, ...]] = ("hook_in_proj", *RECURRENCE_HOOKS)

    name: str = field(init=False, default="cut cross-talk")

    @property
    def site(self) -> str:
        """`hook_ssm_output`."""
        return "hook_ssm_output"

    @property
    def needs_twin(self) -> bool:
        """Always."""
        return True

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return the convolution, then y, with what comes from other positions being the twin's."""
        if hook == "hook_conv":
            rows = here.twin["hook_in_proj"] - here.own["hook_in_proj"]
            width = here.mixer.conv1d.weight.shape[-1]
            change = torch.zeros_like(rows)
            for tap in range(1 - width, 0):
                change = change + tap_part(here, rows, tap)
        else:
            run, other = Recurrence.of(here), Recurrence.of(here, here.twin)
            change = run.carried_readout(other) - run.carried_readout()
        return torch.where(here.where, value + change.to(value.dtype), value)


def without_senders(run: Recurrence, here: LayerRun) -> torch.Tensor:
    """Return what y gains without what the senders wrote."""
    assert here.sender is not None
    senders = here.sender

    def change(
        pos: int, decay: torch.Tensor, write: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return decay, torch.where(senders[:, pos, None, None], 0.0, write)

    return run.changed_readout(change)


def position_text(position: str | int, example: str) -> str:
    """Return a position as sites write it; `:` is every one.

    Raises:
        ShapeError: None was given.
        PositionError: It cannot be read.
    """
    if isinstance(position, bool) or position in ("", None):
        raise ShapeError("which positions send?", given=repr(position), expected=example)
    return str(Position.parse(str(position)))
