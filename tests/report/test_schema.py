"""The published schema describes exactly what is written, and refuses what is broken."""

import copy
import re
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from mechtest import records
from mechtest.report import SCHEMA_PATH, VERDICTS, load_schema
from tests.report.example import example_report, hostile_report, large_report, report_of

VALIDATOR = jsonschema.Draft202012Validator(load_schema())


def test_the_schema_is_one_and_lies_in_the_package():
    jsonschema.Draft202012Validator.check_schema(load_schema())
    assert SCHEMA_PATH.parent.name == "report"
    assert load_schema()["$defs"]["verdict"]["enum"] == list(VERDICTS)


@pytest.mark.parametrize(
    "report",
    [example_report(), hostile_report(), large_report(3), report_of([])],
    ids=["example", "hostile", "large", "empty"],
)
def test_reports_obey_the_schema(report):
    VALIDATOR.validate(report)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("effect", records.Effect),
        ("controls", records.Controls),
        ("guard", records.Guard),
        ("model", records.ModelIdentity),
        ("ablation", records.OtherAblation),
        ("counterexample", records.Counterexample),
        ("evidence", records.Evidence),
        ("map", records.EffectMap),
    ],
)
def test_the_schema_has_the_fields_of_the_records(name, kind):
    known = load_schema()["$defs"][name]
    assert list(known["properties"]) == known["required"] == [item.name for item in fields(kind)]


def test_every_object_of_ours_is_closed():
    def walk(schema):
        if isinstance(schema, dict):
            if "properties" in schema:
                assert schema["additionalProperties"] is False
                assert set(schema["required"]) == set(schema["properties"])
            for item in schema.values():
                walk(item)
        elif isinstance(schema, list):
            for item in schema:
                walk(item)

    walk(load_schema())


BROKEN = [
    ("another major", lambda r: r.update(schema="mechtest-report/2")),
    ("unknown field", lambda r: r.update(extra=1)),
    ("missing section", lambda r: r.pop("run")),
    ("missing count", lambda r: r["summary"].pop("crashed")),
    ("negative count", lambda r: r["summary"].update(total=-1)),
    ("unknown verdict", lambda r: r["claims"][0].update(verdict="passed")),
    ("unknown expectation", lambda r: r["claims"][0].update(expect="crashed")),
    ("unknown gate", lambda r: r["claims"][0].update(gate="ajar")),
    ("p above one", lambda r: r["claims"][0].update(p=1.5)),
    ("p as text", lambda r: r["claims"][0].update(p="0.01")),
    ("field too many in a claim", lambda r: r["claims"][0].update(status="ok")),
    ("settings that are no list", lambda r: r["claims"][0].update(settings={})),
    ("estimate absent", lambda r: _first(r)["effect"].update(estimate=None)),
    ("measured as crashed", lambda r: _first(r).update(verdict="crashed")),
    ("direction", lambda r: _first(r).update(direction="up")),
    ("controls as a number", lambda r: _first(r).update(controls=0)),
    ("guard without a name", lambda r: _first(r)["guards"][0].pop("name")),
    ("git without a state", lambda r: r["provenance"]["git"].pop("dirty")),
    ("seed as text", lambda r: r["provenance"].update(seed="0")),
    ("family without a level", lambda r: r["families"]["inert"].pop("level")),
    ("time below zero", lambda r: r["run"].update(seconds=-1)),
]


def _first(report):
    return next(claim["evidence"][0] for claim in report["claims"] if claim["evidence"])


@pytest.mark.parametrize("change", [c for _, c in BROKEN], ids=[name for name, _ in BROKEN])
def test_broken_reports_are_refused(change):
    report = copy.deepcopy(example_report())
    change(report)
    assert not VALIDATOR.is_valid(report)


def test_the_documentation_names_every_field():
    text = (Path(__file__).parents[2] / "docs/report.md").read_text()
    words = set(re.findall(r"`([a-z_]+)`", text))
    top = set(load_schema()["properties"])
    claim = set(load_schema()["$defs"]["claim"]["properties"])
    assert top | claim <= words
