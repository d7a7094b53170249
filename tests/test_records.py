"""Records keep every value through JSON, and no number that is none gets in."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import NonFiniteError
from mechtest.records import (
    ClaimRecord,
    Controls,
    Counterexample,
    Effect,
    EffectMap,
    Evidence,
    Guard,
    ModelIdentity,
    OtherAblation,
    Verdict,
)

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | NUMBER
COUNT = st.integers(0)
TEXT = st.text(max_size=20)
NUMBERS = st.lists(NUMBER, max_size=3).map(tuple)
TEXTS = st.lists(TEXT, max_size=2).map(tuple)
EFFECTS = st.builds(Effect, NUMBER, MAYBE, MAYBE, NUMBER, TEXT, TEXT)
CONTROLS = st.builds(
    Controls,
    kind=TEXT, drawn=COUNT, at_least_as_extreme=COUNT, p=NUMBER, stopped=TEXT, observed=NUMBER,
    null_mean=MAYBE, exceedance_low=NUMBER, excess=st.none() | EFFECTS, weak=st.booleans(),
    values=NUMBERS,
)  # fmt: skip
GUARDS = st.builds(Guard, TEXT, st.none() | st.booleans(), TEXT, MAYBE)
MODELS = st.builds(ModelIdentity, TEXT, TEXT, TEXT, TEXT, TEXT)
ABLATIONS = st.builds(OtherAblation, TEXT, st.none() | EFFECTS, st.none() | st.booleans(), TEXT)
COUNTEREXAMPLES = st.builds(
    Counterexample, TEXT, TEXT, TEXTS, TEXT, TEXT, TEXTS, NUMBER, NUMBER, TEXT
)
EVIDENCE = st.builds(
    Evidence,
    kind=TEXT, label=TEXT, circuit=TEXTS, intervention=TEXT, metric=TEXT, effect=EFFECTS,
    verdict=st.sampled_from(Verdict), threshold=MAYBE, direction=TEXT, p_effect=MAYBE, method=TEXT,
    clusters=COUNT, clusters_positive=COUNT, worst_cluster=TEXT, prompts=COUNT, accuracy=MAYBE,
    moved=MAYBE, broken=MAYBE, model=MODELS, controls=st.none() | CONTROLS,
    guards=st.lists(GUARDS, max_size=2).map(tuple), assumptions=TEXTS, prompt_ids=TEXTS,
    effects=NUMBERS, behaviours=NUMBERS, ablations=st.lists(ABLATIONS, max_size=2).map(tuple),
    counterexample=st.none() | COUNTEREXAMPLES,
)  # fmt: skip
SETTINGS = st.dictionaries(TEXT, TEXT | NUMBER | st.none() | st.lists(NUMBER, max_size=2))
RECORDS = st.builds(
    ClaimRecord,
    id=TEXT, statement=TEXT, kind=TEXT, verdict=st.sampled_from(Verdict), binding=TEXT, reason=TEXT,
    settle=TEXT, level=NUMBER, seed=st.integers(), prompts=TEXT, settings=SETTINGS,
    evidence=st.lists(EVIDENCE, max_size=2).map(tuple), notes=TEXTS,
)  # fmt: skip


@given(RECORDS)
def test_json_keeps_every_value(record):
    text = record.to_json()
    assert ClaimRecord.from_json(text) == record
    assert "\n" not in text


def measured(**changes):
    evidence = Evidence(
        kind="necessity",
        label="",
        circuit=("blocks.0.state@last",),
        intervention="resample",
        metric="logit_difference",
        effect=Effect(0.9, 0.8, 1.0, 0.9, "share of behaviour"),
        verdict=Verdict.SUPPORTED,
        threshold=0.5,
        direction="greater",
        p_effect=0.01,
        method="sign flips",
        clusters=16,
        clusters_positive=16,
        worst_cluster="a",
        prompts=128,
        accuracy=1.0,
        moved=0.97,
        broken=0.0,
        model=ModelIdentity("zoo", "ab", "cd", "float32", "cpu"),
        controls=Controls("block", 57, 0, 0.05, "specific", 0.9, 0.04, values=(0.1,)),
    )
    return dataclasses.replace(evidence, **changes)


def simple(**changes):
    record = ClaimRecord(
        id="claims/test_a.py::test_a",
        statement="it does",
        kind="necessity",
        verdict=Verdict.SUPPORTED,
        binding="controls",
        reason="",
        settle="",
        level=0.05,
        seed=0,
        prompts="digest",
        settings={"threshold": 0.5},
        evidence=(measured(),),
    )
    return dataclasses.replace(record, **changes)


def test_the_p_value_is_the_largest_of_its_parts():
    assert simple().p == 0.05
    assert simple(verdict=Verdict.INVALID).p == 1.0
    assert simple(evidence=()).p == 1.0
    assert simple(evidence=(measured(), measured(p_effect=0.3))).p == 0.3


def test_the_p_value_of_a_measurement_counts_what_was_tested():
    assert measured(controls=None).p == 0.01
    assert measured(controls=None, p_effect=None).p == 0.0
    guards = (Guard("task", True, ""), Guard("illusion", None, "", 0.2))  # noqa: FBT003
    assert measured(guards=guards).p == 0.2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused_by_place(number):
    with pytest.raises(NonFiniteError, match=r"record\.level"):
        simple(level=number).to_json()
    with pytest.raises(NonFiniteError, match=r"record\.settings\.threshold"):
        simple(settings={"threshold": number}).to_json()
    bad = measured(effects=(1.0, number))
    with pytest.raises(NonFiniteError, match=r"record\.evidence\[0\]\.effects\[1\]"):
        simple(evidence=(bad,)).to_json()


@pytest.mark.parametrize(
    "change",
    [{"format": "other/9"}, {"verdict": "maybe"}, {"unknown": 1}, {"level": None}],
    ids=["format", "verdict", "unknown", "kept"],
)
def test_foreign_records_are_refused(change):
    content = json.loads(simple().to_json()) | change
    if change == {"level": None}:
        del content["level"]
    with pytest.raises(ValueError, match=r"format|maybe|unknown|level"):
        ClaimRecord.from_json(json.dumps(content))


@pytest.mark.parametrize("part", ["effect", "model", "controls"])
def test_foreign_parts_are_refused(part):
    content = json.loads(simple().to_json())
    content["evidence"][0][part]["unknown"] = 1
    with pytest.raises(ValueError, match="unknown"):
        ClaimRecord.from_json(json.dumps(content))


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        simple().level = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        EffectMap("a", ("b",), ("c",), ((None,),)).title = "d"
