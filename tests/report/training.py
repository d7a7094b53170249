"""Rows of claims that were checked at several checkpoints, from a few letters."""

import random

from tests.report.example import evidence, report_of, row

VERDICTS = {"S": "supported", "R": "refuted", "?": "inconclusive", "E": "invalid", "-": "not_run"}
ESTIMATES = {"S": 0.9, "R": 0.1, "?": 0.5}


def rows_over(
    name, letters, *, site="blocks.0.state@last", steps=None, gates="", statement="", **changes
):
    """One claim: a verdict for each step."""
    rng = random.Random(0)
    steps = steps or [100 * 2**i for i in range(len(letters))]
    found = []
    for place, (step, sign) in enumerate(zip(steps, letters, strict=True)):
        verdict = VERDICTS[sign]
        parts = []
        if sign in ESTIMATES:
            part = evidence(rng, ESTIMATES[sign], 0.1, verdict, circuit=(site,), prompts=4)
            parts = [{**part, "prompt_ids": changes.get("prompt_ids", part["prompt_ids"])}]
        values = {
            "id": f"claims/test_x.py::{name}[seed0-step-{step:05d}]",
            "key": f"claims/test_x.py::{name}",
            "gate": "closed" if gates[place : place + 1] == "c" else "open",
            "model": {
                "suite": "zoo", "seed": 0, "checkpoint": f"step-{step:05d}", "step": step,
                "sha256": "ab" * 32, "dtype": "float32", "device": "cpu",
            },
            "settings": [{"threshold": 0.5}] if parts else [{}],
            "p": {"S": 0.002, "R": 1.0, "?": 0.3}.get(sign, 1.0),
            **{key: value for key, value in changes.items() if key != "prompt_ids"},
        }  # fmt: skip
        found.append(row(name, statement or f"claim {name}", verdict, parts, **values))
    return found


def report_over(*claims):
    """A report of claims given by the keywords of `rows_over`."""
    return report_of([one for claim in claims for one in claim])
