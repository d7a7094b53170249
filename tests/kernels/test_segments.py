"""Every backend gives what float64 gives, the same bits however a row is reached, and keeps NaN."""

import pytest
import torch
from torch.testing import assert_close

from mechtest.errors import ShapeError
from mechtest.kernels import causal_conv, segments, selective_scan
from mechtest.kernels.torch_backend import TorchBackend
from tests.kernels.segment_cases import (
    BACKENDS,
    SHAPES,
    conv_inputs,
    doubled,
    each_backend,
    every_other,
    every_third,
    run_scan,
    scan_inputs,
    starts_of,
    ungated,
)

TORCH = TorchBackend()
INF, NAN = float("inf"), float("nan")
ACTIVE, BARE, SOFTPLUS = True, False, True


def assert_same_bits(one, other):
    assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_near(got, expected):
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    assert_close(got.double(), expected, rtol=0, atol=1e-5 * scale)


@each_backend
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strided", [True, False])
def test_the_scan_is_that_of_float64(name, shape, strided):
    lengths, d_inner, d_state = SHAPES[shape]
    tensors = scan_inputs(lengths, d_inner, d_state, strided=strided)
    asked = {"given": every_other(lengths), "keep": every_third(lengths)}
    plans = ({}, asked, {"softplus": False}) if sum(lengths) < 1000 else (asked,)
    for plan in plans:
        inputs = tensors
        if plan.get("softplus") is False:
            inputs = ungated({**tensors, "delta": tensors["delta"].abs()})
        got = run_scan(BACKENDS[name].scan, inputs, lengths, **plan)
        expected = run_scan(TORCH.scan, doubled(inputs), lengths, **plan)
        for one, other in zip(got, expected, strict=True):
            assert_near(one, other)


@each_backend
@pytest.mark.parametrize("length", [1, 2, 17])
def test_the_scan_is_the_reference_scan(name, length):
    tensors = scan_inputs([length], 33, 16)
    reads = {**ungated(tensors), "delta": tensors["delta"].abs()}
    y, end, _ = run_scan(BACKENDS[name].scan, reads, [length], softplus=False)
    A = tensors["decay"].T.double() / segments.LOG2_E
    batched = [reads[key].double().unsqueeze(0) for key in ("x", "delta", "B", "C")]
    state = reads["h_start"].double().transpose(1, 2)
    y_ref, end_ref = selective_scan(batched[0], batched[1], A, *batched[2:], state)
    assert_near(y, y_ref[0])
    assert_near(end, end_ref.transpose(1, 2))


@each_backend
@pytest.mark.parametrize("lengths", [[1], [2, 1, 3], [17, 3, 40], [2049]], ids=str)
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4])
@pytest.mark.parametrize("d_inner", [1, 5, 33, 128])
def test_the_convolution_is_the_reference_convolution(name, lengths, d_conv, d_inner):
    rows, weight, bias, windows, starts = conv_inputs(lengths, d_inner, d_conv)
    for each in (bias, None):
        out = BACKENDS[name].conv(rows, weight, each, windows, starts, BARE)
        wide = None if each is None else each.double()
        for n, (piece, window) in enumerate(zip(rows.split(lengths), windows, strict=True)):
            batch = (piece.double().unsqueeze(0), weight.double(), wide)
            expected = causal_conv(*batch, window.double().unsqueeze(0))[0]
            assert_near(out[starts[n] : starts[n + 1]], expected)


@each_backend
def test_row_functions_are_those_of_float64(name):
    backend = BACKENDS[name]
    wide = torch.cat([torch.linspace(-85, 85, 4001), torch.linspace(-2, 2, 1002)]).unsqueeze(0)
    for run, reference in ((backend.silu, TORCH.silu), (backend.softplus, TORCH.softplus)):
        expected = reference(wide.double())
        error = (run(wide).double() - expected).abs() / expected.abs().clamp(min=1e-30)
        assert float(error.max()) < 4e-7
    generator = torch.Generator().manual_seed(0)
    for width in (1, 5, 33, 128):
        rows, weight = torch.randn(7, 2 * width, generator=generator)[:, width:], torch.ones(width)
        got = backend.rms_norm(rows, weight * 1.5, 1e-5)
        assert_near(got, TORCH.rms_norm(rows.double(), weight.double() * 1.5, 1e-5))


@each_backend
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "long, odd"])
def test_fused_steps_have_the_bits_of_the_steps_alone(name, shape):
    backend = BACKENDS[name]
    lengths, d_inner, d_state = SHAPES[shape]
    tensors = scan_inputs(lengths, d_inner, d_state)
    fused, end, _ = run_scan(backend.scan, tensors, lengths)
    bare = {**ungated(tensors), "delta": backend.softplus(tensors["delta"])}
    y, bare_end, _ = run_scan(backend.scan, bare, lengths, softplus=False)
    assert_same_bits(fused, backend.gate(y, tensors["x"], tensors["D"], tensors["gate"]))
    assert_same_bits(end, bare_end)
    for d_conv in (2, 4):
        arguments = conv_inputs(lengths, d_inner, d_conv)
        before = backend.conv(*arguments, BARE)
        assert_same_bits(backend.conv(*arguments, ACTIVE), backend.silu(before))


