"""A fair sample of perturbed prompts errs as often as it says; what Hypothesis tries does not.

Run with `-s` to see the rates that docs/robustness.md quotes. Seeds are fixed; gates are 99.9 %
binomial ranges.
"""

import numpy as np
from scipy.stats import binom, ttest_1samp

from mechtest.assertions.search import drawn
from mechtest.stats import cluster_effect, effect_p_value, membership_test
from mechtest.tasks import PromptPairs
from mechtest.tasks.perturbation import Menu, Prefix
from tests.tasks.wordlevel import ioi_row, tokenizer

RHO, LEVEL = 0.8, 0.05
CITIES = ("Paris", "Rome")


def study(rng, clusters=12, prompts=4, draws=8, spread=0.2):
    """Return (mean effect of the draws, effect unperturbed, labels) with a true share of rho.

    Templates differ in how much they keep, prompts of a template in it, and draws of a prompt.
    """
    labels = np.repeat(np.arange(clusters), prompts)
    base = rng.gamma(16, 0.25, len(labels))
    share = RHO + spread * rng.normal(size=clusters)[labels]
    share = share[:, None] + 0.5 * spread * rng.normal(size=(len(labels), 1))
    kept = base[:, None] * (share + spread * rng.normal(size=(len(labels), draws)))
    return kept, base, labels.tolist()


def in_range(hits, runs, level):
    low, high = binom.ppf([0.0005, 0.9995], runs, level)
    return low <= hits <= high


def test_at_the_boundary_a_fair_sample_is_supported_as_often_as_the_level_says():
    """Draws are no further templates: taking each for a unit is wrong many times more often."""
    runs, rng = 500, np.random.default_rng(0)
    over_templates, over_draws = [], []
    for number in range(runs):
        kept, base, labels = study(rng)
        effect = cluster_effect(kept.mean(1), base, labels)
        over_templates.append(effect_p_value(effect, RHO, seed=number, claim="robust"))
        scores = (kept - RHO * base[:, None]).ravel()
        over_draws.append(ttest_1samp(scores, 0, alternative="greater").pvalue)
    false = [int((np.array(p) <= LEVEL).sum()) for p in (over_templates, over_draws)]
    print(f"false supported of {runs}: over templates {false[0]}, over draws {false[1]}")
    assert in_range(false[0], runs, np.floor(LEVEL * 2**12) / 2**12)
    assert false[1] > 4 * false[0]


def test_a_fraction_of_templates_is_exact():
    runs, rng = 2000, np.random.default_rng(1)
    fraction, clusters = 0.7, 24
    found = rng.random((runs, clusters)) < fraction
    false = sum(membership_test(list(one), fraction, LEVEL).p <= LEVEL for one in found)
    attainable = max(
        tail for k in range(clusters + 1) if (tail := binom.sf(k - 1, clusters, fraction)) <= LEVEL
    )
    print(f"false supported of {runs}: {false}, level {attainable:.4f}")
    assert in_range(false, runs, attainable)


def test_what_hypothesis_tries_is_no_sample():
    """It tries the first, simplest opening far too often, and nothing twice.

    Here that opening is harmless and the others are not: .8 is kept on average over openings, so
    that "more than .8 is kept" is false. A t test over a search says that it is true.
    """
    things = [
        f"{thing}{place}"
        for thing in ("book", "letter", "war")
        for place in ("", *(f" {word} {city}" for word in ("in", "at", "from") for city in CITIES))
    ]
    rows = [
        {
            **ioi_row(template=f"t{number}"),
            "clean": f"Emma and Nina met. Nina gave a {thing} to",
            "corrupted": f"Emma and Nina met. Emma gave a {thing} to",
        }
        for number, thing in enumerate(things)
    ]
    pairs = PromptPairs.from_rows(rows)
    places = [f"{name} is in {city}." for name in ("Ruth", "Ivan", "Peter", "Adam", "Boris")
              for city in ("Paris", "Rome")]  # fmt: skip
    menu = Menu(pairs, [Prefix(one) for one in places], 1, tokenizer())
    kept = {Prefix(one): 0.98 if one == places[0] else 0.78 for one in places}
    runs, size, false, first = 10, 30, {"search": 0, "sample": 0}, {"search": 0, "sample": 0}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        tried = {"search": drawn(menu, tries=size, seed=seed)}
        picked = rng.integers(len(rows), size=size)
        tried["sample"] = [menu.draw(pairs[int(row)], rng) for row in picked]
        for way, asked in tried.items():
            edits = [one.operations[0] for one in asked]
            first[way] += sum(edit.words == places[0] for edit in edits)
            values = [kept[edit] + 0.02 * rng.normal() for edit in edits]
            false[way] += ttest_1samp(values, 0.8, alternative="greater").pvalue <= LEVEL
    shares = {way: count / (runs * size) for way, count in first.items()}
    print(f"the first of 10 openings: {shares}; false supported of {runs}: {false}")
    assert shares["search"] > 0.2
    assert 0.06 < shares["sample"] < 0.14
    assert false["sample"] <= 2
    assert false["search"] >= 8
