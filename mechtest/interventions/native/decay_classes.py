"""Which channels of a layer remember for long, and which forget at once?"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float

from mechtest.errors import ShapeError, UnknownSiteError
from mechtest.models import HookedMamba
from mechtest.models.layers import MambaMixer

__all__ = ["DECAY_CLASSES", "DecayClass", "decay_channels", "retention_of_channels"]

DecayClass = Literal["all", "fast", "slow"]
DECAY_CLASSES: tuple[DecayClass, ...] = ("all", "fast", "slow")


def retention_of_channels(model: HookedMamba, layer: int) -> Float[torch.Tensor, " d_inner"]:
    """Return what each channel keeps of its state over a step of Delta = 1: mean_n exp(A[d, n]).

    Between 0 (forgets at once) and 1. Only A counts: how large the steps are depends on the prompt.

    Args:
        model: The model.
        layer: Which; negative counts from the end.

    Raises:
        UnknownSiteError: The model has no such layer.
    """
    count = model.cfg.n_layer
    if not -count <= layer < count:
        raise UnknownSiteError(
            f"there is no layer {layer}", given=f"layer={layer}", expected=f"0 to {count - 1}"
        )
    mixer = cast("MambaMixer", model.blocks[layer].mixer)
    A = -torch.exp(mixer.A_log.detach().double())
    return torch.exp(A).mean(1).cpu()


def decay_channels(
    model: HookedMamba, layer: int, kind: DecayClass, *, share: float = 1 / 3
) -> tuple[int, ...] | None:
    """Return the channels of a class: what `Circuit(channels=...)` takes.

    Fast are the channels whose `retention_of_channels` is at most its `share` quantile in this
    layer, slow those at or above its 1 - `share` quantile; in between is no class. Endy et al. 2025
    call fast channels token-enriching and slow ones context-carrying.

    Args:
        model: The model.
        layer: Which; negative counts from the end.
        kind: `fast`, `slow`, or `all`.
        share: Of the layer's channels in each class, above 0 and at most a half.

    Returns:
        Ascending channels; None for `all`.

    Raises:
        ShapeError: No such class or share, or channels that all decay alike: a fresh model's do.
        UnknownSiteError: The model has no such layer.
    """
    if kind not in DECAY_CLASSES or not 0 < share <= 0.5:
        raise ShapeError(
            "channels are classed by how fast they forget",
            given=f"kind={kind!r}, share={share!r}",
            expected="'all', 'fast' or 'slow', and a share in (0, 0.5]",
        )
    kept = retention_of_channels(model, layer)
    if kind == "all":
        return None
    low, high = torch.quantile(kept, torch.tensor([share, 1 - share], dtype=kept.dtype))
    if (low >= high and share < 0.5) or bool((kept == kept[0]).all()):
        raise ShapeError(
            f"the channels of layer {layer} decay alike, so that none are fast or slow",
            given=f"quantiles {share:.3g} and {1 - share:.3g} of what they keep are both {low:.4g}",
            expected="a model whose training has changed A",
            next_step="channels='all', or choose channels yourself",
        )
    chosen = kept <= low if kind == "fast" else kept >= high
    return tuple(chosen.nonzero().flatten().tolist())
