"""Which format is a checkpoint's config.json in, and what does it say about the model?

    hf         transformers: a `model_type`
    original   state-spaces: `d_model` and `n_layer`, the mixer's options under `ssm_cfg`

Every function takes the parsed JSON; `source` is only the name an error calls it by. Nothing is
guessed: a key that would change the computation and is not understood is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.config_checks import SUPPORTED, some_keys
from mechtest.checkpoints.hf_config import config_from_hf, config_to_hf
from mechtest.checkpoints.original_config import (
    config_from_original,
    config_to_original,
    refuse_other_blocks,
)
from mechtest.errors import UnsupportedArchitectureError, closest_names

__all__ = [
    "SUPPORTED",
    "config_from_hf",
    "config_from_original",
    "config_to_hf",
    "config_to_original",
    "detect_format",
    "read_config",
]


def detect_format(raw: Mapping[str, Any], source: str = "config.json") -> str:
    """Tell whether a parsed config.json is "hf" or "original".

    Raises:
        UnsupportedArchitectureError: It is neither, or of another architecture than Mamba-1.
    """
    model_type = raw.get("model_type")
    if model_type == "mamba":
        return "hf"
    if model_type is not None:
        raise UnsupportedArchitectureError(
            f"{source} describes a model of type {model_type!r}, which is not supported",
            given=f"model_type={model_type!r}",
            expected=SUPPORTED,
        )
    if "d_model" in raw and ("n_layer" in raw or "n_layers" in raw):
        refuse_other_blocks(raw, source)
        return "original"
    if "dim" in raw and "n_layers" in raw:
        raise UnsupportedArchitectureError(
            f"{source} looks like a Mistral or Codestral-Mamba params.json",
            given=f"keys {some_keys(raw)}",
            expected=SUPPORTED,
        )
    raise UnsupportedArchitectureError(
        f"{source} is in no format known here: no model_type, no d_model with n_layer",
        given=f"keys {some_keys(raw)}",
        closest=[near for key in ("model_type", "d_model") for near in closest_names(key, raw, 1)],
        expected=SUPPORTED,
    )


def read_config(raw: Mapping[str, Any], source: str = "config.json") -> MambaCfg:
    """Read a parsed config.json of either format."""
    if detect_format(raw, source) == "hf":
        return config_from_hf(raw, source)
    return config_from_original(raw, source)
