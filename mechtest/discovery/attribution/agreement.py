"""Does an attribution say what true patching says, on a sample of places?

An attribution is a first order: it can be wrong, and nothing in it says so. So some of its places
are truly patched, always, and both numbers are kept side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.looking import Behaviour
from mechtest.discovery.record import read_only
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import ShapeError
from mechtest.interventions import Run, Runner
from mechtest.interventions.jobs import Variant
from mechtest.stats import keyed_generator

__all__ = [
    "FEWEST_PLACES",
    "STRONGEST",
    "Agreement",
    "compare",
    "require_sample",
    "sample_of_places",
    "strongest_places",
    "true_effects",
]

FEWEST_PLACES = 3
BOOTSTRAPS = 1000
CONFIDENCE = 0.95
STEP = 1e-3
"""Effects are ranked in steps of this share of the behaviour: the order of smaller ones is that of
rounding, or of nothing a circuit would be made of."""
COMPARED = 2**22
SPREAD = 1e-6
"""Effects that differ by less than this share of the behaviour do not differ."""

STRONGEST = 5
"""So many of the strongest places are truly patched, too: a sample of many places may miss them."""

LOW = 0.7
"""Below this rank correlation a record says in its lines that its order is not to be trusted."""


@part_of_records
@dataclass(frozen=True, eq=False)
class Agreement:
    """Attributed and true effects at the same places.

    Attributes:
        places: Names of the sampled places.
        templates: Names of the templates.
        attributed: Mean of each template at each place, share of the behaviour, "place template".
        true: The same by patching.
        rank_correlation: Spearman's, over places, of means over templates; None without a spread.
        rank_interval: (low, high) of it over templates; empty where there is none.
        linear_correlation: Pearson's.
        linear_interval: As `rank_interval`.
        confidence: Of both intervals.
        reason: Why a number or an interval is missing; empty where all are there.
    """

    places: tuple[str, ...]
    templates: tuple[str, ...]
    attributed: Float[np.ndarray, "place template"]
    true: Float[np.ndarray, "place template"]
    rank_correlation: float | None
    rank_interval: tuple[float, ...]
    linear_correlation: float | None
    linear_interval: tuple[float, ...]
    confidence: float
    reason: str

    @property
    def attributed_means(self) -> Float[np.ndarray, " place"]:
        """Attributed effect of each place, templates weighted equally."""
        return np.asarray(self.attributed.mean(1))

    @property
    def true_means(self) -> Float[np.ndarray, " place"]:
        """True effect of each place, templates weighted equally."""
        return np.asarray(self.true.mean(1))

    @property
    def largest_error(self) -> tuple[str, float]:
        """The place where both differ most, and attributed minus true effect there."""
        errors = self.attributed_means - self.true_means
        worst = int(np.abs(errors).argmax())
        return self.places[worst], float(errors[worst])

    def side_by_side(self, count: int) -> str:
        """Return the first places in words, with what was attributed and what is true."""
        rows = zip(self.places, self.attributed_means, self.true_means, strict=True)
        return ", ".join(
            f"{place} {mine:.3g} (truly {true:.3g})" for place, mine, true in [*rows][:count]
        )

    def lines(self) -> tuple[str, ...]:
        """Return in words how far the attribution can be trusted."""
        if not self.places:
            return (f"no comparison with true patching: {self.reason}",)
        place, error = self.largest_error
        told = (
            f"beside true patching at {len(self.places)} places: "
            f"Spearman {_told(self.rank_correlation, self.rank_interval)}, "
            f"Pearson {_told(self.linear_correlation, self.linear_interval)}; "
            f"largest error {error:+.3g} at {place}"
        )
        found = [told]
        if self.reason:
            found.append(f"no full comparison: {self.reason}")
        if self.rank_correlation is not None and self.rank_correlation < LOW:
            found.append("the order is not to be trusted here: patch the places themselves")
        return tuple(found)


def require_sample(count: int) -> None:
    """Raise for a comparison that would say nothing.

    Raises:
        ShapeError: Fewer than three places.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < FEWEST_PLACES:
        raise ShapeError(
            "an attribution is always compared with true patching at some places",
            given=f"sample={count!r}",
            expected=f"a whole number of at least {FEWEST_PLACES}",
        )


def sample_of_places(
    strata: Sequence[Sequence[tuple[int, int]]], count: int, seed: int
) -> list[tuple[int, int]]:
    """Return some places, as evenly from the strata as they allow, in their order.

    Args:
        strata: (row, column) of the places, for example a list a layer.
        count: How many; all of them where there are fewer.
        seed: Of the draw.

    Raises:
        ShapeError: Fewer than three asked for.
    """
    require_sample(count)
    generator = keyed_generator(seed, "attribution", "places")
    shuffled = [[part[int(i)] for i in generator.permutation(len(part))] for part in strata]
    order = [shuffled[int(i)] for i in generator.permutation(len(shuffled))]
    longest = max(map(len, order), default=0)
    dealt = [part[turn] for turn in range(longest) for part in order if turn < len(part)]
    return sorted(dealt[:count])


