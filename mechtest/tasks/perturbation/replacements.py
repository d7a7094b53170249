"""Which edits put one word in another's place, and which exchange what is there?"""

import re
from dataclasses import dataclass
from typing import Literal

from mechtest.tasks.perturbation.marked_text import MarkedText
from mechtest.tasks.perturbation.operation import Operation

__all__ = ["Attractor", "Casing", "Number", "Rename", "SwapRoles", "SwapSentences", "Synonym"]

SENTENCES = re.compile(r"[^.!?]+[.!?]")


@dataclass(frozen=True)
class _Replacement(Operation):
    """Write one word as another, everywhere.

    Attributes:
        word: Whole word, or run of words.
        by: What stands there instead; must not be in the prompt yet.
    """

    word: str
    by: str

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Replace it from the end, so that places stay right."""
        places = text.words(self.word)
        if not places or text.words(self.by):
            return None
        for start, stop in reversed(places):
            text = text.replaced(start, stop, self.by)
        return text


@dataclass(frozen=True)
class Rename(_Replacement):
    """Call somebody by another name; a name that is an answer or foil is refused."""


@dataclass(frozen=True)
class Synonym(_Replacement):
    """Say a word in another way."""


@dataclass(frozen=True)
class Number(_Replacement):
    """Write another number; one that is an answer or foil is refused."""


@dataclass(frozen=True)
class Attractor(Operation):
    """Put another word at a role on which the answer does not depend.

    Attributes:
        by: What stands there instead.
        role: Role; a prompt without it is left alone.
    """

    by: str
    role: str = "attractor"

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Replace the role's word."""
        found = text.span(self.role)
        return None if found is None else text.replaced(*found, self.by)


@dataclass(frozen=True)
class SwapRoles(Operation):
    """Exchange the words of two roles, in both twins alike.

    Attributes:
        one: Role.
        other: Role; a prompt that lacks either is left alone.
    """

    one: str
    other: str

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Exchange the words; the roles go with them."""
        found = [text.span(role) for role in (self.one, self.other)]
        spans = sorted(span for span in found if span is not None)
        if len(spans) < 2 or spans[0][1] > spans[1][0]:
            return None
        return text.swapped(*spans)


@dataclass(frozen=True)
class SwapSentences(Operation):
    """Exchange the first two sentences, where at least one more follows."""

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Exchange them; roles go with their sentences."""
        found = [one.span() for one in SENTENCES.finditer(text.text)]
        rest = text.text[found[1][1] :] if len(found) > 1 else ""
        if not rest.strip():
            return None
        (start, stop), (later, end) = found[:2]
        later += len(text.text[later:end]) - len(text.text[later:end].lstrip())
        return text.swapped((start, stop), (later, end))


@dataclass(frozen=True)
class Casing(Operation):
    """Write the prompt's first letter, or all of it, small or large.

    Attributes:
        to: `lower` or `upper`.
        whole: All of it; else the first letter alone.
    """

    to: Literal["lower", "upper"] = "lower"
    whole: bool = False

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Change the letters; marks stay, since no length changes."""
        head = text.text if self.whole else text.text[:1]
        changed = head.lower() if self.to == "lower" else head.upper()
        if len(changed) != len(head):  # some letters have no single counterpart
            return None
        return MarkedText(changed + text.text[len(head) :], text.marks)
