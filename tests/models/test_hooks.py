"""Hooks see and replace what they name, nothing else, and never get lost in silence."""

import functools

import pytest
import torch

from mechtest.errors import (
    HookOutputError,
    PositionError,
    SiteNotReachedError,
    SiteNotServedError,
    UnknownSiteError,
)
from mechtest.kernels import FUSED
from tests.tiny import tiny_model, tiny_tokens

N_POS = 7


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens(model):
    return tiny_tokens(model, n_pos=N_POS)


@pytest.fixture
def clean(model, tokens):
    return model(tokens)


def every_name():
    return tiny_model().resolver.all_names(N_POS, fused=True)


@pytest.mark.parametrize("d_conv", [2, 4])
@pytest.mark.parametrize("fast_ssm", [None, False])
def test_an_identity_hook_changes_no_bit_at_any_site(d_conv, fast_ssm):
    model = tiny_model(d_conv=d_conv, d_model=9)
    tokens = tiny_tokens(model, n_pos=N_POS)
    clean = model(tokens, fast_ssm=fast_ssm)
    names = [*model.resolver.all_names(N_POS, fused=True), "blocks.0.state@3", "blocks.*.hook_h"]
    for name in names:
        hooked = model.run_with_hooks(
            tokens, fwd_hooks=[(name, lambda value, hook: value)], fast_ssm=fast_ssm
        )
        if fast_ssm is None and any(hidden in name for hidden in FUSED.hides):
            # The fused scan steps aside for the reference, which rounds otherwise.
            assert torch.allclose(hooked, clean, rtol=1e-5, atol=1e-6), name
        else:
            assert torch.equal(hooked, clean), name


def test_caching_everything_changes_no_bit(model, tokens, clean):
    logits, _ = model.run_with_cache(tokens)
    assert torch.equal(logits, clean)


@pytest.mark.parametrize("name", every_name())
def test_an_edit_at_every_site_reaches_the_logits(model, tokens, clean, name):
    """No site is a silent no-op: scaling its value changes the output (the start state is zero)."""

    def edit(value, hook):
        return value + 0.5 if name.endswith("hook_h_start") else value * 1.5

    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
    suffix = name.rpartition(".")[2]
    position = int(suffix) if suffix.isdigit() else 0
    if name.endswith(f"hook_conv_state.{N_POS - 1}"):
        # The window after the last position is only seen by what comes next.
        assert torch.equal(edited, clean)
    elif name.endswith(f"hook_h.{N_POS - 1}") or position == N_POS - 1:
        assert not torch.allclose(edited[:, -1], clean[:, -1])
    else:
        assert not torch.allclose(edited, clean)


@pytest.mark.parametrize("position", [0, 3, 6])
def test_a_state_edit_propagates_forward_and_never_back(model, tokens, clean, position):
    name = f"blocks.0.hook_h.{position}"
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda h, hook: h + 1)])
    assert torch.equal(edited[:, :position], clean[:, :position])
    assert all(
        not torch.allclose(edited[:, p], clean[:, p], atol=1e-6) for p in range(position, N_POS)
    )


@pytest.mark.parametrize("position", [0, 2, 5])
def test_a_window_edit_is_seen_by_the_next_positions_only(model, tokens, position):
    """hook_conv_state.p changes the convolution at p+1 .. p+d_conv-1 and nothing at p."""
    name = f"blocks.1.hook_conv_state.{position}"
    _, before = model.run_with_cache(tokens, names_filter="blocks.1.hook_conv")
    _, after = model.run_with_cache(
        tokens,
        names_filter="blocks.1.hook_conv",
        fwd_hooks=[(name, lambda window, hook: window + 1)],
    )
    change = (after["blocks.1.hook_conv"] - before["blocks.1.hook_conv"]).abs().amax(dim=(0, 2))
    touched = set(range(position + 1, min(position + model.cfg.d_conv, N_POS)))
    assert {p for p in range(N_POS) if change[p] > 1e-6} == touched


