"""How does a token read on the edge of a picture?

A token may be a space, a line end, half a character or forty letters long. Here it becomes one
line in which everything that is there can be seen.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["shortened", "token_label", "visible_text"]

SPACE = "\u2423"
"""An open box: how a space is shown where it would not be seen."""

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSEEN = {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"}
_EDGES = re.compile(r"^ +| +$| {2,}")


def visible_text(text: str) -> str:
    """Return `text` as one line without anything invisible.

    Line ends and tabs become escapes, as do characters without a shape; spaces at the ends and
    repeated ones become open boxes. An empty text becomes a pair of quotes.
    """
    if not text:
        return "''"
    plain = "".join(_NAMED.get(char) or _escaped(char) for char in text)
    return _EDGES.sub(lambda found: SPACE * len(found[0]), plain)


def token_label(index: int, token: str) -> str:
    """Return the label of a token: its index in the prompt, then the token with spaces visible.

    Example:
        >>> token_label(3, " Emma")
        '3 \u2423Emma'
    """
    return f"{index} {visible_text(token).replace(' ', SPACE)}"


def shortened(text: str, limit: int) -> str:
    """Return at most `limit` characters, both ends of `text` with an ellipsis between them."""
    if len(text) <= limit:
        return text
    tail = max((limit - 1) // 3, 0)
    return f"{text[: limit - 1 - tail]}\u2026{text[len(text) - tail :]}"


def _escaped(char: str) -> str:
    kind = unicodedata.category(char)
    if kind == "Zs" and char != " ":
        return _code(char)
    return _code(char) if kind in _UNSEEN else char


def _code(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
