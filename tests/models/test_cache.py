"""The cache holds what was asked for, finds it under every name, and survives a file."""

import pytest
import torch

from mechtest.errors import (
    CheckpointFormatError,
    NotCachedError,
    PositionError,
    ShapeError,
    UnknownSiteError,
)
from mechtest.models import ActivationCache, RecurrentState
from tests.tiny import tiny_model, tiny_tokens

N_POS = 5


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens(model):
    return tiny_tokens(model, n_pos=N_POS)


@pytest.fixture(scope="module")
def cache(model, tokens):
    return model.run_with_cache(tokens)[1]


def test_shapes_are_those_of_the_table(model, cache):
    cfg = model.cfg
    sizes = {
        "batch": 3,
        "pos": N_POS,
        "d_model": cfg.D,
        "d_inner": cfg.E,
        "d_state": cfg.N,
        "dt_rank": cfg.R,
        "d_conv-1": cfg.d_conv - 1,
        "d_vocab": cfg.d_vocab,
    }
    from mechtest.sites import Site

    for name, value in cache.items():
        assert value.shape == tuple(sizes[axis] for axis in Site.parse(name).spec.axes), name


def test_names_come_in_firing_order(model, cache):
    assert list(cache) == model.resolver.all_names(N_POS)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("blocks.0.hook_h.3", 1),
        ("blocks.0.hook_h", N_POS),
        ("blocks.*.hook_h.*", 2 * N_POS),
        ("blocks.*.hook_resid_pre", 2),
        (["hook_embed", "blocks.1.state@last"], 3),
        (lambda name: name.endswith("hook_y"), 2),
        ("blocks.-1.hook_y", 1),
    ],
)
def test_filters_keep_what_they_select(model, tokens, cache, names, count):
    _, kept = model.run_with_cache(tokens, names_filter=names)
    assert len(kept) == count
    assert all(torch.equal(kept[name], cache[name]) for name in kept)


def test_lookup_understands_positions_trajectories_and_short_names(cache):
    stacked = cache["blocks.0.hook_h"]
    assert stacked.shape[1] == N_POS
    assert torch.equal(stacked[:, 2], cache["blocks.0.hook_h.2"])
    assert torch.equal(cache["blocks.0.hook_h@-1"], cache[f"blocks.0.hook_h.{N_POS - 1}"])
    assert torch.equal(cache["blocks.1.hook_y@last"], cache["blocks.1.hook_y"][:, -1])
    assert torch.equal(cache["blocks.1.hook_y@1:3"], cache["blocks.1.hook_y"][:, 1:3])
    assert torch.equal(cache["resid_pre", 1], cache["blocks.1.hook_resid_pre"])
    assert torch.equal(cache["backbone.layers.0.mixer.conv1d"], cache["blocks.0.hook_conv"])


def test_the_state_site_is_state_and_window(cache):
    state = cache["blocks.0.state@3"]
    assert isinstance(state, RecurrentState)
    assert torch.equal(state.h, cache["blocks.0.hook_h.3"])
    assert torch.equal(state.conv, cache["blocks.0.hook_in_proj"][:, 1:4])


def test_missing_and_unknown_names_are_told_apart(model, tokens):
    _, small = model.run_with_cache(tokens, names_filter="blocks.0.hook_y")
    with pytest.raises(NotCachedError, match="was not cached"):
        small["blocks.1.hook_y"]
    with pytest.raises(UnknownSiteError):
        small["blocks.0.hook_yy"]
    with pytest.raises(KeyError):
        small["blocks.0.hook_C"]
    assert "blocks.1.hook_y" not in small
    assert small.get("blocks.1.hook_y") is None


@pytest.mark.parametrize("kept", [2, -1, slice(1, 4), [0, 3], slice(None, None, 2)])
def test_pos_slice_keeps_those_positions(model, tokens, cache, kept):
    _, part = model.run_with_cache(tokens, pos_slice=kept)
    assert torch.equal(part["blocks.0.hook_y"], cache["blocks.0.hook_y"][:, kept])
    assert torch.equal(part["hook_logits"], cache["hook_logits"][:, kept])
    assert torch.equal(part["blocks.0.hook_A"], cache["blocks.0.hook_A"])
    wanted = [kept % N_POS] if isinstance(kept, int) else torch.arange(N_POS)[kept].tolist()
    assert [n for n in part if "0.hook_h." in n] == [f"blocks.0.hook_h.{p}" for p in wanted]


