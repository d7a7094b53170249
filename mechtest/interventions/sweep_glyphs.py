"""Which characters can be drawn here, and what stands in for the others?

Fonts differ between machines. A character that none of them has would become an empty box and a
warning; it is written as its code instead.
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["Lettering"]

_MORE_FONTS = (
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Symbols2",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
)
"""Asked in this order, where they are installed, for what the user's font lacks."""


class Lettering:
    """The fonts of one picture."""

    def __init__(self) -> None:
        from matplotlib.font_manager import FontProperties

        self._families = list(FontProperties().get_family())
        self._known = _characters(tuple(self._families))

    def drawn(self, text: str) -> str:
        """Return `text` with characters that no font has as codes; line ends stay."""
        if not set(text) - self._known - {"\n"}:
            return text
        self._take_more_fonts()
        return "".join(
            char if char in self._known or char == "\n" else _code(char) for char in text
        )

    def style(self, size: float) -> dict[str, Any]:
        """Return what a text is drawn with: these fonts, and every character as itself."""
        return {
            "fontsize": size,
            "fontfamily": self._families,
            "parse_math": False,  # a token may hold dollar signs
            "usetex": False,
        }

    def _take_more_fonts(self) -> None:
        for name in _MORE_FONTS:
            if name in _installed() and name not in self._families:
                self._families.append(name)
                self._known = self._known | _characters((name,))


@cache
def _installed() -> frozenset[str]:
    from matplotlib.font_manager import fontManager

    return frozenset(font.name for font in fontManager.ttflist)


@cache
def _characters(families: tuple[str, ...]) -> frozenset[str]:
    """Return the characters that the first font found for these families has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=list(families))))
    return frozenset(map(chr, font.get_charmap()))


def _code(char: str) -> str:
    number = ord(char)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
