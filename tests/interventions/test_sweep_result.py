"""A result keeps every number and every reason, says no more than it knows, and survives a file."""

import copy
import json
import pickle

import numpy as np
import pytest

from mechtest.errors import NonFiniteError, SampleError, ShapeError, SweepFileError
from mechtest.interventions import sweep_file
from mechtest.interventions.sweep_result import SweepResult
from mechtest.records import EffectMap
from tests.interventions.sweep_example import BEFORE, example


def test_templates_count_equally_however_many_prompts_they_have():
    values = np.array([[[1.0, 2.0, 3.0, 10.0]]])
    result = example(1, 1, missing=(), values=values)
    assert result.templates == ("a", "a", "a", "b")
    assert result.mean().tolist() == [[6.0]]


def test_a_prompt_without_a_number_is_left_out_of_its_template():
    values = np.array([[[1.0, np.nan, 3.0, 10.0], [1.0, 1.0, 4.0, np.nan], [np.nan] * 4]])
    reasons = {(0, 0): "too short", (0, 1): "too short", (0, 2): "nothing there"}
    mean = example(1, 3, missing=(), values=values, reasons=reasons).mean()
    assert mean[0, :2].tolist() == [6.0, 2.0]
    assert np.isnan(mean[0, 2])


def test_values_are_a_copy_that_nobody_writes_to():
    values = np.zeros((1, 1, 4), dtype=np.float32)
    result = example(1, 1, missing=(), values=values)
    values[:] = 7
    assert result.values.dtype == np.float64
    assert result.mean().tolist() == [[0.0]]
    with pytest.raises(ValueError, match="read-only"):
        result.values[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"values": np.zeros((3, 4, 5))}, "values"),
        ({"sites": (("s",) * 4,) * 2}, "sites"),
        ({"templates": ("a",) * 3}, "templates"),
        ({"prompt_columns": (("x",) * 4,) * 3}, "prompt_columns"),
        ({"prompt_columns": (("x",) * 3,) * 4}, "prompt_columns"),
        ({"reasons": {(0, 0): "r", (3, 0): "r"}}, "a reason for a place"),
    ],
    ids=["values", "sites", "templates", "few prompts", "few columns", "reason outside"],
)
def test_parts_that_do_not_fit_are_refused_by_name(fields, named):
    with pytest.raises(ShapeError, match=named):
        example(**fields)


@pytest.mark.parametrize("reasons", [{}, {(0, 0): ""}], ids=["none", "empty"])
def test_a_missing_number_without_a_reason_is_refused(reasons):
    with pytest.raises(NonFiniteError, match="layer 0, 0 ␣word0 is nan for prompt prompt-0"):
        example(reasons=reasons)


def test_infinity_is_refused_even_with_a_reason():
    values = np.full((3, 4, 4), np.inf)
    with pytest.raises(NonFiniteError, match="is inf"):
        example(values=values)


def test_the_strongest_places_come_first_in_both_directions():
    values = np.zeros((2, 2, 4))
    values[0, 0], values[0, 1], values[1, 0], values[1, 1] = np.nan, 0.5, -2.0, 0.5
    result = example(2, 2, values=values)
    top = result.top(10)
    assert [place.site for place in top] == [
        "blocks.1.hook_h@0",
        "blocks.0.hook_h@1",
        "blocks.1.hook_h@1",
    ]
    assert (top[0].row, top[0].column, top[0].effect) == ("layer 1", "0 ␣word0", -2.0)
    assert (top[0].row_index, top[0].column_index, top[0].unit) == (1, 0, "share of behaviour")
    assert len(result.top(1)) == 1
    assert result.top(0) == result.top(-1) == ()


def test_the_effect_map_has_the_means_and_none_where_there_is_no_number():
    result = example()
    table = result.to_effect_map()
    assert isinstance(table, EffectMap)
    assert table.title == ("resample of blocks.*.hook_h in the clean run, 4 prompts of 2 templates")
    assert table.values[0][0] is None
    assert table.values[1][2] == float(f"{result.mean()[1, 2]:.7g}")
    assert (table.rows, table.columns, table.unit) == (result.rows, result.columns, result.unit)
    assert result.to_effect_map("mine").title == "mine"
    json.dumps(table.values, allow_nan=False)


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ((("blocks.0.hook_h", "blocks.10.hook_y.3"),), "blocks.*.hook_h and blocks.*.hook_y.*"),
        ((("", "blocks.3.state@S2+1"),), "blocks.*.state"),
        ((("a", "b"), ("c", "d")), "4 hooks"),
    ],
    ids=["two", "one", "many"],
)
def test_the_title_says_which_hooks(sites, said):
    result = example(len(sites), 2, missing=(), sites=sites)
    assert result.title() == f"resample of {said} in the clean run, 4 prompts of 2 templates"


@pytest.mark.parametrize("prompt", [2, -2, "prompt-2"], ids=["index", "from the end", "name"])
def test_one_prompt_is_asked_for_by_index_or_name(prompt):
    result = example()
    assert np.array_equal(result.of_prompt(prompt), result.values[:, :, 2], equal_nan=True)
    assert result.title(prompt).endswith("clean run, prompt prompt-2")


