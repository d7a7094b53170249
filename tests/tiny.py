"""Random models small enough for a test, with weights large enough that every path matters."""

import torch

from mechtest.checkpoints import MambaCfg
from mechtest.models import HookedMamba

SHAPE = {"d_model": 8, "n_layer": 2, "vocab_size": 23, "d_state": 4, "d_conv": 4, "expand": 2}


def tiny_model(seed=0, dtype="float32", **shape):
    """Return a random model; B, C and the step size are strong enough for the state to matter."""
    cfg = MambaCfg(**{**SHAPE, "pad_vocab_size_multiple": 1, **shape}, dtype=dtype)
    model = HookedMamba(cfg, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((0.3 * noise).to(parameter.dtype))
        model.embedding.weight.mul_(20)
    return model


def tiny_tokens(model, batch=3, n_pos=7, seed=0):
    """Return random token ids "batch pos"."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.cfg.d_vocab, (batch, n_pos), generator=generator)
