"""A position after `@` means the same tokens as the Python index or slice it looks like."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mechtest.errors import PositionError
from mechtest.sites import Position

lengths = st.integers(1, 12)


@given(st.integers(-12, 11), lengths)
def test_an_index_is_the_python_index(index, n_pos):
    position = Position.parse(str(index))
    try:
        expected = range(n_pos)[index]
    except IndexError:
        with pytest.raises(PositionError, match=f"outside a prompt of {n_pos} tokens"):
            position.indices(n_pos)
    else:
        assert list(position.indices(n_pos)) == [expected]


@given(st.none() | st.integers(-12, 12), st.none() | st.integers(-12, 12), lengths)
def test_a_range_is_the_python_slice_or_an_error(start, stop, n_pos):
    """Where Python would clip or return nothing, an error: a claim must not shrink unseen."""
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    inside = all(end is None or -n_pos <= end <= n_pos for end in (start, stop))
    expected = list(range(n_pos)[start:stop])
    if inside and expected:
        assert list(Position.parse(text).indices(n_pos)) == expected
    else:
        with pytest.raises(PositionError):
            Position.parse(text).indices(n_pos)


@given(st.integers(-3, 3), st.integers(0, 9), st.integers(1, 10))
def test_a_role_is_where_the_prompt_file_says_plus_the_offset(offset, role, n_pos):
    assume(0 <= role + offset < n_pos)
    text = "S2" + (f"{offset:+d}" if offset else "")
    assert list(Position.parse(text).indices(n_pos, {"S2": role})) == [role + offset]


def test_last_is_the_last_token():
    assert list(Position.parse("last").indices(5)) == [4]
    assert list(Position.parse("last-1:").indices(5)) == [3, 4]


def test_no_position_is_every_position():
    assert Position().everywhere
    assert Position.parse(":") == Position()
    assert list(Position().indices(3)) == [0, 1, 2]


def test_roles_are_listed_without_last():
    assert Position.parse("S1:S2+1").roles == ("S1", "S2")
    assert Position.parse("last").roles == ()


def test_an_undefined_role_names_the_known_ones():
    with pytest.raises(
        PositionError, match=r"\[MT105\] nobody defined the position role 'S3'(.|\n)*IO, S2, last"
    ):
        Position.parse("S3").indices(5, {"S2": 3, "IO": 1})
