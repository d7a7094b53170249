"""A cache that rebuilds what it did not keep gives what reading would have given."""

import pytest
import torch

from mechtest.errors import CheckpointFormatError, SiteNotReachedError, SiteNotServedError
from mechtest.kernels import discretize
from mechtest.models import ActivationCache
from mechtest.models.hook_requests import HookRequest
from mechtest.models.recipes import Recipe, bytes_held, tensors_in
from tests.tiny import tiny_model, tiny_tokens

N_POS = 21
"""More than one stretch between two states that the memo keeps."""

BIG = ("hook_A_bar", "hook_B_bar", "hook_ssm_write", "hook_h")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


def add(amount):
    return lambda value, hook: value + amount


def zero(value, hook):
    return value * 0


def look(value, hook):
    return None


def left_padding(batch=3):
    mask = torch.ones(batch, N_POS, dtype=torch.long)
    mask[0, :2] = 0
    mask[1, :9] = 0
    return mask


# name -> (shape of the model, keywords of the run)
RUNS = {
    "plain": ({}, {}),
    "float64": ({"dtype": "float64"}, {}),
    "bfloat16": ({"dtype": "bfloat16"}, {}),
    "odd widths": ({"d_model": 9, "d_state": 1, "d_conv": 3}, {}),
    "one tap": ({"d_conv": 1}, {}),
    "biases": ({"bias": True, "conv_bias": False}, {}),
    "padding": ({}, {"attention_mask": left_padding()}),
    "padding, bfloat16": ({"dtype": "bfloat16"}, {"attention_mask": left_padding()}),
    "reference scan": ({}, {"fast_ssm": False}),
    "stops early": ({}, {"stop_at_layer": 1}),
    "layers in another order": ({}, {"only_use_these_layers": [1, 0]}),
    "a layer twice": ({}, {"only_use_these_layers": [0, 0, 1]}),
    "start state": ({}, {"fwd_hooks": [("blocks.*.hook_h_start", add(0.7))]}),
    "A": ({}, {"fwd_hooks": [("blocks.0.hook_A", add(-0.3))]}),
    "no step": ({}, {"fwd_hooks": [("blocks.0.hook_delta", zero)]}),
    "no step at padding": (
        {},
        {"fwd_hooks": [("blocks.0.hook_delta", zero)], "attention_mask": left_padding()},
    ),
    "raw step": ({}, {"fwd_hooks": [("blocks.0.hook_delta_2", add(1.0))]}),
    "B at a position": ({}, {"fwd_hooks": [("blocks.0.hook_B@3", add(2.0))]}),
    "input at padding": (
        {},
        {
            "fwd_hooks": [("blocks.0.hook_ssm_input", add(1.0)), ("*.hook_in_proj", add(1.0))],
            "attention_mask": left_padding(),
        },
    ),
    "every elementwise hook": (
        {},
        {
            "fwd_hooks": [
                (f"blocks.*.{hook}", add(0.5))
                for hook in ("hook_conv", "hook_ssm_output", "hook_after_skip", "hook_skip")
            ]
        },
    ),
    "decays": ({}, {"fwd_hooks": [("blocks.0.hook_A_bar", add(0.1))]}),
    "input matrix": ({}, {"fwd_hooks": [("blocks.1.hook_B_bar@2", add(0.1))]}),
    "writes": ({}, {"fwd_hooks": [("blocks.0.hook_ssm_write", add(0.1))]}),
    "a state": ({}, {"fwd_hooks": [("blocks.0.hook_h.3", add(1.0))]}),
    "a window": ({}, {"fwd_hooks": [("blocks.0.hook_conv_state.4", add(1.0))]}),
    "a state that is looked at": ({}, {"fwd_hooks": [("blocks.1.hook_h.3", look)]}),
    "gradients": ({}, {"incl_bwd": lambda logits: logits[:, -1, 3].sum()}),
    "gradient of a state": (
        {},
        {"bwd_hooks": [("blocks.0.hook_h.3", look)], "fwd_hooks": []},
    ),
}


def reading(model, names=None):
    """Install readers, and return where they put what they read."""
    read = {}
    model._request(HookRequest(names, reader=lambda key, value: read.update({key: value.detach()})))
    return read


