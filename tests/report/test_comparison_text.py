"""A comparison reads as text and as a comment: what was lost first, and never too long."""

import datetime as dt

import pytest

from mechtest.comparison import Allowance, compare_reports
from mechtest.report import (
    comparison_cells,
    comparison_headline,
    comparison_markdown,
    github_annotations,
    html,
    markdown,
)
from tests.comparison.test_compare import claim, measured, report_of
from tests.report.example import HOSTILE


@pytest.fixture(scope="module")
def compared():
    before = [claim("test_held"), claim("test_lost"), claim("test_gone")]
    after = [claim("test_held"), claim("test_lost", parts=[measured(0.4)]), claim("test_new")]
    return compare_reports(report_of(before), report_of(after), names=("main", "this run"))


def test_the_headline_counts_findings(compared):
    said = "1 of 3 findings of main still hold: 1 regressed, 1 removed."
    assert comparison_headline(compared) == said
    none = compare_reports(report_of([]), report_of([]), names=("main", "now"))
    assert comparison_headline(none) == "main has no findings to compare with."


def test_only_what_is_worth_telling_is_listed_and_the_rest_is_counted(compared):
    cells = comparison_cells(compared)
    assert [(row[0], row[1]) for row in cells] == [
        ("test_lost", "regressed"), ("test_gone", "removed"),
    ]  # fmt: skip
    assert cells[0][2].startswith("0.44 [")
    text = comparison_markdown(compared)
    assert text.index("test&#95;lost") < text.index("test&#95;gone")
    assert "Not listed: 1 held, 1 new." in text
    assert "test&#95;held" not in text


def test_a_report_with_a_comparison_shows_it_first(compared):
    report = {**report_of([claim("test_held")]), "comparison": compared}
    text = markdown(report)
    assert text.index("findings of main") < text.index("| claim |", text.index("Not listed"))
    page = html(report)
    assert page.index("Compared with the baseline") < page.index('id="verdicts"')
    assert "Compared with the baseline" not in html(report_of([claim("test_held")]))


def test_a_finding_that_was_lost_while_its_claim_passes_is_annotated(compared):
    report = report_of([claim("test_held"), claim("test_lost")])
    assert github_annotations(report) == []
    (line,) = github_annotations({**report, "comparison": compared})
    assert line.startswith("::error file=claims/test_fact.py,line=12,title=regressed%3A test_lost")


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_hostile_text_stays_text(index):
    text = HOSTILE[index]
    before, after = claim("a", reason=text), claim("a", parts=[measured(0.4)])
    before["statement"] = after["statement"] = text
    report = report_of([after])
    allowances = [Allowance(before["key"], text, dt.date(2999, 1, 1))]
    found = compare_reports(report_of([before]), report, names=(text, text), allowances=allowances)
    shown = comparison_markdown(found)
    assert "<script" not in shown
    assert "<img" not in shown
    assert "\n::error" not in shown
    page = html({**report, "comparison": found})
    assert "<script>alert" not in page
    assert "<img" not in page


def test_a_comment_of_hundreds_of_lost_findings_fits():
    before = [claim(f"test_{i}") for i in range(160)]
    after = [claim(f"test_{i}", parts=[], verdict="crashed", reason="x" * 300) for i in range(160)]
    found = compare_reports(report_of(before), report_of(after))
    text = comparison_markdown(found)
    assert len(text.encode()) <= 60_000
    assert "more claims cut: the JSON has them all." in text
    report = {**report_of(after), "comparison": found}
    assert len(markdown(report).encode()) <= 60_000
