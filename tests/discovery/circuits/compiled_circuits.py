"""Compiled models whose circuits the tests of this folder look for."""

from functools import cache

from fixtures.compiled import FAMILIES

BEHAVIOURS = {"redundancy": "either", "conjunction": "both", "marked_slots": "first"}
STORES = "blocks.*.state@last"
FIRST, SECOND, THIRD = (f"blocks.{layer}.state@last" for layer in range(3))


@cache
def compiled(family, share=1.0):
    return FAMILIES[family].build(seed=0, share=share, templates=12, per_template=2)


def model_and_prompts(family, share=1.0):
    """Return a model and the prompts of its first behaviour."""
    found = compiled(family, share)
    return found.model, found.prompts.filter(behaviour=BEHAVIOURS[family])
