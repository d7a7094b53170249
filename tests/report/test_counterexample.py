"""A counter-example is on the page, beside the search that found it, and in its row's own words."""

import random

from mechtest.records import Counterexample, Effect
from mechtest.report import html, markdown
from tests.report.example import evidence, report_of, row

FOUND = Counterexample(
    "gender/hungry-then/00", "gender/hungry-then", ("Prefix(words='We like Emma.')",),
    "We like Emma. Olivia was hungry. Then", "We like Emma. Eric was hungry. Then", (" she",),
    0.0554, 0.5, "@example(mt.perturbed(PROMPTS, 'gender/hungry-then/00', mt.Prefix('We ...')))",
)  # fmt: skip


def report(found):
    verdict = "refuted" if found else "supported"
    part = evidence(
        random.Random(0), 0.0554, verdict=verdict, kind="robustness", controls=None, p_effect=None,
        effect=Effect(0.0554, None, None, 1.0, "share", "nothing is estimated"),
        method="search: 60 distinct perturbed prompts, no probability", counterexample=found,
    )  # fmt: skip
    return report_of([row("test_worst", "Nothing breaks it", verdict, [part], exact=True)])


def test_the_page_shows_what_breaks_the_claim_and_the_line_to_paste():
    page = html(report(FOUND))
    assert page.count("<h4>Counter-example</h4>") == 1
    assert "We like Emma. Olivia was hungry. Then" in page
    assert "keeps 0.06 of its effect, below 0.50" in page
    assert "@example(mt.perturbed(PROMPTS, " in page


def test_without_one_there_is_no_heading_for_it():
    assert "Counter-example" not in html(report(None))


def test_a_search_is_not_called_exact():
    text = markdown(report(None))
    assert "| search |" in text
    assert "exact" not in text
