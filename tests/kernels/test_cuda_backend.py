"""The GPU backend computes what the torch backend does, and asks of the packages what they allow.

Nothing here needs a GPU: stand-ins that repeat the checks of the two packages take their place.
"""

import math

import pytest
import torch

from mechtest.kernels import dense_scan
from mechtest.kernels.cuda_backend import STEPPED_ROWS, CudaBackend
from mechtest.kernels.cuda_packages import GpuKernels
from mechtest.kernels.dense_scan import group_segments
from mechtest.kernels.torch_backend import TorchBackend
from tests.kernels.gpu_stand_ins import ConvStandIn, ScanStandIn

TORCH = TorchBackend()
NAMES = ("x", "delta", "decay", "B", "C", "h_start", "D", "gate")


def gpu_backend():
    return CudaBackend(GpuKernels(ScanStandIn(), ConvStandIn()), device_type="cpu")


def starts_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def scan_inputs(lengths, d_inner=8, d_state=4, seed=0, dtype=torch.float32):
    """Return the tensor arguments by name; rows strided as halves and slices of projections are."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    n_rows, n_segments = sum(lengths), len(lengths)
    projected = normal(n_rows, 2 * d_inner)
    small = normal(n_rows, 3 + 2 * d_state)
    A = -torch.exp(0.5 * normal(d_inner, d_state).double()).to(dtype)
    return {
        "x": projected[:, :d_inner],
        "delta": 0.5 * normal(n_rows, d_inner) - 1,
        "decay": (A.T * math.log2(math.e)).contiguous(),
        "B": small[:, 3 : 3 + d_state],
        "C": small[:, 3 + d_state :],
        "h_start": normal(n_segments, d_state, d_inner),
        "D": normal(d_inner),
        "gate": projected[:, d_inner:],
    }


def run(scan, tensors, lengths, given=None, keep=None, softplus=True):
    first = [tensors[name] for name in NAMES[:6]]
    return scan(
        *first, starts_of(lengths), tensors.get("D"), tensors.get("gate"), given, keep, softplus
    )


def doubled(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def error(got, wanted):
    """Return the largest difference over the largest value."""
    assert got.shape == wanted.shape
    if wanted.numel() == 0:
        return 0.0
    got, wanted = got.detach().double(), wanted.detach()
    return float((got - wanted).abs().max() / wanted.abs().max())


RAGGED = {
    "one row": [1],
    "two rows": [2],
    "three rows": [3],
    "shortest for the kernel": [STEPPED_ROWS + 1],
    "17 rows": [17],
    "130 rows": [130],
    "equal": [17, 17, 17],
    "ragged": [1, 130, 2, 17, 3, 17, 5, 1, 64],
    "longest first": [130, 17, 5, 3, 2, 1],
}


def keep_of(lengths, which):
    starts = starts_of(lengths)
    rows = {
        "none": [],
        "some": range(0, int(starts[-1]), 5),
        "first and last": {*starts[:-1].tolist(), *(starts[1:] - 1).tolist()},
        "all of a segment": range(int(starts[-2]), min(int(starts[-1]), int(starts[-2]) + 20)),
    }[which]
    return torch.tensor(sorted(rows), dtype=torch.int64) if which != "none" else None


def given_of(lengths, which):
    if which == "none":
        return None
    return torch.tensor([which == "all" or index % 2 == 0 for index in range(len(lengths))])


@pytest.mark.parametrize("keep", ["none", "some", "first and last", "all of a segment"])
@pytest.mark.parametrize("given", ["none", "all", "every other"])
@pytest.mark.parametrize("lengths", RAGGED)
def test_the_scan_agrees_with_torch_in_float64(lengths, given, keep):
    lengths = RAGGED[lengths]
    tensors = scan_inputs(lengths)
    asked = {"given": given_of(lengths, given), "keep": keep_of(lengths, keep)}
    got = run(gpu_backend().scan, tensors, lengths, **asked)
    wanted = run(TORCH.scan, doubled(tensors), lengths, **asked)
    assert [error(*pair) < 1e-5 for pair in zip(got, wanted, strict=True)] == [True] * 3


def test_segments_longer_than_a_chunk_of_the_kernel_agree_too():
    lengths, asked = [2100, 6], {"keep": torch.tensor([3, 2047, 2048, 2103])}
    tensors = scan_inputs(lengths)
    got = run(gpu_backend().scan, tensors, lengths, **asked)
    for pair in zip(got, run(TORCH.scan, doubled(tensors), lengths, **asked), strict=True):
        assert error(*pair) < 1e-5


def gradients(scan, tensors, lengths, **asked):
    """Return the gradient of a random sum of all results, by argument."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    results = run(scan, leaves, lengths, **asked)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (result * torch.randn(result.shape, generator=generator, dtype=torch.float64)).sum()
        for result in results
    )
    loss.backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("keep", ["none", "some", "first and last"])
