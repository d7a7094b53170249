"""No assertion can be made for one example of Hypothesis; a condition on one prompt can."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mechtest as mt
from mechtest.errors import ClaimInvalid
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, prompts, prose

ASSERTIONS = sorted(name for name in mt.__all__ if name.startswith("assert_"))
CIRCUIT = mt.Circuit(CARRIES)


def call(name):
    """Call an assertion with what it needs; nothing of it is looked at inside `@given`."""
    model, pairs = prose(), prompts()
    first = {
        "assert_identity": ([1.0], [1.0]),
        "assert_member_of_every": (CARRIES, [CIRCUIT]),
        "assert_monotone": (model, [CIRCUIT, CIRCUIT], pairs),
        "assert_ranked": (model, [CIRCUIT, CIRCUIT], pairs),
        "assert_specific_to": (model, CIRCUIT, pairs, pairs),
        "assert_stable_across_seeds": ([(0, model)], CIRCUIT, pairs),
        "assert_subspaces_match": ([(0, model)], {0: CIRCUIT}, pairs),
        "assert_transfers": (model, CIRCUIT, pairs, pairs),
    }
    keywords = {
        "assert_flip_rate": {"at_least": 0.5},
        "assert_identity": {"tolerance": 1.0, "what": "one", "model": model},
        "assert_robust": {"perturbations": [mt.Prefix("Soon,")]},
    }
    return getattr(mt, name)(*first.get(name, (model, CIRCUIT, pairs)), **keywords.get(name, {}))


@pytest.mark.parametrize("name", ASSERTIONS)
def test_an_assertion_inside_given_is_invalid(name):
    @given(st.none())
    def each(nothing):
        call(name)

    with pytest.raises(ClaimInvalid, match="inside @given"):
        each()


def test_outside_of_it_an_assertion_is_asked():
    assert call("assert_identity").verdict == "supported"


def test_a_condition_on_one_prompt_is_allowed_there():
    tried = []

    @settings(deadline=None, max_examples=5)
    @given(mt.perturbations(prompts().test, [mt.Prefix("Soon,")], tokenizer=prose().tokenizer))
    def each(asked):
        tried.append(mt.retained(prose(), CIRCUIT, asked))

    with running(RunningClaim(id="t.py::t", exact=True)):
        each()
    assert min(tried) > 0.5
