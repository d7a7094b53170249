"""How much of a state at one token is still in the state some tokens later?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.dynamics.recurrence import Recurrence, TextRows, read_recurrences
from mechtest.models import HookedMamba

__all__ = ["state_gains", "states_of", "survival"]

MEMORY = 2**27


def survival(
    delta: Float[torch.Tensor, "pos channel"],
    A: Float[torch.Tensor, "channel d_state"],
    lags: int,
) -> Float[torch.Tensor, "lag channel d_state"]:
    """Return d h_t / d h_{t-lag} for the last token t: a diagonal, exp(A sum of delta between).

    Exact, and total: in one layer no later input depends on the state.

    Args:
        delta: Step sizes of some channels.
        A: Their continuous decay.
        lags: How many lags, from 0 on; at most as many as positions.
    """
    later = delta.double().flip(0).cumsum(0)
    sums = torch.cat([torch.zeros_like(later[:1]), later])[:lags]
    return torch.exp(sums.unsqueeze(-1) * A.double())


def states_of(
    one: Recurrence, channels: Sequence[int], first: int
) -> Float[torch.Tensor, "kept channel d_state"]:
    """Return the states of some channels after each token from `first` on, in float64."""
    part = list(channels)
    x, delta = one.x[:, part].double(), one.delta[:, part].double()
    A, B = one.A[part].double(), one.B.double()
    h = torch.zeros(len(part), A.shape[1], dtype=torch.float64, device=x.device)
    kept = []
    for token in range(len(x)):
        step = delta[token].unsqueeze(-1)
        h = torch.exp(step * A) * h + step * B[token] * x[token].unsqueeze(-1)
        if token >= first:
            kept.append(h)
    return torch.stack(kept)


def state_gains(
    model: HookedMamba,
    rows: TextRows,
    layer: int,
    *,
    lags: int,
    end: int,
    channels: Sequence[int],
    progress: bool = False,
) -> tuple[Float[np.ndarray, "lag prompt"], Float[np.ndarray, "lag prompt"]]:
    """Return the gain of a random change and of another prompt's state, by lag.

    Args:
        model: The model.
        rows: The prompts.
        layer: Which layer.
        lags: How many, from 0 on.
        end: Tokens behind the target: 0 for the last token.
        channels: Of the state.
        progress: Show a bar.

    Returns:
        (root mean square of the diagonal Jacobian, |change of h_t| / |change of h_{t-lag}| when
        the state of the next prompt stands there); NaN where a prompt is too short, or the next
        one is, or the states do not differ.

    Memory: x and delta of all prompts for this layer, "prompt pos d_inner" twice, and channels in
    chunks of 128 MiB of "lag channel d_state".
    """
    seen = {one.prompt: one for one in read_recurrences(model, rows, [layer], progress=progress)}
    gradient = np.full((lags, len(rows)), np.nan)
    patched = np.full((lags, len(rows)), np.nan)
    size = max(1, MEMORY // (8 * 8 * lags * model.cfg.N))
    for prompt, one in seen.items():
        other = seen[(prompt + 1) % len(rows)]
        count = min(lags, len(one.x) - end)
        shared = min(count, len(other.x) - end) if other is not one else 0
        totals = torch.zeros(3, count, dtype=torch.float64)
        for start in range(0, len(channels), size):
            part = channels[start : start + size]
            totals += _sums(one, other, part, count, shared, end)
        if count > 0:
            squares = totals[0] / (len(channels) * model.cfg.N)
            gradient[:count, prompt] = squares.sqrt().numpy()
            differs = (totals[2] > 0).numpy()
            ratio = (totals[1] / totals[2].clamp(min=1e-300)).sqrt().numpy()
            patched[:count, prompt] = np.where(differs, ratio, np.nan)
    return gradient, patched


def _sums(
    one: Recurrence, other: Recurrence, channels: Sequence[int], count: int, shared: int, end: int
) -> torch.Tensor:
    """Return sums over some channels: of squared decays, and of squared changes after and before.

    "3 lag"; the changes are 0 at lags the other prompt does not have.
    """
    part = list(channels)
    sums = torch.zeros(3, max(count, 0), dtype=torch.float64)
    if count <= 0:
        return sums
    stop = len(one.x) - end
    kept = survival(one.delta[:stop, part], one.A[part], count)
    sums[0] = kept.square().sum((1, 2)).cpu()
    if shared > 0:
        mine, its = (
            states_of(each, part, len(each.x) - end - shared)[:shared].flip(0)
            for each in (one, other)
        )
        change = its - mine
        sums[1, :shared] = (kept[:shared] * change).square().sum((1, 2)).cpu()
        sums[2, :shared] = change.square().sum((1, 2)).cpu()
    return sums
