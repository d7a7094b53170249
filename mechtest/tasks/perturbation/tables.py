"""Which words of a prompt file can stand in for each other?

A table offers edits for each prompt. Its words are the caller's, or come from the prompt file, so
that a model with a small vocabulary knows them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mechtest.errors import PromptError
from mechtest.tasks.pair import PromptPair
from mechtest.tasks.perturbation.insertions import Prefix
from mechtest.tasks.perturbation.marked_text import words_in
from mechtest.tasks.perturbation.operation import Operation
from mechtest.tasks.perturbation.replacements import Number, Rename, Synonym

__all__ = ["Names", "Numbers", "Prefixes", "Synonyms"]


@dataclass(frozen=True)
class Names:
    """Names that can be exchanged within a group.

    Attributes:
        groups: Names that mean the same to the answer (for a pronoun: those of one gender).
        each: How many others are offered for a name: the next ones of its group.
    """

    groups: tuple[tuple[str, ...], ...]
    each: int = 4

    @classmethod
    def from_prompts(cls, prompts: Iterable[PromptPair], role: str) -> "Names":
        """Collect the words that stand at a role of clean prompts, a group for each answer.

        Words that are answers or foils themselves are left out: exchanging them changes the answer.

        Args:
            prompts: Prompts whose roles are at words, not at pieces of words.
            role: For example `person`.

        Raises:
            PromptError: No two prompts of one answer have different words there.
        """
        groups: dict[tuple[str, ...], dict[str, None]] = {}
        said: set[str] = set()
        for pair in prompts:
            said |= {text.strip() for text in (*pair.answer, *pair.foil)}
            word = _word_at(pair, role)
            if word is not None:
                groups.setdefault(pair.answer, {})[word] = None
        kept = [tuple(w for w in group if w not in said) for group in groups.values()]
        kept = [group for group in kept if len(group) > 1]
        if not kept:
            raise PromptError(
                f"no words at role {role!r} can be exchanged",
                given=f"{sum(map(len, groups.values()))} words of {len(groups)} answers",
                expected="at least two words for one answer, which are no answers themselves",
                next_step="give the names yourself: mt.Names(((...),))",
            )
        return cls(tuple(kept))

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return renames of every name in the prompt or its twin, in the order of the table."""
        return tuple(
            Rename(name, other)
            for group in self.groups
            for place, name in enumerate(group)
            if words_in(f"{pair.clean} {pair.corrupted}", name)
            for other in (group[place + 1 :] + group[:place])[: self.each]
        )


@dataclass(frozen=True)
class Synonyms:
    """Words that can be said in another way.

    Attributes:
        words: `(word, another)`, tried in this order.
    """

    words: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, words: Mapping[str, str | Iterable[str]]) -> "Synonyms":
        """Build from `{word: another, or several}`."""
        return cls(
            tuple(
                (word, one)
                for word, others in words.items()
                for one in ([others] if isinstance(others, str) else others)
            )
        )

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return the synonyms of words that are in the prompt."""
        return tuple(Synonym(word, by) for word, by in self.words if words_in(pair.clean, word))


@dataclass(frozen=True)
class Numbers:
    """Numbers that can be exchanged.

    Attributes:
        numbers: As they are written.
    """

    numbers: tuple[str, ...]

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return exchanges of the numbers that are in the prompt."""
        return tuple(
            Number(number, other)
            for number in self.numbers
            if words_in(pair.clean, number)
            for other in self.numbers
            if other != number
        )


@dataclass(frozen=True)
class Prefixes:
    """Openings that can be put before any prompt.

    Attributes:
        openings: Simplest first.
    """

    openings: tuple[str, ...]

    @classmethod
    def from_prompts(cls, prompts: Iterable[PromptPair]) -> "Prefixes":
        """Collect how prompts open: all up to the first comma or full stop, shortest first.

        An opening in which clean and corrupted differ, or that holds a role, is left out.

        Raises:
            PromptError: No prompt opens so.
        """
        found: dict[str, None] = {}
        for pair in prompts:
            ends = [place for place in map(pair.clean.find, (", ", ". ")) if place > 0]
            opening = pair.clean[: min(ends) + 1] if ends else ""
            first = min((place for _, place in pair.positions), default=0)
            words = len(opening.split())
            if opening and pair.corrupted.startswith(opening) and words < first:
                found[opening] = None
        if not found:
            raise PromptError(
                "no prompt opens with a phrase before its first role",
                expected="prompts such as 'Lately, ...'",
                next_step="give the openings yourself: mt.Prefixes((...))",
            )
        return cls(tuple(sorted(found, key=lambda one: (len(one.split()), one))))

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return all of them, but the one the prompt has already."""
        return tuple(Prefix(one) for one in self.openings if not pair.clean.startswith(one))


def _word_at(pair: PromptPair, role: str) -> str | None:
    """Return the word of the clean prompt at a role, counting words and a bos token.

    Right for prompts of whole words; elsewhere the edits made from it are refused when rendered.
    """
    place = dict(pair.positions).get(role)
    pieces = pair.clean.replace(",", " ,").replace(".", " .").split()
    if place is None or not 0 < place <= len(pieces):
        return None
    return pieces[place - 1]
