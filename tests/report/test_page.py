"""The page is one file, needs no network and no script to be read, and shows text as text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from mechtest.report import html
from mechtest.report.page import _main_numbers, _without_lists, embedded_json
from tests.report.example import (
    broken_rows,
    example_report,
    hostile_report,
    large_report,
    report_of,
    row,
)
from tests.report.training import report_over, rows_over

VOID = {"meta", "input", "link", "br", "img", "rect", "line", "circle", "path"}


class Page(HTMLParser):
    """Elements and attributes of a page, as a parser meets them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.open = [], [], []
        self.scripts, self.text, self.unbalanced = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append((tag, self.getpos()))

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


REPORTS = {
    "example": example_report(),
    "hostile": hostile_report(),
    "large": large_report(20, drawn=40),
    "broken": report_of(broken_rows()),
    "empty": report_of([]),
}


def sha256(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_nothing_from_users_becomes_markup(report):
    text = html(report)
    page = Page(text)
    assert page.elements.count("script") == 2  # the report itself, and what searches it
    assert not {"img", "iframe", "object", "embed", "link", "a:href", "base", "form"} & set(
        page.elements
    )
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"src", "srcset", "action", "formaction", "xlink:href", "style"}
        if name == "href":
            assert re.fullmatch(r"#[a-z0-9-]+", value), value
    assert page.unbalanced == []
    assert page.open == []


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_page_is_self_contained(report):
    text = html(report)
    page = Page(text)
    policies = [v for t, n, v in page.attributes if t == "meta" and n == "content" and "src" in v]
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    own = f"style-src 'sha256-{sha256(style)}'; script-src 'sha256-{sha256(script)}'"
    assert policies == [f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"]
    assert "url(" not in style
    assert "@import" not in style
    text.encode()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_report_is_embedded_and_inert(report):
    page = Page(html(report))
    script = page.scripts[0]
    assert not set("<>&\u2028\u2029") & set(script)
    assert json.loads(script) in (report, _without_lists(report), _main_numbers(report))


def test_a_large_report_is_embedded_without_single_values():
    report = large_report(100)
    content = json.loads(str(embedded_json(report)))
    evidence = content["claims"][0]["evidence"][0]
    assert evidence["controls"]["values"] == evidence["effects"] == evidence["prompt_ids"] == []
    assert evidence["controls"]["drawn"] == 400
    assert evidence["effect"] == report["claims"][0]["evidence"][0]["effect"]


def test_a_hundred_claims_stay_small():
    assert len(html(large_report(100)).encode()) < 1_150_000


def test_three_hundred_claims_stay_small_and_hold_the_main_numbers():
    report = large_report(300, drawn=20)
    text = html(report)
    assert len(text.encode()) < 2_500_000
    embedded = json.loads(Page(text).scripts[0])
    assert embedded["summary"] == report["summary"]
    first = report["claims"][0]
    assert embedded["claims"][0] == {
        **{name: first[name] for name in ("id", "key", "verdict", "as_expected", "level", "p")},
        "effect": first["evidence"][0]["effect"],
    }
    for claim in report["claims"]:
        assert text.count(claim["statement"]) >= 3
    assert text.count('href="#assumption-2"') == 300  # said once, named by each


def test_without_a_script_nothing_is_offered_that_needs_one():
    text = html(example_report())
    assert '<div id="tools" class="tools" hidden>' in text
    assert '<th scope="col">verdict</th>' in text  # the script makes buttons of them


def test_an_anchor_stays_when_other_claims_come():
    def anchors(report):
        return set(re.findall(r'id="(claim-[0-9a-f]{10})"', html(report)))

    few, many = anchors(large_report(3, drawn=5)), anchors(large_report(9, drawn=5))
    assert len(few) == 3
    assert few < many


def test_a_claim_over_training_has_a_chart_that_links_to_its_checkpoints():
    text = html(report_over(rows_over("early", "SSRR"), rows_over("one", "S")))
    assert text.count('<figure class="course">') == 1
    chart = text[text.index("<figure") : text.index("</figure>")]
    assert "born at 100, died at 400" in chart
    assert "step-00400: refuted 0.10" in chart
    assert set(re.findall(r'href="#([^"]+)"', chart)) <= set(re.findall(r'id="([^"]+)"', text))
    assert "neither bear nor kill" in text
    assert 'id="over-training"' not in html(report_over(rows_over("one", "S")))


def test_a_reader_sees_why_in_one_sentence_and_the_code():
    claim = row("a", "a", "invalid", reason="[MT703] behaviour absent\n  given   x\n  next   y")
    text = html(report_of([claim]))
    assert '<span class="why">behaviour absent</span>' in text
    assert "def a(mamba, prompts): ..." in text


def test_other_ablations_make_a_table_over_all_claims():
    text = html(example_report())
    table = text[text.index('id="ablations"') : text.index('id="claims"')]
    assert '<th scope="col">zero</th><th scope="col">mean</th>' in table
    assert "&cross;</b> 0.31 [0.22, 0.40]" in table
    assert "?</b> not measured" in table


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_links_inside_the_page_lead_somewhere(report):
    page = Page(html(report))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "href"}
    targets |= {value for _, name, value in page.attributes if name == "for"}
    assert targets <= set(ids)


def test_every_claim_is_told():
    report = example_report()
    text = " ".join(" ".join(Page(html(report)).text).split())
    for part in [
        "8 of 12 claims are not as expected",
        "refuted, as expected",
        "supported, gate closed",
        "What would settle it: About 14 templates",
        "0.77 [0.69, 0.85] (weakest of 5)",
        "seed 4",
        "Effect of patching the state, layer by position",
        "no second component was named to compare with",
        "no site blocks.9.state in this model",
        "pytest 'claims/test_fact.py::test_necessary[seed0-step-02500]' --mechtest-seed=0",
        "SyntaxError: invalid syntax",
        "ordered gates",
        "with uncommitted changes",
        "worker gw1 was replaced by gw2",
        "Interval: denominators are not clearly away from zero",
    ]:
        assert part in text, part
    for claim in report["claims"]:
        assert claim["statement"] in text
    assert "the circuit" not in text


def test_what_is_as_expected_is_folded():
    report = example_report()
    page = html(report)
    sections = re.findall(r'<details data-claim="\d+" class="claim v-(\w+)( off)?"( open)?>', page)
    assert len(sections) == len(report["claims"])
    assert all(bool(off) == bool(unfolded) for _, off, unfolded in sections)


def test_a_report_that_was_read_from_a_file_may_hold_half_characters():
    report = report_of([row("a", "a", "refuted")])
    report["claims"][0]["reason"] = "half \ud83d"
    html(report).encode()


def test_the_same_report_gives_the_same_page():
    assert html(example_report()) == html(example_report())


def test_other_ablations_stand_below_the_numbers_they_are_compared_with():
    page = html(example_report())
    assert "<b>ablation: zero</b> zero ablation: effect 0.31" in page
    assert "<b>ablation: mean</b> mean: it changed no activation" in page