def test_windows_that_are_read_show_an_edit_made_before_them(model, tokens):
    """Reading every window while one is edited gives what reading them one by one gives."""
    edit = [("blocks.0.hook_conv_state.2", lambda window, hook: window + 1)]
    _, together = model.run_with_cache(
        tokens, names_filter="blocks.0.hook_conv_state", fwd_hooks=edit
    )
    for position in range(N_POS):
        name = f"blocks.0.hook_conv_state.{position}"
        _, alone = model.run_with_cache(tokens, names_filter=name, fwd_hooks=edit)
        assert torch.equal(together[name], alone[name])
    _, clean = model.run_with_cache(tokens, names_filter="blocks.0.hook_conv_state")
    changed = [p for p in range(N_POS) if not torch.equal(
        together[f"blocks.0.hook_conv_state.{p}"], clean[f"blocks.0.hook_conv_state.{p}"]
    )]  # fmt: skip
    assert changed == [2, 3, 4]  # d_conv - 1 rows: gone after three positions


def test_editing_a_residual_row_in_place_works_as_in_mambalens(model, tokens, clean):
    """An in-place edit counts, whether the tensor is returned or not, and corrupts no cache."""

    def edit(resid, hook, position, give_back):
        resid[:, position] = 0.0
        return resid if give_back else None

    outputs = []
    for give_back in (True, False):
        hook = functools.partial(edit, position=2, give_back=give_back)
        logits, cache = model.run_with_cache(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", hook)])
        assert (cache["blocks.1.hook_resid_pre"][:, 2] == 0).all()
        assert (cache["blocks.0.hook_resid_post"][:, 2] != 0).any()
        outputs.append(logits)
    assert torch.equal(*outputs)
    assert torch.equal(outputs[0][:, :2], clean[:, :2])
    assert not torch.allclose(outputs[0][:, 2:], clean[:, 2:])


def test_layer_input_edits_the_mixer_and_not_the_residual_stream(model, tokens):
    name = "blocks.1.hook_layer_input"
    _, cache = model.run_with_cache(tokens, fwd_hooks=[(name, lambda value, hook: value * 0)])
    expected = cache["blocks.1.hook_resid_pre"] + cache["blocks.1.hook_out_proj"]
    assert torch.equal(cache["blocks.1.hook_resid_post"], expected)
    assert (cache["blocks.1.hook_resid_pre"] != 0).any()


@pytest.mark.parametrize(
    "hook",
    [
        lambda value, hook: value * 0,
        lambda value, point: value * 0,
        lambda value, *, hook: value * 0,
        functools.partial(lambda value, hook, scale: value * scale, scale=0),
        functools.partial(lambda value, scale, hook: value * scale, scale=0),
    ],
    ids=["plain", "other name", "keyword only", "partial", "partial in front"],
)
def test_hook_functions_of_every_shape_are_called(model, tokens, clean, hook):
    out = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_y", hook)])
    assert not torch.allclose(out, clean)


def test_a_position_in_the_name_narrows_what_the_function_sees(model, tokens):
    seen = {}

    def look(value, hook):
        seen[hook.name] = value.shape

    sites = ["blocks.0.hook_y@3", "blocks.1.hook_y@2:5", "blocks.0.hook_resid_post@last"]
    model.run_with_hooks(tokens, fwd_hooks=[(site, look) for site in sites])
    inner, width = model.cfg.E, model.cfg.D
    assert seen == {
        "blocks.0.hook_y": (3, inner),
        "blocks.1.hook_y": (3, 3, inner),
        "blocks.0.hook_resid_post": (3, width),
    }


def test_an_edit_at_one_position_leaves_the_other_rows(model, tokens):
    _, cache = model.run_with_cache(
        tokens, fwd_hooks=[("blocks.0.hook_y@-2", lambda row, hook: row * 0 + 7)]
    )
    _, clean = model.run_with_cache(tokens)
    assert (cache["blocks.0.hook_y"][:, -2] == 7).all()
    others = [p for p in range(N_POS) if p != N_POS - 2]
    assert torch.equal(cache["blocks.0.hook_y"][:, others], clean["blocks.0.hook_y"][:, others])


def test_the_state_site_hooks_state_and_window(model, tokens):
    names = []
    model.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.state@2", lambda value, hook: names.append(hook.name))]
    )
    assert names == ["blocks.1.hook_conv_state.2", "blocks.1.hook_h.2"]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("blocks.0.mixer.conv1d.hook_out", "blocks.0.hook_conv"),
        ("blocks.0.hook_ssm_dt", "blocks.0.hook_delta_2"),
        ("backbone.layers.1.mixer.out_proj", "blocks.1.hook_out_proj"),
        ("blocks.0.hook_ssm_state.4", "blocks.0.hook_h.4"),
        ("lm_head", "hook_logits"),
    ],
)
def test_aliases_reach_the_same_hook(model, tokens, alias, name):
    seen = []
    model.run_with_hooks(tokens, fwd_hooks=[(alias, lambda value, hook: seen.append(hook.name))])
    assert seen == [name]
    _, cache = model.run_with_cache(tokens, names_filter=alias)
    assert list(cache) == [name]