def assert_close(found, expected, name, times=1):
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    if expected.numel():
        worst = (found - expected).abs().max().double()
        scale = expected.abs().max().double()
        assert worst <= times * TOLERANCE.get(expected.dtype, 0.0) * scale, (name, worst, scale)


@pytest.mark.parametrize("name", RUNS)
def test_everything_has_the_bits_that_were_read_in_the_same_run(name):
    shape, keywords = RUNS[name]
    model = tiny_model(**shape)
    model.to(getattr(torch, shape.get("dtype", "float32")))
    keywords = dict(keywords)
    edits, backward = keywords.pop("fwd_hooks", ()), keywords.pop("bwd_hooks", ())
    with model.hooks(edits, backward):
        read = reading(model)  # behind the edits
        _, cache = model.run_with_cache(tiny_tokens(model, n_pos=N_POS), **keywords)
    assert [key for key in cache if not key.endswith("_grad")] == list(read)
    for key, value in read.items():
        assert cache[key].dtype == value.dtype, key
        assert torch.equal(cache[key], value), key


@pytest.mark.parametrize("name", [name for name in RUNS if "bfloat16" not in name])
def test_everything_agrees_with_a_run_that_keeps_it_all(name):
    """Another run may take another scan: bfloat16 would round its last bit differently."""
    shape, keywords = RUNS[name]
    model = tiny_model(**shape)
    tokens = tiny_tokens(model, n_pos=N_POS)
    out, cache = model.run_with_cache(tokens, **keywords)
    model.zero_grad()
    kept_out, kept = model.run_with_cache(tokens, rebuild=False, **keywords)
    assert list(cache) == list(kept)
    for key in kept:
        assert_close(cache[key], kept[key], key, times=10)
    assert torch.allclose(out, kept_out, atol=1e-4)


def test_states_of_the_scan_that_runs_without_readers_are_rebuilt():
    """The scan of an ordinary run, with readers that do not change it."""
    for dtype in ("float32", "float64", "bfloat16"):
        model = tiny_model(dtype=dtype)
        read = reading(model, "blocks.*.hook_h")
        _, cache = model.run_with_cache(tiny_tokens(model, n_pos=N_POS))
        assert "reference" not in model.last_scans
        for key, value in read.items():
            assert_close(cache[key], value, key)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens(model):
    return tiny_tokens(model, n_pos=N_POS)


@pytest.fixture(scope="module")
def cache(model, tokens):
    return model.run_with_cache(tokens)[1]


def recipes(cache):
    return [name for name, node in cache._values.items() if isinstance(node, Recipe)]


def test_the_large_ones_are_not_kept(model, cache):
    names = recipes(cache)
    for layer in range(2):
        for hook in BIG[:3]:
            assert f"blocks.{layer}.{hook}" in names
        for position in range(N_POS):
            assert f"blocks.{layer}.hook_h.{position}" in names
            assert f"blocks.{layer}.hook_conv_state.{position}" in names
    for hook in (
        "normalized_input",
        "conv",
        "ssm_input",
        "delta",
        "ssm_output",
        "after_skip",
        "h_start",
    ):
        assert f"blocks.1.hook_{hook}" in names
    whole = 3 * N_POS * model.cfg.E * model.cfg.N
    assert all(value.numel() < whole / 2 for value in tensors_in(cache._values.values()))


def test_listening_to_them_does_not_change_the_scan(model, tokens):
    model(tokens)
    fastest = model.last_scans
    model.run_with_cache(tokens)
    assert model.last_scans == fastest
    model.run_with_cache(tokens, fast_ssm=True)
    model.run_with_cache(tokens, rebuild=False)
    assert set(model.last_scans) == {"reference"}
    with pytest.raises(SiteNotServedError):
        model.run_with_cache(tokens, rebuild=False, fast_ssm=True)


def test_discretized_tensors_are_those_of_the_kernel(cache):
    A_bar, B_bar = discretize(cache["delta", 1], cache["A", 1], cache["B", 1])
    assert torch.equal(cache["A_bar", 1], A_bar)
    assert torch.equal(cache["B_bar", 1], B_bar)
    write = B_bar * cache["ssm_input", 1].unsqueeze(-1)
    assert torch.equal(cache["ssm_write", 1], write)


