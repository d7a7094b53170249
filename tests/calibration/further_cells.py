"""Which null hypotheses are the assertions calibrated under that ask more than one question?

Claims about pairs of interventions, about two tasks, about rates and about the best of several. The
threshold is always the population's own value, so that the claim is just not true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mechtest.assertions import flip_rate
from mechtest.assertions._decide import decide_all
from mechtest.assertions.absence import absence_terms
from mechtest.assertions.asking import Asked
from mechtest.assertions.comparisons import ContrastTerms, compare
from mechtest.assertions.compound import Compound, Member, _answers
from mechtest.assertions.minimality import minimality_terms, parts_of
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.question import Question
from mechtest.assertions.ranking import _named, _terms
from mechtest.assertions.selectivity import TASK, _Selectivity
from mechtest.assertions.transfer import _Transfer
from mechtest.interventions import Circuit, ResampleAblation
from mechtest.records import Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import best_of_test, cluster_effect, reaches
from mechtest.stats.effects import skewness
from tests.calibration.cells import OUT_OF_THE_WAY, Cell
from tests.calibration.population import Population, SampledStudy

__all__ = [
    "best_of_two",
    "flips",
    "halves",
    "minimal",
    "monotone",
    "off_target",
    "ranked",
    "relative",
    "selective",
]


def halves(circuit: Circuit) -> tuple[Circuit, Circuit]:
    """Return a circuit's channels as two circuits, every second one in each."""
    channels = list(circuit.channels or ())
    sites = [str(site) for site in circuit.sites]
    one, other = (
        Circuit(*sites, channels=channels[start::2], name=f"half {start}") for start in (0, 1)
    )
    return one, other


def _shares(population: Population, circuits: Sequence[Circuit]) -> list[float]:
    """Return the population's effect of ablating each of some circuits."""
    return [_share(population, circuit) for circuit in circuits]


def _share(population: Population, circuit: Circuit) -> float:
    estimate = population.effect(necessity_terms(circuit, 0.5, Asked())).estimate
    assert estimate is not None
    return estimate


def _compared(kind: str, population: Population, terms: ContrastTerms, null: str) -> Cell:
    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        del generator
        return compare(study, terms, claim).decision.verdict

    return Cell(kind, null, population, judge=judge)


def _contrast(population: Population, more: Circuit, less: Circuit) -> tuple[float, float]:
    """Return the population's difference of two ablations, and the skewness of its scores."""
    question = Question(population.whole, "ablate", ResampleAblation(), more)
    one, other = (question.measure([circuit]) for circuit in (more, less))
    effect = cluster_effect(
        one.moved_part - other.moved_part, one.behaviour, population.whole.labels
    )
    assert effect.estimate is not None
    return effect.estimate, skewness(effect.scores(effect.estimate))


def minimal(population: Population, circuit: Circuit) -> Cell:
    """Every half adds at least delta: the lesser adds just that."""
    one, other = halves(circuit)
    named = {half.name: half.channels or () for half in (one, other)}
    parts = parts_of(population.model, Circuit(*map(str, circuit.sites), channels=circuit.channels),
                     named)  # fmt: skip
    whole = parts.subset(range(2))[0]
    adds = [_contrast(population, whole, left) for left in (other, one)]
    delta, skew = min(adds)
    terms = minimality_terms(parts, delta, "ablate", Asked())
    return _compared(
        "minimal", population, terms, f"one part adds {delta:.2f}, as delta; skew {skew:.1f}"
    )


def ranked(population: Population, circuit: Circuit) -> Cell:
    """One half is ahead of the other by the margin: by just that."""
    more, less = _in_order(population, circuit)
    margin, skew = _contrast(population, more, less)
    terms = _terms(
        "ranking", _named([more, less]), [(0, 1)], margin, "ablate", Asked(), "descending"
    )
    return _compared(
        "ranked", population, terms, f"ahead by {margin:.2f}, as the margin; skew {skew:.1f}"
    )


def monotone(population: Population, circuit: Circuit) -> Cell:
    """Effects fall by less than the tolerance: they fall by just that."""
    more, less = _in_order(population, circuit)
    falls, skew = _contrast(population, more, less)
    terms = _terms(
        "profile", _named([more, less]), [(1, 0)], -falls, "ablate", Asked(), "non-decreasing"
    )
    return _compared(
        "monotone", population, terms, f"falls by {falls:.2f}, as tolerated; skew {-skew:.1f}"
    )


