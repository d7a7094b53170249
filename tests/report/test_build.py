"""A report is the same for any order of rows, counts them right, and holds plain finite JSON."""

import json
import random

import numpy as np
import pytest

from mechtest.errors import MechtestError, NonFiniteError
from mechtest.report import SCHEMA, VERDICTS, build_report, headline
from mechtest.report.wording import cautions
from tests.report.example import (
    broken_rows,
    decided_rows,
    evidence,
    example_report,
    hostile_report,
    report_of,
    row,
)


def test_the_summary_counts_every_verdict():
    report = example_report()
    assert report["schema"] == SCHEMA
    assert set(VERDICTS) < set(report["summary"])
    assert sum(report["summary"][verdict] for verdict in VERDICTS) == 12
    assert report["summary"]["as_expected"] == 4
    assert report["summary"]["supported"] == 3


@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["plain", "hostile"])
def test_json_gives_the_report_back(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    json.dumps(report, ensure_ascii=False).encode()


def test_the_order_of_rows_does_not_matter():
    rows = [*broken_rows(), *decided_rows(random.Random(0))]
    reports = [report_of(order, families={}, run={}) for order in (rows, rows[::-1])]
    assert reports[0] == reports[1]
    orders = [(item["family"], item["order"]) for item in reports[0]["claims"]]
    assert orders == sorted(orders)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused_by_place(number):
    rng = random.Random(0)
    bad = evidence(rng)
    bad["effect"]["low"] = number
    with pytest.raises(NonFiniteError, match=r"claims\[.*\]\.evidence\[0\]\.effect\.low"):
        report_of([row("a", "a", "supported", [bad])])
    with pytest.raises(NonFiniteError, match=r"run\.seconds"):
        report_of([row("a", "a", "supported")], run={"seconds": number})
    with pytest.raises(NonFiniteError):
        report_of([row("a", "a", "supported", p=np.float32(number))])


def test_numbers_of_numpy_and_paths_become_plain(tmp_path):
    report = report_of([row("a", "a", "refuted", p=np.float32(0.5), settings=[{"at": tmp_path}])])
    assert type(report["claims"][0]["p"]) is float
    assert report["claims"][0]["settings"] == [{"at": str(tmp_path)}]


def test_an_unknown_verdict_is_refused():
    with pytest.raises(MechtestError, match="verdict"):
        report_of([row("a", "a", "maybe")])


def test_what_is_missing_makes_a_report_incomplete():
    fine = row("a", "a", "supported", [evidence(random.Random(0))])
    budget = {"alpha": 0.05, "registered": 2, "selected": 2, "source": "lock", "stale": []}
    assert report_of([fine], family_error=budget)["complete"]
    assert not report_of([fine], family_error={**budget, "selected": 1})["complete"]
    assert not report_of([fine, *broken_rows()], family_error=budget)["complete"]
    broken = [{"file": "a.py", "message": "no"}]
    assert not report_of([fine], family_error=budget, collection_errors=broken)["complete"]
    assert not report_of([], family_error=budget)["complete"]


def test_what_no_lock_covers_makes_a_report_exploratory():
    fine = row("a", "a", "supported")
    budget = {"alpha": 0.05, "registered": 1, "selected": 1, "source": "collection", "stale": []}
    assert not report_of([fine])["exploratory"]
    assert report_of([fine], family_error=budget)["exploratory"]
    assert report_of([fine, row("b", "b", "refuted", registered=False)])["exploratory"]


def test_the_headline_is_one_sentence():
    fine = row("a", "a", "supported")
    expected = row("b", "b", "refuted", expect="refuted")
    assert headline(report_of([])) == "No claims were checked."
    assert headline(report_of([fine])) == "The only claim is as expected: 1 supported."
    assert headline(report_of([fine, expected])) == (
        "All 2 claims are as expected: 1 supported, 1 refuted."
    )
    off = row("c", "c", "not_run")
    assert headline(report_of([fine, off])) == "1 of 2 claims is not as expected: 1 not run."


def test_cautions_name_what_keeps_a_reader_from_trusting_the_verdicts():
    text = "\n".join(cautions(example_report()))
    for part in ("Incomplete: 1 skipped, 1 crashed", "1 file could not", "Exploratory", "gate"):
        assert part in text
    stale = {
        "alpha": 0.05, "registered": 1, "selected": 1, "source": "lock",
        "stale": [f"threshold of claim {i} changed" for i in range(30)],
    }  # fmt: skip
    torn = {"torn_lines": 2}
    found = cautions(report_of([row("a", "a", "supported")], family_error=stale, run=torn))
    assert "threshold of claim 0 changed" in found[0]
    assert found[0].endswith("and 20 more")
    assert "2 journal lines" in found[1]


def test_build_report_changes_nothing_it_was_given():
    rows = [row("a", "a", "supported", [evidence(random.Random(0))])]
    before = repr(rows)
    build_report(
        rows, families={}, provenance={}, run={}, assumptions=(),
        family_error={"registered": 1, "selected": 1, "source": "lock", "stale": []},
    )["claims"][0]["evidence"].clear()  # fmt: skip
    assert repr(rows) == before
