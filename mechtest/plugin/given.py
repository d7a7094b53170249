"""What does a claim get whose test is a Hypothesis test itself?

The same prompts at every checkpoint and in every worker: a seed from the claim's key, which names
neither. Nothing from earlier runs, no time limits, no blobs that only one version can read.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mechtest.running_claim import RunningClaim

__all__ = ["settle_draws"]

_OURS = "_mechtest_seeded"
_SETTINGS = "_hypothesis_internal_use_settings"
_SEED = "_hypothesis_internal_use_seed"


def settle_draws(item: pytest.Item, claim: RunningClaim) -> None:
    """Fix what a Hypothesis test of a claim draws; a seed of the author's own stays.

    Args:
        item: The test.
        claim: The claim it checks.
    """
    hypothesis: Any = sys.modules.get("hypothesis")
    test: Any = getattr(item, "obj", None)
    if hypothesis is None or not getattr(test, "is_hypothesis_test", False):
        return
    test = getattr(test, "__func__", test)
    if getattr(test, _SEED, None) is None or getattr(test, _OURS, False):
        from mechtest.stats import derived_seed

        hypothesis.seed(derived_seed(claim.seed, claim.key, "given"))(test)
        setattr(test, _OURS, True)
    # Settings given beside @given are kept, but for what would make a run differ from another.
    kept = getattr(test, _SETTINGS, None)
    if kept is not None:
        changed = hypothesis.settings(
            parent=kept,
            deadline=None,
            database=None,
            derandomize=False,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        setattr(test, _SETTINGS, changed)
