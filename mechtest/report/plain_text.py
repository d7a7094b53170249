"""How does text from users become safe to print?

Names of tests, statements, prompts and error messages may hold anything: colour codes, control
characters, half a surrogate pair, characters that turn the reading direction. What is left here is
text that can be written to a file, a terminal or a page; escaping for a format comes after.
"""

from __future__ import annotations

import re

__all__ = ["clean_text", "whole_characters"]

_ANSI = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # device strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # colours and cursor movements
    r"|\x1b[ -/]*[0-~]?"
)
_LINE_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
# Marks without a width that reorder or hide text; the joiners that emoji need stay.
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """Return `text` with halves of surrogate pairs replaced, so that it can be encoded."""
    return _SURROGATES.sub("\ufffd", text)


def clean_text(text: object, limit: int = 500, *, lines: bool = False) -> str:
    """Return `text` without anything that is not text.

    Args:
        text: Anything; it is turned into a string first.
        limit: The most characters to keep; what is cut ends with an ellipsis.
        lines: Keep line ends and indentation. Otherwise the result is one line.
    """
    plain = _LINE_ENDS.sub("\n", _ANSI.sub("", str(text)))
    plain = whole_characters(_HIDDEN.sub("", plain))
    plain = plain.strip("\n") if lines else " ".join(plain.split())
    return plain if len(plain) <= limit else plain[: max(limit - 1, 0)].rstrip() + "\u2026"
