"""How are interventions carried out for the claim that is running, and who counts them?"""

from __future__ import annotations

from typing import cast

from mechtest.interventions.rectangle import MEMORY
from mechtest.interventions.run import BATCH_SIZE, Engine, Runner
from mechtest.interventions.unedited_runs import UneditedRuns
from mechtest.models import HookedMamba
from mechtest.running_claim import current_claim
from mechtest.tasks import EncodedPairs

__all__ = ["runner_for_claim"]


def runner_for_claim(
    model: HookedMamba,
    pairs: EncodedPairs,
    *,
    memory: int | None = None,
    engine: Engine | None = None,
) -> Runner:
    """Return a runner with the running claim's engine and memory, counted as that claim's.

    What it runs unedited, it shares with other claims. Outside a claim it is a runner like any
    other.

    Args:
        model: The model.
        pairs: Encoded prompts.
        memory: Bytes a batch may take, where the claim's are not wanted.
        engine: Executor, where the claim's is not wanted.
    """
    claim = current_claim()
    if claim is None:
        return Runner(model, pairs, memory=memory or MEMORY, engine=engine or "auto")
    memory = memory or claim.memory
    engine = engine or cast("Engine", claim.engine)
    unedited = UneditedRuns(model, pairs, engine, memory, BATCH_SIZE)
    runner = Runner(model, pairs, memory=memory, engine=engine, unedited=unedited)
    claim.tallies.extend(runner.tallies)
    return runner
