"""Builds that the tests of compiled models share, small enough to be measured many times."""

from functools import cache

import torch

from fixtures.compiled import FAMILIES, Recipe, runner_on

NAMES = tuple(FAMILIES)
SEEDS = (0, 1)
MIXED = 0.7
"""A share at which both paths carry something."""


@cache
def built(name, seed=0, share=MIXED, noise=0.0, templates=4, per_template=2):
    return FAMILIES[name].of(
        Recipe(
            seed=seed,
            share=share,
            noise=noise,
            templates=templates,
            per_template=per_template,
        )
    )


@cache
def runner(compiled, behaviour, dtype=torch.float32):
    model = compiled.wide if dtype == torch.float64 else compiled.model
    return runner_on(model, compiled.prompts, behaviour)
