"""How are the same weights called in the four layouts, and how does one become another?

    native      ours (`parameters.py`)
    hf          transformers: `backbone.embeddings.weight`, `backbone.layers.{i}...`
    original    state-spaces: `backbone.embedding.weight`, `backbone.layers.{i}...`
    mambalens   MambaLens: top-level names like ours, but in_proj and x_proj are cut into parts

Every conversion goes through native names. A rename keeps the tensor, and with it the memory the
weights are mapped from. Cutting a projection gives views of it; only joining the parts that
MambaLens keeps apart makes new tensors. hf, original and native differ in names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.original_config import (
    convert_hooked_mamba_config_to_original_config,
    convert_original_config_to_hooked_mamba_config,
)
from mechtest.checkpoints.parameters import (
    EMBEDDING,
    HEAD,
    check_state_dict,
    expected_shapes,
    fit_vocab,
)
from mechtest.checkpoints.split_layout import joined, split
from mechtest.errors import ConfigError, WeightMismatchError, closest_names

__all__ = [
    "LAYOUTS",
    "check_state_dict",
    "convert_hooked_mamba_config_to_original_config",
    "convert_hooked_state_dict_to_original_state_dict",
    "convert_original_config_to_hooked_mamba_config",
    "convert_original_state_dict_to_hooked_state_dict",
    "detect_layout",
    "expected_shapes",
    "fit_vocab",
    "from_native",
    "to_native",
]

LAYOUTS = ("native", "hf", "original", "mambalens")

# Name in the file -> native name, for what lies outside the blocks; inside, only the prefix
# `backbone.layers.` becomes `blocks.`.
_TOP = {
    "hf": {"backbone.embeddings.weight": EMBEDDING, "backbone.norm_f.weight": "norm.weight"},
    "original": {"backbone.embedding.weight": EMBEDDING, "backbone.norm_f.weight": "norm.weight"},
}
_FILE_BLOCKS, _NATIVE_BLOCKS = "backbone.layers.", "blocks."
_HEADLESS = re.compile(r"(embeddings\.weight|layers\.\d+\.|norm_f\.weight)")


def detect_layout(keys: Iterable[str]) -> str:
    """Tell which of the four layouts a set of tensor names is in.

    Raises:
        WeightMismatchError: The names are of none of them.
    """
    names = list(keys)
    if any(n in ("backbone.embeddings.weight", "embeddings.weight") for n in names):
        return "hf"
    if any(n.startswith("backbone.") for n in names):
        return "original"
    if any(re.match(r"blocks\.\d+\.(skip_proj|W_delta_1|W_D|W_B|W_C)\b", n) for n in names):
        return "mambalens"
    if any(re.match(r"blocks\.\d+\.mixer\.", n) for n in names):
        return "native"
    raise WeightMismatchError(
        "these tensor names are not those of a Mamba-1 language model",
        given=", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "no tensors",
        expected="names as in transformers (backbone.embeddings.weight), state-spaces "
        "(backbone.embedding.weight), MambaLens (blocks.0.skip_proj.weight) or mechtest "
        "(blocks.0.mixer.in_proj.weight)",
        next_step="pass the model's own state_dict(), without a wrapper's prefix such as 'module.'",
    )


def to_native(
    state_dict: Mapping[str, torch.Tensor], cfg: MambaCfg, layout: str | None = None
) -> dict[str, torch.Tensor]:
    """Rename a state dict of any layout to native names, and check it against `cfg`.

    Args:
        state_dict: Tensors by name.
        cfg: The configuration they belong to.
        layout: One of `LAYOUTS`; detected from the names when None.

    Returns:
        Native names in model order. Tensors are the very objects given, except in_proj and x_proj
        of the mambalens layout. A tied model's head is dropped once found equal to the embedding.

    Raises:
        WeightMismatchError: Names or shapes do not fit `cfg`, or `cfg` ties a head that differs.
        ConfigError: No such layout.
    """
    native = _renamed_to_native(state_dict, layout or detect_layout(state_dict))
    if cfg.tie_embeddings and HEAD in native:
        _check_tied(native)
        del native[HEAD]
    check_state_dict(native, cfg)
    return {name: native[name] for name in expected_shapes(cfg)}


def from_native(
    native: Mapping[str, torch.Tensor], cfg: MambaCfg, layout: str
) -> dict[str, torch.Tensor]:
    """Give native tensors the names of another layout.

    A tied head appears as a second name of the embedding in "original" and "mambalens", whose
    readers expect both; "hf" and "native" leave it out.

    Raises:
        WeightMismatchError: The tensors do not fit `cfg`.
        ConfigError: No such layout.
    """
    _check_layout(layout)
    check_state_dict(native, cfg)
    ordered = {name: native[name] for name in expected_shapes(cfg)}
    if cfg.tie_embeddings and layout in ("original", "mambalens"):
        ordered[HEAD] = ordered[EMBEDDING]
    return _renamed_from_native(ordered, layout)


def convert_original_state_dict_to_hooked_state_dict(
    state_dict: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Turn state-spaces (or Hugging Face) names into MambaLens's split layout.

    The cuts need no configuration: dt_proj has R columns and A_log has N.
    """
    native = _renamed_to_native(state_dict, detect_layout(state_dict))
    return _renamed_from_native(native, "mambalens")


