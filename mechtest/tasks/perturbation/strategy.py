"""How does Hypothesis draw perturbed prompts, so that what it shrinks to reads well?

What takes fewer choices comes first: fewer edits before more, and a prompt that allows one kind of
edit before those that allow several. Else shorter prompts come before longer ones, and edits in the
order they were given. What it draws is chosen to find counter-examples: no rate, interval or p
value may be computed from it (`Menu.draw` is for those).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from mechtest.errors import PromptError
from mechtest.tasks.pairs import PromptPairs
from mechtest.tasks.perturbation.menu import Menu
from mechtest.tasks.perturbation.operation import Perturbation, Source
from mechtest.tasks.tokens import Tokenizer

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ["perturbations", "strategy_of"]

T = TypeVar("T")

AT_ONCE = 100
"""Things to choose from at once. Hypothesis tries larger numbers that it finds in the source of
whatever modules are loaded, so what it draws would depend on what ran before."""


def perturbations(
    prompts: PromptPairs,
    operations: Sequence[Source],
    *,
    max_edits: int = 2,
    tokenizer: Tokenizer | None = None,
) -> "SearchStrategy[Perturbation]":
    """Return a Hypothesis strategy of perturbed prompts, for `@given`.

    Args:
        prompts: Prompts to perturb; the test half of a split, where they are in a claim.
        operations: Edits and tables of edits, simplest first.
        max_edits: Most edits made to one prompt, each of another kind.
        tokenizer: The model's, where it is at hand: edits that its vocabulary or the roles do not
            allow are then not offered. What is left to refuse (without a tokenizer: all of it, else
            edits that do not go together) `must_retain` passes over, which has the model.

    Raises:
        PromptError: No prompt allows any of the edits, or as `Menu`.

    Sources: MacIver & Hatfield-Dodds 2020 (Hypothesis: reduction by the choices that were made).
    """
    return strategy_of(Menu(prompts, operations, max_edits, tokenizer))


def strategy_of(menu: Menu) -> "SearchStrategy[Perturbation]":
    """Return the strategy over a menu."""
    from hypothesis import strategies as st

    # Everything is rendered before the first draw: drawing itself only chooses.
    allowed = {pair: menu.kinds(pair) for pair in menu.prompts}
    rows = [pair for pair in allowed if allowed[pair]]
    rows.sort(key=lambda pair: len(pair.clean.split()))  # stable: else in the order of the file
    if not rows:
        raise PromptError(
            f"{menu.prompts.source}: no prompt allows any of these edits",
            given=f"{len(menu.prompts)} prompts; left out: {menu.skipped or 'no edit was offered'}",
            expected="edits made of words that the model's tokenizer knows",
        )

    def one_of(items: "Sequence[T]") -> "SearchStrategy[T]":
        parts = [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]
        return one_of(parts).flatmap(st.sampled_from) if parts[1:] else st.sampled_from(items)

    @st.composite
    def drawn(draw: "DrawFn") -> Perturbation:
        pair = draw(one_of(rows))
        kinds = allowed[pair]
        most = min(menu.max_edits, len(kinds))
        names = draw(st.lists(one_of(list(kinds)), min_size=1, max_size=most, unique=True))
        return Perturbation(pair, tuple(draw(one_of(kinds[name])) for name in names))

    return drawn()
