"""How is Python written that people read: which lines, and none of them too long?"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["WIDTH", "call", "quoted", "wrapped"]

WIDTH = 100
"""Characters a line holds."""

Argument = str | tuple[str, object]
"""Code as it is, or what stands before a value (`seed=`, `HERE / `, nothing) and the value."""


def quoted(value: object) -> str:
    """Return a value as Python writes it, texts in double quotes."""
    if not isinstance(value, str):
        return repr(value)
    kept = {'"': '\\"', "'": "'"}
    return f'"{"".join(kept.get(char) or repr(char)[1:-1] for char in value)}"'


def wrapped(text: str, start: str, next_lines: str) -> str:
    """Return a text in lines that are not too long; a word that is longer is broken.

    Args:
        text: One line.
        start: Before the first line.
        next_lines: Before every other one.
    """
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=next_lines, break_on_hyphens=False
    )


def call(
    function: str, arguments: Sequence[Argument], *, indent: str = "", apart: bool = False
) -> str:
    """Return a call, on one line where it fits.

    Args:
        function: What stands before the parenthesis, on a line of its own or the only one.
        arguments: In order.
        indent: Before every line.
        apart: Whether each argument has a line of its own in any case.
    """
    line = f"{indent}{function}({', '.join(map(_argument, arguments))})"
    if not apart and len(line) <= WIDTH:
        return line
    inner = indent + 4 * " "
    lines = [part for one in arguments for part in _lines(one, inner)]
    return "\n".join([f"{indent}{function}(", *lines, f"{indent})"])


def _argument(one: Argument) -> str:
    return one if isinstance(one, str) else one[0] + quoted(one[1])


def _lines(one: Argument, indent: str) -> list[str]:
    line = f"{indent}{_argument(one)},"
    if len(line) <= WIDTH or isinstance(one, str) or not isinstance(one[1], str):
        return [line]
    inner = indent + 4 * " "
    pieces = _pieces(one[1], WIDTH - len(inner))
    return [f"{indent}{one[0]}(", *(inner + quoted(piece) for piece in pieces), f"{indent}),"]


def _pieces(text: str, room: int) -> list[str]:
    """Return a text in pieces that fit into so many characters, broken at spaces if it can be."""
    pieces = []
    while len(quoted(text)) > room:
        cut = max(at for at in range(1, room) if len(quoted(text[:at])) <= room)
        cut = text.rfind(" ", 0, cut) + 1 or cut
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]
