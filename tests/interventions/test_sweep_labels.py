"""On the edge of a picture every character of a token can be seen, on one line."""

import pytest

from mechtest.interventions.sweep_labels import shortened, token_label, visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Emma", "Emma"),
        (" Emma", "␣Emma"),
        ("a b", "a b"),
        ("a  b ", "a␣␣b␣"),
        ("", "''"),
        ("\n\r\t", "\\n\\r\\t"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\xa0", "\\xa0"),
        ("\u200b\ufeff\u202e", "\\u200b\\ufeff\\u202e"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0001", "\\U000e0001"),
        ("$x$ é 東", "$x$ é 東"),
    ],
    ids=[
        "word",
        "start",
        "middle",
        "double",
        "empty",
        "lines",
        "escape",
        "hard space",
        "hidden",
        "half a pair",
        "tag",
        "letters",
    ],
)
def test_what_is_there_can_be_seen(text, shown):
    assert visible_text(text) == shown
    assert visible_text(shown) == shown


def test_a_token_label_shows_index_and_every_space():
    assert token_label(3, " Emma") == "3 ␣Emma"
    assert token_label(0, "a b\n") == "0 a␣b\\n"
    assert visible_text(token_label(3, " ")) == "3 ␣"


@pytest.mark.parametrize("limit", range(1, 12))
def test_a_long_label_keeps_both_ends(limit):
    text = "abcdefghij"
    short = shortened(text, limit)
    assert len(short) == min(limit, len(text))
    if limit >= len(text):
        assert short == text
    else:
        start, end = short.split("…")
        assert text.startswith(start)
        assert text.endswith(end)
        assert len(start) >= len(end)
