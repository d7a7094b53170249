"""Marks of charts stay on their scale, for any finite numbers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.report.charts import (
    control_histogram,
    forests,
    heat_map,
    prompt_histogram,
    template_strip,
)
from mechtest.report.geometry import Scale, histogram, scale_over
from tests.report.example import decided_rows, evidence, lens_map, row

NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBER, min_size=1, max_size=20))
def test_a_scale_holds_its_values_in_order(values):
    scale = scale_over(values)
    places = [scale.at(value) for value in sorted(values)]
    assert all(0 <= place <= 100 for place in places)
    assert places == sorted(places)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 20
    assert all(0 <= tick.at <= 100 for tick in ticks)


def test_ticks_are_round():
    assert [tick.text for tick in Scale(0, 1).ticks(5)] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [tick.at for tick in Scale(0, 1).ticks(5)] == [0, 20, 40, 60, 80, 100]


@given(st.lists(NUMBER, min_size=1, max_size=30), NUMBER)
def test_a_histogram_counts_every_value(values, observed):
    chart = histogram(values, observed, None)
    assert chart.total == len(values)
    assert 1 <= chart.tallest <= len(values)
    assert 0 <= chart.observed <= 100
    assert chart.mean is None
    assert "nan" not in chart.outline
    assert "inf" not in chart.outline


def test_bars_stand_where_the_values_are():
    chart = histogram([0, 0, 0, 1], None, None, bins=4)
    assert chart.outline == "M0 100V0h25V100M75 100V66.7h25V100z"


def test_charts_that_cannot_be_drawn_are_absent():
    rng = random.Random(0)
    assert control_histogram(None) is None
    part = evidence(rng)
    assert control_histogram({**part["controls"], "values": []}) is None
    assert prompt_histogram(part).total == 128
    assert prompt_histogram({**part, "behaviours": []}) is None
    assert prompt_histogram({**part, "behaviours": [0.0] * 128}) is None
    assert prompt_histogram({**part, "behaviours": [1e-320] * 128}) is None
    assert prompt_histogram({**part, "effects": [1.0], "behaviours": [1.0]}) is None


def test_effects_of_one_unit_share_a_scale():
    shares, differences = forests(decided_rows(random.Random(0)))
    assert (shares.unit, len(shares.strips)) == ("share of behaviour", 5)
    assert (differences.unit, len(differences.strips)) == ("largest difference", 1)
    first = shares.strips[0]
    assert first.low < first.at < first.high
    assert first.threshold < first.low
    assert shares.strips[4].low is None


def test_one_wild_effect_does_not_flatten_the_others():
    rng = random.Random(0)
    wild = {"estimate": 40.0, "low": None, "high": 1e300, "confidence": 0.9,
            "unit": "share of behaviour", "reason": "unbounded"}  # fmt: skip
    parts = [evidence(rng), evidence(rng) | {"effect": wild}]
    (chart,) = forests([row("a", "a", "supported", [part]) for part in parts])
    tame, strip = chart.strips
    assert tame.high - tame.low > 3
    assert (strip.beyond_low, strip.beyond_high) == (True, True)
    assert (strip.low, strip.high, strip.at) == (0, 100, 100)


def test_a_heat_map_is_symmetric_around_zero():
    chart = heat_map({"title": "t", "rows": ["a", "b"], "columns": ["x", "y"], "unit": "u",
                      "values": [[-0.5, 0.25], [None, 0.0]]})  # fmt: skip
    assert [(f.x, f.y, f.strength, f.positive, f.text) for f in chart.fields] == [
        (0, 0, 1.0, False, "-.50"),
        (1, 0, 0.5, True, ".25"),
        (1, 1, 0.0, True, ".00"),
    ]
    assert chart.largest == "0.50"
    assert chart.cut == (0, 0)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 3), (100, 80)])
def test_heat_maps_of_any_size(rows, columns):
    table = {"title": "t", "rows": [f"r{i}" for i in range(rows)], "unit": "u",
             "columns": [f"c{i}" for i in range(columns)],
             "values": [[0.1] * columns] * rows}  # fmt: skip
    chart = heat_map(table)
    assert len(chart.fields) == min(rows, 64) * min(columns, 64)
    assert chart.cut == (max(rows - 64, 0), max(columns - 64, 0))
    assert heat_map(lens_map(random.Random(0))).labelled


def templates(effects, behaviours, names=None, **changes):
    """A measurement of two prompts a template."""
    names = names or [f"task/t{i // 2}/{i}" for i in range(len(effects))]
    part = {**evidence(random.Random(0)), "prompt_ids": names, "effects": effects}
    return template_strip({**part, "behaviours": behaviours, **changes})


def test_a_template_is_the_share_of_its_prompts_together():
    strip = templates([1.0, 1.0, 0.0, 1.0, 4.0, 0.0], [1.0, 3.0, 1.0, 3.0, 4.0, 4.0])
    assert (strip.total, strip.threshold) == (3, 96.3)  # .5, a little before the end
    assert strip.weakest == (("t1", "0.25"), ("t0", "0.50"), ("t2", "0.50"))
    assert strip.strongest == ()  # all are named already
    assert strip.dots.count("h0") == 3


def test_the_weakest_template_is_furthest_from_what_is_claimed():
    effects = [value for i in range(8) for value in (i / 10, i / 10)]
    up = templates(effects, [1.0] * 16)
    assert [name for name, _ in up.weakest] == ["t0", "t1", "t2"]
    assert [name for name, _ in up.strongest] == ["t7", "t6", "t5"]
    down = templates(effects, [1.0] * 16, direction="less")
    assert [name for name, _ in down.weakest] == ["t7", "t6", "t5"]


@pytest.mark.parametrize(
    ("effects", "behaviours", "names"),
    [
        ([1.0] * 4, [1.0] * 4, ["a", "b", "c", "d"]),  # no templates in the names
        ([1.0] * 4, [1.0] * 3, None),
        ([1.0] * 2, [1.0] * 2, None),  # one template
        ([1.0] * 4, [1.0, 1.0, 1.0, -1.0], None),  # nothing to move
        ([1.0, 1.0, 1e308, 1e308], [1e-9] * 4, None),
        ([], [], None),
    ],
)
def test_templates_that_cannot_be_drawn_are_absent(effects, behaviours, names):
    assert templates(effects, behaviours, names) is None
