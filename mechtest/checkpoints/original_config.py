"""How does state-spaces (the mamba_ssm package) write a configuration, and MambaLens after it?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.config_checks import (
    SUPPORTED,
    build,
    check_keys,
    require,
    section,
    some_keys,
)
from mechtest.checkpoints.hf_config import config_from_hf
from mechtest.errors import ConfigError, UnsupportedArchitectureError

__all__ = [
    "config_from_original",
    "config_to_original",
    "convert_hooked_mamba_config_to_original_config",
    "convert_original_config_to_hooked_mamba_config",
    "refuse_other_blocks",
]

_ORIGINAL_TOP = (
    "vocab_size",
    "rms_norm",
    "residual_in_fp32",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "tie_embeddings",
)
_SSM = ("d_state", "d_conv", "expand", "dt_rank", "bias", "conv_bias")
_SSM_INIT = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")
_INIT = (*_SSM_INIT, "initializer_range", "rescale_prenorm_residual", "n_residuals_per_layer")
_SSM_IGNORED = ("layer", "use_fast_path")  # `layer` is checked apart; the other picks a kernel
# What MambaLens writes at the top level or under names of its own.
_MAMBALENS_TOP = (*_SSM, "d_inner", "norm_eps", "name", "architecture", "dtype")
_MAMBALENS_IGNORED = ("device", "n_ctx", "default_prepend_bos", "tokenizer_prepends_bos")
_SSM_NAMES, _INIT_NAMES = ("ssm_cfg", "ssm_config"), ("initializer_config", "initializer_cfg")


def refuse_other_blocks(raw: Mapping[str, Any], source: str) -> None:
    """Refuse `ssm_cfg.layer` other than Mamba1 (mamba_ssm knows Mamba2 as well)."""
    ssm = section(raw, _SSM_NAMES, source)
    layer = ssm.get("layer", "Mamba1")
    if layer != "Mamba1":
        raise UnsupportedArchitectureError(
            f"{source} describes {layer} blocks, which are not supported",
            given=f"ssm_cfg.layer={layer!r}",
            expected=SUPPORTED,
        )


def config_from_original(raw: Mapping[str, Any], source: str = "config.json") -> MambaCfg:
    """Read a state-spaces configuration, including everything under `ssm_cfg`.

    MambaLens's misspelling `ssm_config` and its top-level spellings are understood too.

    Raises:
        UnsupportedArchitectureError: LayerNorm, attention layers, an MLP, or Mamba-2 blocks.
        ConfigError: An unknown key (state-spaces' own reader refuses those as well), or a value
            no Mamba can have.
    """
    require(raw, source, rms_norm=True, attn_layer_idx=[], d_intermediate=0)
    refuse_other_blocks(raw, source)
    ssm = section(raw, _SSM_NAMES, source)
    init = section(raw, _INIT_NAMES, source)
    check_keys(
        raw,
        (
            *("d_model", "n_layer", "n_layers", "attn_layer_idx", "attn_cfg", "d_intermediate"),
            *_ORIGINAL_TOP,
            *_SSM_NAMES,
            *_INIT_NAMES,
            *_INIT,
            *_MAMBALENS_TOP,
            *_MAMBALENS_IGNORED,
        ),
        source,
    )
    check_keys(ssm, (*_SSM, *_SSM_INIT, *_SSM_IGNORED), f"ssm_cfg in {source}")
    check_keys(init, _INIT, f"initializer_config in {source}")
    missing = [key for key in ("d_model", "vocab_size") if key not in raw]
    if "n_layer" not in raw and "n_layers" not in raw:
        missing.append("n_layer")
    if missing:
        raise ConfigError(f"{source} lacks {', '.join(missing)}", given=f"keys {some_keys(raw)}")
    fields = {key: raw[key] for key in (*_ORIGINAL_TOP, *_MAMBALENS_TOP) if key in raw}
    fields |= {key: ssm[key] for key in _SSM if key in ssm}
    fields |= {"d_model": raw["d_model"], "n_layer": raw.get("n_layer", raw.get("n_layers"))}
    draws = {key: raw[key] for key in _INIT if key in raw}
    draws |= {key: init[key] for key in _INIT if key in init}
    draws |= {key: ssm[key] for key in _SSM_INIT if key in ssm}
    return build(fields, draws, source)


def config_to_original(cfg: MambaCfg) -> dict[str, Any]:
    """Write a configuration as state-spaces JSON, one that mamba_ssm itself accepts.

    Raises:
        ConfigError: The configuration has something the format has no place for.
    """
    if cfg.norm_eps != 1e-5:
        raise ConfigError(
            "the state-spaces format has no place for norm_eps; its reader always uses 1e-5",
            given=f"norm_eps={cfg.norm_eps}",
            next_step="save in the Hugging Face format instead",
        )
    init = cfg.initializer_config
    ssm: dict[str, Any] = {key: getattr(cfg, key) for key in _SSM}
    ssm["expand"] = _expand_for(cfg)
    ssm |= {key: getattr(init, key) for key in _SSM_INIT}
    return {
        "d_model": cfg.d_model,
        "n_layer": cfg.n_layer,
        "ssm_cfg": ssm,
        **{key: getattr(cfg, key) for key in _ORIGINAL_TOP},
    }


def convert_original_config_to_hooked_mamba_config(
    cfg: Mapping[str, Any] | MambaCfg, device: object = "cpu"
) -> MambaCfg:
    """MambaLens's name for reading a state-spaces configuration (or a Hugging Face one).

    Args:
        cfg: The parsed JSON; a `MambaCfg` is returned as it is.
        device: Where the model is to live (a string or a torch.device).
    """
    if isinstance(cfg, MambaCfg):
        return cfg
    if "model_type" in cfg:
        return replace(config_from_hf(cfg, "the given config"), device=str(device))
    return replace(config_from_original(cfg, "the given config"), device=str(device))


def convert_hooked_mamba_config_to_original_config(
    hooked_mamba_cfg: MambaCfg,
) -> dict[str, Any]:
    """MambaLens's name for `config_to_original`; the mixer's options go under `ssm_cfg`."""
    return config_to_original(hooked_mamba_cfg)


def _expand_for(cfg: MambaCfg) -> float:
    """The factor from which state-spaces' int(expand * d_model) gives d_inner."""
    if int(cfg.expand * cfg.d_model) == cfg.d_inner:
        return cfg.expand
    if cfg.d_inner % cfg.d_model == 0:
        return cfg.d_inner // cfg.d_model
    factor = cfg.d_inner / cfg.d_model
    # The product may fall just below the whole number and be cut to one less.
    return factor if int(factor * cfg.d_model) == cfg.d_inner else math.nextafter(factor, math.inf)
