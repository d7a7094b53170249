"""Does SAELens read our sparse autoencoders, and compute the same?

SAELens lives in an environment of its own, without mechtest; each side writes files for the other:

    python benchmarks/sae_files.py write DIR
    an-environment-with-sae-lens/bin/python benchmarks/sae_files.py check DIR
    python benchmarks/sae_files.py read DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TOLERANCE = 1e-5


def write(directory: Path) -> None:
    """Write an autoencoder of each kind, some activations, and what ours makes of them."""
    import torch
    from safetensors.torch import save_file

    from mechtest.discovery.sae import train_sae
    from mechtest.models import HookedMamba
    from mechtest.tasks import PromptPairs

    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    prompts = PromptPairs.from_jsonl("fixtures/prompts/gender.jsonl").discovery[:64]
    for kind in ("relu", "topk", "jumprelu"):
        sae = train_sae(
            model, "blocks.1.hook_resid_pre", prompts, d_sae=128, kind=kind, k=4, steps=200
        )
        sae.save(directory / kind)
        scale = float(sae.b_dec.abs().max())
        x = scale * torch.randn(256, sae.d_in, generator=torch.Generator().manual_seed(0))
        features = sae.encode(x)
        found = {"x": x, "features": features, "reconstructed": sae.decode(features)}
        save_file(found, directory / f"{kind}.safetensors")


def check(directory: Path) -> dict[str, object]:
    """Return the largest differences, as shares of the largest value."""
    from importlib.metadata import version

    import sae_lens
    import torch
    from safetensors.torch import load_file

    torch.set_grad_enabled(False)
    result: dict[str, object] = {"sae_lens": version("sae-lens")}
    for kind in ("relu", "topk", "jumprelu"):
        theirs = sae_lens.SAE.load_from_disk(directory / kind)
        ours = load_file(directory / f"{kind}.safetensors")
        features = theirs.encode(ours["x"])
        pairs = {
            "features": features,
            "reconstructed": theirs.decode(features),
        }
        result[kind] = {
            "architecture": theirs.cfg.architecture(),
            "hook_name": theirs.cfg.metadata.hook_name,
            **{
                name: float((value - ours[name]).abs().max() / ours[name].abs().max())
                for name, value in pairs.items()
            },
        }
        theirs.save_model(directory / f"theirs_{kind}")
        named = json.loads((directory / f"theirs_{kind}" / "cfg.json").read_text())
        result[kind]["fields"] = sorted(named)  # type: ignore[index]
        result[kind]["weights"] = sorted(theirs.state_dict())  # type: ignore[index]
        assert result[kind]["features"] < TOLERANCE, result  # type: ignore[index]
        assert result[kind]["reconstructed"] < TOLERANCE, result  # type: ignore[index]
    return result


def read_back(directory: Path) -> dict[str, float]:
    """Return how far autoencoders that SAELens has written are from ours, read by us."""
    from safetensors.torch import load_file

    from mechtest.discovery.sae import SAE

    found = {}
    for kind in ("relu", "topk", "jumprelu"):
        ours = load_file(directory / f"{kind}.safetensors")
        features = SAE.load(directory / f"theirs_{kind}").encode(ours["x"])
        found[kind] = float((features - ours["features"]).abs().max())
    return found


def main() -> None:
    """Run one of three steps: `write DIR` here, `check DIR` with SAELens, `read DIR` here again."""
    step, directory = sys.argv[1], Path(sys.argv[2])
    if step == "write":
        write(directory)
    elif step == "check":
        print(json.dumps(check(directory), indent=1))
    else:
        print(json.dumps(read_back(directory), indent=1))


if __name__ == "__main__":
    main()
