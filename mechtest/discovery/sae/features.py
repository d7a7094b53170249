"""What do the features of a sparse autoencoder say, and what do they do?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import DiscoveryRecord, about, read_only
from mechtest.discovery.record_values import part_of_records
from mechtest.discovery.sae.activations import Sequences, one_hook, read_rows, sequences_of
from mechtest.discovery.sae.attribution import gradient_rows
from mechtest.discovery.sae.autoencoder import SAE
from mechtest.discovery.sae.quality import slices
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, Runner
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FeatureExample", "SAEFeatures", "sae_features"]


@part_of_records
@dataclass(frozen=True, slots=True)
class FeatureExample:
    """A prompt on which a feature is strong.

    Attributes:
        feature: Its index.
        prompt: Name of the prompt.
        tokens: Those that were read, as text.
        activations: Of the feature at each of them.
    """

    feature: int
    prompt: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    def __str__(self) -> str:
        """Return the prompt with the tokens in brackets at which it is at half its height."""
        most = max(self.activations)
        return "".join(
            f"[{token}]" if most > 0 and value >= most / 2 else token
            for token, value in zip(self.tokens, self.activations, strict=True)
        )


@dataclass(frozen=True, eq=False, repr=False)
class SAEFeatures(DiscoveryRecord):
    """The features of a sparse autoencoder on some prompts.

    Attributes:
        site: Where, with the positions that were read.
        frequency: Share of rows of clean prompts at which each feature is active.
        mean_active: Its mean where it is active; 0 where it never is.
        attribution: Share of the behaviour each feature carries, to first order: the change of the
            feature from the clean to the corrupted run times the metric's derivative along its
            direction, a sum over positions, templates weighted equally. Positive where taking the
            twin's value would cost the metric.
        correlation: With the label it goes with best, over prompts, of its largest value.
        labels: That label.
        examples: Strongest prompts of the features with the largest attributions.
        directions: Digest of the autoencoder's directions.
    """

    site: str
    frequency: Float[np.ndarray, " d_sae"]
    mean_active: Float[np.ndarray, " d_sae"]
    attribution: Float[np.ndarray, " d_sae"]
    correlation: Float[np.ndarray, " d_sae"]
    labels: tuple[str, ...]
    examples: tuple[FeatureExample, ...]
    directions: str

    def top(self, count: int = 10) -> tuple[int, ...]:
        """Return the features with the largest attributions in either direction."""
        order = np.argsort(-np.abs(self.attribution), kind="stable")
        return tuple(int(index) for index in order[: max(count, 0)])

    def scores(self) -> Mapping[str, float]:
        """Return the size of each feature's attribution: `blocks.1.hook_resid_pre@last#f17`."""
        return {
            f"{self.site}#f{index}": float(abs(value))
            for index, value in enumerate(self.attribution)
        }

    def circuit(self, sae: SAE, count: int = 4, position: str | int | None = None) -> Circuit:
        """Return the directions of the features with the largest attributions.

        Args:
            sae: The autoencoder this record speaks of.
            count: Features.
            position: Where; by default where the autoencoder was trained.

        Returns:
            A circuit with the fingerprints of what it was trained on, and of these prompts.

        Raises:
            ShapeError: Another autoencoder.
        """
        if digest_of_sae(sae) != self.directions:
            raise ShapeError(
                "these are features of another autoencoder",
                given=f"directions {digest_of_sae(sae)}",
                expected=f"directions {self.directions}, as in the record",
            )
        found = sae.circuit(self.top(count), position)
        known = self.about.fitted_on
        return Circuit(
            *map(str, found.sites),
            subspace=found.subspace,
            name=found.name,
            fitted_on=known if found.fitted_on is None else found.fitted_on | known,
        )

    def lines(self) -> tuple[str, ...]:
        """Return the features with the largest attributions, one a line."""
        head = f"{len(self.frequency)} features of {self.site}"
        return (head, *(self._line(index) for index in self.top(10)))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw frequency against attribution, one point a feature."""
        from mechtest.discovery.sae.picture import plot_features

        return plot_features(self, path)

    def _line(self, index: int) -> str:
        example = next((str(one) for one in self.examples if one.feature == index), "")
        return (
            f"feature {index}: carries {self.attribution[index]:+.3f}, active at "
            f"{100 * self.frequency[index]:.1f} %, {self.labels[index]} "
            f"(r {self.correlation[index]:+.2f}) {example}".rstrip()
        )


def sae_features(
    model: HookedMamba,
    sae: SAE,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    labels: Sequence[str] | None = None,
    top: int = 10,
    examples: int = 3,
    metric: Metric = logit_difference,
    progress: bool = True,
) -> SAEFeatures:
    """Describe the features of a sparse autoencoder on the discovery half of some prompts.

    Args:
        model: The model.
        sae: Trained on one of its sites.
        prompts: A collection (its discovery half is taken), or encoded prompts.
        labels: One a prompt; the answers by default.
        top: Features to show examples of.
        examples: Prompts to show of each.
        metric: Reads logits.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        MetricError: The model does not do the task.
        ShapeError: Not one label a prompt.

    Memory: 128 MB of activations and features at once, and 8 bytes x prompts x features.
    Sources: Syed et al. 2023 and Marks et al. 2024, section 3 (attribution patching of features).
    """
    runner = looking_runner(model, prompts)
    site = one_hook(model, sae.site)
    names = _answers(model, runner.pairs) if labels is None else [str(one) for one in labels]
    if len(names) != len(runner.pairs):
        raise ShapeError(
            "a label for each prompt", given=f"{len(names)}", expected=f"{len(runner.pairs)}"
        )
    reader = _Reader(runner, site, sae, behaviour_of(runner, metric).gap, metric)
    each = 8 * runner.pairs.clean_tokens.shape[1] * (sae.d_in + 2 * sae.d_sae)
    parts = list(slices(len(runner.pairs), each))
    for part in tqdm(parts, unit="batch", disable=None if progress else True):
        reader.add(part)
    strongest = np.concatenate(reader.strongest)
    correlation, best = _correlated(strongest, names)
    attribution = _over_templates(np.concatenate(reader.carried), runner.pairs)
    order = np.argsort(-np.abs(attribution), kind="stable")[:top]
    chosen = {
        int(feature): np.argsort(-strongest[:, feature], kind="stable")[:examples].tolist()
        for feature in order
    }
    return SAEFeatures(
        about=about("sae_features", model, runner.pairs, metric=metric.name, kind=sae.kind),
        site=str(site) if sae.origin.positions == "*" else f"{site}@{sae.origin.positions}",
        frequency=read_only(reader.active / reader.count),
        mean_active=read_only(reader.total / np.maximum(reader.active, 1)),
        attribution=read_only(attribution),
        correlation=read_only(correlation),
        labels=best,
        examples=reader.examples(chosen, strongest),
        directions=digest_of_sae(sae),
    )


def digest_of_sae(sae: SAE) -> str:
    """Return 16 hex digits over an autoencoder's directions."""
    array = sae.W_dec.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()


