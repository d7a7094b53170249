"""The shape checks are alive: annotations that nobody enforces rot unnoticed."""

import pytest
import torch
from jaxtyping import TypeCheckError

from mechtest.kernels import causal_conv
from mechtest.models.layers import RMSNorm


def conv_inputs(window_width):
    return torch.zeros(1, 5, 3), torch.zeros(3, 1, 4), None, torch.zeros(1, 3, window_width)


def test_a_wrong_shape_into_a_kernel_is_caught():
    with pytest.raises(TypeCheckError, match="window"):
        causal_conv(*conv_inputs(window_width=2))


def test_the_right_shape_passes():
    assert causal_conv(*conv_inputs(window_width=3)).shape == (1, 5, 3)


def test_a_wrong_shape_into_a_model_is_caught():
    with pytest.raises(TypeCheckError, match=r"batch pos d_model"):
        RMSNorm(4, 1e-5)(torch.zeros(2, 4))


def test_a_wrong_dtype_is_caught():
    with pytest.raises(TypeCheckError):
        RMSNorm(4, 1e-5)(torch.zeros(1, 2, 4, dtype=torch.int64))
