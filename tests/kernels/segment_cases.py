"""One table of shapes and inputs for everything that is said about the segment kernels."""

import itertools
import math
import os

import pytest
import torch

from mechtest.errors import MechtestError
from mechtest.kernels import backends

SCAN_NAMES = ("x", "delta", "decay", "B", "C", "h_start", "D", "gate")

# name: (lengths, d_inner, d_state)
SHAPES = {
    "one row": ([1], 33, 16),
    "one channel": ([3], 1, 1),
    "two rows": ([2], 5, 3),
    "seven of 17": ([17] * 7, 33, 16),
    "seven of 3": ([3] * 7, 128, 3),
    "ragged": ([1, 17, 2, 40, 3], 128, 16),
    "ragged, odd": ([33, 1, 16, 2, 32], 33, 3),
    "ragged, one state": ([5, 17, 1], 5, 1),
    "long": ([2049], 33, 16),
    "long, odd": ([2049], 5, 3),
    "two slabs": ([19, 2], 300, 16),
}


def available():
    """Return the backends of this machine that are not torch, by name."""
    found = {}
    for name in ("native", "numba"):
        try:
            found[name] = backends._insisted_on(name)
        except MechtestError:
            if os.environ.get("CI"):
                raise
    return found


BACKENDS = available()
each_backend = pytest.mark.parametrize("name", sorted(BACKENDS))


def starts_of(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)])


def scan_inputs(lengths, d_inner, d_state, seed=0, strided=True):
    """Return the tensors of a scan by name; strided as halves and slices of projections are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    n_rows = sum(lengths)
    projected, small = draw(n_rows, 2 * d_inner), draw(n_rows, 3 + 2 * d_state)
    found = {
        "x": projected[:, :d_inner],
        "delta": 0.5 * draw(n_rows, d_inner) - 1,
        "decay": -torch.exp(0.5 * draw(d_state, d_inner)) * math.log2(math.e),
        "B": small[:, 3 : 3 + d_state],
        "C": small[:, 3 + d_state :],
        "h_start": draw(len(lengths), d_state, d_inner),
        "D": draw(d_inner),
        "gate": 2 * projected[:, d_inner:],
    }
    found["gate"] = (2 * projected)[:, d_inner:]
    return found if strided else {name: each.contiguous() for name, each in found.items()}


def conv_inputs(lengths, d_inner, d_conv, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    rows = draw(sum(lengths), 2 * d_inner)[:, d_inner:]
    windows = draw(len(lengths), d_conv - 1, 2 * d_inner)[:, :, :d_inner]
    return rows, draw(d_inner, 1, d_conv), draw(d_inner), windows, starts_of(lengths)


def run_scan(scan, tensors, lengths, given=None, keep=None, softplus=True):
    first = [tensors[name] for name in SCAN_NAMES[:6]]
    last = (tensors.get("D"), tensors.get("gate"), given, keep, softplus)
    return scan(*first, starts_of(lengths), *last)


def ungated(tensors):
    return {name: each for name, each in tensors.items() if name not in ("D", "gate")}


def doubled(tensors):
    return {name: each.double() for name, each in tensors.items()}


def every_other(lengths):
    return torch.arange(len(lengths)) % 2 == 0


def every_third(lengths):
    return torch.arange(0, sum(lengths), 3)
