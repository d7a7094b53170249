"""Into what has a layer's residual stream to be translated, for the unembedding to read it?

One affine map a layer, in residual form: resid + resid A^T + b, zero at the start, so that training
starts from the logit lens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from mechtest.discovery.record import identity_of
from mechtest.errors import DiscoveryFileError, FitError
from mechtest.interventions.sweep_file import write_whole
from mechtest.models import HookedMamba
from mechtest.records import ModelIdentity
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Fingerprints, PromptPairs

__all__ = ["Translator", "TunedLens"]

FORMAT = "mechtest-tuned-lens/1"
TENSORS, FACTS = "lens.safetensors", "lens.json"


@dataclass(frozen=True, eq=False)
class Translator:
    """One layer's affine map.

    Attributes:
        weight: A.
        bias: b.
        before: Mean KL(model || logit lens) over the tokens fitted on, in nats.
        after: The same of this translator.
    """

    weight: Float[torch.Tensor, "d_model d_model"]
    bias: Float[torch.Tensor, " d_model"]
    before: float
    after: float

    def __call__(
        self, resid: Float[torch.Tensor, "token d_model"]
    ) -> Float[torch.Tensor, "token d_model"]:
        """Return what the unembedding should read instead of `resid`."""
        wide = resid.to(self.weight)
        return (wide + wide @ self.weight.T + self.bias).to(resid.dtype)


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A translator for each layer but the last.

    Attributes:
        hook: The stream it reads, as `logit_lens` names it.
        translators: By site.
        model: The weights it was fitted to.
        fitted_on: Fingerprints of every text it has seen.
        settings: How it was fitted, as plain JSON values.
    """

    hook: str
    translators: Mapping[str, Translator]
    model: ModelIdentity
    fitted_on: Fingerprints
    settings: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        model: HookedMamba,
        corpus: PromptPairs | DiscoveryPairs | EncodedPairs | Sequence[str],
        *,
        hook: str = "hook_resid_post",
        layers: Sequence[int] | None = None,
        steps: int = 250,
        lr: float | None = None,
        tokens_a_step: int = 512,
        seed: int = 0,
        progress: bool = True,
    ) -> TunedLens:
        """Train the translators of a model; see `mechtest.discovery.lens.fitting.fit_lens`."""
        from mechtest.discovery.lens.fitting import fit_lens

        return fit_lens(
            model, corpus, hook=hook, layers=layers, steps=steps, lr=lr,
            tokens_a_step=tokens_a_step, seed=seed, progress=progress,
        )  # fmt: skip

    def translated(
        self, site: str, resid: Float[torch.Tensor, "token d_model"]
    ) -> Float[torch.Tensor, "token d_model"]:
        """Return what the unembedding should read; the same where there is no translator."""
        translator = self.translators.get(site)
        return resid if translator is None else translator(resid)

    def require_fitting(self, model: HookedMamba) -> None:
        """Refuse weights the lens was not fitted to.

        Raises:
            FitError: Other shapes, or other weights where both are known.
        """
        widths = {one.weight.shape[0] for one in self.translators.values()}
        here = identity_of(model)
        other = bool(self.model.weights and here.weights) and self.model.weights != here.weights
        if widths != {model.cfg.d_model} or other:
            raise FitError(
                "this lens was fitted to other weights",
                given=f"a lens of {self.model.name}, width {sorted(widths)}",
                expected=f"{here.name}, width {model.cfg.d_model}",
                next_step="TunedLens.fit(model, prompts)",
            )

    def about_it(self) -> dict[str, Any]:
        """Return what records of its readings say of it."""
        losses = {site: [one.before, one.after] for site, one in self.translators.items()}
        return {"settings": dict(self.settings), "kl_before_and_after": losses}

    def __repr__(self) -> str:
        gains = ", ".join(
            f"{site}: KL {one.before:.3g} -> {one.after:.3g}"
            for site, one in self.translators.items()
        )
        return f"<TunedLens of {self.model.name}: {gains}>"

    def save(self, directory: str | Path) -> Path:
        """Write `lens.safetensors` and `lens.json` into a directory, and return it."""
        from safetensors.torch import save

        tensors = {}
        for site, one in self.translators.items():
            tensors[f"{site}.weight"] = one.weight.contiguous()
            tensors[f"{site}.bias"] = one.bias.contiguous()
        facts = {
            "format": FORMAT,
            "hook": self.hook,
            "losses": {s: [one.before, one.after] for s, one in self.translators.items()},
            "model": asdict(self.model),
            "fitted_on": self.fitted_on.to_row(),
            "settings": dict(self.settings),
        }
        where = Path(directory)
        write_whole(where / TENSORS, save(tensors))
        text = json.dumps(facts, allow_nan=False, indent=1)
        write_whole(where / FACTS, (text + "\n").encode())
        return where

    @classmethod
    def load(cls, directory: str | Path) -> TunedLens:
        """Read what `save` wrote; every weight is the same bit by bit.

        Raises:
            DiscoveryFileError: A file is missing, damaged, or of another format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        where = Path(directory)
        try:
            facts = json.loads((where / FACTS).read_text(encoding="utf-8"))
            tensors = load((where / TENSORS).read_bytes())
            if facts.pop("format") != FORMAT:
                raise ValueError(f"not {FORMAT}")
            return cls(
                hook=facts["hook"],
                translators={
                    site: Translator(tensors[f"{site}.weight"], tensors[f"{site}.bias"], *losses)
                    for site, losses in facts["losses"].items()
                },
                model=ModelIdentity(**facts["model"]),
                fitted_on=Fingerprints.from_row(facts["fitted_on"]),
                settings=facts["settings"],
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            raise DiscoveryFileError(
                f"{where} holds no tuned lens",
                given=f"{type(error).__name__}: {error}",
                expected=f"{TENSORS} and {FACTS}, as `TunedLens.save` writes them",
            ) from error