def convert_hooked_state_dict_to_original_state_dict(
    cfg: MambaCfg, state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Turn a hooked model's state dict (native or MambaLens names) into state-spaces names.

    Raises:
        WeightMismatchError: The tensors do not fit `cfg`.
    """
    return from_native(to_native(state_dict, cfg), cfg, "original")


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ConfigError(
            f"no weight layout is called {layout!r}",
            given=layout,
            closest=closest_names(layout, LAYOUTS),
            expected=", ".join(LAYOUTS),
        )


def _check_tied(native: Mapping[str, torch.Tensor]) -> None:
    head, embedding = native[HEAD], native.get(EMBEDDING)
    if embedding is None or head is embedding or head.is_meta:
        return
    if head.shape != embedding.shape or not torch.equal(head, embedding):
        raise WeightMismatchError(
            "the configuration ties the unembedding to the embedding, but the weights hold two "
            "different matrices",
            given=f"{HEAD} {list(head.shape)} and {EMBEDDING} {list(embedding.shape)}, not equal",
            expected="equal matrices, or one of them",
            next_step="set tie_embeddings (tie_word_embeddings in a Hugging Face config) to False",
        )


def _renamed_to_native(
    state_dict: Mapping[str, torch.Tensor], layout: str
) -> dict[str, torch.Tensor]:
    _check_layout(layout)
    if layout == "native":
        return dict(state_dict)
    if layout == "mambalens":
        return joined(state_dict)
    top = _TOP[layout]
    native: dict[str, torch.Tensor] = {}
    for given_name, tensor in state_dict.items():
        # A bare MambaModel is saved without the prefix that the language model gives it.
        name = f"backbone.{given_name}" if _HEADLESS.match(given_name) else given_name
        if name.startswith(_FILE_BLOCKS):
            native[_NATIVE_BLOCKS + name.removeprefix(_FILE_BLOCKS)] = tensor
        else:
            native[top.get(name, name)] = tensor
    return native


def _renamed_from_native(
    native: Mapping[str, torch.Tensor], layout: str
) -> dict[str, torch.Tensor]:
    if layout == "native":
        return dict(native)
    if layout == "mambalens":
        return split(native)
    top = {ours: theirs for theirs, ours in _TOP[layout].items()}
    return {
        _FILE_BLOCKS + name.removeprefix(_NATIVE_BLOCKS)
        if name.startswith(_NATIVE_BLOCKS)
        else top.get(name, name): tensor
        for name, tensor in native.items()
    }
