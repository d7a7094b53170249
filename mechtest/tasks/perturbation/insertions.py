"""Which edits put words in that have nothing to do with the answer?"""

import re
from dataclasses import dataclass

from mechtest.tasks.perturbation.marked_text import MarkedText
from mechtest.tasks.perturbation.operation import Operation

__all__ = ["Blanks", "Distractor", "Filler", "Prefix"]

SENTENCE_END = re.compile(r"[.!?] +")


@dataclass(frozen=True)
class Prefix(Operation):
    """Put words before the prompt: a phrase with its comma, or a whole sentence.

    Attributes:
        words: Without blanks at either end.
    """

    words: str

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Put them in front."""
        return text.inserted(0, f"{self.words} ")


@dataclass(frozen=True)
class Filler(Operation):
    """Put words behind the word of a role, which lengthens the way to the answer.

    Attributes:
        words: Without blanks at either end; an attractor noun, or words that say nothing.
        after: Role; a prompt without it is left alone.
    """

    words: str
    after: str

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Put them in behind the role's word."""
        found = text.span(self.after)
        return None if found is None else text.inserted(found[1], f" {self.words}")


@dataclass(frozen=True)
class Distractor(Operation):
    """Put a sentence before the last one, where there are two.

    Attributes:
        sentence: With its full stop.
    """

    sentence: str

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Put it in before the last sentence."""
        ends = [found.end() for found in SENTENCE_END.finditer(text.text)]
        return text.inserted(ends[-1], f"{self.sentence} ") if ends else None


@dataclass(frozen=True)
class Blanks(Operation):
    """Write one blank of the prompt as several.

    Attributes:
        number: Which blank, from 0.
        count: How many it becomes.
    """

    number: int = 0
    count: int = 2

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Widen the blank."""
        places = [found.start() for found in re.finditer(" ", text.text)]
        if self.number >= len(places):
            return None
        return text.inserted(places[self.number], " " * (self.count - 1))
