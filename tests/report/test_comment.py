"""The comment fits, keeps its table, and shows hostile text as text."""

import random
import re

import pytest

from mechtest.report import github_step_summary, markdown
from mechtest.report.comment import LIMIT, MARKER, escaped
from tests.report.example import (
    HOSTILE,
    example_report,
    hostile_report,
    hostile_rows,
    large_report,
    report_of,
    row,
)

COLUMNS = 7


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_what_is_not_as_expected_comes_first():
    text = markdown(example_report())
    assert text.splitlines()[0] == MARKER == "<!-- mechtest-report -->"
    assert text.splitlines()[1].startswith("### mechtest: 8 of 12 claims are not as expected")
    places = [
        text.index(part) for part in ("Incomplete", "Not as expected", "| claim", "<details>")
    ]
    assert places == sorted(places)
    assert "refuted, as expected" in text
    assert "*To settle it:* About 14 templates" in text
    assert "could not be collected" in text
    verdicts = [line.split(" | ")[1] for line in table_lines(text)[2:]]
    bold = [verdict.startswith("**") for verdict in verdicts]
    assert bold == [True] * 8 + [False] * 4


def test_the_step_summary_is_the_same():
    assert github_step_summary(example_report()) == markdown(example_report())


@pytest.mark.parametrize("report", [example_report(), hostile_report()], ids=["plain", "hostile"])
def test_the_table_keeps_its_columns(report):
    lines = table_lines(markdown(report))
    assert len(lines) == len(report["claims"]) + 2
    for line in lines:
        assert len(re.split(r"(?<!\\)\|", line)) == COLUMNS + 2, line


def test_hostile_text_starts_nothing():
    text = markdown(hostile_report())
    tags = set(re.findall(r"<[^>]*>", text))
    assert tags == {
        MARKER, "<code>", "</code>", "<details>", "</details>", "<summary>", "</summary>",
        "<sub>", "</sub>",
    }  # fmt: skip
    assert text.count("<details>") == text.count("</details>") == 1
    assert text.count(MARKER) == 1
    assert "`" not in text
    assert "](" not in text
    assert "@octocat" not in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", text)
    text.encode()


def test_escaping_keeps_plain_words():
    assert (
        escaped("Layer 0 carries the city, 98 % of it.") == "Layer 0 carries the city, 98 % of it."
    )
    assert escaped("a|b") == "a&#124;b"
    assert escaped("@user #12") == "&#64;\u2060user &#35;\u206012"


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("verdict", ["supported", "refuted"])
def test_five_hundred_claims_fit(verdict, long):
    text = "| <b> `x` " * 1000 if long else "it does"
    rows = [row(f"t{i}", text, verdict, reason=text, order=i) for i in range(500)]
    comment = markdown(report_of(rows, assumptions=[text] * 100))
    assert len(comment.encode()) <= LIMIT < 65_536
    found = re.findall(r"^(\d+) more claims cut", comment, re.M)
    shown = len(table_lines(comment)) - 2
    if shown < 500:
        assert found == [str(500 - shown)]
    if long:
        assert found
    if verdict == "refuted":
        assert re.search(r"^\d+ more of these cut: report.html shows them all.$", comment, re.M)
    assert comment.rstrip().endswith("</sub>")


def test_many_cautions_fit():
    budget = {"alpha": 0.05, "registered": 1, "selected": 0, "source": "x" * 9999,
              "stale": ["<" * 9999] * 99}  # fmt: skip
    rows = hostile_rows(random.Random(0)) * 20
    comment = markdown(report_of(rows, family_error=budget, collection_errors=[
        {"file": text, "message": text} for text in HOSTILE * 50]))  # fmt: skip
    assert len(comment.encode()) <= LIMIT


def test_realistic_claims_are_not_cut():
    assert len(table_lines(markdown(large_report(100, drawn=3)))) == 102


def test_no_claims():
    assert "No claims were checked" in markdown(report_of([]))


def test_ablations_that_disagree_have_one_line_a_claim():
    text = markdown(example_report())
    assert text.count("**Sensitive to the ablation**") == 1
    line = next(line for line in text.splitlines() if "zero ablation" in line)
    assert "carries the city" in line
    assert "it changed no activation" not in text
