"""Digests are equal for equal things, in every process, and differ for all others."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from mechtest.interventions import (
    MeanAblation,
    NoiseAblation,
    Patch,
    ResampleAblation,
    Steer,
    ZeroAblation,
)
from mechtest.interventions.digests import digest_of

DIFFERENT = [
    None, "", "None", 0, 1, 1.0, True, False, "1", [], [1], [[1]], [1, 1], [12], {}, {"a": 1},
    {"a": "1"}, {"b": 1}, ["a", 1], torch.tensor(1), torch.tensor(1.0), torch.tensor([1.0]),
    torch.tensor([[1.0]]), torch.tensor([1.0], dtype=torch.float64),
    torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([True]), torch.ones(2, 3),
    torch.ones(3, 2), Patch(), Patch("clean"), ResampleAblation(), ZeroAblation(),
    NoiseAblation(0.5), NoiseAblation(0.5, seed=1), Steer(torch.ones(2)), Steer(torch.ones(3)),
    Steer(torch.ones(2), 2.0), MeanAblation({"blocks.0.hook_y": torch.ones(2)}),
    MeanAblation({"blocks.1.hook_y": torch.ones(2)}),
]  # fmt: skip


def test_different_things_differ():
    digests = [digest_of(value) for value in DIFFERENT]
    same = [
        (DIFFERENT[a], DIFFERENT[b])
        for a, b in combinations(range(len(digests)), 2)
        if digests[a] == digests[b]
    ]
    assert not same


@pytest.mark.parametrize("number", range(len(DIFFERENT)))
def test_a_copy_is_the_same(number):
    value = DIFFERENT[number]
    copy = value.clone() if isinstance(value, torch.Tensor) else value
    assert digest_of(value) == digest_of(copy)


def test_layout_order_of_names_and_kind_of_sequence_are_no_part():
    matrix = torch.arange(6.0).reshape(2, 3)
    assert digest_of(matrix.T) == digest_of(matrix.T.contiguous())
    assert digest_of(matrix.T) != digest_of(matrix.reshape(3, 2))
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of((1, "a")) == digest_of([1, "a"])
    assert digest_of(np.arange(3)) == digest_of(torch.arange(3))
    grown = torch.ones(2, requires_grad=True)
    assert digest_of(grown) == digest_of(torch.ones(2))


def test_one_bit_is_enough():
    values = torch.ones(1000)
    other = values.clone()
    other[999] = torch.nextafter(other[999], torch.tensor(2.0))
    assert digest_of(values) != digest_of(other)


def test_another_process_gets_the_same():
    code = (
        "import torch; from mechtest.interventions import Steer; "
        "from mechtest.interventions.digests import digest_of; "
        "print(digest_of([Steer(torch.arange(4.0), 0.5), {'b': 1, 'a': None}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = digest_of([Steer(torch.arange(4.0), 0.5), {"b": 1, "a": None}])
    assert found.stdout.strip() == here


def test_what_is_not_known_is_refused():
    for value in (object(), {1, 2}, lambda: None, Patch):
        with pytest.raises(TypeError, match="no digest"):
            digest_of(value)
