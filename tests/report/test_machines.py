"""GitHub gets one line for each claim, and CTRF readers get a valid document."""

import re

import pytest

from mechtest.report import ctrf, github_annotations
from tests.report.example import HOSTILE, example_report, hostile_report, report_of, row

COMMAND = re.compile(r"::(error|warning) (file=([^,:]*),)?(line=(\d+),)?title=([^,:]*)::(.+)")


@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["plain", "hostile"])
def test_an_annotation_is_one_well_formed_line(report):
    lines = github_annotations(report)
    assert lines
    for line in lines:
        assert len(line.splitlines()) == 1, line
        assert COMMAND.fullmatch(line), line
        assert not re.search(r"%(?!25|0D|0A|3A|2C)", line)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
        line.encode()


def test_hostile_text_is_one_annotation_each():
    assert len(github_annotations(hostile_report())) == 2 * len(HOSTILE)


def test_annotations_are_about_what_is_not_as_expected():
    lines = github_annotations(example_report())
    titles = [COMMAND.fullmatch(line)[6] for line in lines]
    assert [title.split("%3A")[0] for title in titles] == [
        "refuted", "inconclusive", "invalid", "crashed", "not run", "skipped", "interrupted",
        "claims could not be collected",
    ]  # fmt: skip
    assert lines[0].startswith("::error file=claims/test_fact.py,line=12,title=refuted%3A Rest")


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"verdict": "refuted"}, "error"),
        ({"verdict": "refuted", "registered": False}, "warning"),
        ({"verdict": "inconclusive", "message": "ClaimInconclusive: ..."}, "error"),
        ({"verdict": "inconclusive", "message": ""}, "warning"),
        ({"verdict": "skipped"}, "warning"),
        ({"verdict": "crashed"}, "error"),
    ],
)
def test_what_failed_nothing_is_a_warning(changes, level):
    verdict = changes.pop("verdict")
    (line,) = github_annotations(report_of([row("a", "a", verdict, **changes)]))
    assert line.startswith(f"::{level} ")


def test_values_are_encoded():
    claim = row("a", "50%, a:b", "refuted", reason="50%\nnext: line, end", replay="",
                source={"file": "a,b:c.py", "line": 0})  # fmt: skip
    assert github_annotations(report_of([claim])) == [
        "::error file=a%2Cb%3Ac.py,title=refuted%3A 50%25%2C a%3Ab::50%25%0Anext: line, end"
    ]


def test_a_claim_without_a_file_is_still_told():
    claim = row("a", "a", "refuted", source={"file": "", "line": 0}, replay="")
    assert github_annotations(report_of([claim])) == ["::error title=refuted%3A a::no reason given"]


def test_ctrf_maps_what_was_expected():
    report = example_report()
    document = ctrf(report)
    assert (document["reportFormat"], document["specVersion"]) == ("CTRF", "1.0.0")
    tests = document["results"]["tests"]
    found = {(test["rawStatus"], test["status"]) for test in tests}
    assert found == {
        ("supported", "passed"), ("refuted", "failed"), ("refuted", "passed"),
        ("inconclusive", "failed"), ("invalid", "failed"), ("crashed", "failed"),
        ("interrupted", "failed"), ("skipped", "skipped"), ("not_run", "pending"),
        ("deselected", "pending"),
    }  # fmt: skip
    summary = document["results"]["summary"]
    assert summary["tests"] == len(tests) == 12
    assert sum(summary[name] for name in ("passed", "failed", "pending", "skipped", "other")) == 12
    assert summary["stop"] - summary["start"] == 93_400
    assert document["results"]["tool"] == {"name": "mechtest", "version": "0.1.0"}
    first = tests[0]
    assert first["duration"] > 0
    assert first["extra"]["effect"]["estimate"] == 0.91
    assert {"p", "level", "replay"} < set(first["extra"])


@pytest.mark.parametrize("report", [example_report(), hostile_report(), report_of([], run={})])
def test_ctrf_has_the_types_the_format_asks_for(report):
    document = ctrf(report)
    summary = document["results"]["summary"]
    assert all(isinstance(value, int) for value in summary.values())
    for test in document["results"]["tests"]:
        assert {"name", "status", "duration"} <= set(test)
        assert isinstance(test["duration"], int)
        assert test["status"] in {"passed", "failed", "skipped", "pending", "other"}
        texts = ["name", "message", "trace", "filePath", "rawStatus", "threadId"]
        assert all(isinstance(test[k], str) and test[k] for k in texts if k in test)
        assert all(isinstance(part, str) for part in test.get("suite", ["x"]))
