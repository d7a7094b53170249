"""One place turns numbers into text; hostile text comes out as text."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.report import (
    HEADER,
    cells_of,
    clean_text,
    effect_text,
    github_annotations,
    html,
    markdown,
    p_text,
    verdict_table,
)
from mechtest.report.cells import number_text, seconds_text, verdict_text
from tests.report.example import HOSTILE, decided_rows, evidence, example_report, report_of, row


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "<0.0001"),
        (0.00005, "<0.0001"),
        (0.0001, "0.0001"),
        (0.0002, "0.0002"),
        (0.0125, "0.0125"),
        (0.05, "0.05"),
        (0.05000001, "0.0501"),
        (0.12344, "0.1235"),
        (0.99999, "1"),
        (1.0, "1"),
        (None, "-"),
    ],
)
def test_p_values_are_rounded_up(p, text):
    assert p_text(p) == text


@given(st.floats(0, 1))
def test_a_printed_p_is_never_smaller_than_it_is(p):
    shown = p_text(p)
    assert float(shown.lstrip("<")) >= p * (1 - 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.914, "0.91"), (-0.5, "-0.50"), (3e-7, "3e-07"), (12345.6, "1.23e+04"),
     (0.00123, "0.00123"), (None, "-")],
)  # fmt: skip
def test_numbers(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.04, "0.0 s"), (4.24, "4.2 s"), (12.4, "12 s"), (185, "3 min 05 s"),
     (3 * 3600 + 65, "3 h 01 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert seconds_text(seconds) == text


def effect(low, high, reason=""):
    return {"estimate": 0.91, "low": low, "high": high, "confidence": 0.9, "unit": "u",
            "reason": reason}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (effect(0.86, 0.95), "0.91 [0.86, 0.95]"),
        (effect(0.86, None, "one-sided"), "0.91 [0.86, inf]"),
        (effect(None, 0.95), "0.91 [-inf, 0.95]"),
        (effect(None, None, "too few templates"), "0.91 [-: too few templates]"),
        (effect(None, None), "0.91 [-]"),
    ],
)
def test_effects(value, text):
    assert effect_text(value) == text


def test_small_effects_read_as_one():
    small = {**effect(-0.0000772, 0.000539), "estimate": 0.00023}
    assert effect_text(small) == "0.0002 [-0.0001, 0.0005]"
    assert effect_text({**effect(-0.00001, 0.005), "estimate": 0.002}) == "0.0020 [0.0000, 0.0050]"
    assert effect_text({**effect(None, None), "estimate": 3e-7}) == "3e-07 [-]"


def test_a_p_value_at_its_level_does_not_look_larger():
    assert p_text(3 / 180) == p_text(0.05 / 3) == "0.0167"


@pytest.mark.parametrize(
    ("verdict", "changes", "text"),
    [
        ("supported", {}, "supported"),
        ("refuted", {}, "refuted"),
        ("refuted", {"expect": "refuted"}, "refuted, as expected"),
        ("refuted", {"expect": "not supported", "as_expected": True}, "refuted, as expected"),
        ("supported", {"expect": "refuted"}, "supported, expected refuted"),
        ("supported", {"gate": "closed"}, "supported, gate closed"),
        ("not_run", {"expect": "refuted"}, "not run"),
        ("crashed", {"gate": "closed"}, "crashed"),
        ("refuted", {"gate": "closed", "expect": "refuted"}, "refuted, as expected"),
    ],
)
def test_verdicts_say_what_was_expected(verdict, changes, text):
    assert verdict_text(row("a", "a", verdict, **changes)) == text


def test_the_table_of_a_report():
    cells = {c.claim: c for c in verdict_table(example_report())}
    assert cells["Layer 0's recurrent state at the last token carries the city"] == (
        "Layer 0's recurrent state at the last token carries the city",
        "supported", "0.91 [0.86, 0.96]", "> 0.50", "0.0125", "0/237", "128/16",
    )  # fmt: skip
    assert cells["... in every training seed"].effect == "0.77 [0.69, 0.85] (weakest of 5)"
    assert cells["Layer 1's state does not carry it"][3:] == ("< 0.15", "0.21", "-", "48/6")
    assert cells["A rotated subspace of layer 2 carries it as well"].controls == "9/57 weak"
    assert cells["The parallel scan computes what the recurrence computes"].p == "exact"
    assert cells["Layer 9 writes the city"][1:] == ("invalid", "-", "-", "-", "-", "-")
    rows = decided_rows(random.Random(0))
    assert [c.verdict for c in verdict_table(rows)][:2] == ["supported", "refuted"]
    assert len(HEADER) == len(cells_of(rows[0]))


def test_the_weakest_measurement_decides():
    rng = random.Random(0)
    parts = [
        evidence(rng, 0.9),
        evidence(rng, 0.7, verdict="refuted"),
        evidence(rng, 0.6, verdict="inconclusive"),
    ]
    assert cells_of(row("a", "a", "refuted", parts)).effect.startswith("0.70")
    less = [evidence(rng, x, direction="less", controls=None) for x in (0.1, 0.3, 0.2)]
    assert cells_of(row("a", "a", "supported", less)).effect.startswith("0.30")


def test_a_claim_on_several_models_says_which():
    one, two = row("t", "it does", "supported"), row("t", "it does", "refuted", id="a::t[seed1]")
    table = verdict_table([one, two, row("u", "so does this", "supported")])
    assert [c.claim for c in table] == [
        "seed0-step-02500: it does", "seed1: it does", "so does this",
    ]  # fmt: skip
    report = report_of([one, two])
    for text in (markdown(report), html(report), "".join(github_annotations(report))):
        assert re.search("seed1(:|%3A|&#58;) it does", text)


def test_a_claim_without_a_statement_is_named_by_its_test():
    assert cells_of(row("test_x", "", "refuted")).claim.startswith("claims/test_fact.py::test_x")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x07", "link"),
        ("\x9b31mred", "red"),
        ("a\r\nb\tc\u2028d", "a b c d"),
        ("half \ud83d", "half \ufffd"),
        ("\u202eback\u202c", "back"),
        ("nul\x00 \x08", "nul"),
        (None, "None"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
    ],
)
def test_only_text_is_left(text, clean):
    assert clean_text(text) == clean


def test_long_text_ends_with_an_ellipsis():
    assert clean_text("x" * 10_000, 20) == "x" * 19 + "\u2026"
    assert clean_text("x" * 20, 20) == "x" * 20
    assert clean_text("ab", 0) == "\u2026"


def test_lines_can_be_kept():
    assert clean_text("a\r\n  b\x1b[0m\n\n", lines=True) == "a\n  b"


@given(st.text(st.characters(codec=None), max_size=60), st.integers(1, 40))
def test_any_text_comes_out_printable(text, limit):
    for clean in (clean_text(text, limit), clean_text(text, limit, lines=True)):
        assert len(clean) <= limit
        clean.encode()
        assert all(c.isprintable() or c in "\n\t " or ord(c) >= 0xA0 for c in clean)
    assert "\n" not in clean_text(text, limit)


def test_hostile_text_is_cleaned():
    for text in HOSTILE:
        assert not set(clean_text(text)) & set("\x00\x07\x08\x1b\x9b\n\r\u2028\u2029\u202e")
