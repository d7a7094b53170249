"""Models and short prompt sets that the tests of the assertions share."""

from functools import cache

from mechtest.models import HookedMamba
from mechtest.stats import Interval
from mechtest.tasks import PromptPairs

LEVEL = 0.2
"""Loose, so that 12 controls are enough."""

CARRIES = "blocks.1.state@last"
INERT = "blocks.0.state@last"
"""For the city of a landmark, in prose seed 0."""


@cache
def prose(seed=0, step="step-02500"):
    return HookedMamba.from_pretrained(f"fixtures/zoo/prose/seed{seed}/{step}")


@cache
def recall():
    return HookedMamba.from_pretrained("fixtures/zoo/recall/seed0/step-01000")


@cache
def prompts(name="fact_city", count=1, templates=None):
    """Return the first `count` rows of each template, of the first templates of either half."""
    whole = PromptPairs.from_jsonl(f"fixtures/prompts/{name}.jsonl")
    halves = [half.templates[:templates] for half in whole.split()]
    return of_rows(
        row
        for template, part in whole.by_template().items()
        if any(template in half for half in halves)
        for row in part.rows[:count]
    )


def of_rows(rows):
    return PromptPairs(tuple(rows), source="short")


def interval(low, high, confidence=0.95):
    return Interval(low, high, confidence, "by hand")


def facts(**options):
    """Return the options most tests of single claims share."""
    return {"level": LEVEL, **options}
