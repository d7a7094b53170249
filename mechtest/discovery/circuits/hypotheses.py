"""When does a hypothesis say that two prompts are the same to a node?

A hypothesis gives each node a key: prompts of one key are one class, and the node is said to tell
them apart by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mechtest.discovery.circuits.measuring import Looked
from mechtest.discovery.looking import discovery_half
from mechtest.errors import DiscoveryError
from mechtest.stats import keyed_generator
from mechtest.tasks import EncodedPairs, PromptPair

__all__ = ["ANSWER", "ANY", "Classes", "Key", "classes_of", "donors_of"]

ANY, ANSWER = "any", "answer"

Key = str | Sequence[str] | Callable[[PromptPair], Hashable]
"""`any`, `answer`, the name of a role (the token that stands there), several of them, or a function
of the prompt pair."""


@dataclass(frozen=True, eq=False)
class Classes:
    """Which prompts a node takes for the same.

    Attributes:
        label: How the key is written.
        members: Class of each prompt, numbered from 0.
    """

    label: str
    members: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(set(self.members))


def classes_of(key: Key, pairs: EncodedPairs, prompts: Looked) -> Classes:
    """Return the classes of the clean prompts under a key.

    Args:
        key: See `Key`.
        pairs: The encoded prompts.
        prompts: What they were encoded from: functions are asked about its rows.

    Raises:
        PositionError: A role that some prompt lacks.
        DiscoveryError: A function, where only encoded prompts are there, or what it returns cannot
            be compared.
    """
    if callable(key):
        if isinstance(prompts, EncodedPairs):
            raise DiscoveryError(
                "a function of prompt pairs needs the pairs, and these are encoded",
                given=repr(getattr(key, "__name__", key)),
                expected="PromptPairs, or the name of a role",
            )
        rows = {row.id: row for row in discovery_half(prompts).rows}
        try:
            return _numbered(getattr(key, "__name__", "key"), [key(rows[n]) for n in pairs.ids])
        except TypeError as error:
            raise DiscoveryError(
                f"the key of a class cannot be compared: {error}",
                expected="a text, a number, or a tuple of them",
            ) from error
    names = [key] if isinstance(key, str) else list(key)
    columns = [_tokens(name, pairs) for name in names]
    return _numbered(" + ".join(names), list(zip(*columns, strict=True)))


def donors_of(
    classes: Classes, shapes: Sequence[int], *, seed: int, stream: str, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw for each prompt another one of its class, of the same shape.

    Args:
        classes: Of the prompts.
        shapes: Places of the node in each prompt; only prompts with as many can stand in.
        seed: Root seed.
        stream: What is drawn for.
        number: Which sample.

    Returns:
        The prompt whose activations are put in, one a prompt; and whether there was no other, so
        that it keeps its own.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for prompt, group in enumerate(zip(classes.members, shapes, strict=True)):
        groups.setdefault(group, []).append(prompt)
    donors = np.arange(len(classes.members))
    alone = np.zeros(len(donors), dtype=bool)
    for group, members in sorted(groups.items()):
        if len(members) == 1:
            alone[members] = True
            continue
        generator = keyed_generator(seed, "scrub", stream, number, *group)
        # A step of 1 to n - 1 around the group: any other member, and never itself.
        steps = generator.integers(1, len(members), size=len(members))
        for place, step in enumerate(steps.tolist()):
            donors[members[place]] = members[(place + step) % len(members)]
    return donors, alone


def _tokens(name: str, pairs: EncodedPairs) -> list[Hashable]:
    if name == ANY:
        return [0] * len(pairs)
    if name == ANSWER:
        return [tuple(row) for row in pairs.answers.answer_ids.tolist()]
    columns = pairs.positions(name)
    return list(pairs.clean_tokens.gather(1, columns[:, None])[:, 0].tolist())


def _numbered(label: str, keys: Sequence[Hashable]) -> Classes:
    known: dict[Hashable, int] = {}
    return Classes(label, tuple(known.setdefault(key, len(known)) for key in keys))


def written_keys(hypothesis: Mapping[str, Key]) -> dict[str, str]:
    """Return each node's key as a record can hold it."""
    return {
        name: getattr(key, "__name__", "key")
        if callable(key)
        else " + ".join([key] if isinstance(key, str) else key)
        for name, key in hypothesis.items()
    }
