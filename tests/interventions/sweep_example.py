"""A small result of a sweep, made up, with whatever a test wants to be different."""

import numpy as np

from mechtest.interventions.sweep_result import SweepResult
from mechtest.records import ModelIdentity

MODEL = ModelIdentity("fixtures/zoo/prose/seed0/step-02500", "ab12", "cd34", "float32", "cpu")
BEFORE = "changes nothing before the first differing token"


def example(rows=3, columns=4, prompts=4, /, *, seed=0, missing=((0, 0),), **other):
    """Return a sweep of `rows` layers; templates a, a, ..., b where the last prompt is alone."""
    values = np.random.default_rng(seed).normal(size=(rows, columns, prompts))
    for place in missing:
        values[place] = np.nan
    fields = {
        "rows": tuple(f"layer {row}" for row in range(rows)),
        "columns": tuple(f"{column} \u2423word{column}" for column in range(columns)),
        "row_name": "layer",
        "column_name": "token",
        "sites": tuple(
            tuple(f"blocks.{row}.hook_h@{column}" for column in range(columns))
            for row in range(rows)
        ),
        "values": values,
        "reasons": dict.fromkeys(missing, BEFORE),
        "prompt_ids": tuple(f"prompt-{prompt}" for prompt in range(prompts)),
        "templates": ("a",) * (prompts - 1) + ("b",),
        "effect_name": "logit difference lost",
        "unit": "share of behaviour",
        "intervention": "resample",
        "base": "clean",
        "metric": "logit_difference",
        "model": MODEL,
        "engine": {"path": "plain", "forward_tokens": 1234, "flops": 1.5e9},
    }
    return SweepResult(**{**fields, **other})