def strongest_places(
    values: Float[np.ndarray, "row column prompt"], templates: Sequence[str], count: int
) -> list[tuple[int, int]]:
    """Return the places with the largest mean effects in either direction, the largest first."""
    names, member = np.unique(np.array(templates, dtype=str), return_inverse=True)
    means = np.mean([values[..., member == one].mean(-1) for one in range(len(names))], axis=0)
    order = np.argsort(-np.abs(means), axis=None, kind="stable")  # NaN sorts to the end
    places = [divmod(int(index), means.shape[1]) for index in order]
    return [place for place in places if not np.isnan(means[place])][:count]


@torch.no_grad()
def true_effects(
    runner: Runner, behaviour: Behaviour, variants: Sequence[Variant], base: Run = "clean"
) -> Float[np.ndarray, "variant prompt"]:
    """Return what interventions truly do, as shares of the behaviour.

    Args:
        runner: Model and prompts.
        behaviour: What the untouched model does.
        variants: From `runner.variant`, all packable or none.
        base: The run intervened in: `clean` gives shares lost, `corrupted` shares restored.

    Memory: the logits of one intervention at a time; of answers and foils only, where the metric
        reads nothing else.
    """
    metric, pairs = behaviour.metric, runner.pairs
    columns, answers = None, pairs.answers
    if getattr(metric, "answers_only", False) and getattr(metric, "vocabulary", None) is None:
        columns, answers = pairs.answers.among_themselves()
    start = behaviour.clean if base == "clean" else behaviour.corrupted
    sign = 1.0 if base == "clean" else -1.0
    together = len(variants) if columns is not None else 1
    found = []
    for at in range(0, len(variants), max(together, 1)):
        logits, _ = runner.sweep_logits(variants[at : at + together], base, columns=columns)
        found += [sign * (start - metric(one, answers)) / behaviour.gap for one in logits]
    return np.array([one.double().cpu().numpy() for one in found]).reshape(-1, len(pairs))


def compare(
    places: Sequence[str],
    attributed: Float[np.ndarray, "place prompt"],
    true: Float[np.ndarray, "place prompt"],
    templates: Sequence[str],
    seed: int,
) -> Agreement:
    """Return how well two lists of effects agree.

    Args:
        places: Their names.
        attributed: Effects by attribution.
        true: Effects by patching.
        templates: Template of each prompt: the unit of the intervals.
        seed: Of the bootstrap.

    Sources: Efron & Tibshirani 1993, chapter 13 (percentile intervals); templates are drawn with
        replacement, places stay.
    """
    names, member = np.unique(np.array(templates, dtype=str), return_inverse=True)
    counts = np.bincount(member)
    guessed, found = (
        np.array([np.bincount(member, weights=row) / counts for row in rows]).reshape(
            -1, len(names)
        )
        for rows in (attributed, true)
    )
    rank, linear = _correlations(guessed.mean(1)[None], found.mean(1)[None])
    generator = keyed_generator(seed, "attribution", "templates")
    drawn = generator.integers(len(names), size=(BOOTSTRAPS, len(names)))
    ranks, linears = _correlations(guessed[:, drawn].mean(2).T, found[:, drawn].mean(2).T)
    reason = ""
    if np.isnan(rank[0]):
        reason = f"fewer than {FEWEST_PLACES} places, or the effects do not differ between places"
    elif len(names) < 2:
        reason = "one template, so nothing can be said beyond it"
    missing = bool(reason)
    return Agreement(
        tuple(places),
        tuple(names.tolist()),
        read_only(guessed),
        read_only(found),
        None if np.isnan(rank[0]) else float(rank[0]),
        () if missing else _ends(ranks),
        None if np.isnan(linear[0]) else float(linear[0]),
        () if missing else _ends(linears),
        CONFIDENCE,
        reason,
    )


def _correlations(
    guessed: Float[np.ndarray, "draw place"], found: Float[np.ndarray, "draw place"]
) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman's and Pearson's correlation of each draw; NaN where a side is constant."""
    if guessed.shape[1] < FEWEST_PLACES:
        return np.full(len(guessed), np.nan), np.full(len(guessed), np.nan)
    ranked = [_ranks(np.round(side / STEP)) for side in (guessed, found)]
    return _pearson(ranked[0], ranked[1]), _pearson(guessed, found)


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Return the rank of each number in its row, equal ones sharing the mean of theirs."""
    # By hand: importing scipy.stats takes longer than an attribution. A few rows at a time, because
    # every number is compared with every other of its row.
    ranks = []
    for part in np.array_split(rows, max(1, rows.shape[0] * rows.shape[1] ** 2 // COMPARED)):
        less = (part[:, None, :] < part[:, :, None]).sum(2)
        equal = (part[:, None, :] == part[:, :, None]).sum(2)
        ranks.append(less + (equal + 1) / 2)
    return np.concatenate(ranks)


def _pearson(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = (side - side.mean(1, keepdims=True) for side in (left, right))
    spread = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    known = spread > SPREAD**2
    return np.where(known, (left * right).sum(1) / np.where(known, spread, 1.0), np.nan)


def _ends(draws: np.ndarray) -> tuple[float, ...]:
    known = draws[~np.isnan(draws)]
    if not len(known):
        return ()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _told(value: float | None, interval: tuple[float, ...]) -> str:
    if value is None:
        return "none"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
