"""How sensitive is the metric to a site, token by token, to first order?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from mechtest.errors import ShapeError, SiteNotReachedError
from mechtest.interventions import Run
from mechtest.models import HookedMamba, HookPoint
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs, Metric

__all__ = ["metric_gradients"]

PASS_PROMPTS = 8


def metric_gradients(
    model: HookedMamba,
    pairs: EncodedPairs,
    sites: Sequence[Site],
    metric: Metric,
    lags: int,
    *,
    progress: bool = False,
) -> tuple[Float[np.ndarray, "site lag prompt"], Float[np.ndarray, "site lag prompt"]]:
    """Return the length of the metric's gradient, and its product with what patching would change.

    Args:
        model: The model.
        pairs: The prompts.
        sites: Without positions; of hooks that have a value at every token.
        metric: Reads logits at the last token.
        lags: Tokens back from the last one, from 0 on.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        (|gradient|, gradient . (corrupted - clean)), in the metric's unit; NaN where a prompt is
        too short.

    Memory: the graph of 8 prompts and the values at these sites; nothing of all prompts at once.
    """
    slope = np.full((len(sites), lags, len(pairs)), np.nan)
    product = np.full_like(slope, np.nan)
    done = 0
    bar = tqdm(total=len(pairs), desc="gradients", disable=None if progress else True)
    with bar:
        for batch in pairs.batches(PASS_PROMPTS):
            clean = _values(model, batch, sites, lags, "clean")
            with torch.enable_grad():
                asked = metric(clean[0][:, -1], batch).sum()
                leaves = [leaf for found in clean[1] for leaf in found.values()]
                given = iter(torch.autograd.grad(asked, leaves, allow_unused=True))
            with torch.no_grad():
                twins = _values(model, batch, sites, lags, "corrupted")[1]
            for index, (values, others) in enumerate(zip(clean[1], twins, strict=True)):
                for name, leaf in values.items():
                    gradient = next(given)
                    if gradient is None:  # no path to the metric: what it says is 0, exactly
                        gradient = torch.zeros_like(leaf)
                    change = others[name] - leaf.detach()
                    part = slice(done, done + len(batch))
                    for lag in _lags_of(name, sites[index], batch, lags):
                        here, moved = gradient, change
                        if not sites[index].spec.per_position:
                            column = gradient.shape[1] - 1 - lag
                            here, moved = gradient[:, column], change[:, column]
                        here, moved = here.double().flatten(1), moved.double().flatten(1)
                        there = (batch.lengths > lag).cpu().numpy()
                        found = here.norm(dim=1).cpu().numpy(), (here * moved).sum(1).cpu().numpy()
                        slope[index, lag, part] = np.where(there, found[0], np.nan)
                        product[index, lag, part] = np.where(there, found[1], np.nan)
            done += len(batch)
            bar.update(len(batch))
    return slope, product


def _values(
    model: HookedMamba, batch: EncodedPairs, sites: Sequence[Site], lags: int, run: Run
) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Return the logits, and each site's values by concrete hook name."""
    tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
    found: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        if torch.is_grad_enabled() and not value.requires_grad:
            value = value.detach().requires_grad_()  # frozen weights
        found[hook.name] = value
        return value

    names = [_names(site, tokens.shape[1], lags) for site in sites]
    hooks = [(name, keep) for each in names for name in each]
    with torch.set_grad_enabled(run == "clean"):
        mask = batch.attention_mask if batch.padded else None
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask)
    missing = [name for each in names for name in each if name not in found]
    if missing:
        raise SiteNotReachedError(f"{missing[0]} did not fire", given=missing[0])
    return logits, [{name: found[name] for name in each} for each in names]


def _names(site: Site, n_pos: int, lags: int) -> list[str]:
    if site.spec.per_position:
        return [f"{site}.{n_pos - 1 - lag}" for lag in range(min(lags, n_pos))]
    if site.spec.position_axis is None:
        raise ShapeError(
            f"{site} has no value of its own at every token",
            given=str(site),
            expected="a hook with positions, for example hook_resid_pre",
        )
    return [str(site)]


def _lags_of(name: str, site: Site, batch: EncodedPairs, lags: int) -> Sequence[int]:
    """Return which lags a captured value holds."""
    n_pos = batch.clean_tokens.shape[1]
    if site.spec.per_position:
        return [n_pos - 1 - int(name.rpartition(".")[2])]
    return range(min(lags, n_pos))
