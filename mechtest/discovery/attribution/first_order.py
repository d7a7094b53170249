"""What would a change of activations do to the metric, if it went on as it begins?

The change at a place, times the slope of the metric there. Where the place is a state, neither it
nor its slope is kept by any pass: both follow from rows of the same layer, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float

from mechtest.discovery.attribution.traces import Trace
from mechtest.errors import SiteNotServedError
from mechtest.models import HookedMamba
from mechtest.models.block import MambaBlock
from mechtest.sites import Site
from mechtest.sites.table import DISCRETIZED

__all__ = [
    "first_order",
    "hooks_needed",
    "kept_per_token",
    "layers_of",
    "moved",
    "require_served",
    "tap_change",
    "taps",
]

STATE_INPUTS = ("hook_ssm_input", "hook_delta", "hook_B", "hook_C", "hook_y")
WINDOW_INPUTS = ("hook_in_proj", "hook_conv")


def require_served(site: Site) -> None:
    """Raise for a site that is the same in every run.

    Raises:
        SiteNotServedError: The hook has no positions.
    """
    for part in site.parts:
        if part.spec.position_axis is None and not part.spec.per_position:
            raise SiteNotServedError(
                f"{part} is the same in the clean and the corrupted run",
                given=str(part),
                expected="hooks with positions, such as blocks.*.hook_out_proj or blocks.*.state",
            )


def hooks_needed(site: Site) -> tuple[str, ...]:
    """Return the hooks whose values and slopes the first order of a site follows from."""
    parts = {part.hook for part in site.parts}
    if not parts & {"hook_h", "hook_conv_state"}:
        return (str(Site(site.hook, site.layer)),)
    inner = STATE_INPUTS if "hook_h" in parts else ()
    window = WINDOW_INPUTS if "hook_conv_state" in parts else ()
    return tuple(f"blocks.{site.layer}.{hook}" for hook in (*inner, *window))


def kept_per_token(model: HookedMamba, sites: list[Site]) -> int:
    """Return how many numbers a token keeps beside what every pass does."""
    cfg = model.cfg
    return sum(
        2 * cfg.E * cfg.N
        for site in sites
        if not site.is_state and not site.spec.per_position and site.spec.axes == DISCRETIZED
    )


def first_order(
    model: HookedMamba,
    site: Site,
    base: Trace,
    other: Mapping[str, torch.Tensor],
    differs: Bool[torch.Tensor, "prompt pos"],
    mask: Bool[torch.Tensor, "prompt pos"],
) -> Float[torch.Tensor, "prompt pos channel"]:
    """Return (other - base) times the slope in the base run, summed over all but channels.

    Args:
        model: The model.
        site: One without a position; a site of states is meant after each position.
        base: Values and slopes of the run that is intervened in.
        other: Values of the run that activations come from.
        differs: True at text from the first differing token on: nothing before it can change.
        mask: True at text.

    Returns:
        Channels are those of `Circuit`: `d_inner` where the site has it, else its last axis.
    """
    parts = {part.hook for part in site.parts}
    if not parts & {"hook_h", "hook_conv_state"}:
        name = str(Site(site.hook, site.layer))
        product = (other[name] - base.values[name]) * base.slopes[name]
        axes = site.spec.axes
        if axes == DISCRETIZED:
            product = product.sum(-1)
        return product * differs.unsqueeze(-1)
    block = layers_of(model)[site.layer or 0]
    found = [
        rule(block, base, other, mask) * differs.unsqueeze(-1)
        for hook, rule in (("hook_h", _of_states), ("hook_conv_state", _of_windows))
        if hook in parts
    ]
    return torch.stack(found).sum(0)


def moved(
    site: Site, base: Trace, other: Mapping[str, torch.Tensor]
) -> Bool[torch.Tensor, "prompt pos"]:
    """Return where the two runs have different activations.

    Of states only that their inputs differ somewhere up to there can be said: where it is so, they
    differ.
    """
    found = []
    for name in hooks_needed(site):
        found.append((other[name] != base.values[name]).flatten(2).any(-1))
    differ = torch.stack(found).any(0)
    return differ.cumsum(1).bool() if len(found) > 1 else differ


def taps(
    block: MambaBlock, base: Trace, other: Mapping[str, torch.Tensor], mask: torch.Tensor
) -> list[Float[torch.Tensor, "prompt pos channel"]]:
    """Return the first order of what each tap of the convolution brings to each position.

    Args:
        block: The layer.
        base: Values and slopes of the run that is intervened in.
        other: Values of the run that activations come from.
        mask: True at text.

    Returns:
        One for each distance k from the row that is read, 0 first: the change of `hook_in_proj` at
        t - k, times the weight of that tap, times the slope at `hook_conv` at t. Their sum is the
        first order of `hook_conv`.
    """
    name = f"blocks.{block.layer}.hook_in_proj"
    change = (other[name] - base.values[name]) * mask.unsqueeze(-1)
    slope = base.slopes[f"blocks.{block.layer}.hook_conv"]
    weight = block.mixer.conv1d.weight
    return [tap_change(change, weight, k) * slope for k in range(weight.shape[2])]


def tap_change(
    change: Float[torch.Tensor, "prompt pos d_inner"],
    weight: Float[torch.Tensor, "d_inner 1 d_conv"],
    distance: int,
) -> Float[torch.Tensor, "prompt pos d_inner"]:
    """Return how one tap changes the convolution's output when its input changes by `change`.

    Args:
        change: Of `hook_in_proj`.
        weight: Of the convolution.
        distance: How many tokens before the output the tap reads; 0 is the last of the weights.
    """
    rows = torch.zeros_like(change)
    rows[:, distance:] = change[:, : max(change.shape[1] - distance, 0)]
    return rows * weight.detach()[:, 0, weight.shape[2] - 1 - distance]


def _of_states(
    block: MambaBlock, base: Trace, other: Mapping[str, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """Return the first order of the state after each position.

    The slope at a state is what its own read-out passes on, and what the next state does:
    g_p = C_p dy_p + exp(delta_{p+1} A) g_{p+1}. Memory: the states of one layer.
    """
    start = f"blocks.{block.layer}."
    decay_rate = -torch.exp(block.mixer.A_log.detach().to(base.slopes[start + "hook_y"].dtype))
    here, there = (_states(values, start, decay_rate, mask) for values in (base.values, other))
    change = there - here
    slope_of_output = base.slopes[start + "hook_y"]
    read, delta = base.values[start + "hook_C"], base.values[start + "hook_delta"]
    found = torch.zeros_like(slope_of_output)
    slope = torch.zeros_like(change[:, 0])
    for position in reversed(range(change.shape[1])):
        slope = slope + slope_of_output[:, position, :, None] * read[:, position, None, :]
        found[:, position] = (change[:, position] * slope).sum(-1)
        slope = slope * torch.exp(delta[:, position, :, None] * decay_rate)
    return found


def _states(
    values: Mapping[str, torch.Tensor], start: str, decay_rate: torch.Tensor, mask: torch.Tensor
) -> Float[torch.Tensor, "prompt pos d_inner d_state"]:
    """Return the states of one layer after every position."""
    x = values[start + "hook_ssm_input"] * mask.unsqueeze(-1)
    delta, into = values[start + "hook_delta"], values[start + "hook_B"]
    h = x.new_zeros(x.shape[0], x.shape[2], decay_rate.shape[1])
    kept = []
    for step, row, enters in zip(delta.unbind(1), x.unbind(1), into.unbind(1), strict=True):
        decay = torch.exp(step.unsqueeze(-1) * decay_rate)
        h = h * decay + (step * row).unsqueeze(-1) * enters.unsqueeze(1)
        kept.append(h)
    return torch.stack(kept, 1)


def _of_windows(
    block: MambaBlock, base: Trace, other: Mapping[str, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """Return the first order of the window after each position: what later positions read of it."""
    read = taps(block, base, other, mask)
    n_pos = mask.shape[1]
    found = torch.zeros_like(read[0])
    for distance, tap in enumerate(read):
        # A row at q is in the window after p for the reader at q + distance while q <= p < reader.
        for ahead in range(1, min(distance + 1, n_pos)):
            found[:, : n_pos - ahead] += tap[:, ahead:]
    return found


def layers_of(model: HookedMamba) -> list[MambaBlock]:
    """Return the layers of a model."""
    return [block for block in model.blocks if isinstance(block, MambaBlock)]