def test_looking_up_again_gives_a_fresh_equal_tensor(cache):
    for name in (
        "blocks.0.hook_A_bar",
        "blocks.0.hook_h.20",
        "blocks.0.hook_h",
        "blocks.1.hook_conv",
    ):
        first = cache[name]
        expected = first.clone()
        first.zero_()
        assert torch.equal(cache[name], expected), name
        assert not torch.equal(cache[name], first), name


@pytest.mark.parametrize("order", ["ascending", "descending", "jumping", "layers inside"])
def test_states_may_be_looked_up_in_any_order(model, tokens, order):
    _, cache = model.run_with_cache(tokens)
    expected = [cache[f"blocks.{layer}.hook_h"] for layer in range(2)]
    places = [(layer, p) for layer in range(2) for p in range(N_POS)]
    if order == "descending":
        places.reverse()
    elif order == "jumping":
        places.sort(key=lambda place: (place[1] * 8) % 21)
    elif order == "layers inside":
        places.sort(key=lambda place: place[1])
    for layer, p in places:
        found = cache[f"blocks.{layer}.hook_h.{p}"]
        assert torch.equal(found, expected[layer][:, p]), (layer, p)


def test_a_loop_over_positions_is_not_quadratic(model, monkeypatch):
    from mechtest.models import trajectory

    tokens = tiny_tokens(model, n_pos=96)
    _, cache = model.run_with_cache(tokens, names_filter="blocks.0.hook_h")
    steps = []
    run_on = trajectory.Trajectory.run_on

    def counted(self, after, h, wanted):
        steps.append(wanted[-1] - after)
        return run_on(self, after, h, wanted)

    monkeypatch.setattr(trajectory.Trajectory, "run_on", counted)
    for p in range(96):
        cache[f"blocks.0.hook_h.{p}"]
    assert sum(steps) == 96
    steps.clear()
    for p in reversed(range(96)):
        cache[f"blocks.0.hook_h.{p}"]
    assert sum(steps) <= 96 * 8 + 96


def test_the_memo_forgets_the_oldest_layer_first(model, tokens):
    _, cache = model.run_with_cache(tokens)
    cache._memo.budget = 1
    for layer in (0, 1, 0):
        cache[f"blocks.{layer}.hook_h.19"]
        assert len(cache._memo._known) == 1
    assert torch.equal(cache["blocks.0.hook_h.19"], cache["blocks.0.hook_h"][:, 19])


@pytest.mark.parametrize(
    ("names", "rebuilt"),
    [
        ("blocks.0.hook_h.3", 0),
        (["blocks.0.hook_h.3", "blocks.0.hook_h.9", "blocks.0.hook_h@last"], 0),
        ("blocks.*.hook_h@last", 0),
        ("blocks.0.hook_h", N_POS),
        ("blocks.0.hook_h@4:12", 8),
        ("blocks.*.state", 4 * N_POS),
        ("blocks.*.hook_A_bar", 2),
        ("blocks.0.hook_ssm_write@3", 1),
        ("blocks.0.hook_B_bar@2:5", 1),
        (["blocks.0.hook_A_bar", "blocks.0.hook_A_bar@last", "blocks.0.hook_delta"], 2),
        (lambda name: "hook_A_bar" in name or name.endswith("hook_h.5"), 2),
        # All that the state is made from is asked for as well.
        (["blocks.0.hook_h.3", *(f"blocks.0.hook_{part}" for part in
         ("ssm_input", "delta", "A", "B"))], 1),
        (["blocks.1.hook_ssm_output", "blocks.1.hook_delta"], 0),
    ],
    ids=["one", "three", "last", "all", "range", "states", "decays", "write@", "B_bar@", "mixed",
         "predicate", "free", "no source"],
)  # fmt: skip
@pytest.mark.parametrize("mask", [None, left_padding()], ids=["whole", "padded"])
def test_filters_of_each_kind(model, tokens, names, rebuilt, mask):
    read = reading(model, names)
    try:
        _, cache = model.run_with_cache(tokens, names_filter=names, attention_mask=mask)
    finally:
        model.reset_hooks()
    assert list(cache) == list(read)
    assert len(recipes(cache)) == rebuilt
    for key, value in read.items():
        assert_close(cache[key], value, key)


