"""How are the translators of a tuned lens trained?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from tqdm import tqdm

from mechtest.discovery.lens.residuals import MEMORY, prompt_batches, stream_sites, unembedded
from mechtest.discovery.lens.translators import Translator, TunedLens
from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import identity_of
from mechtest.errors import FitError
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Fingerprints, PromptPairs

__all__ = ["fit_lens"]

WORSE = 1e-3
"""Nats by which rounding may make a translator worse that had nothing to learn."""

Texts = tuple[torch.Tensor, torch.Tensor]
"""Tokens "prompt pos", and True where they are no padding."""


def fit_lens(
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
    """Train one translator for each layer to say what the model will say.

    Each minimises the mean over tokens of KL(model || lens) with Adam, its step size falling to
    zero along half a cosine. The model itself is not trained.

    Args:
        model: The model.
        corpus: Texts, or prompts: of their discovery half, clean and corrupted prompts are taken.
        hook: The stream it reads: `hook_resid_post`, `hook_resid_pre` or `hook_out_proj`.
        layers: Rows of the lens to train; 0 is the embedding (or the stream before the first
            block), the last row needs none. All but the last by default.
        steps: Steps of training a layer.
        lr: Adam's step size at the start, for the entries of A and for b in units of the stream's
            root mean square; by default 0.5 / d_model, so that a step moves streams of any width
            alike.
        tokens_a_step: Tokens drawn for each step.
        seed: Of the draws.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        The lens, with the fingerprints of what it has seen.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        FitError: No texts, settings that train nothing, or a loss that rose.

    Memory: streams of as many layers as fit in `residuals.MEMORY` are kept at once; the corpus is
    read again for the next ones.

    Sources: Belrose et al. 2023, section 3 (affine translators, forward KL).
    """
    sites = stream_sites(model, hook)
    wanted = range(len(sites) - 1) if layers is None else sorted(set(layers))
    lr = 0.5 / model.cfg.d_model if lr is None else lr
    if steps < 1 or not lr > 0 or tokens_a_step < 1 or not len(wanted):
        raise FitError(
            "these settings train nothing",
            given=f"layers={layers}, steps={steps}, lr={lr}, tokens_a_step={tokens_a_step}",
        )
    if not all(0 <= row < len(sites) - 1 for row in wanted):
        raise FitError(
            "a lens has no such row to train",
            given=f"layers={list(wanted)}",
            expected=f"0 to {len(sites) - 2}: {', '.join(sites[:-1])}",
        )
    batches, seen = _texts(model, corpus)
    count = sum(int(mask.sum()) for _, mask in batches)
    each = 4 * count * model.cfg.d_model
    at_once = max(1, MEMORY // each - 1)
    translators: dict[str, Translator] = {}
    with tqdm(
        total=len(wanted), desc="tuned lens", unit="layer", disable=None if progress else True
    ) as bar:
        for start in range(0, len(wanted), at_once):
            names = [sites[row] for row in wanted[start : start + at_once]]
            streams = _streams(model, batches, [*names, sites[-1]])
            last = streams.pop(sites[-1])
            for name in names:
                translators[name] = _trained(
                    model, streams.pop(name), last, steps, lr, tokens_a_step, seed
                )
                bar.update(1)
    settings = {
        "steps": steps, "lr": lr, "tokens_a_step": tokens_a_step, "seed": seed, "tokens": count
    }  # fmt: skip
    return TunedLens(hook, translators, identity_of(model), seen, settings)


def _texts(
    model: HookedMamba, corpus: PromptPairs | DiscoveryPairs | EncodedPairs | Sequence[str]
) -> tuple[list[Texts], Fingerprints]:
    """Return the tokens of a corpus, in batches, and their fingerprints."""
    if isinstance(corpus, (PromptPairs, EncodedPairs)):
        pairs = looking_runner(model, corpus).pairs
        both = []
        for batch in prompt_batches(model, pairs, 0):
            part = pairs[batch]
            both += [(part.clean_tokens, part.attention_mask)]
            both += [(part.corrupted_tokens, part.attention_mask)]
        return both, pairs.fingerprints
    texts = [corpus] if isinstance(corpus, str) else list(corpus)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise FitError(
            "a lens is trained on prompts or on texts",
            given=f"{type(corpus).__name__} of {len(texts)}",
            expected="prompts.discovery, or a list of texts",
        )
    rows = [model.to_tokens(text)[0] for text in texts]
    found = [(row[None], torch.ones_like(row[None], dtype=torch.bool)) for row in rows]
    return found, Fingerprints.of(texts=texts, tokens=[row.tolist() for row in rows])


@torch.no_grad()
def _streams(
    model: HookedMamba, batches: Sequence[Texts], sites: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return the streams of all tokens, "token d_model", by site."""
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for tokens, mask in batches:
        _, cache = model.run_with_cache(
            tokens, attention_mask=mask, names_filter=list(sites), stop_at_layer=model.cfg.n_layer
        )
        for site in sites:
            found[site].append(cache[site][mask.to(cache[site].device)].float())
    return {site: torch.cat(parts) for site, parts in found.items()}


