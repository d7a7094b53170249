"""What does a position receive from a layer's recurrence, and what is left without it?

The seven modes of Endy et al. 2025, each for some layers, some channels, some senders and some
receivers. Their paper names the modes; where a name leaves the formula open, the choice made here
is written beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from mechtest.errors import ShapeError, closest_names
from mechtest.interventions.native.operator import LayerRun, NativeOperator
from mechtest.interventions.native.paths import position_text, without_senders
from mechtest.interventions.native.recurrence import RECURRENCE_HOOKS, Recurrence

__all__ = ["KNOCKOUT_MODES", "Knockout", "KnockoutMode"]

KnockoutMode = Literal[
    "zero_attention", "zero_delta", "increase_delta", "ignore_context", "only_context",
    "ignore_ssm", "ignore_layer",
]  # fmt: skip
KNOCKOUT_MODES: tuple[KnockoutMode, ...] = get_args(KnockoutMode)
"""All seven."""


def zero_attention(here: LayerRun, factor: float) -> torch.Tensor:
    """y_i -= sum over senders j of C_i (A_bar_i ... A_bar_{j+1}) Delta_j B_j x_j; see `BlockPath`.

    Off the distribution as far as a sum without a part is.
    """
    del factor
    return without_senders(Recurrence.of(here), here)


def zero_delta(here: LayerRun, factor: float) -> torch.Tensor:
    """y_i := C_i h'_i, where senders step with Delta_j = 0: A_bar_j = 1 and nothing is written.

    Off the distribution: a step of zero also freezes the memory. What stood before a sender is kept
    as if that token had not been, instead of fading. (Open in the name: whether all later positions
    see it. Here the receivers do; name every position to have it so.)
    """
    del factor
    return _with_steps(here, 0.0)


def increase_delta(here: LayerRun, factor: float) -> torch.Tensor:
    """y_i := C_i h'_i, where senders step with factor Delta_j: they write more, and erase more.

    Off the distribution as far as the factor is from 1. (Open in the name: by how much; here twice,
    unless said otherwise.)
    """
    return _with_steps(here, factor)


def ignore_context(here: LayerRun, factor: float) -> torch.Tensor:
    """y_i := C_i Delta_i B_i x_i: the state that is carried in counts as zero.

    As at the first token of a prompt, which is off the distribution of later ones. The convolution
    still brings the last tokens, and D x stays.
    """
    del factor
    return -Recurrence.of(here).carried_readout()


def only_context(here: LayerRun, factor: float) -> torch.Tensor:
    """y_i := C_i A_bar_i h_{i-1}: what the position itself writes is not read there.

    Off the distribution: a Mamba always reads its own write. (Open in the name: whether D x is
    context. It stays.)
    """
    del factor
    return -Recurrence.of(here).own_readout()


def _with_steps(here: LayerRun, factor: float) -> torch.Tensor:
    run = Recurrence.of(here)
    assert here.sender is not None
    senders = here.sender

    def change(
        pos: int, decay: torch.Tensor, write: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = senders[:, pos, None, None]
        other = torch.exp(factor * run.delta[:, pos].unsqueeze(-1) * run.A)
        return torch.where(chosen, other, decay), torch.where(chosen, factor * write, write)

    return run.changed_readout(change)


_CHANGES: dict[str, Callable[[LayerRun, float], torch.Tensor]] = {
    "zero_attention": zero_attention,
    "zero_delta": zero_delta,
    "increase_delta": increase_delta,
    "ignore_context": ignore_context,
    "only_context": only_context,
}
"""What y gains, "batch pos d_inner"; the other two modes put in zeros."""

_WITH_SENDER = ("zero_attention", "zero_delta", "increase_delta")


@dataclass(frozen=True)
class Knockout(NativeOperator):
    """Knock out what some positions receive from a layer.

    | mode | at a receiver i, in the circuit's channels | needs a sender |
    | --- | --- | --- |
    | `zero_attention` | y_i loses what the senders wrote | yes |
    | `zero_delta` | y_i as if senders had stepped with Delta = 0 | yes |
    | `increase_delta` | y_i as if senders had stepped with `factor` Delta | yes |
    | `ignore_context` | y_i = C_i Delta_i B_i x_i | no |
    | `only_context` | y_i = C_i A_bar_i h_{i-1} | no |
    | `ignore_ssm` | y_i = 0, so that D x is all the state-space model says | no |
    | `ignore_layer` | the gated output is 0, so that the residual stream passes by | no |

    Circuits name `hook_y`, and `hook_after_skip` for `ignore_layer` (whose output projection keeps
    its bias where a model has one; published ones have none). Their positions are the receivers,
    their sites the window of layers, their channels all, or a class of `decay_channels`. `circuits`
    writes them out.

    Attributes:
        mode: See the table, and the function of that name for the formula and how far it is from
            the model's own distribution.
        sender: Positions in the notation of sites.
        factor: Of `increase_delta`, 0 or more and not 1.

    Sources: Endy et al. 2025 (Mamba Knockout); the choices marked "open" are ours.
    """

    mode: KnockoutMode
    sender: str | int | None = None
    factor: float = 2.0
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.mode not in KNOCKOUT_MODES:
            raise ShapeError(
                f"there is no knockout mode {self.mode!r}",
                given=repr(self.mode),
                closest=closest_names(str(self.mode).lower(), KNOCKOUT_MODES),
                expected=", ".join(KNOCKOUT_MODES),
            )
        sends = self.mode in _WITH_SENDER
        if sends:
            example = f"Knockout({self.mode!r}, sender='subject_last')"
            text = position_text("" if self.sender is None else self.sender, example)
            object.__setattr__(self, "sender", text)
        elif self.sender is not None:
            raise ShapeError(
                f"{self.mode} is about everything a position receives",
                given=f"sender={self.sender!r}",
                expected=f"no sender; {', '.join(_WITH_SENDER)} have one",
            )
        if not 0 <= self.factor < float("inf") or self.factor == 1:
            raise ShapeError(
                "a step is multiplied by 0 or more, and by 1 nothing changes",
                given=f"factor={self.factor!r}",
                expected="for example factor=2",
            )
        name = f"knockout {self.mode}" + (f" from {self.sender}" if sends else "")
        name += f", factor {self.factor:g}" if self.mode == "increase_delta" else ""
        object.__setattr__(self, "name", name)

    @property
    def site(self) -> str:
        """`hook_y`, or `hook_after_skip` for `ignore_layer`."""
        return "hook_after_skip" if self.mode == "ignore_layer" else "hook_y"

    @property
    def hooks_changed(self) -> tuple[str, ...]:
        """The same hook."""
        return (self.site,)

    @property
    def hooks_read(self) -> tuple[str, ...]:
        """What a recurrence is made of, where the mode computes one."""
        return RECURRENCE_HOOKS if self.mode in _CHANGES else ()

    @property
    def sender_position(self) -> str | None:
        """The senders, where the mode has them."""
        return None if self.sender is None else str(self.sender)

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return what the receivers read without what is knocked out."""
        del hook
        if self.mode not in _CHANGES:
            return torch.where(here.where, 0.0, value)
        change = _CHANGES[self.mode](here, self.factor)
        return torch.where(here.where, value + change.to(value.dtype), value)