@each_backend
@pytest.mark.parametrize("d_state", [3, 16])
def test_a_segment_cut_anywhere_goes_on_with_the_same_bits(name, d_state):
    scan, length = BACKENDS[name].scan, 70
    tensors = scan_inputs([length], 33, d_state)
    whole, end, states = run_scan(scan, tensors, [length], keep=torch.arange(length))
    for cut in (1, 2, 15, 16, 17, 32, 33, 64, 69):
        parts = []
        state = tensors["h_start"]
        for rows in (slice(0, cut), slice(cut, length)):
            piece = {key: each[rows] for key, each in tensors.items() if len(each) == length}
            piece = {**tensors, **piece, "h_start": state}
            out, state, _ = run_scan(scan, piece, [len(piece["x"])])
            parts.append(out)
        assert_same_bits(torch.cat(parts), whole)
        assert_same_bits(state, end)
        after = {key: each[cut:] for key, each in tensors.items() if len(each) == length}
        given = {**tensors, **after, "h_start": states[cut : cut + 1]}
        out, state, _ = run_scan(scan, given, [length - cut], given=torch.tensor([True]))
        assert_same_bits(out, whole[cut:])
        assert_same_bits(state, end)


@each_backend
@pytest.mark.parametrize("d_state", [3, 16])
def test_a_segment_has_the_same_bits_in_any_company(name, d_state):
    lengths = [17, 1, 40, 3]
    tensors = scan_inputs(lengths, 133, d_state)
    packed, ends, _ = run_scan(BACKENDS[name].scan, tensors, lengths)
    starts = starts_of(lengths)
    for n, length in enumerate(lengths):
        rows = slice(int(starts[n]), int(starts[n + 1]))
        alone = {k: v[rows] for k, v in tensors.items() if k not in ("decay", "D", "h_start")}
        alone = {**tensors, **alone, "h_start": tensors["h_start"][n : n + 1]}
        out, end, _ = run_scan(BACKENDS[name].scan, alone, [length])
        assert_same_bits(out, packed[rows])
        assert_same_bits(end[0], ends[n])


@each_backend
@pytest.mark.parametrize("d_state", [3, 16])
def test_a_channel_has_the_same_bits_wherever_it_stands(name, d_state):
    """In the body of a vector or in the tail: both ends of 70 channels, alone and with others."""
    backend, lengths = BACKENDS[name], [17, 2]
    tensors = scan_inputs(lengths, 70, d_state)
    whole = run_scan(backend.scan, tensors, lengths)
    conv = conv_inputs(lengths, 70, 4)
    convolved = backend.conv(*conv, ACTIVE)
    for columns in (slice(0, 1), slice(3, 36), slice(64, 70), slice(69, 70)):
        part = {k: v if k in "BC" else v[..., columns] for k, v in tensors.items()}
        got = run_scan(backend.scan, part, lengths)
        for one, other in zip(got, whole, strict=True):
            assert_same_bits(one, other[..., columns])
        rows, weight, bias, windows, starts = conv
        piece = (rows[:, columns], weight[columns], bias[columns], windows[..., columns], starts)
        assert_same_bits(backend.conv(*piece, ACTIVE), convolved[:, columns])


@each_backend
def test_any_number_of_threads_gives_the_same_bits(name, monkeypatch):
    backend = BACKENDS[name]
    module = __import__(type(backend).__module__, fromlist=["WORTH_A_THREAD"])
    monkeypatch.setattr(module, "WORTH_A_THREAD", 1)
    lengths = [17, 40]
    tensors = scan_inputs(lengths, 700, 16)
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    results = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        got = run_scan(backend.scan, tensors, lengths, keep=every_third(lengths))
        conv = backend.conv(*conv_inputs(lengths, 700, 4), ACTIVE)
        loss = run_scan(backend.scan_with_gradient, leaves, lengths)[0].sin().sum()
        results.append((*got, conv, *torch.autograd.grad(loss, list(leaves.values()))))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_same_bits(one, two)


@each_backend
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["x", "delta", "B", "C", "h_start", "gate", "decay", "D"])
@pytest.mark.parametrize("channel", [2, 32])
def test_what_is_not_finite_never_becomes_finite(name, value, where, channel):
    """Channel 32 stands in the tail. Where float64 ends with a finite number, so may we."""
    lengths = [4, 3]
    for d_state in (3, 16):
        tensors = {k: v.contiguous() for k, v in scan_inputs(lengths, 33, d_state).items()}
        rows = tensors[where].view(-1, tensors[where].shape[-1])
        rows[min(1, len(rows) - 1), channel % rows.shape[1]] = value
        got = run_scan(BACKENDS[name].scan, tensors, lengths, keep=every_third(lengths))
        expected = run_scan(TORCH.scan, doubled(tensors), lengths, keep=every_third(lengths))
        for one, other in zip(got, expected, strict=True):
            assert not one[~other.isfinite()].isfinite().any()
            assert not one[other.isnan()].isfinite().any()


