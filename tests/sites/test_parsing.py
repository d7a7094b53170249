"""A site name is read in every accepted spelling, written in one, or refused with advice."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import MechtestError, PositionError, UnknownSiteError
from mechtest.sites import MAMBA1_HOOKS, Position, Site
from mechtest.sites.aliases import aliases_of, canonical
from mechtest.sites.position import Bound
from mechtest.sites.table import BLOCK_HOOKS, HOOKS_BY_NAME

offsets = st.integers(-40, 40)
roles = st.sampled_from(["last", "S2", "subject", "io_1"])
bounds = st.builds(Bound, st.none() | roles, offsets)
singles = st.builds(Position, bounds, st.none(), st.just(False))  # noqa: FBT003
ranges = st.builds(Position, st.none() | bounds, st.none() | bounds)
positions = singles | ranges


def sites():
    return st.sampled_from([*MAMBA1_HOOKS, None]).flatmap(_sites_of)


def _sites_of(spec):
    has_positions = spec is None or spec.per_position or spec.position_axis is not None
    where = positions if has_positions else st.just(Position())
    layers = st.none() if spec is not None and spec.scope == "model" else st.integers(-5, 99)
    return st.builds(Site, st.just(spec.name if spec else "state"), layers, where)


@given(sites())
def test_what_is_written_is_read_back(site):
    assert Site.parse(str(site)) == site


@given(st.text() | st.text("blocks.0123hook_h@:-+last*²٣", max_size=30))
def test_any_text_is_a_site_or_an_error_of_ours(text):
    try:
        site = Site.parse(text)
    except MechtestError:
        return
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("blocks.1.hook_h.7", "blocks.1.hook_h.7"),
        ("blocks.1.hook_h@7", "blocks.1.hook_h.7"),
        ("blocks.1.hook_h@-1", "blocks.1.hook_h@-1"),
        ("blocks.1.hook_h", "blocks.1.hook_h"),
        ("blocks.1.hook_h@:", "blocks.1.hook_h"),
        ("blocks.0.state@last", "blocks.0.state@last"),
        ("blocks.0.state@last-2", "blocks.0.state@last-2"),
        ("blocks.01.hook_y@+3", "blocks.1.hook_y@3"),
        ("blocks.1.hook_resid_pre@S2:", "blocks.1.hook_resid_pre@S2:"),
        ("hook_embed@2:S2+1", "hook_embed@2:S2+1"),
        ("backbone.layers.0.mixer.conv1d", "blocks.0.hook_conv"),
        ("backbone.layers.0.mixer.conv1d@3", "blocks.0.hook_conv@3"),
        ("backbone.layers.3", "blocks.3.hook_resid_post"),
        ("blocks.2.hook_ssm_state.5", "blocks.2.hook_h.5"),
        ("blocks.2.mixer.hook_ssm_state@5", "blocks.2.hook_h.5"),
        ("lm_head", "hook_logits"),
    ],
)
def test_spellings(text, written):
    assert str(Site.parse(text)) == written


def every_alias():
    """Return (alias, hook) for every other name the listings promise."""
    return [(alias, spec.name) for spec in MAMBA1_HOOKS for alias in aliases_of(spec.name)]


@pytest.mark.parametrize(("alias", "hook"), every_alias())
def test_every_alias_is_the_site_it_stands_for(alias, hook):
    site = Site.parse(alias.replace("{l}", "1"))
    assert site.hook == hook
    assert site.layer == (1 if HOOKS_BY_NAME[hook].scope == "block" else None)


def test_there_are_aliases_of_all_three_vocabularies():
    aliases = [alias for alias, _ in every_alias()]
    assert {"blocks.{l}.mixer.conv1d.hook_out", "blocks.{l}.hook_ssm_state", "lm_head"} <= {
        *aliases
    }
    assert "backbone.layers.{l}.mixer" in aliases
    assert len(aliases) == len(set(aliases))


@pytest.mark.parametrize("spec", MAMBA1_HOOKS, ids=lambda spec: spec.name)
def test_our_own_names_are_no_aliases(spec):
    """No alias shadows a MambaLens name."""
    name = spec.name if spec.scope == "model" else f"blocks.0.{spec.name}"
    assert canonical(name) == name
    assert Site.parse(name).spec is spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "blocks.3.hook_hh.7",
            r"\[MT101\] no site 'blocks\.3\.hook_hh\.7'(.|\n)*blocks\.3\.hook_h",
        ),
        ("block.0.hook_h", r"no site 'block\.0\.hook_h'(.|\n)*closest +blocks\.0\.hook_h"),
        ("hook_embd", r"closest +hook_embed"),
        ("hook_h", r"expected +hook_\.\.\., blocks\.\{l\}\.hook_"),
        ("blocks.0.hook_embed", r"no site 'blocks\.0\.hook_embed'"),
        ("blocks.0.hook_h.-1", r"no site"),
        ("blocks.0.hook_h.²", r"no site"),
        ("state@3", r"no site 'state@3'"),
        ("", r"no site ''"),
        ("blocks.0.hook_h2", r"next +list every site with: mechtest sites MODEL"),
    ],
)
def test_unknown_names_say_what_is_near(text, message):
    with pytest.raises(UnknownSiteError, match=message) as caught:
        Site.parse(text)
    assert caught.value.given == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks.0.hook_A@3", r"hook_A has no positions: its axes are d_inner d_state"),
        ("blocks.0.hook_h_start@0", r"hook_h_start has no positions"),
        ("blocks.0.hook_h.3@4", r"names its position twice(.|\n)*or blocks\.0\.hook_h@4, not both"),
        ("blocks.0.hook_y@", r"cannot read the position ''"),
        ("blocks.0.hook_y@3.5", r"cannot read the position '3\.5'(.|\n)*an index \(3, -1\)"),
        ("blocks.0.hook_y@1:2:3", r"cannot read the position '1:2:3'"),
        ("blocks.0.hook_y@S2 + 1", r"cannot read the position"),
    ],
)
def test_positions_that_mean_nothing_are_refused(text, message):
    with pytest.raises(PositionError, match=message):
        Site.parse(text)


def test_the_state_is_two_hooks():
    """Neither half alone is a cut: `hook_h` without the window lets the last tokens through."""
    assert [str(part) for part in Site.parse("blocks.2.state@4").parts] == [
        "blocks.2.hook_conv_state.4",
        "blocks.2.hook_h.4",
    ]
    lone = Site.parse("blocks.2.hook_y@4")
    assert lone.parts == (lone,)


def test_sites_are_values():
    """Equal names are equal sites; they hash, and survive a trip to a worker process."""
    site = Site.parse("blocks.1.hook_h.7")
    assert {site, Site.parse("blocks.1.hook_h@7")} == {site}
    assert pickle.loads(pickle.dumps(site)) == site


def test_the_table_has_mambalens_order_and_no_duplicates():
    names = [spec.name for spec in MAMBA1_HOOKS]
    assert len(names) == len(set(names))
    assert [spec.name for spec in MAMBA1_HOOKS if not spec.extra] == [
        "hook_embed",
        "hook_resid_pre",
        "hook_layer_input",
        "hook_normalized_input",
        "hook_skip",
        "hook_in_proj",
        "hook_conv",
        "hook_ssm_input",
        "hook_A",
        "hook_delta_1",
        "hook_delta_2",
        "hook_B",
        "hook_C",
        "hook_delta",
        "hook_A_bar",
        "hook_B_bar",
        "hook_h_start",
        "hook_h",
        "hook_y",
        "hook_ssm_output",
        "hook_after_skip",
        "hook_out_proj",
        "hook_resid_post",
        "hook_norm",
        "hook_logits",
    ]
    assert {spec.name for spec in BLOCK_HOOKS if spec.per_position} == {
        "hook_h",
        "hook_conv_state",
    }
