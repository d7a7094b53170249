"""What would the model say if it ended after this layer?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from tqdm import tqdm

from mechtest.discovery.lens.lens_result import Guesses, LensResult
from mechtest.discovery.lens.places import ReadPlaces, places_to_read
from mechtest.discovery.lens.residuals import (
    MEMORY,
    prompt_batches,
    read_at,
    row_names,
    stream_sites,
    unembedded,
)
from mechtest.discovery.lens.translators import TunedLens
from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import About, about, identity_of
from mechtest.errors import ShapeError
from mechtest.interventions import SweepResult
from mechtest.models import HookedMamba
from mechtest.tasks import (
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    logit_difference,
    metric_by_name,
)
from mechtest.tasks.answers import NO_TOKEN

__all__ = ["logit_lens", "tuned_lens"]

Translate = Callable[[str, torch.Tensor], torch.Tensor]

MEASURES: Mapping[str, tuple[str, str]] = {
    "kl": ("KL from the model", "nats"),
    "cross_entropy": ("cross-entropy of what follows", "nats"),
    "probability": ("probability of the answers", "probability"),
    "rank": ("rank of the best answer", "rank"),
}
"""What is measured beside the metric: its name in pictures, and its unit."""


def logit_lens(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    hook: str = "hook_resid_post",
    positions: str | int | Sequence[str | int] = "*",
    metric: Metric | str = logit_difference,
    top: int = 5,
    display: int = 1,
    progress: bool = True,
) -> LensResult:
    """Read the residual stream after every layer through the final norm and the unembedding.

    The stream of an early layer need not be written in the code the unembedding reads, and in Mamba
    it hardly is: that nothing is read early says little (`TunedLens`).

    Args:
        model: The model.
        prompts: Their discovery half is taken; the clean prompts are read.
        hook: `hook_resid_post`, `hook_resid_pre`, or `hook_out_proj` for what each block adds.
        positions: `"*"` for every token (counted from the end among prompts of different
            lengths), or some in the notation of sites, one token of every prompt each.
        metric: A metric, or its name.
        top: Likeliest tokens kept at each place of the prompts on display.
        display: How many prompts, the first ones, are on display.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        Maps of layers by tokens; the last row is the model's own prediction.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        UnknownSiteError: A hook that is not as wide as the residual stream.
        PositionError: A position some prompt lacks.

    Memory: at most `residuals.MEMORY` bytes of activations and of logits at once.

    Sources: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return _read(
        "logit_lens", model, prompts, hook, lambda _, resid: resid,
        positions=positions, metric=metric, top=top, display=display, progress=progress,
    )  # fmt: skip


def tuned_lens(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    lens: TunedLens,
    *,
    positions: str | int | Sequence[str | int] = "*",
    metric: Metric | str = logit_difference,
    top: int = 5,
    display: int = 1,
    progress: bool = True,
) -> LensResult:
    """Read the residual stream through a translator for each layer; otherwise `logit_lens`.

    Args:
        model: The model the lens was fitted to.
        prompts: Their discovery half is taken.
        lens: Its translators; a layer without one is read as by the logit lens.
        positions: As for `logit_lens`.
        metric: As for `logit_lens`.
        top: As for `logit_lens`.
        display: As for `logit_lens`.
        progress: As for `logit_lens`.

    Returns:
        As `logit_lens`; fitted on the prompts read and on those of the lens.

    Raises:
        FitError: The lens belongs to other weights.
        ClaimInvalid, PositionError: As for `logit_lens`.

    Sources: Belrose et al. 2023, section 3.
    """
    lens.require_fitting(model)
    found = _read(
        "tuned_lens", model, prompts, lens.hook, lens.translated,
        positions=positions, metric=metric, top=top, display=display, progress=progress,
    )  # fmt: skip
    settings = {**found.about.settings, "lens": lens.about_it()}
    core = dataclasses.replace(
        found.about, fitted_on=found.about.fitted_on | lens.fitted_on, settings=settings
    )
    return dataclasses.replace(found, about=core)


