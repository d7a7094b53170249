"""What stands in the residual stream after each layer, at the tokens that are read?

Only those tokens are kept, and a batch of prompts at a time: no pass holds more than `MEMORY` bytes
of activations, whatever the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int64

from mechtest.errors import UnknownSiteError, closest_names
from mechtest.models import HookedMamba
from mechtest.models.layers import at_least_float32
from mechtest.tasks import EncodedPairs

__all__ = ["MEMORY", "prompt_batches", "read_at", "row_names", "stream_sites", "unembedded"]

MEMORY = 256 * 2**20
"""Bytes of activations, and of logits, that are held at once."""

STREAMS = ("hook_resid_post", "hook_resid_pre", "hook_out_proj")


def stream_sites(model: HookedMamba, hook: str) -> tuple[str, ...]:
    """Return the sites a lens looks at, from the embedding to the stream the model unembeds.

    Args:
        model: The model.
        hook: `hook_resid_post` (after each block), `hook_resid_pre` (before each), or
            `hook_out_proj` (what each block adds).

    Raises:
        UnknownSiteError: Another hook.
    """
    if hook not in STREAMS:
        raise UnknownSiteError(
            f"a lens does not look at {hook!r}",
            given=hook,
            closest=closest_names(hook, STREAMS),
            expected=f"one of {', '.join(STREAMS)}: what has the width of the residual stream",
        )
    layers = range(model.cfg.n_layer)
    inner = [f"blocks.{layer}.{hook}" for layer in layers]
    end = f"blocks.{model.cfg.n_layer - 1}.hook_resid_post"
    first = [] if hook == "hook_resid_pre" else ["hook_embed"]
    return (*first, *inner, *([] if hook == "hook_resid_post" else [end]))


def row_names(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Return how the rows of a lens are called."""
    named = []
    for site in sites:
        layer = site.split(".")[1] if site.startswith("blocks.") else ""
        named.append(f"layer {layer}" if layer else "embedding")
    if len(set(named)) < len(named):  # before the last block, or what it adds; then after it
        named[-1] = "final"
    return tuple(named)


def prompt_batches(model: HookedMamba, pairs: EncodedPairs, kept: int) -> Iterator[slice]:
    """Yield ranges of prompts whose pass holds at most `MEMORY` bytes.

    Args:
        model: The model.
        pairs: The prompts.
        kept: Numbers kept of each prompt.
    """
    cfg = model.cfg
    working = pairs.clean_tokens.shape[1] * (4 * cfg.d_model + 12 * cfg.E)
    size = max(1, MEMORY // (4 * (working + kept)))
    for start in range(0, len(pairs), size):
        yield slice(start, start + size)


@torch.no_grad()
def read_at(
    model: HookedMamba,
    batch: EncodedPairs,
    index: Int64[torch.Tensor, "prompt column"],
    sites: tuple[str, ...],
    run: str = "clean",
) -> Mapping[str, Float[torch.Tensor, "prompt column width"]]:
    """Return activations at some tokens of each prompt, by site; nothing else is kept.

    Args:
        model: The model.
        batch: Prompts of one pass.
        index: Columns of the padded tokens to read.
        sites: Hooks with a position axis, without positions.
        run: `clean` or `corrupted`.
    """
    tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
    rows = torch.arange(len(batch), device=index.device)[:, None]
    found: dict[str, torch.Tensor] = {}

    def keep(site: str) -> Callable[[torch.Tensor, object], None]:
        def kept(value: torch.Tensor, hook: object) -> None:
            del hook
            found[site] = value[rows, index]

        return kept

    with model.hooks(fwd_hooks=[(site, keep(site)) for site in sites]):
        model(tokens, attention_mask=batch.attention_mask, stop_at_layer=model.cfg.n_layer)
    return found


def unembedded(
    model: HookedMamba, resid: Float[torch.Tensor, "token d_model"]
) -> Float[torch.Tensor, "token d_vocab"]:
    """Return the logits the model would give if its last block ended here.

    The very steps of the model: final norm, then unembedding, in float32 or wider.
    """
    wide = resid.to(at_least_float32(resid.dtype))
    normed = model.norm(wide[None])[0]
    return model.lm_head(normed.to(model.lm_head.weight.dtype)).to(wide.dtype)
