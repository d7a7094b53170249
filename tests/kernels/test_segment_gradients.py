"""Gradients of the compiled kernels are those of float64 autograd, for all results and inputs."""

import pytest
import torch

from mechtest.errors import InputError
from mechtest.kernels import segments
from mechtest.kernels.torch_backend import TorchBackend
from tests.kernels.segment_cases import (
    BACKENDS,
    SCAN_NAMES,
    conv_inputs,
    each_backend,
    every_other,
    every_third,
    run_scan,
    scan_inputs,
    ungated,
)

TORCH = TorchBackend()
ACTIVE = True
GRADIENT_SHAPES = {
    "one row": ([1], 5, 3),
    "a chunk": ([16], 33, 16),
    "a chunk and a row": ([17, 17], 33, 16),
    "ragged": ([1, 33, 2, 49, 16], 33, 16),
    "ragged, odd": ([3, 40, 1], 5, 3),
    "ragged, one state": ([17, 2], 1, 1),
    "two slabs": ([19, 2], 300, 16),
    "long": ([517], 33, 16),
}


def gradients(scan, tensors, lengths, dtype, which=(0, 1, 2), **asked):
    """Return the gradients of a weighted sum of the results named by `which`."""
    leaves = {k: v.to(dtype).detach().clone().requires_grad_() for k, v in tensors.items()}
    results = run_scan(scan, leaves, lengths, **asked)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(each.shape, generator=generator).to(dtype) for each in results]
    total = sum((results[n] * weights[n]).sum() for n in which)
    return torch.autograd.grad(total, list(leaves.values()), allow_unused=True)


def assert_gradients_near(name, tensors, lengths, **asked):
    scans = BACKENDS[name].scan_with_gradient, TORCH.scan_with_gradient
    got = gradients(scans[0], tensors, lengths, torch.float32, **asked)
    expected = gradients(scans[1], tensors, lengths, torch.float64, **asked)
    for key, one, other in zip(tensors, got, expected, strict=True):
        if other is None:
            assert one is None or not one.any(), key
            continue
        error = (one.double() - other).abs().max() / other.abs().max().clamp(min=1e-6)
        assert float(error) < 1e-5, key


@each_backend
@pytest.mark.parametrize("shape", GRADIENT_SHAPES)
@pytest.mark.parametrize("given", [True, False])
def test_gradients_are_those_of_float64(name, shape, given):
    lengths, d_inner, d_state = GRADIENT_SHAPES[shape]
    asked = {"given": every_other(lengths) if given else None, "keep": every_third(lengths)}
    assert_gradients_near(name, scan_inputs(lengths, d_inner, d_state), lengths, **asked)


@each_backend
@pytest.mark.parametrize("which", [(0,), (1,), (2,)], ids=["out", "end", "kept"])
@pytest.mark.parametrize("softplus", [True, False])
def test_each_result_has_its_gradient_without_a_gate(name, which, softplus):
    lengths = [1, 17, 40]
    tensors = ungated(scan_inputs(lengths, 33, 16))
    tensors["delta"] = tensors["delta"].abs() / 4
    asked = {"given": every_other(lengths), "keep": every_third(lengths), "softplus": softplus}
    assert_gradients_near(name, tensors, lengths, which=which, **asked)


@each_backend
def test_a_row_that_is_given_has_no_gradient_by_the_recurrence(name):
    lengths = [5]
    tensors = ungated(scan_inputs(lengths, 33, 16))
    given = torch.tensor([True])
    scan = BACKENDS[name].scan_with_gradient
    found = dict(
        zip(
            tensors,
            gradients(scan, tensors, lengths, torch.float32, (0, 1), given=given),
            strict=True,
        )
    )
    for key in ("x", "delta", "B"):
        assert not found[key][0].any()
        assert found[key][1].any()
    assert found["C"][0].any()


@each_backend
def test_values_with_gradient_are_the_values_without(name):
    lengths = [17, 3, 40]
    tensors = scan_inputs(lengths, 33, 16)
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    keep = every_third(lengths)
    plain = run_scan(BACKENDS[name].scan, tensors, lengths, keep=keep)
    traced = run_scan(BACKENDS[name].scan_with_gradient, leaves, lengths, keep=keep)
    for one, other in zip(plain, traced, strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad


@each_backend
def test_differentiating_twice_is_refused(name):
    leaves = {k: v.clone().requires_grad_() for k, v in scan_inputs([5], 5, 3).items()}
    out, _, _ = run_scan(BACKENDS[name].scan_with_gradient, leaves, [5])
    silu = BACKENDS[name].silu(leaves["x"])
    for each in (out, silu):
        with pytest.raises(InputError, match="differentiated twice"):
            torch.autograd.grad(each.sum(), leaves["x"], create_graph=True)


@each_backend
@pytest.mark.parametrize("what", ["conv", "silu", "softplus", "rms_norm", "gate"])
def test_the_other_kernels_let_gradients_through(name, what):
    inputs = conv_inputs([3, 2], 5, 4)
    found = []
    for backend in (BACKENDS[name], TORCH):
        rows, taps, weight, windows = (each.clone().requires_grad_() for each in inputs[:4])
        arguments = {
            "conv": (rows, taps, weight, windows, inputs[4], ACTIVE),
            "silu": (rows,),
            "softplus": (rows,),
            "rms_norm": (rows, weight, 1e-5),
            "gate": (rows, rows * 2, weight, rows - 1),
        }[what]
        total = getattr(backend, what)(*arguments).sin().sum()
        leaves = (rows, taps, weight, windows)
        found.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_public_scan_traces_only_where_somebody_wants_it():
    tensors = scan_inputs([5], 5, 3)
    first = [tensors[key].clone().requires_grad_() for key in SCAN_NAMES[:6]]
    starts = torch.tensor([0, 5])
    assert segments.scan_segments(*first, starts).out.requires_grad
    with torch.no_grad():
        assert not segments.scan_segments(*first, starts).out.requires_grad
