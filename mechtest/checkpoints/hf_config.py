"""How does transformers write a Mamba-1 configuration?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.config_checks import build, require, some_keys
from mechtest.errors import ConfigError

__all__ = ["config_from_hf", "config_to_hf"]

# Our field <-> Hugging Face field, with the value transformers assumes when the file is silent.
_HF_FIELDS: dict[str, tuple[str, Any]] = {
    "d_model": ("hidden_size", 768),
    "n_layer": ("num_hidden_layers", 32),
    "d_state": ("state_size", 16),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "d_inner": ("intermediate_size", None),
    "dt_rank": ("time_step_rank", "auto"),
    "bias": ("use_bias", False),
    "conv_bias": ("use_conv_bias", True),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", True),
    "residual_in_fp32": ("residual_in_fp32", True),
}
_HF_INIT_FIELDS: dict[str, tuple[str, Any]] = {
    "initializer_range": ("initializer_range", 0.1),
    "dt_init": ("time_step_init_scheme", "random"),
    "dt_scale": ("time_step_scale", 1.0),
    "dt_min": ("time_step_min", 0.001),
    "dt_max": ("time_step_max", 0.1),
    "dt_init_floor": ("time_step_floor", 1e-4),
}
_HF_VOCAB = 50280
# With `rescale_prenorm_residual` true, transformers 5.23 divides the out_proj weights it has just
# loaded by sqrt(n_layer). So the file always says false, and the truth goes under another name.
_RESCALED = "initially_rescaled_prenorm_residual"


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> MambaCfg:
    """Read a Hugging Face `MambaConfig`; absent keys mean what transformers takes them to mean.

    `intermediate_size` wins over `expand * hidden_size` when present, as it does in transformers.
    transformers' `vocab_size` counts the rows of the embedding, so nothing is padded unless the
    file says so.

    Raises:
        UnsupportedArchitectureError: An option that changes the computation is set.
        ConfigError: A value no Mamba can have.
    """
    if raw.get("model_type") != "mamba":
        raise ConfigError(
            f"{source} is not a Hugging Face configuration",
            given=f"keys {some_keys(raw)}",
            expected="model_type='mamba'",
        )
    require(raw, source, hidden_act="silu", rms_norm=True)
    fields = {ours: raw.get(theirs, default) for ours, (theirs, default) in _HF_FIELDS.items()}
    init = {ours: raw.get(theirs, default) for ours, (theirs, default) in _HF_INIT_FIELDS.items()}
    return build(
        fields
        | {
            "vocab_size": raw.get("unpadded_vocab_size", raw.get("vocab_size", _HF_VOCAB)),
            "pad_vocab_size_multiple": raw.get("pad_vocab_size_multiple", 1),
            "fused_add_norm": raw.get("fused_add_norm", True),
        },
        init
        | {
            "rescale_prenorm_residual": raw.get(
                _RESCALED, raw.get("rescale_prenorm_residual", False)
            ),
            "n_residuals_per_layer": raw.get("n_residuals_per_layer", 1),
        },
        source,
    )


def config_to_hf(cfg: MambaCfg) -> dict[str, Any]:
    """Write a configuration as transformers' `MambaConfig` JSON.

    `vocab_size` is the number of embedding rows there. The unpadded size goes under
    `unpadded_vocab_size`, which transformers keeps without using. The name stays out: it says
    where a model was found.
    """
    init = cfg.initializer_config
    raw: dict[str, Any] = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    raw |= {theirs: getattr(cfg, ours) for ours, (theirs, _) in _HF_FIELDS.items()}
    raw |= {theirs: getattr(init, ours) for ours, (theirs, _) in _HF_INIT_FIELDS.items()}
    raw |= {
        # transformers accepts whole numbers only; intermediate_size carries the truth.
        "expand": max(1, round(cfg.expand)),
        "hidden_act": "silu",
        "vocab_size": cfg.d_vocab,
        "use_cache": True,
        "rescale_prenorm_residual": False,
        "dtype": cfg.dtype,
    }
    kept = {
        "pad_vocab_size_multiple": (cfg.pad_vocab_size_multiple, 1),
        "unpadded_vocab_size": (cfg.vocab_size, cfg.d_vocab),
        _RESCALED: (init.rescale_prenorm_residual, False),
        "n_residuals_per_layer": (init.n_residuals_per_layer, 1),
        "fused_add_norm": (cfg.fused_add_norm, True),
    }
    return raw | {key: value for key, (value, usual) in kept.items() if value != usual}
