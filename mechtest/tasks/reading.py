"""Which logits does a metric read, and are they numbers?"""

import torch
from jaxtyping import Float
from torch import Tensor

from mechtest.errors import MetricError, NonFiniteError, ShapeError
from mechtest.tasks.answers import AnswerIds

__all__ = ["read_position", "refuse_non_finite"]

SHOWN = 5


def read_position(
    logits: Tensor,
    answers: AnswerIds,
    position: int | Tensor | None,
    vocabulary: int | None,
    what: str,
) -> Float[Tensor, "prompt d_vocab"]:
    """Return the logits of one position of every prompt, checked.

    Args:
        logits: Float "prompt pos d_vocab" or "prompt d_vocab"; this is where that is checked.
        answers: Tells how many prompts there should be, and their names.
        position: An index, one index a prompt, or None for the last.
        vocabulary: Number of leading logits to keep, None for all.
        what: Name of the tensor, for messages.

    Returns:
        float64 where `logits` is, else float32.

    Raises:
        ShapeError: Not a float tensor of one of these shapes, another number of prompts, or a
            position without an axis for it or outside the axis.
        MetricError: A vocabulary larger than the logits.
        NonFiniteError: NaN or infinity in what was read.
    """
    if not logits.is_floating_point() or logits.ndim not in (2, 3) or len(logits) != len(answers):
        raise ShapeError(
            f"{what} cannot be read",
            given=f"{what}: {logits.dtype} {tuple(logits.shape)}, {len(answers)} prompts",
            expected=f'float "prompt pos d_vocab" or "prompt d_vocab" with prompt={len(answers)}',
        )
    if logits.ndim == 3:
        logits = _at_position(logits, position, what)
    elif position is not None:
        raise ShapeError(
            f"{what} have no positions to choose from",
            given=f"{what}: {tuple(logits.shape)}, position={position}",
            expected='"prompt pos d_vocab", or no position',
        )
    if vocabulary is not None:
        if vocabulary > logits.shape[1]:
            raise MetricError(
                f"{what} have fewer entries than the vocabulary",
                given=f"vocabulary={vocabulary}, {what} of {logits.shape[1]} tokens",
            )
        logits = logits[:, :vocabulary]
    refuse_non_finite(logits, answers, what)
    return logits if logits.dtype == torch.float64 else logits.float()


def refuse_non_finite(values: Tensor, answers: AnswerIds, what: str) -> None:
    """Raise NonFiniteError naming the prompts whose values hold NaN or infinity."""
    if bool(torch.isfinite(values.detach().sum())):
        return  # one number that is not finite would show in the sum; far cheaper to look at
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    if not bool(bad.any()):
        return
    rows = bad.nonzero().flatten().tolist()
    first = values[rows[0]].flatten()
    entry = int((~torch.isfinite(first)).nonzero()[0])
    names = ", ".join(answers.name(row) for row in rows[:SHOWN])
    raise NonFiniteError(
        f"{what} hold NaN or infinity for {len(rows)} of {len(values)} prompts",
        given=names + (", ..." if len(rows) > SHOWN else ""),
        expected=f"finite numbers; the first one is {first[entry].item()} at entry {entry}",
        next_step="look for an intervention that divides by zero or overflows, or use float32",
    )


def _at_position(logits: Tensor, position: int | Tensor | None, what: str) -> Tensor:
    length = logits.shape[1]
    if position is None:
        return logits[:, -1]
    places = torch.as_tensor(position, device=logits.device)
    if places.is_floating_point() or places.ndim > 1:
        raise ShapeError(
            "a position is an index, or one index a prompt",
            given=f"position: {places.dtype} {tuple(places.shape)}",
            expected='int or int64 "prompt"',
        )
    places = places.expand(len(logits)).long()
    if bool(((places < -length) | (places >= length)).any()):
        raise ShapeError(
            f"a position lies outside the {what}",
            given=f"positions {int(places.min())} to {int(places.max())}",
            expected=f"{-length} to {length - 1}",
        )
    return logits[torch.arange(len(logits), device=logits.device), places]
