"""How often do the tests reject that one might have used instead, on the very same null claims?

Two of them: a t test over prompts, as if prompts of one template were independent, where the
effect equals the threshold; and a t test of "the effect is above zero", where the circuit was
drawn by chance.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import ttest_1samp

from mechtest.assertions.question import Question
from tests.calibration.cells import OUT_OF_THE_WAY, Cell, as_measured

__all__ = ["naive_rejections"]


def naive_rejections(
    cell: Cell, claims: int, level: float, clusters: int, *, first: int = 0
) -> int:
    """Return how many of some null claims the naive test calls true; see `cells.rates`."""
    rejected = 0
    with as_measured():
        for number in range(first, first + claims):
            generator = np.random.default_rng([number, clusters])
            study = cell.population.draw(clusters, generator)
            made = cell.claim(generator)
            terms = made.terms
            circuits = [terms.circuit] if made.sets is None else list(made.sets.claimed)
            question = Question(study, terms.mode, terms.intervention, terms.circuit)
            found = question.measure(circuits)
            threshold = terms.threshold
            assert threshold is not None
            zero = threshold == OUT_OF_THE_WAY
            scores = found.moved_part - (0 if zero else threshold) * found.behaviour
            if zero:
                scores = np.array(
                    [scores[study.pairs.cluster == g].mean() for g in range(clusters)]
                )
            rejected += bool(ttest_1samp(scores, 0.0, alternative="greater").pvalue <= level)
    return rejected
