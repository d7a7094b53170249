"""What is written as Python says what it was told, in lines that can be read."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.study.python_text import WIDTH, call, quoted, wrapped


@settings(database=None, deadline=None, max_examples=60)
@given(st.text(max_size=400), st.text(max_size=60), st.booleans())
def test_a_call_gives_back_its_texts_and_no_line_is_long(first, second, apart):
    text = call("seen = dict", [("first=", first), ("second=", second)], apart=apart)
    assert max(map(len, text.split("\n"))) <= WIDTH
    (assigned,) = ast.parse(text).body
    told = {one.arg: ast.literal_eval(one.value) for one in assigned.value.keywords}
    assert told == {"first": first, "second": second}


@pytest.mark.parametrize(
    "text", ['say "so"', "it's", "C:\\new", "\ud83d", "a\nb", "é\U0001f600", "\u202e"], ids=ascii
)
def test_a_text_is_quoted_as_python_reads_it(text):
    assert quoted(text)[0] == '"'
    assert ast.literal_eval(quoted(text)) == text


def test_what_fits_stays_on_its_line():
    assert call("f", ["x", ("y=", 0.5)], indent="  ") == "  f(x, y=0.5)"
    assert call("f", ["x" * 91, ("y=", 0.5)]).splitlines() == [
        "f(", f"    {'x' * 91},", "    y=0.5,", ")",
    ]  # fmt: skip


def test_a_comment_goes_on_as_a_comment():
    lines = wrapped("word " * 50 + "x" * 150, "# ", "# ").splitlines()
    assert all(line.startswith("# ") and len(line) <= WIDTH for line in lines)
    assert len(lines) > 3
