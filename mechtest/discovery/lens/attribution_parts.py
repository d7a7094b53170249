"""What does every part of the model add to the logit difference at the last token of one run?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float

from mechtest.discovery.lens.residuals import read_at, unembedded
from mechtest.models import HookedMamba
from mechtest.models.block import MambaBlock
from mechtest.tasks import EncodedPairs
from mechtest.tasks.answers import NO_TOKEN

__all__ = ["BlockParts", "RunParts", "block_of", "parts_of_run", "state_products"]


@dataclass(frozen=True, eq=False)
class BlockParts:
    """What goes into one block's output at the last token, channel by channel.

    The block adds sum over channels of (y + D x) * gate, times what a channel is worth.

    Attributes:
        y: Read-out of the state.
        direct: D x, past the state.
        gate: silu of the gate.
        worth: Logits that one unit of the gated channel adds.
        bias: What the bias of the output projection adds.
    """

    y: Float[torch.Tensor, "prompt d_inner"]
    direct: Float[torch.Tensor, "prompt d_inner"]
    gate: Float[torch.Tensor, "prompt d_inner"]
    worth: Float[torch.Tensor, "prompt d_inner"]
    bias: Float[torch.Tensor, " prompt"]


@dataclass(frozen=True, eq=False)
class RunParts:
    """The logit difference of some prompts, in parts, float64.

    Attributes:
        total: The model's own, from its logits.
        embedding: What the token's embedding adds.
        layers: What each block adds.
        blocks: The inside of the blocks that were asked for, by layer.
    """

    total: Float[torch.Tensor, " prompt"]
    embedding: Float[torch.Tensor, " prompt"]
    layers: Float[torch.Tensor, "layer prompt"]
    blocks: Mapping[int, BlockParts]


def block_of(model: HookedMamba, layer: int) -> MambaBlock:
    """Return one block of a model."""
    block = model.blocks[layer]
    assert isinstance(block, MambaBlock)
    return block


@torch.no_grad()
def parts_of_run(
    model: HookedMamba, batch: EncodedPairs, run: str, inside: Iterable[int] = ()
) -> RunParts:
    """Run some prompts once, and take the logit difference apart.

    Args:
        model: The model.
        batch: Prompts of one pass.
        run: `clean` or `corrupted`.
        inside: Layers whose channels are wanted, too.
    """
    n_layer, inside = model.cfg.n_layer, tuple(inside)
    end = f"blocks.{n_layer - 1}.hook_resid_post"
    added = [f"blocks.{layer}.hook_out_proj" for layer in range(n_layer)]
    inner = [
        f"blocks.{layer}.{hook}"
        for layer in inside
        for hook in ("hook_y", "hook_ssm_input", "hook_skip")
    ]
    last = torch.full((len(batch), 1), batch.clean_tokens.shape[1] - 1, device=batch.device)
    seen = {
        site: value[:, 0].double()
        for site, value in read_at(
            model, batch, last, ("hook_embed", *added, end, *inner), run
        ).items()
    }
    final = seen[end]
    direction = _direction(model, batch, final)
    blocks = {}
    for layer in inside:
        mixer = block_of(model, layer).mixer
        x, skip = seen[f"blocks.{layer}.hook_ssm_input"], seen[f"blocks.{layer}.hook_skip"]
        bias = mixer.out_proj.bias
        blocks[layer] = BlockParts(
            y=seen[f"blocks.{layer}.hook_y"],
            direct=x * mixer.D.double(),
            gate=F.silu(skip),
            worth=(direction.to(mixer.out_proj.weight.dtype) @ mixer.out_proj.weight).double(),
            bias=torch.zeros_like(final[:, 0]) if bias is None else direction @ bias.double(),
        )
    return RunParts(
        total=_over_sets(unembedded(model, final.to(model.norm.weight.dtype)).double(), batch),
        embedding=(seen["hook_embed"] * direction).sum(1),
        layers=torch.stack([(seen[site] * direction).sum(1) for site in added]),
        blocks=blocks,
    )


@torch.no_grad()
def state_products(
    model: HookedMamba, batch: EncodedPairs, run: str, layer: int, channels: Sequence[int]
) -> Float[torch.Tensor, "prompt channel d_state"]:
    """Return C_n h_en at the last token: what each number of a channel's state reads out to."""
    tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
    last = tokens.shape[1] - 1
    names = (f"blocks.{layer}.hook_h.{last}", f"blocks.{layer}.hook_C@{last}")
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=batch.attention_mask,
        names_filter=list(names),
        stop_at_layer=layer + 1,
    )
    h, C = cache[names[0]], cache[names[1]]
    return h[:, list(channels)].double() * C.double()[:, None]


def _direction(
    model: HookedMamba, batch: EncodedPairs, final: Float[torch.Tensor, "prompt d_model"]
) -> Float[torch.Tensor, "prompt d_model"]:
    """Return what one unit of each direction of the stream adds to the logit difference.

    The norm's divisor is the run's own, and held there.
    """
    weight = model.lm_head.weight
    answers = batch.answers
    difference = torch.stack(
        [
            weight[row[row != NO_TOKEN]].double().mean(0)
            - weight[foil[foil != NO_TOKEN]].double().mean(0)
            for row, foil in zip(answers.answer_ids, answers.foil_ids, strict=True)
        ]
    )
    divisor = (final.pow(2).mean(1, keepdim=True) + model.norm.eps).sqrt()
    return difference * model.norm.weight.double() / divisor


def _over_sets(
    logits: Float[torch.Tensor, "prompt d_vocab"], batch: EncodedPairs
) -> Float[torch.Tensor, " prompt"]:
    """Return mean logit of the answers minus mean logit of the foils."""

    def mean(ids: torch.Tensor) -> torch.Tensor:
        there = ids != NO_TOKEN
        return (logits.gather(1, ids.clamp(min=0)) * there).sum(1) / there.sum(1)

    return mean(batch.answers.answer_ids) - mean(batch.answers.foil_ids)
