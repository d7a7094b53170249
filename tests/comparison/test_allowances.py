"""A finding may be lost for now: with a reason, until a date, and never in silence."""

import datetime as dt

import pytest

from mechtest.comparison import compare_reports, read_allowances
from mechtest.errors import AllowListError
from tests.comparison.test_compare import claim, measured, report_of

TODAY = dt.date(2026, 3, 1)
ROW = '[[allow]]\nclaim = "{claim}"\nreason = "the new data lacks it"\nexpires = 2026-03-01\n'
KEY = "claims/test_fact.py::test_a"


def read(tmp_path, text, today=TODAY):
    path = tmp_path / "allow.toml"
    path.write_text(text)
    return read_allowances(path, today)


def test_an_allowed_loss_is_listed_with_its_reason_and_counts_for_nothing(tmp_path):
    allowances = read(tmp_path, ROW.format(claim=KEY))
    before, after = report_of([claim()]), report_of([claim(parts=[measured(0.4)])])
    assert compare_reports(before, after)["status"] == 1
    comparison = compare_reports(before, after, allowances=allowances)
    assert comparison["status"] == 0
    (found,) = comparison["claims"]
    assert found["change"] == "regressed"
    assert found["allowed"] == {"reason": "the new data lacks it", "expires": "2026-03-01"}
    assert comparison["notes"] == []


def test_what_is_no_longer_needed_is_told(tmp_path):
    allowances = read(tmp_path, ROW.format(claim=KEY))
    comparison = compare_reports(report_of([claim()]), report_of([claim()]), allowances=allowances)
    assert comparison["notes"] == [f"the allowance for {KEY} is no longer needed: delete it"]
    assert comparison["claims"][0]["allowed"] is None


def test_evidence_that_is_missing_cannot_be_allowed(tmp_path):
    allowances = read(tmp_path, ROW.format(claim=KEY))
    after = report_of([claim(parts=[], verdict="crashed")])
    assert compare_reports(report_of([claim()]), after, allowances=allowances)["status"] == 3


def test_an_allowance_for_nobody_names_the_closest_claim(tmp_path):
    allowances = read(tmp_path, ROW.format(claim=KEY.replace("fact", "fcat")))
    with pytest.raises(AllowListError) as caught:
        compare_reports(report_of([claim()]), report_of([claim()]), allowances=allowances)
    assert caught.value.closest[0] == KEY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no allow-list"),
        ("allow = 3", "no allow-list"),
        ("[[allow]\n", "cannot be read"),
        ('[[allow]]\nreason = "x"\nexpires = 2027-01-01', "row 1 has no claim"),
        ('[[allow]]\nclaim = "c"\nreason = " "\nexpires = 2027-01-01', "row 1 has no reason"),
        ('[[allow]]\nclaim = "c"\nreason = "x"', "row 1 has no date of expiry"),
        ('[[allow]]\nclaim = "c"\nreason = "x"\nexpires = "soon"', "no date of expiry"),
        ('[[allow]]\nclaim = "c"\nreason = "x"\nexpires = 2026-02-28', "expired on 2026-02-28"),
        ('[[allow]]\nclaim = "c"\nwhy = "x"\nexpires = 2027-01-01', "is no allowance"),
        (ROW * 2, "row 2: a second row"),
    ],
)
def test_what_is_no_allowance_is_refused(tmp_path, text, said):
    with pytest.raises(AllowListError, match=said):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AllowListError, match="cannot be read"):
        read_allowances(tmp_path / "none.toml", TODAY)
