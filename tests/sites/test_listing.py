"""The list of sites shows every hook with its shape worked out."""

import re

import pytest

from mechtest.sites.listing import site_table
from mechtest.sites.table import HOOKS_BY_NAME

SIZES = {
    "d_model": 64,
    "d_inner": 128,
    "d_state": 16,
    "dt_rank": 4,
    "d_conv": 4,
    "d_vocab": 376,
}


def row(table, name):
    (line,) = [line for line in table.splitlines() if line.split("  ")[0].strip() == name]
    return re.split(r" {2,}", line)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hook_embed", "batch pos d_model=64"),
        ("hook_logits", "batch pos d_vocab=376"),
        ("blocks.{0..1}.hook_h.{pos}", "batch d_inner=128 d_state=16"),
        ("blocks.{0..1}.hook_conv_state.{pos}", "batch d_conv-1=3 d_inner=128"),
        ("blocks.{0..1}.mixer.in_proj.hook_out", "batch pos 2*d_inner=256"),
        ("blocks.{0..1}.mixer.x_proj.hook_out", "batch pos dt_rank+2*d_state=36"),
        ("blocks.{0..1}.hook_A", "d_inner=128 d_state=16"),
        ("blocks.{0..1}.state@{pos}", "h and conv_state"),
    ],
)
def test_shapes(name, shape):
    assert row(site_table("m", 2, SIZES), name)[1] == shape


def test_every_hook_has_a_line_in_firing_order():
    table = site_table("some-model", 2, SIZES)
    assert table.startswith("some-model: 2 layers")
    shown = [line.split("  ")[0] for line in table.splitlines()[2:]]
    hooks = [name.removeprefix("blocks.{0..1}.").removesuffix(".{pos}") for name in shown]
    assert [name for name in hooks if name in HOOKS_BY_NAME] == list(HOOKS_BY_NAME)


def test_a_model_of_one_layer_has_no_range():
    table = site_table("m", 1, SIZES)
    assert "blocks.0.hook_y " in table
    assert "{0" not in table


def test_sizes_nobody_gave_stay_names():
    assert row(site_table("m", 1, {}), "hook_embed")[1] == "batch pos d_model"


def test_aliases_are_listed_when_asked_for():
    assert "also:" not in site_table("m", 2, SIZES)
    table = site_table("m", 2, SIZES, aliases=True)
    assert "backbone.layers.{l}.mixer.conv1d" in table
    assert "blocks.{l}.hook_ssm_state" in table
