"""What can be claimed of a model, and is it so?

One file a kind of claim, each with a function that asserts (attaches its record to the running test
and raises unless supported) and one that only checks. `terms` holds what is chosen beforehand,
`study` what is measured on, `conduct` the order of things, `_decide` the verdict.
"""

from mechtest.assertions.absence import assert_not_necessary, check_not_necessary
from mechtest.assertions.asking import Options
from mechtest.assertions.candidates import Candidates, best_of
from mechtest.assertions.flip_rate import assert_flip_rate, check_flip_rate
from mechtest.assertions.identity import assert_identity, check_identity
from mechtest.assertions.membership import assert_member_of_every, check_member_of_every
from mechtest.assertions.minimality import assert_minimal, check_minimal
from mechtest.assertions.necessity import assert_necessary, check_necessary
from mechtest.assertions.ranking import (
    assert_monotone,
    assert_ranked,
    check_monotone,
    check_ranked,
)
from mechtest.assertions.retained import must_retain, retained
from mechtest.assertions.robustness import assert_robust, check_robust
from mechtest.assertions.selectivity import assert_specific_to, check_specific_to
from mechtest.assertions.specificity import (
    assert_beats_random_subspaces,
    check_beats_random_subspaces,
)
from mechtest.assertions.stability import assert_stable_across_seeds, check_stable_across_seeds
from mechtest.assertions.subspace_match import assert_subspaces_match, check_subspaces_match
from mechtest.assertions.sufficiency import assert_sufficient, check_sufficient
from mechtest.assertions.transfer import assert_transfers, check_transfers

__all__ = [
    "Candidates",
    "Options",
    "assert_beats_random_subspaces",
    "assert_flip_rate",
    "assert_identity",
    "assert_member_of_every",
    "assert_minimal",
    "assert_monotone",
    "assert_necessary",
    "assert_not_necessary",
    "assert_ranked",
    "assert_robust",
    "assert_specific_to",
    "assert_stable_across_seeds",
    "assert_subspaces_match",
    "assert_sufficient",
    "assert_transfers",
    "best_of",
    "check_beats_random_subspaces",
    "check_flip_rate",
    "check_identity",
    "check_member_of_every",
    "check_minimal",
    "check_monotone",
    "check_necessary",
    "check_not_necessary",
    "check_ranked",
    "check_robust",
    "check_specific_to",
    "check_stable_across_seeds",
    "check_subspaces_match",
    "check_sufficient",
    "check_transfers",
    "must_retain",
    "retained",
]
