"""What does a layer do without one of its branches: its selectivity, its gate, a tap?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

from mechtest.errors import MetricError, ShapeError
from mechtest.interventions.native.operator import LayerRun, NativeOperator

__all__ = ["DropConvTap", "FreezeDelta", "FreezeGate", "tap_part"]

Whose = Literal["prompt", "twin"]


@dataclass(frozen=True, eq=False)
class FreezeDelta(NativeOperator):
    """Give every position the same step size: Delta_t := mean over t of Delta_t.

    The layer then writes and forgets alike at every token: what is left is a linear recurrence that
    does not choose. Close to the distribution: each channel keeps its own mean step.

    Circuits name `hook_delta`; positions outside the circuit keep their steps.

    Attributes:
        whose: Whose mean: the prompt's own, or its twin's.
        means: Fitted means by hook name without position (`fit_means(runner, circuit).means`),
            instead of either.

    Sources: Gu & Dao 2023, section 3.5.2 (what Delta selects).
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_delta",)
    reads: ClassVar[tuple[str, ...]] = ("hook_delta",)

    whose: Whose = "prompt"
    means: Mapping[str, torch.Tensor] | None = None
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        _require_whose(self.whose, "FreezeDelta")
        object.__setattr__(self, "name", _name("freeze delta", self.whose, self.means))

    @property
    def site(self) -> str:
        """`hook_delta`."""
        return "hook_delta"

    @property
    def needs_twin(self) -> bool:
        """Whether the mean is the twin's."""
        return self.means is None and self.whose == "twin"

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return mean steps where the circuit says so."""
        if self.means is not None:
            frozen = _fitted(self.means, here.site, value, self.name)
        else:
            frozen = here.mean(here.twin[hook] if self.needs_twin else value)
        return torch.where(here.where, frozen, value)


@dataclass(frozen=True, eq=False)
class FreezeGate(NativeOperator):
    """Give every position the same gate: silu(z_t) := mean over t of silu(z_t).

    The mean is that of the gate itself, behind its nonlinearity, so the edit is made where the gate
    multiplies. Close to the distribution, but a mean gate need not be the gate of any token.

    Circuits name `hook_skip` (z). To put in the twin's gate position by position, use
    `ResampleAblation()` there.

    Attributes:
        whose: Whose mean: the prompt's own, or its twin's.
        means: Fitted means of silu(z) by `blocks.{l}.hook_skip`, instead of either.
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_after_skip",)
    reads: ClassVar[tuple[str, ...]] = ("hook_skip", "hook_ssm_output")

    whose: Whose = "prompt"
    means: Mapping[str, torch.Tensor] | None = None
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        _require_whose(self.whose, "FreezeGate")
        object.__setattr__(self, "name", _name("freeze gate", self.whose, self.means))

    @property
    def site(self) -> str:
        """`hook_skip`."""
        return "hook_skip"

    @property
    def needs_twin(self) -> bool:
        """Whether the mean is the twin's."""
        return self.means is None and self.whose == "twin"

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return the block's output under a mean gate where the circuit says so."""
        del hook
        output = here.own["hook_ssm_output"]
        if self.means is not None:
            gate = _fitted(self.means, here.site, output, self.name)
        else:
            gate = here.mean(F.silu((here.twin if self.needs_twin else here.own)["hook_skip"]))
        return torch.where(here.where, (output * gate).to(value.dtype), value)


@dataclass(frozen=True)
class DropConvTap(NativeOperator):
    """Take out what one tap of the convolution adds: conv_t -= w_tap in_proj_{t+tap}.

    Circuits name `hook_conv`; positions are those the tap writes to.

    Attributes:
        tap: 0 is the token itself, -1 the one before it, down to -(d_conv - 1).
        resample: Put in what the tap adds on the twin prompt, which stays on the distribution;
            without it nothing is added, which need not.

    Sources: Ensign & Garriga-Alonso 2024 (slices of the convolution, the shift by one token).
    """

    acts_at: ClassVar[tuple[str, ...]] = ("hook_conv",)
    reads: ClassVar[tuple[str, ...]] = ("hook_in_proj",)

    tap: int = -1
    resample: bool = False
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if isinstance(self.tap, bool) or not isinstance(self.tap, int) or self.tap > 0:
            raise ShapeError(
                "a tap looks back, or at the token itself",
                given=f"tap={self.tap!r}",
                expected="0, -1 (one token back), -2 ...",
            )
        verb = "resample" if self.resample else "drop"
        object.__setattr__(self, "name", f"{verb} conv tap {self.tap}")

    @property
    def site(self) -> str:
        """`hook_conv`."""
        return "hook_conv"

    @property
    def needs_twin(self) -> bool:
        """Whether the twin's part is put in."""
        return self.resample

    def edited(self, hook: str, value: torch.Tensor, here: LayerRun) -> torch.Tensor:
        """Return the convolution's output with that tap's part out, or the twin's in."""
        del hook
        own = here.own["hook_in_proj"]
        rows = here.twin["hook_in_proj"] - own if self.resample else -own
        change = tap_part(here, rows, self.tap)
        return torch.where(here.where, value + change.to(value.dtype), value)


def tap_part(here: LayerRun, rows: torch.Tensor, tap: int) -> torch.Tensor:
    """Return what one tap makes of the convolution's input, "batch pos d_inner".

    Args:
        here: The layer.
        rows: Inputs; padding counts as zero.
        tap: 0 or negative.

    Raises:
        ShapeError: The convolution has no such tap.
    """
    weight = here.mixer.conv1d.weight
    width = weight.shape[-1]
    if not -width < tap <= 0:
        raise ShapeError(
            f"the convolution has {width} taps",
            given=f"tap={tap}",
            expected=f"0 to {1 - width}",
        )
    rows = here.masked(rows)
    back = F.pad(rows, (0, 0, -tap, 0))[:, : rows.shape[1]]
    return back * weight[:, 0, width - 1 + tap]


def _name(what: str, whose: Whose, means: object) -> str:
    return f"{what} at {'a fitted' if means is not None else f'the {whose}' + chr(39) + 's'} mean"


def _require_whose(whose: str, operator: str) -> None:
    if whose not in ("prompt", "twin"):
        raise ShapeError(
            f"{operator} takes a mean over positions of the prompt or of its twin",
            given=f"whose={whose!r}",
            expected="'prompt' or 'twin'",
        )


def _fitted(
    means: Mapping[str, torch.Tensor], site: str, like: torch.Tensor, name: str
) -> torch.Tensor:
    if site not in means:
        raise MetricError(
            f"no mean was fitted for {site}",
            given=f"{name}, with means of {', '.join(means)}",
            next_step="fit_means(runner, circuit).means on the discovery prompts, with every layer",
        )
    return means[site].to(like).expand_as(like)