def _trained(
    model: HookedMamba, resid: torch.Tensor, last: torch.Tensor, steps: int, lr: float,
    size: int, seed: int,
) -> Translator:  # fmt: skip
    width = resid.shape[1]
    weight = torch.zeros(width, width, device=resid.device, requires_grad=True)
    shift = torch.zeros(width, device=resid.device, requires_grad=True)
    scale = resid.pow(2).mean().sqrt()
    optimizer = _Adam([weight, shift])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = _mean_kl(model, resid, last, None)
    with torch.enable_grad(), _frozen(model):
        for step in range(steps):
            rows = torch.randint(len(resid), (min(size, len(resid)),), generator=generator)
            here, there = resid[rows.to(resid.device)], last[rows.to(resid.device)]
            loss = _kl(model, here + here @ weight.T + scale * shift, there).mean()
            loss.backward()
            optimizer.step(lr * (1 + math.cos(math.pi * step / steps)) / 2)
    made = Translator(weight.detach(), (scale * shift).detach(), before, 0.0)
    with torch.no_grad():
        after = _mean_kl(model, resid, last, made)
    if not after <= before + WORSE:
        raise FitError(
            "training made a translator worse than none",
            given=f"lr={lr:.3g}: KL {before:.3g} nats before, {after:.3g} after",
            expected="a loss that falls",
            next_step="a smaller lr",
        )
    return Translator(made.weight, made.bias, before, after)


class _Adam:
    """Adam, without torch's compiler, whose import costs more than training a small lens.

    Sources: Kingma & Ba 2015, algorithm 1.
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self.parts, self.count = parts, 0
        self.means = [torch.zeros_like(part) for part in parts]
        self.squares = [torch.zeros_like(part) for part in parts]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every part along its gradient, and forget the gradient."""
        self.count += 1
        for part, mean, square in zip(self.parts, self.means, self.squares, strict=True):
            assert part.grad is not None
            mean.lerp_(part.grad, 1 - 0.9)
            square.lerp_(part.grad.square(), 1 - 0.999)
            size = (square / (1 - 0.999**self.count)).sqrt_().add_(1e-8)
            part.sub_(lr * (mean / (1 - 0.9**self.count)) / size)
            part.grad = None


@contextmanager
def _frozen(model: HookedMamba) -> Iterator[None]:
    """Keep gradients from the model's own weights, whatever happens inside."""
    trained = [part for part in model.parameters() if part.requires_grad]
    try:
        for part in trained:
            part.requires_grad = False
        yield
    finally:
        for part in trained:
            part.requires_grad = True


def _kl(
    model: HookedMamba,
    resid: Float[torch.Tensor, "token d_model"],
    last: Float[torch.Tensor, "token d_model"],
) -> Float[torch.Tensor, " token"]:
    """Return KL(model || lens) of each token in nats."""
    log_q = unembedded(model, resid).log_softmax(1)
    with torch.no_grad():
        log_p = unembedded(model, last).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _mean_kl(
    model: HookedMamba, resid: torch.Tensor, last: torch.Tensor, translator: Translator | None
) -> float:
    size = max(1, MEMORY // (24 * model.cfg.d_vocab))
    total = 0.0
    for start in range(0, len(resid), size):
        here = resid[start : start + size]
        read = here if translator is None else translator(here)
        total += float(_kl(model, read, last[start : start + size]).double().sum())
    return total / len(resid)