@pytest.mark.parametrize("kept", [3, -1, slice(2, 12), [0, 3], [5, 2], slice(None, None, 3)])
@pytest.mark.parametrize("mask", [None, left_padding()], ids=["whole", "padded"])
def test_slices_of_positions(model, tokens, kept, mask):
    _, part = model.run_with_cache(tokens, pos_slice=kept, attention_mask=mask)
    _, full = model.run_with_cache(tokens, pos_slice=kept, attention_mask=mask, rebuild=False)
    assert list(part) == list(full)
    for key in full:
        assert part[key].shape == full[key].shape, key
        assert torch.allclose(part[key], full[key], rtol=1e-5, atol=1e-6), key
    assert "blocks.0.hook_A_bar" in recipes(part)


def test_slices_hold_only_their_positions(model, tokens):
    _, few = model.run_with_cache(tokens, pos_slice=[3])
    _, row = model.run_with_cache(tokens, names_filter="hook_logits@last")
    (logits,) = row.values()
    assert held(row) == logits.numel() * 4
    _, everything = model.run_with_cache(tokens)
    assert held(few) < held(everything) / 4


def held(cache):
    return bytes_held(tensors_in(cache._values.values()))


def test_the_same_cache_every_way(cache, tmp_path):
    """Moved, stored, and expanded: equal everywhere."""
    cache.save(tmp_path / "cache.safetensors")
    loaded = ActivationCache.load(tmp_path / "cache.safetensors")
    moved = cache.to("cpu")
    assert list(loaded) == list(moved) == list(cache)
    plain = dict(cache)
    for key in cache:
        for other in (loaded[key], moved[key], plain[key]):
            assert other.dtype == cache[key].dtype, key
            assert torch.equal(other, cache[key]), key
    assert recipes(loaded) == recipes(cache) == recipes(moved)
    assert held(loaded) <= held(cache)
    expanded = sum(value.numel() * value.element_size() for value in plain.values())
    assert (tmp_path / "cache.safetensors").stat().st_size < expanded / 2


def test_conversion_comes_after_rebuilding(cache):
    wide = cache.to(torch.float64)
    half = wide.to(dtype=torch.float16)
    for key in cache:
        assert torch.equal(wide[key], cache[key].double()), key
        assert torch.equal(half[key], cache[key].half()), key
    assert torch.equal(wide["blocks.0.hook_h"], cache["blocks.0.hook_h"].double())
    assert wide["blocks.0.hook_h"].dtype == torch.float64


def test_where_it_is_kept_is_where_it_is_rebuilt(model, tokens, cache):
    _, elsewhere = model.run_with_cache(tokens, device="meta")
    assert list(elsewhere) == list(cache)
    assert all(value.device.type == "meta" for value in tensors_in(elsewhere._values.values()))
    for key in cache:
        assert tuple(elsewhere._values[key].shape) == cache[key].shape, key
    for hook in (*BIG[:3], "hook_conv_state.3"):  # kernels do not run there
        assert elsewhere[f"blocks.0.{hook}"].shape == cache[f"blocks.0.{hook}"].shape
    _, here = model.run_with_cache(tokens, device="cpu")
    assert all(torch.equal(here[key], cache[key]) for key in cache)
    away = cache.to("meta")
    assert all(value.device.type == "meta" for value in tensors_in(away._values.values()))


def test_without_a_batch_axis(model, tokens):
    _, cache = model.run_with_cache(tokens[:1])
    _, single = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    for key in cache:
        expected = cache[key] if key.endswith("hook_A") else cache[key][0]
        assert torch.equal(single[key], expected), key
    assert torch.equal(single["blocks.1.hook_h"], cache["blocks.1.hook_h"][0])
    assert torch.equal(single["blocks.1.hook_h@3:6"], cache["blocks.1.hook_h"][0, 3:6])
    assert single.n_pos == N_POS


def test_names_cost_nothing(cache, monkeypatch):
    from mechtest.models import activation_cache

    def fail(*args):
        raise AssertionError("something was rebuilt")

    monkeypatch.setattr(activation_cache, "value_of", fail)
    monkeypatch.setattr(activation_cache, "stacked", fail)
    assert "blocks.0.hook_h" in cache
    assert "blocks.0.hook_h.20" in cache
    assert "blocks.0.state@3" in cache
    assert ("A_bar", 1) in cache
    assert "blocks.7.hook_h" not in cache
    assert 3 not in cache
    assert cache.n_pos == N_POS
    assert len(list(cache)) == len(cache)
    assert "rebuilt on demand" in repr(cache)


