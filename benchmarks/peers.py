"""How does one set of weights get into every library that is compared?"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mamba_lens
import torch
from mamba_lens.HookedMamba import MambaCfg as LensCfg
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from mechtest import HookedMamba, MambaCfg
from mechtest.checkpoints import config_to_hf, from_native, save_original

REPOSITORY = Path(__file__).resolve().parents[1]
ZOO_MODEL = REPOSITORY / "fixtures" / "zoo" / "prose" / "seed0" / "step-02500"


@dataclass(frozen=True)
class Pair:
    """One model in two libraries.

    Attributes:
        name: For tables.
        ours: mechtest's model.
        theirs: MambaLens's model.
    """

    name: str
    ours: Any
    theirs: Any

    def tokens(self, batch: int, n_pos: int, seed: int = 0) -> torch.Tensor:
        """Return random token ids "batch pos"."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.ours.cfg.d_vocab, (batch, n_pos), generator=generator)

    def double(self) -> Pair:
        """Return the same pair in float64 (exact copies of the float32 weights)."""
        cfg = replace(self.ours.cfg, dtype="float64")
        ours = HookedMamba(cfg, initialize_params=False)
        state = {name: value.double() for name, value in self.ours.state_dict().items()}
        ours.load_state_dict(state)
        theirs = lens_model(self.ours.cfg)
        theirs.load_state_dict(self.theirs.state_dict())
        return Pair(self.name, ours, theirs.double())


def lens_model(cfg: MambaCfg, tokenizer: Any = None) -> Any:
    """Return a MambaLens model of our configuration's shape, weights still to be loaded."""
    theirs = LensCfg(
        d_model=cfg.d_model,
        n_layers=cfg.n_layer,
        vocab_size=cfg.d_vocab,
        d_state=cfg.N,
        d_conv=cfg.d_conv,
        dt_rank=cfg.R,
        d_inner=cfg.E,
        pad_vocab_size_multiple=1,
        device="cpu",
    )
    return mamba_lens.HookedMamba(theirs, tokenizer)


def random_pair(name: str, seed: int, **shape: Any) -> Pair:
    """Draw weights in MambaLens and load its state dict, as it is, into ours.

    Projections keep the scale of their input; every other weight is moved away from its initial
    value, so that no term of the computation is too small to be noticed.
    """
    cfg = MambaCfg(**shape, pad_vocab_size_multiple=1, tie_embeddings=False)
    theirs = lens_model(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter_name == "embedding.weight":
                parameter.copy_(noise)
            elif parameter.dim() > 1 and not parameter_name.endswith("A_log"):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                centre = 1.0 if parameter_name.endswith(("norm.weight", "W_D")) else 0.0
                parameter.copy_(centre + 0.3 * noise)
    ours = HookedMamba(cfg, initialize_params=False)
    ours.load_state_dict(theirs.state_dict())
    return Pair(name, ours, theirs)


def zoo_pair(path: Path = ZOO_MODEL) -> Pair:
    """Load a trained fixture model into both, MambaLens through its own loader."""
    return Pair("zoo prose", HookedMamba.from_pretrained(path), load_in_lens(path))


def load_in_lens(path: Path) -> Any:
    """Write a checkpoint in the original format and let MambaLens's own loader read it."""
    ours = HookedMamba.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path))
    with tempfile.TemporaryDirectory() as folder:
        save_original(Path(folder), ours.cfg, ours.native_state_dict())
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where the model moves
            model = mamba_lens.HookedMamba.from_pretrained(
                folder, device="cpu", tokenizer=tokenizer
            )
    # Its default is False whatever the tokenizer does: ours adds bos, and prompts would have two.
    model.cfg.tokenizer_prepends_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return model


def hf_model(ours: HookedMamba) -> MambaForCausalLM:
    """Return Hugging Face's model with our weights, on its pure torch path."""
    config = MambaConfig(**json.loads(json.dumps(config_to_hf(ours.cfg))))
    model = MambaForCausalLM(config)
    state = from_native(ours.native_state_dict(), ours.cfg, "hf")
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys, missing
    assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
    return model.eval()
