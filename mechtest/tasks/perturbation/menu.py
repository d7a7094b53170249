"""Which edits does each prompt allow, and which perturbed prompts are drawn from them?

Two draws use this menu: Hypothesis looks for the worst prompt, and a keyed generator takes a fair
sample. Only the second may be used for a rate, an interval or a p value.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mechtest.errors import PromptError
from mechtest.tasks.pair import PromptPair
from mechtest.tasks.pairs import PromptPairs
from mechtest.tasks.perturbation.operation import Operation, Perturbation, Source
from mechtest.tasks.perturbation.rendering import Refusal, Renderer
from mechtest.tasks.tokens import Tokenizer

__all__ = ["Menu"]

TRIES = 20
"""Draws of several edits at once, before a prompt is given up because they do not go together."""


class Menu:
    """The edits that prompts allow, each alone checked by rendering it.

    Args:
        prompts: The prompts.
        operations: Operations and tables of them, simplest first.
        max_edits: Most edits made to one prompt, each of another kind.
        tokenizer: The model's. Without one nothing can be checked: edits are offered as they are,
            and whoever renders them later leaves out what cannot be.

    Raises:
        PromptError: No operations, or something that is none; `max_edits` below 1.
    """

    def __init__(
        self,
        prompts: PromptPairs,
        operations: Sequence[object],
        max_edits: int,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.sources = tuple(one for one in operations if isinstance(one, Source))
        strange = [one for one in operations if not isinstance(one, Source)]
        if strange or not operations or isinstance(max_edits, bool) or max_edits < 1:
            raise PromptError(
                "perturbed prompts are made by operations",
                given=f"{strange or list(self.sources)!r}, max_edits={max_edits!r}",
                expected="a list of mt.Prefix(...), mt.Names(...) or your own; max_edits >= 1",
            )
        self.prompts, self.max_edits = prompts, max_edits
        self._renderer = None if tokenizer is None else Renderer(tokenizer)
        self.refused: Counter[tuple[str, str]] = Counter()
        self._kinds: dict[PromptPair, Mapping[str, tuple[Operation, ...]]] = {}

    def kinds(self, pair: PromptPair) -> Mapping[str, tuple[Operation, ...]]:
        """Return the edits that a prompt allows, by kind, in the order they were given.

        Those it does not allow are counted in `refused`, once a prompt.
        """
        if pair not in self._kinds:
            allowed: dict[str, dict[Operation, None]] = {}
            for operation in (one for source in self.sources for one in source.choices(pair)):
                refusal = self.refusal(Perturbation(pair, (operation,)))
                if refusal is not None:
                    self.refused[operation.kind, refusal.reason] += 1
                else:
                    allowed.setdefault(operation.kind, {})[operation] = None
            self._kinds[pair] = {kind: tuple(found) for kind, found in allowed.items()}
        return self._kinds[pair]

    def refusal(self, perturbation: Perturbation) -> Refusal | None:
        """Return why a perturbed prompt cannot be asked, None where it can or nobody can tell."""
        found = None if self._renderer is None else self._renderer.render(perturbation)
        return found if isinstance(found, Refusal) else None

    @property
    def renderer(self) -> Renderer:
        """What renders these prompts.

        Raises:
            TokenizerMissingError: The menu has no tokenizer.
        """
        return Renderer(None) if self._renderer is None else self._renderer

    def draw(self, pair: PromptPair, generator: np.random.Generator) -> Perturbation | None:
        """Draw one perturbed prompt: how many edits, of which kinds, and which of each.

        All numbers of edits are equally likely, then all kinds the prompt allows, then all edits of
        a kind; edits that do not go together are drawn again.

        Args:
            pair: The prompt.
            generator: From `mechtest.stats.keyed_generator`; what it gives depends on nothing else.

        Returns:
            None where the prompt allows no edit.
        """
        kinds = self.kinds(pair)
        names = list(kinds)
        for _ in range(TRIES if names else 0):
            count = min(int(generator.integers(1, self.max_edits + 1)), len(names))
            chosen = generator.permutation(len(names))[:count]
            edits = [kinds[names[index]] for index in chosen]
            operations = tuple(one[int(generator.integers(len(one)))] for one in edits)
            perturbation = Perturbation(pair, operations)
            if self.refusal(perturbation) is None:
                return perturbation
        return None

    @property
    def skipped(self) -> str:
        """What was left out so far, in words; empty where nothing was."""
        return ", ".join(
            f"{kind} {count} ({reason})" for (kind, reason), count in sorted(self.refused.items())
        )
