"""What may enter a test, and what is told when it may not?

Every array is checked here before it is tested: a NaN would turn into p = 0 in one library and into
a rejected hypothesis in another.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import NonFiniteError, SampleError

__all__ = ["cluster_labels", "finite_number", "finite_vector", "fraction", "refuse_non_finite"]

SHOWN = 5


def finite_vector(
    values: ArrayLike, name: str, *, item: str = "prompt", at_least: int = 1
) -> Float[np.ndarray, " item"]:
    """Return `values` as float64 "item", or say what is wrong with them.

    Args:
        values: One number an item.
        name: What the values are, for messages.
        item: What one value belongs to, for messages.
        at_least: Fewest values that make sense.

    Raises:
        SampleError: Not a vector of numbers, or too short.
        NonFiniteError: NaN or infinity; names the first few items.
    """
    array = _numbers(values, name)
    if array.ndim != 1:
        raise SampleError(
            f"{name} should be one number a {item}",
            given=f"an array of shape {array.shape}",
            expected=f"shape ({item}s,)",
        )
    if len(array) < at_least:
        raise SampleError(
            f"{name} needs at least {at_least} {item}{'s' * (at_least > 1)}",
            given=f"{len(array)}",
            next_step=f"give more {item}s",
        )
    refuse_non_finite(array, name, item)
    return array


def finite_number(value: float, name: str) -> float:
    """Return `value` as a float, or say that it is no finite number."""
    array = _numbers(value, name)
    if array.ndim:
        raise SampleError(f"{name} should be one number", given=f"an array of shape {array.shape}")
    if not np.isfinite(array):
        raise NonFiniteError(f"{name} is not a finite number", given=value)
    return float(array)


def fraction(value: float, name: str) -> float:
    """Return `value` if it lies strictly between 0 and 1."""
    number = finite_number(value, name)
    if not 0 < number < 1:
        raise SampleError(f"{name} lies outside (0, 1)", given=value, expected="0 < value < 1")
    return number


def refuse_non_finite(array: Float[np.ndarray, "item ..."], name: str, item: str) -> None:
    """Raise `NonFiniteError` naming the first few items that hold NaN or infinity."""
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1) if array.size else np.ones(0)
    bad = np.flatnonzero(~finite.astype(bool))
    if len(bad):
        first = ", ".join(str(index) for index in bad[:SHOWN])
        raise NonFiniteError(
            f"{name} holds NaN or infinity for {len(bad)} of {len(array)} {item}s",
            given=f"{item} {first}{', ...' if len(bad) > SHOWN else ''}",
            expected="finite numbers",
            next_step=f"find out why the {item} has no number; it is never left out silently",
        )


def cluster_labels(labels: Sequence[Hashable], prompts: int) -> list[str]:
    """Return one text label a prompt, or say why these cannot be cluster labels."""
    if isinstance(labels, str):
        raise SampleError(
            "cluster labels should be one label a prompt", given=f"the text {labels!r}"
        )
    found = [label.item() if isinstance(label, np.generic) else label for label in labels]
    if len(found) != prompts:
        raise SampleError(
            "values and cluster labels differ in length",
            given=f"{prompts} prompts, {len(found)} labels",
            expected="one label a prompt",
        )
    texts: dict[str, Hashable] = {}
    for label in found:
        if label is None or (isinstance(label, float) and not np.isfinite(label)):
            raise SampleError("a prompt has no cluster label", given=repr(label))
        other = texts.setdefault(str(label), label)
        if type(other) is not type(label):
            raise SampleError(
                f"two different cluster labels both read {str(label)!r}",
                given=f"{other!r} and {label!r}",
                next_step="use labels of one type",
            )
    return [str(label) for label in found]


def _numbers(values: ArrayLike, name: str) -> Float[np.ndarray, "..."]:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub" and array.size:
            raise TypeError(str(array.dtype))
        return array.astype(np.float64)
    except (TypeError, ValueError) as problem:
        raise SampleError(f"{name} should be real numbers", given=str(problem)) from None