def _in_order(population: Population, circuit: Circuit) -> list[Circuit]:
    both = halves(circuit)
    shares = _shares(population, both)
    return [both[index] for index in np.argsort(shares)[::-1]]


def best_of_two(population: Population, circuit: Circuit) -> Cell:
    """The larger of two effects is above the threshold: it is just that."""
    both = halves(circuit)
    threshold = max(_shares(population, both))

    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        del generator
        question = Question(study, "ablate", ResampleAblation(), both[0])
        behaviour = question.behaviour()
        effects = [
            cluster_effect(moved, behaviour, study.labels)
            for moved in question.moved_parts([[one] for one in both])
        ]
        found = best_of_test(effects, threshold, claim.level, seed=claim.seed, claim=claim.key)
        return Verdict.SUPPORTED if reaches(found.p, claim.level) else Verdict.INCONCLUSIVE

    return Cell("best of two", f"largest is {threshold:.2f}, as the threshold", population,
                judge=judge)  # fmt: skip


def flips(population: Population, circuit: Circuit) -> Cell:
    """More than a share of answers flip: just that share does."""
    question = Question(population.whole, "ablate", ResampleAblation(), circuit)
    run = question.measure([circuit]).run
    right = flip_rate._each(population.whole, population.whole.runner.logits("clean"), "accuracy")
    flipped = right * flip_rate._each(population.whole, run.logits, "moved")
    rate = cluster_effect(flipped, right, population.whole.labels)
    assert rate.estimate is not None
    terms = flip_rate._terms(circuit, rate.estimate, Asked())

    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        del generator
        return flip_rate._check(study, terms, claim).verdict

    skew = skewness(rate.scores(rate.estimate))
    null = f"{rate.estimate:.2f} of answers flip, as the threshold; skew {skew:.1f}"
    return Cell("flip rate", null, population, judge=judge)


def _judged(whole: Compound, claim: RunningClaim) -> Verdict:
    answers = _answers(whole, claim)
    return decide_all(
        [(one.name, found.decision) for one, found in zip(whole.members, answers, strict=True)]
    )[1].verdict


def off_target(population: Population, other: Population, circuit: Circuit) -> Cell:
    """Another task loses less than the bound: it loses just that."""
    effect = other.effect(necessity_terms(circuit, 0.5, Asked()))
    assert effect.estimate is not None
    off = replace(absence_terms(circuit, effect.estimate, Asked(), two_sided=False),
                  kind="selectivity")  # fmt: skip
    task = replace(necessity_terms(circuit, OUT_OF_THE_WAY, Asked()), controls=None, illusion=None)

    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        beside = other.draw(study.templates, generator)
        members = [Member(TASK, study, task), Member("other", beside, off)]
        return _judged(Compound(members, {}), claim)

    skew = skewness(effect.scores(effect.estimate))
    null = f"the other task loses {effect.estimate:.2f}, as the bound; skew {-skew:.1f}"
    return Cell("specific to", null, population, judge=judge)


def selective(population: Population, circuit: Circuit) -> Cell:
    """One task loses more than another: both are one."""
    task = replace(necessity_terms(circuit, OUT_OF_THE_WAY, Asked()), controls=None, illusion=None)
    off = replace(task, threshold=None)
    asked = _Selectivity(
        population.model, circuit, population.prompts, {}, 0.0, 0.0, selective=True, asked=Asked()
    )

    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        beside = population.draw(study.templates, generator)
        members = [Member(TASK, study, task), Member("other", beside, off)]
        return _judged(Compound(members, {}, asked._smaller), claim)

    return Cell("specific to, selective", "both tasks are the same", population, judge=judge)


def relative(population: Population, circuit: Circuit, own: Circuit) -> Cell:
    """A circuit does more than rho of what the task's own does: just rho of it."""
    rho = _share(population, circuit) / _share(population, own)
    terms = replace(necessity_terms(circuit, OUT_OF_THE_WAY, Asked()), controls=None)
    asked = _Transfer(
        population.model, circuit, population.prompts, {}, {"target": own}, terms, rho, None
    )

    def judge(study: SampledStudy, claim: RunningClaim, generator: np.random.Generator) -> Verdict:
        del generator
        whole = Compound([Member("target", study, terms)], {}, asked._relative)
        return _judged(whole, claim)

    return Cell("transfers, relative", f"does {rho:.2f} of its work, as rho", population,
                judge=judge)  # fmt: skip
