"""Builds that the tests of compiled models share, small enough to be measured many times."""

from functools import cache

import torch

from fixtures.compiled import FAMILIES, Recipe, runner_on

NAMES = tuple(FAMILIES)
SEEDS = (0, 1)
MIXED = 0.7
"""A share at which both paths carry something."""


@cache
def built(name, seed=0, share=MIXED, noise=0.0, dtype=torch.float32, templates=6, per_template=2):
    return FAMILIES[name].of(
        Recipe(
            seed=seed,
            share=share,
            noise=noise,
            dtype=dtype,
            templates=templates,
            per_template=per_template,
        )
    )


@cache
def runner(compiled, behaviour):
    return runner_on(compiled.model, compiled.prompts, behaviour)


def row_ids(name):
    return [row.name for row in built(name).stated]


ROWS = [(name, row) for name in NAMES for row in row_ids(name)]
