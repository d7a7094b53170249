"""How are interventions carried out for the claim that is running, and who counts them?"""

from __future__ import annotations

from typing import cast

from mechtest.interventions.run import BATCH_SIZE, Engine, Runner
from mechtest.interventions.unedited_runs import UneditedRuns
from mechtest.models import HookedMamba
from mechtest.running_claim import current_claim
from mechtest.tasks import EncodedPairs

__all__ = ["runner_for_claim"]


def runner_for_claim(model: HookedMamba, pairs: EncodedPairs) -> Runner:
    """Return a runner with the running claim's engine and memory, counted as that claim's.

    What it runs unedited, it shares with other claims. Outside a claim it is a runner like any
    other.

    Args:
        model: The model.
        pairs: Encoded prompts.
    """
    claim = current_claim()
    if claim is None:
        return Runner(model, pairs)
    unedited = UneditedRuns(model, pairs, claim.engine, claim.memory, BATCH_SIZE)
    engine = cast("Engine", claim.engine)
    runner = Runner(model, pairs, memory=claim.memory, engine=engine, unedited=unedited)
    claim.tallies.extend(runner.tallies)
    return runner