def test_the_size_shown_is_the_memory_held(model, tokens):
    _, cache = model.run_with_cache(tokens)
    assert f"{held(cache) / 1e6:.1f} MB" in repr(cache)
    _, kept = model.run_with_cache(tokens, rebuild=False)
    assert held(kept) > 3 * held(cache)
    assert "demand" not in repr(kept)


def test_a_plain_dictionary_holds_tensors(model, tokens, cache):
    _, plain = model.run_with_cache(tokens, return_cache_object=False)
    assert type(plain) is dict
    assert all(torch.equal(plain[key], cache[key]) for key in cache)


def test_training_on_does_not_reach_into_a_cache(tokens):
    model = tiny_model()
    _, cache = model.run_with_cache(tokens)
    before = dict(cache)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(cache[key], before[key]) for key in before)


def test_rebuilt_values_carry_no_graph(model, tokens):
    _, cache = model.run_with_cache(tokens)
    assert not any(value.requires_grad for value in cache.values())
    assert not any(value.requires_grad for value in tensors_in(cache._values.values()))
    with torch.inference_mode():
        _, inside = model.run_with_cache(tokens)
    assert all(torch.allclose(inside[key], cache[key], atol=1e-5) for key in cache)


def test_an_edited_block_is_read_and_the_others_are_not(model, tokens):
    _, cache = model.run_with_cache(tokens, fwd_hooks=[("blocks.0.hook_h.3", add(1.0))])
    names = recipes(cache)
    assert not any(name.startswith("blocks.0.hook_h.") for name in names)
    assert "blocks.0.hook_A_bar" in names
    assert "blocks.1.hook_h.3" in names


def test_permanent_and_direct_hooks_count_as_edits(tokens):
    model = tiny_model()
    model.add_perma_hook("blocks.0.hook_A_bar", zero)
    model.hook_dict["blocks.1.hook_h.2"].add_hook(zero)
    _, cache = model.run_with_cache(tokens)
    assert not cache["blocks.0.hook_A_bar"].any()
    assert torch.equal(cache["blocks.0.hook_h.4"], cache["blocks.0.hook_ssm_write"][:, 4])
    assert not cache["blocks.1.hook_h.2"].any()
    assert cache["blocks.1.hook_h.1"].any()


def test_a_hook_added_in_mid_run_is_refused(model, tokens):
    def sneak(value, hook):
        model.hook_dict["blocks.0.hook_h.2"].add_hook(zero)

    with pytest.raises(SiteNotServedError, match="while the model was running"):
        model.run_with_cache(tokens, fwd_hooks=[("hook_embed", sneak)])
    model.reset_hooks()


def test_what_was_not_reached_is_named(model, tokens):
    for name in ("blocks.1.hook_A_bar", "blocks.1.hook_h.3", "blocks.1.hook_h"):
        with pytest.raises(SiteNotReachedError, match=name.replace(".", r"\.")):
            model.run_with_cache(tokens, names_filter=name, stop_at_layer=1)
    assert not model.has_any_hooks
    assert not any(block._forward_hooks for block in model.blocks)


def test_a_file_with_an_unknown_step_is_refused(model, tokens, tmp_path, monkeypatch):
    from mechtest.models import cache_file

    _, cache = model.run_with_cache(tokens, names_filter="blocks.0.hook_A_bar")
    cache.save(tmp_path / "cache.safetensors")
    monkeypatch.delitem(cache_file.STEPS, "decay")
    with pytest.raises(CheckpointFormatError, match="unknown here"):
        ActivationCache.load(tmp_path / "cache.safetensors")


def test_files_without_recipes_are_still_read(cache, tmp_path):
    import json

    from safetensors.torch import save_file

    about = {"format": "mechtest-activations/1", "n_layers": 2, "has_batch_dim": True}
    about["order"] = ["hook_embed", "blocks.0.hook_y"]
    values = {name: cache[name].clone() for name in about["order"]}
    save_file(values, tmp_path / "old.safetensors", metadata={"mechtest": json.dumps(about)})
    old = ActivationCache.load(tmp_path / "old.safetensors")
    assert list(old) == about["order"]
    assert torch.equal(old["y", 0], cache["y", 0])