class _Reader:
    """Goes through the prompts a part at a time."""

    def __init__(self, runner: Runner, site: Site, sae: SAE, gap: float, metric: Metric) -> None:
        self.model, self.pairs = runner.model, runner.pairs
        self.site, self.sae, self.gap, self.metric = site, sae, gap, metric
        self.whole = sequences_of(self.model, self.pairs, str(site), sae.origin.positions)
        self.active = np.zeros(sae.d_sae)
        self.total = np.zeros(sae.d_sae)
        self.count = 0
        self.strongest: list[np.ndarray] = []
        self.carried: list[np.ndarray] = []

    def add(self, part: slice) -> None:
        clean, corrupted, here = self._twins(part)
        batch = self.pairs[part]
        gradient = gradient_rows(
            self.model, self.site, clean, lambda logits: self.metric(logits[:, -1], batch).sum()
        )
        with torch.no_grad():
            features = self._features(clean)
            other = self._features(corrupted)
            slopes = gradient @ self.sae.W_dec.T
            share = ((features - other) * slopes).double() / self.gap
            owner = here.nonzero()[:, 0]
            carried = share.new_zeros(len(batch), self.sae.d_sae).index_add_(0, owner, share)
            strongest = features.new_zeros(len(batch), self.sae.d_sae)
            strongest.scatter_reduce_(
                0, owner[:, None].expand_as(features), features, "amax", include_self=True
            )
        self.active += (features > 0).double().sum(0).cpu().numpy()
        self.total += features.double().sum(0).cpu().numpy()
        self.count += len(features)
        self.carried.append(carried.cpu().numpy())
        self.strongest.append(strongest.double().cpu().numpy())

    @torch.no_grad()
    def examples(
        self, chosen: Mapping[int, Sequence[int]], strongest: np.ndarray
    ) -> tuple[FeatureExample, ...]:
        """Return the prompts chosen for some features, those left out where they are silent."""
        found = []
        for feature, prompts in chosen.items():
            for prompt in prompts:
                if not strongest[prompt, feature] > 0:
                    continue
                clean, _, here = self._twins(slice(prompt, prompt + 1))
                values = self._features(clean)[:, feature].tolist()
                tokens = _texts(self.model, clean.tokens[0][here[0]].tolist())
                found.append(
                    FeatureExample(feature, self.pairs.ids[prompt], tuple(tokens), tuple(values))
                )
        return tuple(found)

    def _twins(self, part: slice) -> tuple[Sequences, Sequences, torch.Tensor]:
        half = len(self.pairs)
        index = torch.arange(half)[part]
        clean, corrupted = self.whole.some(index), self.whole.some(index + half)
        # Where the twins are read is decided once, so that each row has its own.
        here = clean.wanted & corrupted.wanted
        return (
            Sequences(clean.tokens, clean.mask, here, clean.fingerprints),
            Sequences(corrupted.tokens, corrupted.mask, here, clean.fingerprints),
            here,
        )

    def _features(self, part: Sequences) -> torch.Tensor:
        return self.sae.encode(read_rows(self.model, self.site, part).to(self.sae.W_dec))


def _over_templates(values: np.ndarray, pairs: EncodedPairs) -> np.ndarray:
    cluster = np.asarray(pairs.cluster)
    means = [values[cluster == name].mean(axis=0) for name in np.unique(cluster)]
    return np.asarray(np.mean(means, axis=0))


def _correlated(strongest: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return each feature's largest correlation with a label, and which."""
    kinds = sorted(set(names))
    indicator = np.array([[name == kind for kind in kinds] for name in names], dtype=np.float64)
    centred = strongest - strongest.mean(axis=0)
    labels = indicator - indicator.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)[:, None] * np.linalg.norm(labels, axis=0)[None]
    products = centred.T @ labels
    correlation = np.divide(products, size, out=np.zeros_like(products), where=size > 1e-12)
    best = correlation.argmax(axis=1)
    return correlation[np.arange(len(best)), best], tuple(kinds[index] for index in best)


def _answers(model: HookedMamba, pairs: EncodedPairs) -> list[str]:
    return [one.strip() for one in _texts(model, pairs.answers.answer_ids[:, 0].tolist())]


def _texts(model: HookedMamba, tokens: Sequence[int]) -> list[str]:
    if not model.tokens.available:
        return [f" {token}" for token in tokens]
    return [model.tokenizer.decode([token]) for token in tokens]
