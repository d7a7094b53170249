"""How are the weights of a model that was never trained drawn?

The released initialisation, with every option MambaLens names: A_log = log(1..N), D = 1, a step
size drawn log-uniformly, and residual outputs scaled down by depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from mechtest.checkpoints import MambaCfg
from mechtest.models.block import MambaBlock
from mechtest.models.layers import MambaMixer, RMSNorm


@torch.no_grad()
def initialize(
    embedding: nn.Embedding,
    blocks: Iterable[MambaBlock],
    norm: RMSNorm,
    lm_head: nn.Linear | None,
    cfg: MambaCfg,
    generator: torch.Generator,
) -> None:
    """Draw all weights of a model in place.

    Args:
        embedding: Token embedding.
        blocks: All blocks.
        norm: Final norm.
        lm_head: Output head, or None where it is the embedding.
        cfg: Shapes and the initialisation's options.
        generator: Source of randomness; the same seed gives the same weights.

    Sources: Gu & Dao 2023, section 3.6 and appendix E.2; the released `_init_weights` and
    `Mamba.__init__`.
    """
    spread = cfg.initializer_config.initializer_range
    embedding.weight.normal_(0.0, spread, generator=generator)
    if lm_head is not None:
        lm_head.weight.normal_(0.0, spread, generator=generator)
    norm.weight.fill_(1.0)
    for block in blocks:
        block.norm.weight.fill_(1.0)
        initialize_mixer(block.mixer, cfg, generator)


@torch.no_grad()
def initialize_mixer(mixer: MambaMixer, cfg: MambaCfg, generator: torch.Generator) -> None:
    """Draw the weights of one mixer in place."""
    init = cfg.initializer_config
    for linear in (mixer.in_proj, mixer.x_proj, mixer.out_proj):
        _kaiming_uniform(linear.weight, linear.in_features, generator)
        if linear.bias is not None:
            linear.bias.zero_()
    _kaiming_uniform(mixer.conv1d.weight, cfg.d_conv, generator)
    if mixer.conv1d.bias is not None:
        bound = 1 / math.sqrt(cfg.d_conv)
        mixer.conv1d.bias.uniform_(-bound, bound, generator=generator)

    scale = cfg.R**-0.5 * init.dt_scale
    if init.dt_init == "constant":
        mixer.dt_proj.weight.fill_(scale)
    else:
        mixer.dt_proj.weight.uniform_(-scale, scale, generator=generator)
    low, high = math.log(init.dt_min), math.log(init.dt_max)
    dt = torch.empty_like(mixer.dt_proj.bias).uniform_(low, high, generator=generator).exp()
    dt = dt.clamp(min=init.dt_init_floor)
    # The inverse of softplus, so that the step sizes start at dt.
    mixer.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    steps = torch.arange(1, cfg.N + 1, dtype=mixer.A_log.dtype, device=mixer.A_log.device)
    mixer.A_log.copy_(torch.log(steps).expand_as(mixer.A_log))
    mixer.D.fill_(1.0)
    if init.rescale_prenorm_residual:
        # Keeps the residual stream's variance independent of depth (GPT-2, section 2.3).
        mixer.out_proj.weight.div_(math.sqrt(init.n_residuals_per_layer * cfg.n_layer))


def _kaiming_uniform(weight: torch.Tensor, fan_in: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(fan_in)  # nn.Linear's own default: kaiming_uniform with a = sqrt(5)
    weight.uniform_(-bound, bound, generator=generator)
