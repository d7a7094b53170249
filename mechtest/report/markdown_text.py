"""How does text become Markdown that says just that, and lines fit into a comment?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mechtest.report.plain_text import clean_text

__all__ = ["MARKER", "escaped", "fitting", "size"]

MARKER = "<!-- mechtest-report -->"
"""Hidden first line, by which a bot finds its comment again."""

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>()#+!|~$&@^=:\"']")


def escaped(text: object, limit: int = 200) -> str:
    """Return `text` as Markdown that renders as exactly that text, on one line."""
    plain = clean_text(text, limit)
    # A joiner without width after @ and # keeps names and numbers from becoming references.
    safe = _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", plain)
    return re.sub(r"(&#(?:64|35);)(?=\w)", "\\1\u2060", safe)


def fitting(
    lines: Sequence[str],
    room: int,
    what: str,
    *,
    blank: bool = False,
    where: str = "report.html shows them all",
) -> list[str]:
    """Return the lines that fit, and a sentence that says how many did not.

    Args:
        lines: In the order of their weight.
        room: Bytes there are.
        what: What the lines are about, for the sentence.
        blank: Put an empty line before it, where it would become a row of a table.
        where: The rest of the sentence: where the others are.
    """
    kept: list[str] = []
    for line in lines:
        room -= size([line])
        if room < 0:
            break
        kept.append(line)
    cut = len(lines) - len(kept)
    if not cut:
        return kept
    return [*kept, *([""] if blank else []), f"{cut} more {what} cut: {where}."]


def size(lines: Sequence[str]) -> int:
    """Return how many bytes lines take with their ends."""
    return sum(len(line.encode()) + 1 for line in lines)