@pytest.mark.parametrize("given", ["none", "every other"])
@pytest.mark.parametrize("lengths", ["three rows", "17 rows", "130 rows", "equal", "ragged"])
def test_gradients_agree_with_torch_in_float64(lengths, given, keep):
    """Those of end and kept states too, which the kernel itself leaves out."""
    lengths = RAGGED[lengths]
    tensors = scan_inputs(lengths, seed=3)
    asked = {"given": given_of(lengths, given), "keep": keep_of(lengths, keep)}
    got = gradients(gpu_backend().scan_with_gradient, tensors, lengths, **asked)
    wanted = gradients(TORCH.scan, doubled(tensors), lengths, **asked)
    assert {name: error(got[name], wanted[name]) < 1e-5 for name in NAMES} == dict.fromkeys(
        NAMES, True
    )


def test_results_with_gradient_agree_with_those_without():
    lengths = RAGGED["ragged"]
    tensors, asked = scan_inputs(lengths), {"keep": keep_of(lengths, "some")}
    without = run(gpu_backend().scan, tensors, lengths, **asked)
    with_gradient = run(gpu_backend().scan_with_gradient, tensors, lengths, **asked)
    for got, wanted in zip(with_gradient, without, strict=True):
        assert error(got, wanted) < 1e-6


@pytest.mark.parametrize("d_state", [1, 16, 256])
def test_every_state_size_up_to_the_limit_of_the_kernel_goes_through_it(d_state):
    lengths = [6, 9]
    backend, tensors = gpu_backend(), scan_inputs(lengths, d_state=d_state)
    got = run(backend.scan, tensors, lengths, keep=torch.tensor([2, 9]))
    wanted = run(TORCH.scan, doubled(tensors), lengths, keep=torch.tensor([2, 9]))
    assert backend._kernels.scan.shapes
    for pair in zip(got, wanted, strict=True):
        assert error(*pair) < 1e-5


def test_large_and_vanishing_start_states_survive():
    """The factor of the extra steps is a power of two: nothing is rounded, nothing overflows."""
    lengths = [9, 9]
    tensors = scan_inputs(lengths)
    tensors["h_start"][0] *= 1e20
    tensors["h_start"][1] *= 1e-20
    tensors["x"] = tensors["x"] * 0
    end = run(gpu_backend().scan, tensors, lengths)[1]
    wanted = run(TORCH.scan, doubled(tensors), lengths)[1]
    for got_one, wanted_one in zip(end, wanted, strict=True):
        assert error(got_one, wanted_one) < 1e-5


def test_a_given_state_that_is_only_read_is_returned_bit_for_bit():
    lengths = [17]
    tensors = scan_inputs(lengths, d_inner=64, d_state=16)
    asked = {"given": torch.tensor([True]), "keep": torch.tensor([0])}
    assert torch.equal(run(gpu_backend().scan, tensors, lengths, **asked)[2], tensors["h_start"])


@pytest.mark.parametrize("way", ["scan", "scan_with_gradient"])
def test_the_steps_around_the_recurrence_have_the_bits_of_the_same_steps_alone(way):
    lengths = RAGGED["ragged"]
    backend, tensors = gpu_backend(), scan_inputs(lengths)
    scan = getattr(backend, way)
    fused = run(scan, tensors, lengths)[0]
    bare = {name: tensors[name] for name in NAMES[:6]}
    bare["delta"] = backend.softplus(bare["delta"])
    y = run(scan, bare, lengths, softplus=False)[0]
    x, D, gate = (tensors[name] for name in ("x", "D", "gate"))
    assert torch.equal(fused, (y + D * x) * backend.silu(gate))
    assert torch.equal(fused, backend.gate(y, x, D, gate))


