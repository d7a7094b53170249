"""What is one edit of a prompt, and what is a perturbed prompt before anybody has rendered it?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, no_type_check, runtime_checkable

from mechtest.errors import PromptError, closest_names
from mechtest.tasks.pair import PromptPair
from mechtest.tasks.perturbation.marked_text import MarkedText

__all__ = ["Operation", "Perturbation", "Source", "perturbed"]


@dataclass(frozen=True)
class Operation:
    """One edit that leaves the right answer as it is; subclass it for edits of your own.

    A subclass is a frozen dataclass with an `edit` of a few lines. It is called for the clean
    prompt and for its twin, and must do the same to both; whatever it does is checked when the
    prompt is rendered. Its class is its *kind*: a prompt has at most one edit of a kind.

    Example:
        >>> @dataclass(frozen=True)
        ... class Politely(mt.Operation):
        ...     def edit(self, text):
        ...         return text.inserted(0, "Please, ")
    """

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return type(self).__name__

    def edit(self, text: MarkedText) -> MarkedText | None:
        """Return the edited text, None where this edit does not apply."""
        raise NotImplementedError(f"{self.kind} has no edit(text)")

    def choices(self, pair: PromptPair) -> tuple["Operation", ...]:
        """Return the edits this offers for a prompt: itself. A table offers several."""
        del pair
        return (self,)


@runtime_checkable
class Source(Protocol):
    """An operation, or a table that offers some for every prompt."""

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return the edits offered for a prompt, simplest first."""
        ...


# no_type_check: what checks shapes while tests run looks at a random element of every tuple, and a
# strategy that draws random numbers of its own is one that Hypothesis refuses.
@no_type_check
@dataclass(frozen=True, repr=False)
class Perturbation:
    """A prompt and the edits to be made to it, in order.

    Attributes:
        base: The prompt as it is in its file.
        operations: Edits.
    """

    base: PromptPair
    operations: tuple[Operation, ...]

    def __repr__(self) -> str:
        """Return what writes it again in a claim file, whose prompts are called `PROMPTS`."""
        edits = "".join(f", {written(operation)}" for operation in self.operations)
        return f"mt.perturbed(PROMPTS, {self.base.id!r}{edits})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Write the same where Hypothesis prints a failing test case."""
        del cycle
        printer.text(repr(self))


def written(operation: Operation) -> str:
    """Return an operation as Python; those of this package are found under `mt`."""
    own = type(operation).__module__.startswith("mechtest.")
    return f"mt.{operation!r}" if own else repr(operation)


def perturbed(prompts: Iterable[PromptPair], id: str, *operations: Operation) -> Perturbation:  # noqa: A002
    """Return one prompt of a collection with some edits: what a counter-example is printed as.

    Args:
        prompts: The collection.
        id: Of the prompt.
        *operations: Edits, in order.

    Raises:
        PromptError: No prompt has this id.
    """
    rows = {pair.id: pair for pair in prompts}
    if id not in rows:
        raise PromptError(
            f"no prompt is called {id!r}",
            given=id,
            closest=closest_names(id, rows),
            expected=f"the id of one of {len(rows)} prompts",
        )
    return Perturbation(rows[id], operations)
