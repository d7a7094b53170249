"""How strongly does a block's output at one token depend on its input at earlier ones?"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64

from mechtest.models import HookedMamba

__all__ = ["jacobian_gains", "patching_gains", "streams_into"]

MEMORY = 2**28
GRAPH = 8
"""Copies of "pos d_inner d_state" that autograd keeps, roughly."""


@torch.no_grad()
def streams_into(
    model: HookedMamba, tokens: Int64[torch.Tensor, "batch pos"], layer: int
) -> Float[torch.Tensor, "batch pos d_model"]:
    """Return the residual stream entering a layer, for prompts of one length."""
    found = model(tokens, stop_at_layer=layer)
    assert isinstance(found, torch.Tensor)
    return found


def jacobian_gains(
    model: HookedMamba,
    layer: int,
    stream: Float[torch.Tensor, "pos d_model"],
    *,
    output: str,
    end: int,
    probes: int | None,
    generator: torch.Generator,
) -> Float[torch.Tensor, " pos"]:
    """Return |d output at t / d input at s|, Frobenius over sqrt(d_model), for every s.

    That is the root mean square over random changes of the input, of how long the output's change
    is for a change of length 1.

    Args:
        model: The model.
        layer: Which block.
        stream: What enters it, on one prompt without padding.
        output: `hook_resid_post` or `hook_out_proj`.
        end: Tokens behind t.
        probes: Random directions that the norm is estimated from; None for the exact norm, which
            costs d_model backward passes of the block.
        generator: Of the directions.

    Memory: copies of the prompt in chunks of 256 MiB of graph, at about eight "pos d_inner d_state"
    a copy, at least one copy.
    Sources: Hutchinson 1989 for the estimate.
    """
    width, target = model.cfg.d_model, len(stream) - 1 - end
    count = width if probes is None else probes
    if probes is None:
        directions = torch.eye(width, dtype=stream.dtype)
    else:
        signs = torch.randint(0, 2, (count, width), generator=generator)
        directions = (2 * signs - 1).to(stream.dtype)
    each = GRAPH * len(stream) * model.cfg.E * model.cfg.N * stream.element_size()
    size = max(1, min(count, MEMORY // each))
    totals = torch.zeros(len(stream), dtype=torch.float64)
    for start in range(0, count, size):
        part = directions[start : start + size].to(stream.device)
        leaf = stream.detach().expand(len(part), -1, -1).clone().requires_grad_()
        with torch.enable_grad():
            found = _output(model, layer, leaf, output)[:, target]
            (gradient,) = torch.autograd.grad((found * part).sum(), leaf)
        totals += gradient.double().square().sum((0, 2)).cpu()
    # Each sign vector v has E|v J|^2 = |J|^2; the unit vectors add up to it.
    return (totals / (width * (1 if probes is None else count))).sqrt()


@torch.no_grad()
def patching_gains(
    model: HookedMamba,
    layer: int,
    stream: Float[torch.Tensor, "pos d_model"],
    donor: Float[torch.Tensor, "other d_model"],
    *,
    output: str,
    end: int,
    lags: int,
) -> Float[torch.Tensor, " lag"]:
    """Return |change of the output at t| / |change of the input at t-lag|, one lag at a time.

    The input at t-lag is replaced by the donor's at the same distance from its end; NaN where the
    donor has none, or the same.
    """
    target = len(stream) - 1 - end
    found = torch.full((lags,), float("nan"), dtype=torch.float64)
    each = GRAPH * len(stream) * model.cfg.E * model.cfg.N * stream.element_size()
    size = max(1, MEMORY // each)
    plain = _output(model, layer, stream[None], output)[0, target].double()
    possible = list(range(min(lags, target + 1, len(donor) - end)))
    for start in range(0, len(possible), size):
        part = possible[start : start + size]
        copies = stream.expand(len(part), -1, -1).clone()
        for row, lag in enumerate(part):
            copies[row, target - lag] = donor[len(donor) - 1 - end - lag]
        after = _output(model, layer, copies, output)[:, target].double()
        before = (copies - stream).double().flatten(1).norm(dim=1)
        gain = (after - plain).norm(dim=1) / before
        found[part] = torch.where(before > 0, gain, torch.nan).cpu()
    return found


def _output(
    model: HookedMamba, layer: int, stream: torch.Tensor, output: str
) -> Float[torch.Tensor, "copy pos d_model"]:
    after, _ = model.blocks[layer](stream, fast_ssm=False)
    return after if output == "hook_resid_post" else after - stream