@torch.no_grad()
def _read(
    tool: str,
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    hook: str,
    translate: Translate,
    *,
    positions: str | int | Sequence[str | int],
    metric: Metric | str,
    top: int,
    display: int,
    progress: bool,
) -> LensResult:
    if top < 1 or display < 0:
        raise ShapeError(
            "a lens shows at least one token, of no fewer than no prompts",
            given=f"top={top}, display={display}",
        )
    pairs = looking_runner(model, prompts).pairs
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    places = places_to_read(model, pairs, positions)
    reading = _Reading(model, pairs, places, stream_sites(model, hook), translate, chosen, top)
    with tqdm(
        total=len(pairs), desc=tool, unit="prompt", disable=None if progress else True
    ) as bar:
        for batch in prompt_batches(model, pairs, len(reading.sites) * reading.width):
            reading.read(batch, min(display, len(pairs)))
            bar.update(len(pairs[batch]))
    core = about(
        tool, model, pairs, metric=chosen.name,
        hook=hook, positions=list(places.positions), top=top, display=display,
    )  # fmt: skip
    return reading.result(core)


class _Reading:
    """Fills the maps, a batch of prompts at a time."""

    def __init__(
        self, model: HookedMamba, pairs: EncodedPairs, places: ReadPlaces,
        sites: tuple[str, ...], translate: Translate, metric: Metric, top: int,
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.places, self.sites = model, pairs, places, sites
        self.translate, self.metric = translate, metric
        self.top = min(top, model.cfg.d_vocab)
        self.width = len(places.present) * model.cfg.d_model
        shape = (len(sites), len(places.labels), len(pairs))
        self.values = {name: np.full(shape, np.nan) for name in ("metric", *MEASURES)}
        self.next = _next_tokens(pairs)
        self.guesses: list[Guesses] = []

    def read(self, batch: slice, display: int) -> None:
        """Read some prompts, and what is likeliest at the first `display` of all."""
        part, index = self.pairs[batch], self.places.index[batch]
        resids = read_at(self.model, part, index, self.sites)
        prompt = torch.arange(len(part), device=index.device)[:, None].expand_as(index).flatten()
        column = torch.tensor(self.places.present).repeat(len(part))
        token = index.flatten()
        size = max(1, MEMORY // (24 * self.model.cfg.d_vocab))
        shown: list[list[Any]] = [[] for _ in range(max(0, min(display - batch.start, len(part))))]
        for start in range(0, len(token), size):
            here = slice(start, start + size)
            rows = part[prompt[here]]
            following = self.next[batch][prompt[here], token[here]]
            last = self._logits(resids, self.sites[-1], here)
            for row, site in enumerate(self.sites):
                logits = self._logits(resids, site, here)
                found = _measured(logits, last, rows, following, self.metric)
                for name, value in found.items():
                    at = (row, column[here].numpy(), batch.start + prompt[here].cpu().numpy())
                    self.values[name][at] = value.cpu().double().numpy()
                for one in range(len(shown)):
                    mine = prompt[here] == one
                    best = logits[mine].softmax(1).topk(self.top, 1)
                    shown[one].append((row, column[here][mine.cpu()], best))
        for one, seen in enumerate(shown):
            self.guesses.append(self._guesses(batch.start + one, seen))

    def _logits(
        self, resids: Mapping[str, torch.Tensor], site: str, here: slice
    ) -> Float[torch.Tensor, "token d_vocab"]:
        rows = resids[site].flatten(0, 1)[here]
        return unembedded(self.model, self.translate(site, rows))

    def _guesses(self, prompt: int, seen: list[Any]) -> Guesses:
        words = self.model.tokens.decode_one if self.model.tokens.available else str
        own = ["" for _ in self.places.labels]
        for at, column in zip(self.places.index[prompt], self.places.present, strict=True):
            own[column] = words(int(self.pairs.clean_tokens[prompt, at]))
        shape = (len(self.sites), len(self.places.labels))
        texts: list[list[tuple[str, ...]]] = [
            [() for _ in range(shape[1])] for _ in range(shape[0])
        ]
        shares: list[list[tuple[float, ...]]] = [
            [() for _ in range(shape[1])] for _ in range(shape[0])
        ]
        for row, columns, best in seen:
            for at, column in enumerate(columns.tolist()):
                texts[row][column] = tuple(words(one) for one in best.indices[at].tolist())
                shares[row][column] = tuple(best.values[at].double().tolist())
        return Guesses(
            self.pairs.ids[prompt], tuple(own), tuple(map(tuple, texts)), tuple(map(tuple, shares))
        )

    def result(self, core: About) -> LensResult:
        """Return what was read."""
        unit = self.metric.unit
        maps = {"metric": self._map(core, "metric", self.metric.name.replace("_", " "), unit)}
        for name, (effect, its_unit) in MEASURES.items():
            maps[name] = self._map(core, name, effect, its_unit)
        return LensResult(core, maps.pop("metric"), **maps, guesses=tuple(self.guesses))

    def _map(self, core: About, name: str, effect: str, unit: str) -> SweepResult:
        places, rows = self.places, range(len(self.sites))
        return SweepResult(
            rows=row_names(self.sites),
            columns=places.labels,
            row_name="layer",
            column_name=places.column_name,
            sites=tuple(tuple(f"{s}@{p}" for p in places.positions) for s in self.sites),
            values=self.values[name],
            reasons={(row, c): reason for row in rows for c, reason in places.reasons.items()},
            prompt_ids=core.prompt_ids,
            templates=core.templates,
            effect_name=effect,
            unit=unit,
            intervention=core.tool.replace("_", " "),
            base="clean",
            metric=self.metric.name,
            model=identity_of(self.model),
            prompt_columns=places.prompt_columns,
        )


def _next_tokens(pairs: EncodedPairs) -> Int64[torch.Tensor, "prompt pos"]:
    """Return the token that follows each, -1 after the last and at padding."""
    following = torch.full_like(pairs.clean_tokens, NO_TOKEN)
    following[:, :-1] = pairs.clean_tokens[:, 1:]
    return torch.where(pairs.attention_mask, following, NO_TOKEN)


def _measured(
    logits: Float[torch.Tensor, "token d_vocab"],
    last: Float[torch.Tensor, "token d_vocab"],
    rows: EncodedPairs,
    following: Int64[torch.Tensor, " token"],
    metric: Metric,
) -> Mapping[str, Float[torch.Tensor, " token"]]:
    """Return every measure of some tokens.

    Args:
        logits: Of the lens.
        last: Of the model.
        rows: The prompt each token is of.
        following: The token that follows each; -1 after a prompt's last.
        metric: Reads logits.
    """
    log_q, log_p = logits.log_softmax(1), last.log_softmax(1)
    ids = rows.answers.answer_ids
    own = logits.gather(1, ids.clamp(min=0)).masked_fill(ids == NO_TOKEN, -torch.inf)
    of_answers = torch.logsumexp(own, 1) - torch.logsumexp(logits, 1)
    others = logits.scatter(1, torch.where(ids == NO_TOKEN, ids[:, :1], ids), -torch.inf)
    here = log_q.gather(1, following.clamp(min=0)[:, None])[:, 0]
    if getattr(metric, "needs_reference", False):
        value = metric(logits, rows, reference=last)
    else:
        value = metric(logits, rows)
    return {
        "metric": value,
        "kl": (log_p.exp() * (log_p - log_q)).sum(1).clamp(min=0),
        "cross_entropy": -torch.where(following == NO_TOKEN, of_answers, here),
        "probability": of_answers.exp(),
        "rank": 1 + (others > own.amax(1)[:, None]).sum(1),
    }
