"""Keyed generators: one key, one stream, wherever it is asked for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import SampleError
from mechtest.stats import derived_seed, keyed_generator

PARTS = st.one_of(st.text(max_size=5), st.integers(-(10**6), 10**20))


def test_streams_are_the_same_on_every_machine_and_release():
    """A changed number here changes every p value that was ever reported."""
    generator = keyed_generator(0, "claims/test_a.py::test_b[seed0]", "control", "block", 3)
    assert generator.integers(0, 10**6, 4).tolist() == [785470, 540555, 566901, 874565]
    assert derived_seed(0, "claims/test_a.py::test_b[seed0]", "torch") == 4373945448908640849


def test_order_and_neighbours_do_not_matter():
    draws = {k: keyed_generator(1, "c", "control", k).random(3).tolist() for k in range(5)}
    keyed_generator(1, "c", "control", 2).random(1000)
    for k in reversed(range(5)):
        assert keyed_generator(1, "c", "control", k).random(3).tolist() == draws[k]


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_different_keys_differ(one, other):
    same = [(type(a), a) for a in one] == [(type(b), b) for b in other]
    found = [derived_seed(0, "c", "r", *index) for index in (one, other)]
    assert (found[0] == found[1]) is same
    assert all(0 <= seed < 2**63 for seed in found)


def test_parts_cannot_run_into_each_other():
    keys = [(0, "a", "bc"), (0, "ab", "c"), (0, "abc", ""), (0, "a", "b", "c"), (0, "a", "b", 1)]
    keys += [(0, "a", "b", "1"), (1, "a", "bc")]
    seeds = [derived_seed(*key) for key in keys]
    assert all(a != b for a, b in itertools.combinations(seeds, 2))


@pytest.mark.parametrize("part", [1.5, None, True, ("a",)])
def test_other_parts_are_refused(part):
    with pytest.raises(SampleError, match="made of texts and whole numbers"):
        keyed_generator(0, "c", "control", part)