def test_pos_slice_outside_the_prompt_raises(model, tokens):
    with pytest.raises(PositionError, match="pos_slice"):
        model.run_with_cache(tokens, pos_slice=N_POS)
    with pytest.raises(PositionError, match="keeps none"):
        model.run_with_cache(tokens, names_filter="blocks.0.hook_h.1", pos_slice=2)


def test_stop_at_layer_returns_the_residual_stream_and_caches_what_ran(model, tokens, cache):
    for stop, name in (
        (0, "hook_embed"),
        (1, "blocks.1.hook_resid_pre"),
        (-1, "blocks.1.hook_resid_pre"),
    ):
        resid, part = model.run_with_cache(tokens, stop_at_layer=stop)
        assert torch.equal(resid, cache[name])
        assert "hook_logits" not in part
        assert all(torch.equal(part[n], cache[n]) for n in part)


def test_start_at_layer_continues_a_residual_stream(model, tokens, cache):
    resid = cache["blocks.1.hook_resid_pre"]
    assert torch.equal(model(resid, start_at_layer=1), cache["hook_logits"])
    assert torch.equal(model(resid, start_at_layer=-1), cache["hook_logits"])


def test_layers_outside_the_model_raise(model, tokens):
    with pytest.raises(ShapeError, match="layers outside"):
        model(tokens, stop_at_layer=3)
    with pytest.raises(ShapeError, match="layers outside"):
        model(tokens, only_use_these_layers=[2])


def test_gradients_are_cached_on_request(model, tokens):
    _, cache = model.run_with_cache(
        tokens,
        names_filter=["blocks.0.hook_h.1", "blocks.1.hook_resid_pre"],
        incl_bwd=lambda logits: logits[:, -1, 3].sum(),
    )
    assert cache["blocks.0.hook_h.1_grad"].shape == cache["blocks.0.hook_h.1"].shape
    assert cache["blocks.1.hook_resid_pre_grad"].abs().max() > 0
    model.zero_grad()
    _, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    assert cache["hook_logits_grad"].abs().max() > 0
    assert cache["blocks.0.hook_A_grad"].abs().max() > 0
    model.zero_grad()


def test_decompose_resid_adds_up(model, cache):
    for layer in (0, 1, 2, None):
        parts, labels = cache.decompose_resid(layer, return_labels=True)
        target = (
            cache["hook_embed"]
            if layer == 0
            else cache["blocks.1.hook_resid_pre" if layer == 1 else "blocks.1.hook_resid_post"]
        )
        assert torch.allclose(parts.sum(dim=0), target, atol=1e-5)
        assert len(labels) == len(parts)
    with pytest.raises(ShapeError, match="outside a model"):
        cache.decompose_resid(3)


def test_stack_runs_over_layers_and_positions(model, cache):
    assert cache.stack("resid_pre").shape == (2, 3, N_POS, model.cfg.D)
    states = cache.stack("hook_h")
    assert states.shape == (2, 3, N_POS, model.cfg.E, model.cfg.N)
    assert torch.equal(states[1, :, 4], cache["blocks.1.hook_h.4"])


def test_save_and_load_keep_every_bit_and_the_order(cache, tmp_path):
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    loaded = ActivationCache.load(path)
    assert list(loaded) == list(cache)
    assert all(torch.equal(loaded[name], cache[name]) for name in cache)
    assert torch.equal(loaded["blocks.0.hook_h@last"], cache["blocks.0.hook_h@last"])


def test_foreign_and_damaged_files_are_refused(cache, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointFormatError, match="holds no activations"):
        ActivationCache.load(tmp_path / "other.safetensors")
    cache.save(tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointFormatError, match="cannot be read"):
        ActivationCache.load(tmp_path / "cut.safetensors")


def test_batch_axis_can_be_dropped_for_one_prompt_only(model, tokens, cache):
    _, single = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert single["hook_embed"].shape == (N_POS, model.cfg.D)
    assert single["blocks.0.hook_A"].shape == (model.cfg.E, model.cfg.N)
    assert torch.equal(single["blocks.0.hook_h"][2], single["blocks.0.hook_h.2"])
    assert torch.equal(single["blocks.0.hook_y@last"], single["blocks.0.hook_y"][-1])
    with pytest.raises(ShapeError, match="one prompt"):
        cache.remove_batch_dim()


def test_to_changes_dtype(cache):
    assert cache.to(torch.float64)["hook_embed"].dtype == torch.float64


def test_cached_tensors_do_not_hold_the_graph(cache):
    assert not any(value.requires_grad for value in cache.values())