def test_the_fused_projection_is_its_two_halves(model, tokens):
    _, cache = model.run_with_cache(
        tokens,
        names_filter=[
            "blocks.0.mixer.in_proj.hook_out",
            "blocks.0.hook_in_proj",
            "blocks.0.hook_skip",
            "blocks.0.mixer.x_proj.hook_out",
            "blocks.0.hook_delta_1",
            "blocks.0.hook_B",
            "blocks.0.hook_C",
        ],
    )
    parts = torch.cat([cache["blocks.0.hook_in_proj"], cache["blocks.0.hook_skip"]], dim=-1)
    assert torch.equal(cache["backbone.layers.0.mixer.in_proj"], parts)
    parts = [cache[f"blocks.0.hook_{name}"] for name in ("delta_1", "B", "C")]
    assert torch.equal(cache["backbone.layers.0.mixer.x_proj"], torch.cat(parts, dim=-1))


def test_hooks_run_in_order_and_prepend_goes_first(model, tokens):
    order = []

    def note(label):
        return lambda value, hook: order.append(label)

    try:
        model.add_hook("hook_embed", note("first"))
        model.add_hook("hook_embed", note("second"))
        model.add_hook("hook_embed", note("zeroth"), prepend=True)
        model(tokens)
    finally:
        model.reset_hooks()
    assert order == ["zeroth", "first", "second"]


def test_contexts_nest_and_leave_nothing_behind(model, tokens, clean):
    zero = [("blocks.0.hook_y", lambda value, hook: value * 0)]
    with model.hooks(fwd_hooks=zero):
        inner = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_y", zero[0][1])])
        outer = model(tokens)
    assert not torch.equal(inner, outer)
    assert not torch.equal(outer, clean)
    assert torch.equal(model(tokens), clean)
    assert not model.has_any_hooks


def test_hooks_are_removed_when_the_run_fails(model, tokens, clean):
    def fail(value, hook):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_h.2", fail)])
    assert torch.equal(model(tokens), clean)
    assert not model.has_any_hooks


def test_permanent_hooks_survive_a_reset(tokens):
    model = tiny_model()
    calls = []
    model.add_perma_hook("blocks.*.hook_h.*", lambda h, hook: calls.append(hook.name))
    model.reset_hooks()
    model(tokens)
    assert len(calls) == 2 * N_POS
    model.reset_hooks(including_permanent=True)
    model(tokens)
    assert len(calls) == 2 * N_POS


def test_hooks_put_on_a_point_directly_work(tokens):
    model = tiny_model()
    clean = model(tokens)
    model.hook_dict["blocks.0.hook_h.3"].add_hook(lambda h, hook: h * 0)
    model.blocks[1].hook_y.add_hook(lambda y, hook: y * 0)
    assert not torch.allclose(model(tokens)[:, 3:], clean[:, 3:])
    model.reset_hooks()
    assert torch.equal(model(tokens), clean)


def test_hooks_for_positions_follow_each_prompt(model):
    """One request, prompts of two lengths: @last and hook_h mean the right places in both."""
    seen = []
    with model.hooks(
        fwd_hooks=[("blocks.0.state@last", lambda value, hook: seen.append(hook.name))]
    ):
        model(tiny_tokens(model, n_pos=4))
        model(tiny_tokens(model, n_pos=6))
    assert [name for name in seen if "hook_h" in name] == ["blocks.0.hook_h.3", "blocks.0.hook_h.5"]


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("blocks.1.hook_hh.3", "blocks.1.hook_h.3"),
        ("blocks.0.hook_deltas", "blocks.0.hook_delta"),
        ("blocks.2.hook_y", "blocks.1.hook_y"),
        ("hook_embd", "hook_embed"),
        ("blocks.*.hook_yy", None),
    ],
)
def test_unknown_names_raise_with_the_closest(model, tokens, name, closest):
    for call in (
        lambda: model.run_with_hooks(tokens, fwd_hooks=[(name, lambda v, hook: v)]),
        lambda: model.run_with_cache(tokens, names_filter=name),
        lambda: model.run_with_cache(tokens, names_filter=[name]),
        lambda: model.add_hook(name, lambda v, hook: v),
    ):
        with pytest.raises(UnknownSiteError) as error:
            call()
        assert closest is None or closest in error.value.closest
    assert not model.has_any_hooks


