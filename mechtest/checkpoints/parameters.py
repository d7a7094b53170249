"""Which tensors does a Mamba-1 have, under which of our names, and of which shapes?

The native names are the attribute paths of our model. A tied model has no `lm_head.weight`: one
matrix has one name, so nothing can change it in one place only.

    embedding.weight                   [V, D]
    blocks.{i}.norm.weight             [D]
    blocks.{i}.mixer.in_proj.weight    [2E, D]     rows :E the path through the convolution,
                                                   rows E: the gate (and .bias [2E])
    blocks.{i}.mixer.conv1d.weight     [E, 1, D_conv]          (and .bias [E])
    blocks.{i}.mixer.x_proj.weight     [R + 2N, E] rows: Delta's low rank, B, C
    blocks.{i}.mixer.dt_proj.weight    [E, R]                  (and .bias [E])
    blocks.{i}.mixer.A_log             [E, N]
    blocks.{i}.mixer.D                 [E]
    blocks.{i}.mixer.out_proj.weight   [D, E]                  (and .bias [D])
    norm.weight                        [D]
    lm_head.weight                     [V, D]      untied models only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mechtest.checkpoints.config import MambaCfg
from mechtest.errors import WeightMismatchError, closest_names

__all__ = ["EMBEDDING", "HEAD", "check_state_dict", "expected_shapes", "fit_vocab"]

EMBEDDING = "embedding.weight"
HEAD = "lm_head.weight"
_LISTED = 8


def expected_shapes(cfg: MambaCfg) -> dict[str, tuple[int, ...]]:
    """Return every native tensor name of a configuration with its shape, in model order."""
    d_model, d_inner, rank = cfg.d_model, cfg.d_inner, cfg.dt_rank
    block: dict[str, tuple[int, ...]] = {
        "norm.weight": (d_model,),
        "mixer.in_proj.weight": (2 * d_inner, d_model),
        "mixer.conv1d.weight": (d_inner, 1, cfg.d_conv),
        "mixer.x_proj.weight": (rank + 2 * cfg.d_state, d_inner),
        "mixer.dt_proj.weight": (d_inner, rank),
        "mixer.dt_proj.bias": (d_inner,),
        "mixer.A_log": (d_inner, cfg.d_state),
        "mixer.D": (d_inner,),
        "mixer.out_proj.weight": (d_model, d_inner),
    }
    if cfg.bias:
        block["mixer.in_proj.bias"] = (2 * d_inner,)
        block["mixer.out_proj.bias"] = (d_model,)
    if cfg.conv_bias:
        block["mixer.conv1d.bias"] = (d_inner,)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (cfg.d_vocab, d_model)}
    for layer in range(cfg.n_layer):
        shapes |= {f"blocks.{layer}.{suffix}": shape for suffix, shape in block.items()}
    shapes["norm.weight"] = (d_model,)
    if not cfg.tie_embeddings:
        shapes[HEAD] = (cfg.d_vocab, d_model)
    return shapes


def fit_vocab(cfg: MambaCfg, native: Mapping[str, torch.Tensor]) -> MambaCfg:
    """Return `cfg` with as many embedding rows as the weights have.

    Files exist with the padded and with the unpadded number of rows. The rows in the file win:
    they are kept as they are, and the configuration stops padding when they are unpadded.
    """
    rows = native[EMBEDDING].shape[0] if EMBEDDING in native else cfg.d_vocab
    if rows == cfg.vocab_size and rows != cfg.d_vocab:
        return replace(cfg, pad_vocab_size_multiple=1)
    return cfg


def check_state_dict(native: Mapping[str, torch.Tensor], cfg: MambaCfg) -> None:
    """Compare native tensors with what a configuration asks for.

    The embedding (and an untied head) may have `d_vocab` or the unpadded `vocab_size` rows.

    Raises:
        WeightMismatchError: Tensors are missing, unexpected or misshapen; the text lists them
            with the shapes expected, and the nearest names of unexpected ones.
    """
    shapes = expected_shapes(fit_vocab(cfg, native))
    missing = [name for name in shapes if name not in native]
    unexpected = [name for name in native if name not in shapes]
    misshapen = [
        f"{name} is {list(native[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in native and tuple(native[name].shape) != shape
    ]
    if not (missing or unexpected or misshapen):
        return
    problems = [
        *_listed("missing", [f"{name} {list(shapes[name])}" for name in missing]),
        *_listed("unexpected", [f"{n} {list(native[n].shape)}" for n in unexpected]),
        *_listed("misshapen", misshapen),
    ]
    near = [match for name in unexpected[:3] for match in closest_names(name, shapes, 1)]
    raise WeightMismatchError(
        "the weights do not fit the configuration: " + "; ".join(problems),
        given=f"{len(native)} tensors",
        closest=dict.fromkeys(near),
        expected=f"{len(shapes)} tensors for {_sizes(cfg)}",
        next_step=_advice(missing, unexpected, cfg),
    )


def _listed(label: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"{len(names)} {label} ({', '.join(names[:_LISTED])}{more})"]


def _sizes(cfg: MambaCfg) -> str:
    return (
        f"n_layer={cfg.n_layer} D={cfg.d_model} E={cfg.d_inner} N={cfg.d_state} R={cfg.dt_rank} "
        f"D_conv={cfg.d_conv} V={cfg.d_vocab} bias={cfg.bias} conv_bias={cfg.conv_bias} "
        f"tie_embeddings={cfg.tie_embeddings}"
    )


def _advice(missing: list[str], unexpected: list[str], cfg: MambaCfg) -> str:
    if missing == [HEAD] and not unexpected:
        return "set tie_embeddings=True if the unembedding is meant to be the embedding"
    if unexpected == [HEAD] and not missing and cfg.tie_embeddings:
        return "a tied model has no lm_head.weight of its own: use to_native, or untie it"
    return "compare the configuration with the file the weights came from"