@each_backend
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_row_functions_keep_what_is_not_finite(name, value):
    backend = BACKENDS[name]
    rows = torch.ones(2, 33)
    rows[0, 3] = rows[1, 32] = value
    weight, starts = torch.ones(33, 1, 2), torch.tensor([0, 2])
    conv = (rows, weight, None, torch.zeros(1, 1, 33), starts)
    for run, arguments in (
        ("silu", (rows,)),
        ("softplus", (rows,)),
        ("rms_norm", (rows, weight[:, 0, 0], 1e-5)),
        ("gate", (rows, rows, weight[:, 0, 0], rows)),
        ("conv", (*conv, True)),
        ("conv", (*conv, False)),
    ):
        got, expected = getattr(backend, run)(*arguments), getattr(TORCH, run)(*arguments)
        assert not got[~expected.isfinite()].isfinite().any(), run
        assert got[expected.isfinite()].isfinite().all(), run


@each_backend
def test_a_state_that_has_decayed_is_zero(name):
    """Far below the smallest float: no rest, no NaN."""
    tensors = {**ungated(scan_inputs([3], 33, 16)), "x": torch.zeros(3, 33)}
    for size in (200.0, 1e6, 3e38):
        tensors["delta"] = torch.full((3, 33), size)
        tensors["decay"] = torch.full((16, 33), -1.0)
        y, end, _ = run_scan(BACKENDS[name].scan, tensors, [3], softplus=False)
        assert not y.any()
        assert not end.any()


@each_backend
def test_rows_that_do_not_exist_are_refused(name):
    backend, tensors = BACKENDS[name], scan_inputs([3, 2], 5, 3)
    first = [tensors[key] for key in ("x", "delta", "decay", "B", "C", "h_start")]
    for starts in ([0, 3, 6], [1, 3, 5], [0, 5, 5], [0, 6, 5], [0, 3, 4]):
        with pytest.raises(ShapeError, match="cut 5 rows"):
            backend.scan(*first, torch.tensor(starts), None, None, None, None, SOFTPLUS)
    for keep in ([5], [-1], [2, 1], [1, 1]):
        with pytest.raises(ShapeError, match="rows of 5"):
            run_scan(backend.scan, tensors, [3, 2], keep=torch.tensor(keep))
    with pytest.raises(ShapeError, match="cut 5 rows"):
        backend.conv(*conv_inputs([3, 2], 5, 4)[:4], torch.tensor([0, 3, 6]), ACTIVE)


@each_backend
@pytest.mark.parametrize("key", ["x", "delta", "decay", "B", "C", "h_start", "D", "gate"])
def test_tensors_that_do_not_go_together_are_refused(name, key):
    tensors = scan_inputs([3, 2], 5, 3)
    for other in (tensors[key].double(), tensors[key][..., 1:]):
        if key == "x" and other.dtype == torch.float32:
            continue  # the others are then what is wrong
        with pytest.raises(ShapeError, match=key):
            run_scan(BACKENDS[name].scan, {**tensors, key: other}, [3, 2])


@each_backend
def test_one_state_can_start_all_segments(name):
    """Stride 0: no copy of a state for each segment."""
    tensors = scan_inputs([2, 2, 2], 33, 16)
    one = tensors["h_start"][:1]
    got = run_scan(BACKENDS[name].scan, {**tensors, "h_start": one.expand(3, -1, -1)}, [2, 2, 2])
    expected = run_scan(BACKENDS[name].scan, {**tensors, "h_start": one.repeat(3, 1, 1)}, [2, 2, 2])
    for a, b in zip(got, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_public_functions_run_a_backend(dtype):
    tensors = {k: v.to(dtype) for k, v in scan_inputs([4, 2], 5, 3).items()}
    first = [tensors[key] for key in ("x", "delta", "decay", "B", "C", "h_start")]
    starts = starts_of([4, 2])
    whole = {"D": tensors["D"], "gate": tensors["gate"], "softplus": True}
    scanned = segments.scan_segments(*first, starts, **whole)
    delta = segments.softplus_rows(tensors["delta"])
    bare = segments.scan_segments(first[0], delta, *first[2:], starts)
    gated = segments.gate_rows(bare.out, tensors["x"], tensors["D"], tensors["gate"])
    assert_same_bits(scanned.out, gated)
    assert scanned.out.dtype == dtype
    normed = segments.rms_norm_rows(tensors["x"], tensors["D"], 1e-5)
    assert_near(normed, TORCH.rms_norm(tensors["x"].double(), tensors["D"].double(), 1e-5))
    conv = [each.to(dtype) for each in conv_inputs([4, 2], 5, 4)[:4]]
    active = segments.conv_segments(*conv, starts)
    assert_same_bits(
        active, segments.silu_rows(segments.conv_segments(*conv, starts, activate=False))
    )