def test_without_gradient_nothing_is_recorded():
    tensors = {name: t.requires_grad_() for name, t in scan_inputs([9]).items()}
    assert not any(result.requires_grad for result in run(gpu_backend().scan, tensors, [9]))


def test_short_segments_stay_in_torch_and_the_rest_shares_calls():
    backend, lengths = gpu_backend(), [STEPPED_ROWS, 20, 1, 21, STEPPED_ROWS + 1]
    run(backend.scan, scan_inputs(lengths), lengths)
    # One more than four states are written first: 5 + 4 steps; 20 + 4 and 21 + 4 share a call.
    assert sorted(backend._kernels.scan.shapes) == [(1, 8, 9), (2, 8, 25)]


def test_only_states_inside_a_segment_cost_steps():
    backend = gpu_backend()
    run(backend.scan, scan_inputs([9]), [9], keep=torch.tensor([8]))
    run(backend.scan, scan_inputs([9]), [9], keep=torch.tensor([3, 8]))
    assert backend._kernels.scan.shapes == [(1, 8, 4 + 9), (1, 8, 4 + 9 + 4)]


@pytest.mark.parametrize(
    ("way", "sizes"), [("scan", [3, 3, 1]), ("scan_with_gradient", [2, 2, 2, 1])], ids=str
)
def test_large_groups_are_cut_into_several_calls(monkeypatch, way, sizes):
    """With gradients a segment has the steps that read its end state, too."""
    monkeypatch.setattr(dense_scan, "MAX_ELEMENTS", 3 * 8 * (17 + 4))
    backend, lengths = gpu_backend(), [17] * 7
    tensors = scan_inputs(lengths)
    got = run(getattr(backend, way), tensors, lengths)
    assert [shape[0] for shape in backend._kernels.scan.shapes] == sizes
    for pair in zip(got, run(TORCH.scan, doubled(tensors), lengths), strict=True):
        assert error(*pair) < 1e-5


def test_padding_at_most_doubles_a_group():
    lengths = torch.randint(1, 400, (200,), generator=torch.Generator().manual_seed(0))
    starts = starts_of(lengths.tolist())
    groups = group_segments(starts, torch.tensor([7, 900]), d_inner=8, d_state=16, short=4)
    assert sorted(torch.cat([g.segments for g in groups]).tolist()) == list(range(200))
    assert sorted(torch.cat([g.rows for g in groups]).tolist()) == list(range(int(starts[-1])))
    reads = torch.zeros(200, dtype=torch.int64)
    reads[torch.searchsorted(starts, torch.tensor([7, 900]), right=True) - 1] = 16
    for group in groups:
        steps = lengths[group.segments] + 16 + reads[group.segments]
        assert group.is_short or int(steps.max()) < 2 * int(steps.min())


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("d_inner", [8, 12, 1])
@pytest.mark.parametrize("d_conv", [2, 3, 4])
@pytest.mark.parametrize("lengths", ["one row", "17 rows", "ragged"])
def test_the_convolution_and_its_gradients_agree_with_torch(lengths, d_conv, d_inner, activate):
    lengths = RAGGED[lengths]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(lengths), 2 * d_inner, generator=generator)[:, :d_inner]
    leaves = [
        rows,
        torch.randn(d_inner, 1, d_conv, generator=generator),
        torch.randn(d_inner, generator=generator),
        torch.randn(len(lengths), d_conv - 1, d_inner, generator=generator),
    ]
    backend, results = gpu_backend(), []
    for conv, dtype in ((backend.conv, torch.float32), (TORCH.conv, torch.float64)):
        cast = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        out = conv(*cast, starts_of(lengths), activate)
        results.append([out, *torch.autograd.grad(out.square().sum(), cast)])
    for got, wanted in zip(*results, strict=True):
        assert error(got, wanted) < 1e-5
    layout = "channel-last" if d_inner % 8 == 0 else "channel-first"
    assert backend._kernels.conv.layouts == [layout]


