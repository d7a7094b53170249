"""How is a prompt's text edited without losing where its roles are?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MarkedText", "words_in"]

Span = tuple[int, int]
Mark = tuple[str, int, int]


@dataclass(frozen=True)
class MarkedText:
    """The text of one prompt, with a mark at every role. Edits give a new one and move the marks.

    Attributes:
        text: The prompt.
        marks: `(role, start, stop)` in characters of `text`: the word, or the piece of a word, that
            the role's token writes.
    """

    text: str
    marks: tuple[Mark, ...] = ()

    def span(self, role: str) -> Span | None:
        """Return where a role stands, None where there is none."""
        return next(((start, stop) for name, start, stop in self.marks if name == role), None)

    def inserted(self, at: int, words: str) -> "MarkedText":
        """Return the text with something put in before character `at`; later marks move along."""
        return self.replaced(at, at, words)

    def replaced(self, start: int, stop: int, words: str) -> "MarkedText":
        """Return the text with a part replaced.

        A mark that begins where the part does stays on what replaces it; any other mark inside the
        part is lost, and losing one is refused when the prompt is rendered.
        """
        moved = len(words) - (stop - start)
        marks: list[Mark] = []
        for role, first, last in self.marks:
            if last <= start:
                marks.append((role, first, last))
            elif first >= stop:
                marks.append((role, first + moved, last + moved))
            elif first == start and words:
                marks.append((role, start, start + len(words)))
        return MarkedText(self.text[:start] + words + self.text[stop:], tuple(marks))

    def swapped(self, one: Span, other: Span) -> "MarkedText":
        """Return the text with two parts in each other's place; marks go with their parts.

        Args:
            one: The part that comes first.
            other: The part that comes later; they must not overlap.
        """
        (a, b), (c, d) = one, other
        moves = ((c, d), (b, c), (a, b))
        text, marks = self.text[:a], [mark for mark in self.marks if mark[2] <= a]
        for start, stop in moves:
            shift = len(text) - start
            marks += [
                (role, first + shift, last + shift)
                for role, first, last in self.marks
                if start <= first and last <= stop
            ]
            text += self.text[start:stop]
        marks += [mark for mark in self.marks if mark[1] >= d]
        return MarkedText(text + self.text[d:], tuple(marks))

    def words(self, word: str) -> Sequence[Span]:
        """Return where a word, or a run of words, stands as a whole."""
        return words_in(self.text, word)


def words_in(text: str, word: str) -> list[Span]:
    """Return where a word, or a run of words, stands in a text and no longer word goes on."""
    before = r"(?<!\w)" if word[:1].isalnum() else ""
    after = r"(?!\w)" if word[-1:].isalnum() else ""
    return [found.span() for found in re.finditer(before + re.escape(word) + after, text)]