def test_filters_that_select_nothing_raise(model, tokens):
    with pytest.raises(UnknownSiteError):
        model.run_with_cache(tokens, names_filter=[])
    with pytest.raises(UnknownSiteError):
        model.run_with_cache(tokens, names_filter=lambda name: False)


def test_a_position_past_the_end_raises(model, tokens):
    with pytest.raises(PositionError, match="outside a prompt of 7 tokens"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_h.7", lambda h, hook: h)])


def test_a_role_needs_a_prompt_file(model, tokens):
    with pytest.raises(PositionError, match="nobody defined the position role 'S2'"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_y@S2", lambda y, hook: y)])


def test_a_hook_beyond_the_last_layer_run_raises(model, tokens):
    with pytest.raises(SiteNotReachedError, match=r"blocks\.1\.hook_y never fired"):
        model.run_with_hooks(
            tokens, stop_at_layer=1, fwd_hooks=[("blocks.1.hook_y", lambda y, hook: y)]
        )
    with pytest.raises(SiteNotReachedError):
        model.run_with_cache(tokens, stop_at_layer=1, names_filter="blocks.1.hook_y")


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (lambda value, hook: value[:, :-1], "does not fit"),
        (lambda value, hook: value.double(), "float64"),
        (lambda value, hook: value.tolist(), "returned list"),
        (lambda value, hook: (value,), "returned tuple"),
    ],
    ids=["shape", "dtype", "list", "tuple"],
)
def test_unusable_hook_outputs_raise(model, tokens, hook, text):
    with pytest.raises(HookOutputError, match=text):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_y", hook)])


@pytest.mark.parametrize("name", ["hook_A_bar", "hook_B_bar", "hook_ssm_write"])
def test_hooks_that_the_fast_scan_hides_force_the_other_or_raise(model, tokens, clean, name):
    hooks = [(f"blocks.0.{name}", lambda value, hook: value * 0)]
    edited = model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert model.last_scans == ("reference", "fused")
    assert not torch.allclose(edited, clean)
    with pytest.raises(SiteNotServedError, match=name):
        model.run_with_hooks(tokens, fwd_hooks=hooks, fast_ssm=True)


def test_mambalens_keywords_are_taken(model, tokens, clean):
    """fast_ssm and fast_conv never change a value, and hook_h is served by the fast scan."""
    hooks = [("blocks.0.hook_h.3", lambda h, hook: h * 0)]
    slow = model.run_with_hooks(tokens, fwd_hooks=hooks, fast_ssm=False, fast_conv=False)
    fast = model.run_with_hooks(tokens, fwd_hooks=hooks, fast_ssm=True, fast_conv=True)
    assert torch.allclose(slow, fast, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(slow, clean)


def test_backward_hooks_see_gradients_and_can_replace_them(model, tokens):
    seen = {}

    def note(grad, hook):
        seen[hook.name] = grad

    names = ["blocks.0.hook_h.2", "blocks.1.hook_resid_pre", "blocks.1.hook_conv_state.4"]
    out = model.run_with_hooks(tokens, bwd_hooks=[(name, note) for name in names])
    out[:, -1].sum().backward()
    assert set(seen) == set(names)
    assert all(grad.abs().max() > 0 for grad in seen.values())

    model.zero_grad()
    out = model.run_with_hooks(
        tokens, bwd_hooks=[("blocks.0.hook_resid_post", lambda grad, hook: grad * 0)]
    )
    out[:, -1].sum().backward()
    assert model.blocks[0].mixer.D.grad.abs().max() == 0
    assert model.blocks[1].mixer.D.grad.abs().max() > 0
    model.zero_grad()


def test_backward_hooks_without_gradients_raise(model, tokens):
    with torch.no_grad(), pytest.raises(SiteNotReachedError, match="gradients are off"):
        model.run_with_hooks(tokens, bwd_hooks=[("blocks.0.hook_y", lambda grad, hook: grad)])
