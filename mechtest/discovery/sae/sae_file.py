"""How is a sparse autoencoder kept, so that SAELens reads it, and we read theirs?

A directory with `cfg.json` and `sae_weights.safetensors`, in the layout of SAELens 6. What SAELens
has no field for stands under `metadata`, which it keeps without asking.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes

from mechtest.discovery.sae.autoencoder import SAE, Origin, SAEKind, SAEPoint
from mechtest.errors import DiscoveryFileError, MechtestError
from mechtest.interventions.sweep_file import write_whole
from mechtest.tasks import Fingerprints

__all__ = ["CONFIG", "WEIGHTS", "load_sae", "save_sae"]

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
LAYOUT = "6.0.0"
"""First version of SAELens with this layout; older ones are translated by it when they are read."""

ARCHITECTURES: dict[SAEKind, str] = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
OURS = "mechtest"


def save_sae(sae: SAE, directory: str | Path) -> Path:
    """Write a sparse autoencoder to a directory, and return its path."""
    target = Path(directory)
    weights = {name: value.detach().cpu().contiguous() for name, value in sae.named_parameters()}
    write_whole(target / WEIGHTS, tensor_bytes(weights))
    text = json.dumps(_config(sae), indent=1, allow_nan=False)
    write_whole(target / CONFIG, (text + "\n").encode())
    return target


def _config(sae: SAE) -> dict[str, Any]:
    origin = sae.origin
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[sae.kind],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": LAYOUT,
            "model_name": origin.model,
            "hook_name": origin.site,
            OURS: {
                "positions": origin.positions,
                "settings": dict(origin.settings),
                "fitted_on": None if origin.fitted_on is None else origin.fitted_on.to_row(),
                "log": [asdict(point) for point in origin.log],
                "dead": list(origin.dead),
            },
        },
    }
    if sae.kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return config


def load_sae(directory: str | Path) -> SAE:
    """Read a sparse autoencoder from a directory.

    Raises:
        DiscoveryFileError: Files are missing, or hold something else; an architecture or a
            normalisation that is not one of ours.
    """
    source = Path(directory)
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        weights = load_tensors((source / WEIGHTS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise DiscoveryFileError(
            f"{source} holds no sparse autoencoder: {error}",
            expected=f"a directory with {CONFIG} and {WEIGHTS}",
        ) from error
    try:
        return _built(config, weights)
    except (MechtestError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = error.what if isinstance(error, MechtestError) else repr(error)
        raise DiscoveryFileError(
            f"{source} holds no sparse autoencoder that can be read",
            given=why,
            expected="architecture standard, topk or jumprelu, without normalisation",
        ) from error


def _built(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> SAE:
    kinds = {name: kind for kind, name in ARCHITECTURES.items()}
    if config["architecture"] not in kinds:
        raise ValueError(f"architecture {config['architecture']!r}")
    odd = {
        "normalize_activations": ("none", None),
        "reshape_activations": ("none", None),
        "apply_b_dec_to_input": (True,),
    }
    for name, served in odd.items():
        if config.get(name, served[0]) not in served:
            raise ValueError(f"{name}={config[name]!r}")
    if config.get("rescale_acts_by_decoder_norm"):
        norms = weights["W_dec"].norm(dim=1)
        weights = weights | {
            "W_dec": weights["W_dec"] / norms[:, None],
            "W_enc": weights["W_enc"] * norms,
            "b_enc": weights["b_enc"] * norms,
        }
    metadata = config.get("metadata", {})
    ours = metadata.get(OURS) or {}
    known = ours.get("fitted_on")
    origin = Origin(
        site=metadata["hook_name"],
        positions=ours.get("positions", "*"),
        model=metadata.get("model_name") or "",
        settings=ours.get("settings", {}),
        fitted_on=None if known is None else Fingerprints.from_row(known),
        log=tuple(SAEPoint(**point) for point in ours.get("log", [])),
        dead=tuple(ours.get("dead", ())),
    )
    return SAE(kinds[config["architecture"]], weights, origin, k=config.get("k"))
