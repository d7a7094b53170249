"""Does a prompt file survive the trip to disk and back, and does every bad line get told?"""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechtest.errors import PromptError
from mechtest.tasks import PromptPair, PromptPairs
from tests.tasks.wordlevel import CALM, good_rows, ioi_row

texts = st.text(min_size=1, max_size=12)
fields = st.builds(
    dict,
    id=texts,
    clean=texts,
    corrupted=texts,
    answer=st.lists(texts, min_size=1, max_size=3).map(tuple),
    foil=st.lists(texts, min_size=1, max_size=3).map(tuple),
    template=texts,
    positions=st.dictionaries(texts, st.integers(0, 9), max_size=3).map(
        lambda roles: tuple(sorted(roles.items(), key=lambda item: (item[1], item[0])))
    ),
    changed=st.none() | st.lists(texts, max_size=2).map(tuple),
    seed=st.none() | st.integers(),
    behaviour=st.none() | texts,
)
collections = st.lists(fields, min_size=1, max_size=6, unique_by=lambda row: row["id"])


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        path = tmp_path / "prompts.jsonl"
        path.write_text(
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
            encoding="utf-8",
        )
        return path

    return write_lines


@CALM
@given(rows=collections)
def test_writing_and_reading_gives_back_equal_pairs(rows, tmp_path_factory):
    """Any text JSON can hold, line separators and quotes included, comes back as it was."""
    path = tmp_path_factory.mktemp("trip") / "p.jsonl"
    # Built here, not in the strategy: shape checks draw random numbers, which strategies must not.
    before = PromptPairs(tuple(PromptPair(**row) for row in rows))
    assert PromptPairs.from_rows(before) == before
    before.to_jsonl(path)
    after = PromptPairs.from_jsonl(path)
    assert after == before
    assert after.digest == before.digest
    assert after.fingerprints == before.fingerprints


def test_the_minimal_row_of_the_design_loads(write):
    """Without id, changed, seed and behaviour a row is complete, and its id is stable."""
    row = {key: value for key, value in ioi_row().items() if key != "changed"}
    (pair,) = PromptPairs.from_jsonl(write(row, ""))
    assert (pair.answer, pair.changed, pair.seed, pair.behaviour) == ((" Emma",), None, None, None)
    assert pair.roles == ("IO", "S1", "S2")
    assert re.fullmatch(r"[0-9a-f]{16}", pair.id)
    assert pair.id == PromptPairs.from_rows([row])[0].id


def test_null_is_the_same_as_a_missing_key():
    """A generator may write null for what it does not state."""
    pair = PromptPairs.from_rows([ioi_row(seed=None, behaviour=None, changed=None)])[0]
    assert pair.changed is None


def test_rows_of_equal_content_keep_different_derived_ids():
    """Duplicates load, so that they can be found and named."""
    one, two = PromptPairs.from_rows([ioi_row(), ioi_row()])
    assert two.id == f"{one.id}-2"


def test_a_byte_order_mark_and_windows_line_ends_are_read_through(tmp_path):
    """Files saved by other editors load."""
    path = tmp_path / "p.jsonl"
    path.write_bytes("\r\n".join(map(json.dumps, good_rows())).encode("utf-8-sig"))
    assert len(PromptPairs.from_jsonl(path)) == 8


def test_a_malformed_line_is_named(write):
    """The number is that of the file, blank lines counted."""
    with pytest.raises(PromptError, match=r"\[MT301\] prompts.jsonl: line 3: not a row of JSON"):
        PromptPairs.from_jsonl(write(ioi_row(), "", '{"clean": '))


def test_a_key_that_stands_twice_is_refused(write):
    """JSON readers keep the last one in silence."""
    line = json.dumps(ioi_row())[:-1] + ', "foil": " Ruth"}'
    with pytest.raises(PromptError, match="key 'foil' stands there twice"):
        PromptPairs.from_jsonl(write(line))


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(write, content):
    with pytest.raises(PromptError, match=r"prompts.jsonl holds no prompts"):
        PromptPairs.from_jsonl(write(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PromptError, match=r"there is no prompt file .*nowhere.jsonl"):
        PromptPairs.from_jsonl(tmp_path / "nowhere.jsonl")


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"clean": "caf\xe9"}')
    with pytest.raises(PromptError, match=r"not UTF-8 text: .* at byte 14"):
        PromptPairs.from_jsonl(path)


def test_unknown_and_missing_keys_name_the_closest(write):
    """A misspelt key is told with what it was probably meant to be."""
    row = ioi_row(answer=..., anwser=" Emma")
    with pytest.raises(PromptError) as caught:
        PromptPairs.from_jsonl(write(row))
    message = str(caught.value)
    assert "2 problems in 1 row (missing_key 1, unknown_key 1):" in message
    assert re.search(r"line 1: key 'answer' is missing\n.*\n.*closest +anwser", message)
    assert re.search(r"line 1: unknown key 'anwser'\n.*closest +answer", message)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("clean", 3, r"given +3 \(int\)"),
        ("clean", "", r"given +'' \(str\)"),
        ("corrupted", "\ud800", "given"),
        ("answer", [], r"given +\[\] \(list\)"),
        ("foil", [" Emma", 1], "or a list of them"),
        ("positions", {"S2": -1}, "token index from 0"),
        ("positions", {"S2": True}, "token index from 0"),
        ("positions", [1, 2], r"\(list\)"),
        ("changed", "S2", "a list of role names"),
        ("seed", "1", "an integer"),
        ("template", ["a"], "a non-empty string"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key, value, shown):
    with pytest.raises(PromptError, match=rf"row 0: '{key}' is not usable\n(.|\n)*{shown}"):
        PromptPairs.from_rows([ioi_row(**{key: value})])


def test_a_row_that_is_no_object_is_named(write):
    with pytest.raises(PromptError, match="line 2: the row is not an object"):
        PromptPairs.from_jsonl(write(ioi_row(), "[1]"))


def test_repeated_ids_are_refused():
    """An id is how records name a row."""
    with pytest.raises(PromptError, match="x: 2 rows have this id"):
        PromptPairs.from_rows([ioi_row(id="x"), ioi_row("Ruth", id="x")])


def test_many_problems_are_told_together_and_each_kind_gets_its_turn(write):
    """Five are shown and all are counted; a frequent kind does not hide a rare one."""
    lines = [ioi_row(seed="x", id=f"r{n}") for n in range(9)]
    with pytest.raises(PromptError) as caught:
        PromptPairs.from_jsonl(write(*lines, "{", ioi_row(fiol=" Ruth")))
    message = str(caught.value)
    counts = r"11 problems in 11 rows \(wrong_type 9, malformed_json 1, unknown_key 1\), of which 5"
    assert re.search(counts, message)
    assert "line 10: not a row of JSON" in message
    assert "line 11: unknown key 'fiol'" in message
    assert "line 1 ('r0')" in message
    assert "line 4 ('r3')" not in message
    assert message.endswith("nothing was loaded")


def test_a_missing_template_is_refused_without_a_tokenizer():
    with pytest.raises(PromptError, match="row 0: has no 'template'"):
        PromptPairs.from_rows([ioi_row(template=...)])
