"""Records keep every value through JSON, and no number that is none gets in."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import NonFiniteError
from mechtest.records import ClaimRecord, Controls, Effect, Evidence, ModelIdentity, Verdict

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
EFFECTS = st.builds(Effect, NUMBER, st.none() | NUMBER, st.none() | NUMBER, NUMBER, TEXT, TEXT)
CONTROLS = st.builds(
    Controls, TEXT, st.integers(0), st.integers(0), NUMBER, TEXT, NUMBER,
    st.lists(NUMBER, max_size=3).map(tuple),
)  # fmt: skip
EVIDENCE = st.builds(
    Evidence,
    kind=TEXT, circuit=st.tuples(TEXT), intervention=TEXT, metric=TEXT, effect=EFFECTS,
    threshold=NUMBER, p_effect=NUMBER, clusters=st.integers(0), prompts=st.integers(0),
    moved=NUMBER, broken=NUMBER, controls=st.none() | CONTROLS, assumptions=st.tuples(TEXT),
    prompt_ids=st.tuples(TEXT), effects=st.tuples(NUMBER), behaviours=st.tuples(NUMBER),
)  # fmt: skip
IDENTITY = ModelIdentity("zoo", "ab", "cd", "float32", "cpu")
RECORDS = st.builds(
    ClaimRecord,
    statement=TEXT, verdict=st.sampled_from(Verdict), binding=TEXT, reason=TEXT, level=NUMBER,
    model=st.just(IDENTITY), prompts=TEXT, seed=st.integers(),
    evidence=st.lists(EVIDENCE, max_size=2).map(tuple),
)  # fmt: skip


@given(RECORDS)
def test_json_keeps_every_value(record):
    assert ClaimRecord.from_json(record.to_json()) == record


def simple(**changes):
    effect = Effect(0.9, 0.8, 1.0, 0.9, "share of behaviour")
    evidence = Evidence(
        "necessity", ("blocks.0.state@last",), "resample", "logit_difference", effect, 0.5,
        0.01, 16, 128, 0.97, 0.0, Controls("block", 57, 0, 0.05, "specific", 0.04, (0.1,)),
    )  # fmt: skip
    record = ClaimRecord(
        "it does", Verdict.SUPPORTED, "controls", "", 0.05, IDENTITY, "digest", 0, (evidence,)
    )
    return dataclasses.replace(record, **changes)


def test_the_p_value_is_the_largest_of_its_parts():
    assert simple().p == 0.05
    assert simple(verdict=Verdict.INVALID).p == 1.0
    assert simple(evidence=()).p == 1.0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused_by_place(number):
    with pytest.raises(NonFiniteError, match=r"record\.level"):
        simple(level=number).to_json()
    bad = dataclasses.replace(simple().evidence[0], effects=(1.0, number))
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


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        simple().level = 0.5