def test_silu_after_the_convolution_has_the_bits_of_silu_alone():
    backend = gpu_backend()
    rows, weight, windows = torch.randn(9, 8), torch.randn(8, 1, 4), torch.randn(1, 3, 8)
    plain, activated = (
        backend.conv(rows, weight, None, windows, starts_of([9]), activate)
        for activate in (False, True)
    )
    assert torch.equal(activated, backend.silu(plain))


@pytest.mark.parametrize("way", ["scan", "scan_with_gradient"])
@pytest.mark.parametrize("reason", ["float64", "d_state is 257", "mamba_ssm is not installed"])
def test_a_scan_that_the_kernel_cannot_serve_runs_in_torch(reason, way):
    lengths = [17, 5]
    backend, shape = gpu_backend(), {}
    if reason == "float64":
        shape = {"dtype": torch.float64}
    elif reason == "d_state is 257":
        shape = {"d_state": 257}
    else:
        backend = CudaBackend(GpuKernels(None, ConvStandIn()), device_type="cpu")
        assert backend.name == "cuda conv"
    tensors = scan_inputs(lengths, **shape)
    got = run(getattr(backend, way), tensors, lengths, keep=torch.tensor([3]))
    for pair in zip(got, run(TORCH.scan, tensors, lengths, keep=torch.tensor([3])), strict=True):
        assert torch.equal(*pair)
    assert backend._kernels.scan is None or backend._kernels.scan.shapes == []
    assert reason in backend.scan_obstacle(tensors["decay"], tensors["x"])


@pytest.mark.parametrize(
    ("reason", "d_conv", "dtype"),
    [
        ("d_conv is 5", 5, torch.float32),
        ("d_conv is 1", 1, torch.float32),
        ("bfloat16", 4, torch.bfloat16),
        ("float64", 4, torch.float64),
        ("causal_conv1d is not installed", 4, torch.float32),
    ],
    ids=str,
)
def test_a_convolution_that_the_kernel_cannot_serve_runs_in_torch(reason, d_conv, dtype):
    backend = gpu_backend()
    if "installed" in reason:
        backend = CudaBackend(GpuKernels(ScanStandIn(), None), device_type="cpu")
        assert backend.name == "cuda scan"
    rows, weight = torch.randn(9, 8, dtype=dtype), torch.randn(8, 1, d_conv, dtype=dtype)
    windows = torch.randn(2, d_conv - 1, 8, dtype=dtype)
    arguments = (rows, weight, None, windows, starts_of([4, 5]), True)
    assert torch.equal(backend.conv(*arguments), TORCH.conv(*arguments))
    assert backend._kernels.conv is None or backend._kernels.conv.layouts == []
    assert reason in backend.conv_obstacle(rows, weight, windows)


def test_more_rows_than_the_convolution_can_address_run_in_torch():
    rows = torch.empty(1, 8).expand(2**22, 8)
    refused = gpu_backend().conv_obstacle(rows, torch.randn(8, 1, 4), torch.empty(1, 3, 8))
    assert "more than the kernel can address" in refused


def test_tensors_outside_the_gpu_run_in_torch():
    """The same process may hold a model on each device."""
    backend = CudaBackend(GpuKernels(ScanStandIn(), ConvStandIn()))
    tensors = scan_inputs([9])
    got = run(backend.scan, tensors, [9])
    for pair in zip(got, run(TORCH.scan, tensors, [9]), strict=True):
        assert torch.equal(*pair)
    assert backend.scan_obstacle(tensors["decay"]) == "a tensor is on cpu, not cuda"
    assert backend.name == "cuda"


def test_the_plain_steps_are_those_of_torch():
    backend, rows = gpu_backend(), torch.randn(5, 8)
    assert torch.equal(backend.silu(rows), TORCH.silu(rows))
    assert torch.equal(backend.softplus(rows), TORCH.softplus(rows))
    weight = torch.randn(8)
    assert torch.equal(backend.rms_norm(rows, weight, 1e-5), TORCH.rms_norm(rows, weight, 1e-5))