@pytest.mark.parametrize("prompt", [4, -5, "prompt-22"], ids=["after", "before", "name"])
def test_another_prompt_is_refused(prompt):
    with pytest.raises(ShapeError, match="no such prompt") as caught:
        example().of_prompt(prompt)
    if isinstance(prompt, str):
        assert caught.value.closest[0] == "prompt-2"


def test_an_interval_has_templates_as_its_unit():
    templates = tuple(f"t{i // 2}" for i in range(20))
    values = np.repeat(np.arange(10.0), 2).reshape(1, 1, 20) + 1
    result = example(1, 1, 20, missing=(), values=values, templates=templates)
    interval = result.interval(0, 0, 0.9)
    assert interval.low < 5.5 < interval.high
    twice = example(1, 1, 10, missing=(), values=values[..., ::2], templates=templates[::2])
    assert twice.interval(0, 0, 0.9) == interval
    few = example().interval(1, 1)
    assert few.low is None
    assert "2 clusters" in few.reason


def test_an_interval_of_a_place_without_numbers_is_an_error():
    with pytest.raises(SampleError):
        example().interval(0, 0)


def test_the_repr_is_one_short_line():
    result = example()
    place = result.top(1)[0]
    assert repr(result) == (
        "<SweepResult 3 x 4: resample of blocks.*.hook_h in the clean run, 4 prompts of "
        f"2 templates; share of behaviour, strongest {place.effect:.3g} at {place.site}>"
    )
    assert "strongest" not in repr(example(1, 1))


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copied", "pickled"]
)
def test_a_result_travels_between_processes(way):
    result = example()
    assert way(result).to_json() == result.to_json()


# --- files ------------------------------------------------------------------------------------


def test_a_result_comes_back_bit_by_bit(tmp_path):
    result = example(prompt_columns=tuple(("a", "\n", "\ud83d", " d") for _ in range(4)))
    path = result.save(tmp_path / "deep" / "sweep.json")
    back = SweepResult.load(str(path))
    assert back.values.tobytes() == result.values.tobytes()
    for name in ("rows", "columns", "sites", "reasons", "prompt_ids", "templates", "model"):
        assert getattr(back, name) == getattr(result, name), name
    assert back.prompt_columns == result.prompt_columns
    assert back.engine == result.engine
    assert back.to_json() == result.to_json() == SweepResult.from_json(result.to_json()).to_json()
    assert [one.name for one in path.parent.iterdir()] == ["sweep.json"]


def test_the_file_is_strict_json_with_the_reason_beside_the_gap():
    def refuse(name):
        raise AssertionError(name)

    content = json.loads(example().to_json(), parse_constant=refuse)
    assert content["format"] == "mechtest-sweep/1"
    assert content["values"][0][0] == [None] * 4
    assert content["reasons"] == [[0, 0, BEFORE]]


@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 3), (2, 0)], ids=["nothing", "no rows", "no columns"]
)
def test_an_empty_sweep_comes_back_too(shape):
    result = example(*shape, missing=())
    assert SweepResult.from_json(result.to_json()).values.shape == (*shape, 4)


def changed(**changes):
    content = {**json.loads(example().to_json()), **changes}
    return json.dumps({name: value for name, value in content.items() if value != "gone"})


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{", "no JSON"),
        ("[]", "format None"),
        (changed(format="mechtest-sweep/2"), "format 'mechtest-sweep/2'"),
        (changed(unit="gone"), "missing or unknown fields: unit"),
        (changed(colour="red"), "missing or unknown fields: colour"),
        (changed(values=[[1.0]]), "cannot reshape"),
        (changed(reasons=[]), "layer 0"),
        (changed(model={"name": "x"}), "weights"),
        (changed(templates=["a"]), "templates of a sweep do not fit"),
        (changed(values=float("nan")), "NaN is no number"),
    ],
    ids=[
        "broken",
        "list",
        "later",
        "missing",
        "unknown",
        "values",
        "reasons",
        "model",
        "templates",
        "nan",
    ],
)
def test_another_format_is_refused_with_what_was_found(tmp_path, text, given):
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(SweepFileError, match="not a sweep that this version reads") as caught:
        SweepResult.load(path)
    assert given in caught.value.given
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SweepFileError, match=r"none\.json cannot be read: No such file"):
        SweepResult.load(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(SweepFileError, match="bytes cannot be read"):
        SweepResult.load(tmp_path / "bytes")


def test_nan_in_the_engine_is_refused():
    with pytest.raises(NonFiniteError, match="`engine` of a sweep"):
        example(engine={"flops": float("nan")}).to_json()


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    path = example().save(tmp_path / "sweep.json")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        example(seed=1).save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["sweep.json"]


def test_whoever_reads_the_old_file_reads_it_whole(tmp_path):
    path = example().save(tmp_path / "sweep.json")
    with path.open() as reader:
        example(seed=1).save(path)
        assert SweepResult.from_json(reader.read()).to_json() == example().to_json()
    assert SweepResult.load(path).to_json() == example(seed=1).to_json()
