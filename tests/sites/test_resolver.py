"""Names become hook points of one model and positions of one prompt, or an error."""

import pytest

from mechtest.errors import PositionError, UnknownSiteError
from mechtest.sites import HookTarget, SiteResolver

N_LAYERS, N_POS = 3, 5


@pytest.fixture
def resolver():
    return SiteResolver(N_LAYERS)


def names(targets):
    return [target.name for target in targets]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("hook_embed", [HookTarget("hook_embed")]),
        ("blocks.-1.hook_y", [HookTarget("blocks.2.hook_y")]),
        ("blocks.1.hook_h.3", [HookTarget("blocks.1.hook_h.3")]),
        ("blocks.1.hook_h@last", [HookTarget("blocks.1.hook_h.4")]),
        ("blocks.1.hook_h@3:", [HookTarget(f"blocks.1.hook_h.{p}") for p in (3, 4)]),
        ("blocks.1.hook_h.*", [HookTarget(f"blocks.1.hook_h.{p}") for p in range(5)]),
        ("blocks.1.hook_y@-1", [HookTarget("blocks.1.hook_y", range(4, 5), single=True)]),
        ("blocks.1.hook_y@1:3", [HookTarget("blocks.1.hook_y", range(1, 3))]),
        (
            "blocks.0.state@2",
            [HookTarget("blocks.0.hook_conv_state.2"), HookTarget("blocks.0.hook_h.2")],
        ),
        ("blocks.*.hook_h.3", [HookTarget(f"blocks.{layer}.hook_h.3") for layer in range(3)]),
        (
            "blocks.*.hook_ssm_state.3",
            [HookTarget(f"blocks.{layer}.hook_h.3") for layer in range(3)],
        ),
        ("backbone.layers.*.mixer@0", [
            HookTarget(f"blocks.{layer}.hook_out_proj", range(1), single=True)
            for layer in range(3)
        ]),
    ],
)  # fmt: skip
def test_targets(resolver, name, targets):
    assert list(resolver.targets(name, N_POS)) == targets


def test_a_pattern_reaches_every_layer_once_and_no_second_view(resolver):
    found = names(resolver.targets("blocks.*.hook_*", N_POS))
    assert len(found) == len(set(found))
    assert found == [name for name in resolver.all_names(N_POS) if name.startswith("blocks.")]


def test_a_second_view_is_there_when_named(resolver):
    assert names(resolver.targets("blocks.0.mixer.*", N_POS)) == [
        "blocks.0.mixer.in_proj.hook_out",
        "blocks.0.mixer.x_proj.hook_out",
    ]


@pytest.mark.parametrize(
    "name", ["blocks.3.hook_h", "blocks.-4.hook_h", "blocks.9.state@1", "blocks.*.hook_z", "*.x"]
)
def test_what_is_not_in_this_model_is_an_error(resolver, name):
    with pytest.raises(UnknownSiteError, match="in a model of 3 layers"):
        resolver.targets(name, N_POS)


def test_the_error_for_a_layer_too_many_shows_the_last_layer(resolver):
    with pytest.raises(UnknownSiteError, match=r"closest +blocks\.2\.hook_h(.|\n)*\{0\.\.2\}"):
        resolver.site("blocks.3.hook_h")


@pytest.mark.parametrize("name", ["blocks.1.hook_h.5", "blocks.1.hook_y@5", "blocks.*.hook_h.5"])
def test_a_position_outside_the_prompt_is_an_error(resolver, name):
    with pytest.raises(PositionError, match="outside a prompt of 5 tokens"):
        resolver.targets(name, N_POS)


@pytest.mark.parametrize("name", ["blocks.0.hook_h.2@3", "blocks.*.hook_h.2@3"])
def test_a_position_given_twice_is_an_error(resolver, name):
    with pytest.raises(PositionError, match="names its position twice"):
        resolver.targets(name, N_POS)


def test_no_filter_means_every_hook_in_firing_order(resolver):
    assert names(resolver.filtered(None, 2)) == resolver.all_names(2)
    assert resolver.all_names(2)[:2] == ["hook_embed", "blocks.0.hook_resid_pre"]
    assert resolver.all_names(2)[-1] == "hook_logits"
    assert not [name for name in resolver.all_names(2) if "mixer" in name]


def test_a_list_comes_back_in_firing_order_without_duplicates(resolver):
    wanted = ["hook_logits", "blocks.*.hook_y", "blocks.1.hook_y", "hook_embed"]
    assert names(resolver.filtered(wanted, N_POS)) == [
        "hook_embed",
        *[f"blocks.{layer}.hook_y" for layer in range(N_LAYERS)],
        "hook_logits",
    ]


def test_a_predicate_sees_concrete_names(resolver):
    found = names(resolver.filtered(lambda name: name.endswith("hook_h.1"), N_POS))
    assert found == [f"blocks.{layer}.hook_h.1" for layer in range(N_LAYERS)]


@pytest.mark.parametrize("names_filter", [[], lambda name: False, ["hook_nothing"], "blocks.*.q"])
def test_a_filter_that_selects_nothing_is_an_error(resolver, names_filter):
    with pytest.raises(UnknownSiteError):
        resolver.filtered(names_filter, N_POS)
