"""Which modes of a state belong together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from mechtest.discovery.dynamics.eigenmodes import octave_label
from mechtest.errors import ShapeError

__all__ = ["By", "Groups", "grouped"]

By = Literal["modes", "channels"]
Groups = Literal["octave", "rank", "each"] | Mapping[str, Sequence[tuple[int, int]]]

FREE = -1


def grouped(
    half_lives: Float[np.ndarray, "channel d_state"], groups: Groups, *, by: By, count: int
) -> tuple[tuple[str, ...], Int64[np.ndarray, "channel d_state"]]:
    """Return the groups' labels, and the group of each mode (-1 for none).

    Args:
        half_lives: Of each mode, in tokens.
        groups: `octave` of the half-life; `rank`: `count` groups of equal size, the fastest first;
            `each` channel alone; or (channel, state) pairs by label.
        by: Group single modes, or whole channels by the geometric mean of their half-lives.
        count: For `rank`.

    Raises:
        ShapeError: Unknown or empty groups, a mode that is not there or in two groups.
    """
    channels, states = half_lives.shape
    lives = half_lives
    if by == "channels":
        lives = np.repeat(np.exp(np.log(half_lives).mean(1, keepdims=True)), states, axis=1)
    if isinstance(groups, Mapping):
        return _own(groups, (channels, states))
    if groups == "each" and by == "channels":
        member = np.repeat(np.arange(channels)[:, None], states, axis=1)
        return tuple(f"channel {channel}" for channel in range(channels)), member
    if groups == "octave":
        octave = np.floor(np.log2(lives)).astype(np.int64)
        names, member = np.unique(octave, return_inverse=True)
        return tuple(octave_label(int(name)) for name in names), member.reshape(lives.shape)
    if groups == "rank" and 0 < count <= (channels if by == "channels" else lives.size):
        return _ranked(lives, by, count)
    raise ShapeError(
        "there are no such groups of modes",
        given=f"groups={groups!r}, by={by!r}, count={count}",
        expected='"octave", "rank" with up to as many groups as modes, "each" by channels, '
        "or pairs (channel, state) by label",
    )


def _ranked(
    lives: np.ndarray, by: By, count: int
) -> tuple[tuple[str, ...], Int64[np.ndarray, "channel d_state"]]:
    flat = lives[:, 0] if by == "channels" else lives.reshape(-1)
    order = np.argsort(flat, kind="stable")
    member = np.empty(len(flat), dtype=np.int64)
    for group, part in enumerate(np.array_split(order, count)):
        member[part] = group
    labels = tuple(f"rank {group + 1} of {count}" for group in range(count))
    if by == "channels":
        return labels, np.repeat(member[:, None], lives.shape[1], axis=1)
    return labels, member.reshape(lives.shape)


def _own(
    groups: Mapping[str, Sequence[tuple[int, int]]], shape: tuple[int, int]
) -> tuple[tuple[str, ...], Int64[np.ndarray, "channel d_state"]]:
    member = np.full(shape, FREE, dtype=np.int64)
    for index, (label, modes) in enumerate(groups.items()):
        for channel, state in modes:
            inside = 0 <= channel < shape[0] and 0 <= state < shape[1]
            if not inside or member[channel, state] != FREE:
                raise ShapeError(
                    f"group {label!r} names a mode that is not there, or twice",
                    given=f"channel {channel}, state {state}",
                    expected=f"each once, below {shape}",
                )
            member[channel, state] = index
        if not len(modes):
            raise ShapeError(f"group {label!r} is empty", expected="one mode or more")
    if not groups:
        raise ShapeError("there are no groups", given="groups={}", expected="one or more")
    return tuple(groups), member
