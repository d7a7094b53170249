"""What is a probe to read off: which label does each prompt bear, and which word decides it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mechtest.errors import FitError, ShapeError, closest_names
from mechtest.models import HookedMamba
from mechtest.stats import keyed_generator
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPair, PromptPairs

__all__ = ["Label", "Labels", "control_labels", "labels_of"]

Label = str | Callable[[PromptPair], object] | Sequence[object]
"""`answer`, a role, a function of a row, or one label a prompt."""

SEVERAL = 50
"""Draws of control labels before it is given up that any of them has two labels."""


@dataclass(frozen=True, eq=False)
class Labels:
    """One label a prompt.

    Attributes:
        name: What it is, for records.
        values: Texts or float64, one a prompt.
        words: Word type of each prompt: what a control task gives random labels to.
    """

    name: str
    values: np.ndarray
    words: tuple[str, ...]

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers."""
        return self.values.dtype.kind == "f"

    @property
    def classes(self) -> tuple[str, ...]:
        """The different labels, sorted; none of numbers."""
        return () if self.numeric else tuple(sorted(set(self.values.tolist())))


def labels_of(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    pairs: EncodedPairs,
    label: Label,
    *,
    numeric: bool,
) -> Labels:
    """Return the labels of the clean prompts.

    Args:
        model: For its tokenizer.
        prompts: As they were given; functions of rows read these.
        pairs: The same, encoded.
        label: `answer`, a role of the prompts, a function of a row, or one label a prompt.
        numeric: Whether numbers are wanted.

    Raises:
        ShapeError: No such role, not one label a prompt, or a function without rows to read.
        FitError: Fewer than two different labels, or texts where numbers are wanted.
    """
    name, found = _found(model, prompts, pairs, label)
    if len(found) != len(pairs):
        raise ShapeError(
            "a probe needs one label a prompt",
            given=f"{len(found)} labels for {len(pairs)} prompts",
            expected="as many as there are prompts in the discovery half, in their order",
        )
    values = _numbers(name, found) if numeric else np.array([str(one) for one in found])
    different = len(set(values.tolist()))
    if different < 2:
        raise FitError(
            "there is nothing to tell apart: all prompts bear the same label",
            given=f"{name}: {values[0]!s} for {len(values)} prompts",
            expected="two labels at least",
        )
    words = _words(model, pairs, label)
    return Labels(name, values, words)


def control_labels(labels: Labels, seed: int, draw: int) -> Labels:
    """Return labels of a control task: one drawn at random for each word type.

    Drawn from the labels there are, as often as they occur. A probe can only learn them by heart,
    word by word; what it gets right here says what a probe of its kind can learn from anything.

    Args:
        labels: Of the task.
        seed: Key of the draw.
        draw: Number of the draw.

    Raises:
        FitError: A single word type, so that all labels would be the same.

    Sources: Hewitt & Liang 2019, section 2 (control tasks).
    """
    types = sorted(set(labels.words))
    if len(types) > 1:
        for attempt in range(SEVERAL):
            generator = keyed_generator(seed, labels.name, "control task", draw, attempt)
            drawn = generator.choice(labels.values, size=len(types))
            if len(set(drawn.tolist())) > 1:
                home = dict(zip(types, drawn, strict=True))
                values = np.array([home[word] for word in labels.words], dtype=labels.values.dtype)
                return Labels(f"control of {labels.name}", values, labels.words)
    raise FitError(
        "a control task needs word types that random labels can be given to",
        given=f"{len(types)} word types in {len(labels.words)} prompts",
        next_step="control_task=False",
    )


def _found(
    model: HookedMamba, prompts: PromptPairs | DiscoveryPairs | EncodedPairs, pairs: EncodedPairs,
    label: Label,
) -> tuple[str, list[object]]:  # fmt: skip
    if label == "answer":
        return "answer", list(_texts(model, pairs.answers.answer_ids[:, 0].tolist()))
    if isinstance(label, str):
        return label, list(_texts(model, _tokens_at(pairs, label)))
    if callable(label):
        if isinstance(prompts, EncodedPairs):
            raise ShapeError(
                "a label function reads rows, and encoded prompts have none",
                expected="prompts.discovery, or the labels themselves, one a prompt",
            )
        rows = prompts if isinstance(prompts, DiscoveryPairs) else prompts.discovery
        return getattr(label, "__name__", "function"), [label(row) for row in rows]
    return "given labels", list(label)


def _tokens_at(pairs: EncodedPairs, role: str) -> list[int]:
    if role not in pairs.roles:
        raise ShapeError(
            f"no prompt has a role {role!r} to take labels from",
            given=role,
            closest=closest_names(role, (*pairs.roles, "answer")),
            expected="answer, or one of " + ", ".join(pairs.roles),
        )
    columns = pairs.positions(role)
    return pairs.clean_tokens.gather(1, columns[:, None])[:, 0].tolist()


def _words(model: HookedMamba, pairs: EncodedPairs, label: Label) -> tuple[str, ...]:
    """Return what decides each label: the word at the role, or the words the twin changes."""
    if isinstance(label, str) and label != "answer":
        return _texts(model, _tokens_at(pairs, label))
    changed = pairs.changed
    rows = [tokens[mask].tolist() for tokens, mask in zip(pairs.clean_tokens, changed, strict=True)]
    return tuple(" ".join(_texts(model, row)) for row in rows)


def _texts(model: HookedMamba, tokens: list[int]) -> tuple[str, ...]:
    if not model.tokens.available:
        return tuple(map(str, tokens))
    return tuple(model.tokenizer.decode([token]).strip() for token in tokens)


def _numbers(name: str, found: list[object]) -> np.ndarray:
    try:
        values = np.array([float(one) for one in found])  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise FitError(
            "this kind of probe reads numbers, and a label is none",
            given=f"{name}: {error}",
            expected="labels that are numbers",
            next_step="kind='logistic' for labels that are names",
        ) from error
    if not np.isfinite(values).all():
        raise FitError("labels hold NaN or infinity", given=name, expected="finite numbers")
    return values
