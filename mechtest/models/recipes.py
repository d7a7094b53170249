"""How is an activation rebuilt that was not kept?

Decays, writes and states are d_state times larger than what they are computed from. A recipe holds
the smaller tensors and repeats the block's own expressions when somebody looks; the states of one
layer are one recipe, and each of them a place in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import torch
import torch.nn.functional as F

from mechtest.kernels import causal_conv
from mechtest.kernels.segments import (
    conv_segments,
    rms_norm_rows,
    silu_rows,
    softplus_rows,
)
from mechtest.models.layers import at_least_float32
from mechtest.models.trajectory import Trajectory

Node = Union[torch.Tensor, "Recipe"]
"""A tensor that is kept, or how to make one."""

STATE_EVERY = 16
"""Positions between two states that a StateMemo keeps of one layer."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one tensor is made from others.

    Attributes:
        step: A key of `STEPS`, or one of the steps of a trajectory: `states` (as the step-by-step
            scan runs them), `packed_states` (as the segment kernels do), `state_at`.
        parts: What it is made from.
        shape: Of the result.
        dtype: Of the result.
        position: For `state_at` and `window`.
    """

    step: str
    parts: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    position: int | None = None


# --- one expression each, spelled as the block spells it: the same bits come out ------------------


def _rms_norm(
    _: Recipe, rows: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    wide = rows.to(at_least_float32(rows.dtype))
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + float(eps))
    return (scaled * weight).to(rows.dtype)


def _packed_rms_norm(
    _: Recipe, rows: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    packed = rows.reshape(-1, rows.shape[-1])
    return rms_norm_rows(packed, weight, float(eps)).view(rows.shape)


def _conv(_: Recipe, rows: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
    window = rows.new_zeros(rows.shape[0], weight.shape[-1] - 1, rows.shape[2])
    return causal_conv(rows, weight, bias[0] if bias else None, window)


def _packed_conv(
    _: Recipe, rows: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor
) -> torch.Tensor:
    batch, n_pos, width = rows.shape
    windows = rows.new_zeros(batch, weight.shape[-1] - 1, width)
    starts = torch.arange(0, batch * n_pos + 1, n_pos)
    packed = rows.reshape(-1, width)
    out = conv_segments(packed, weight, bias[0] if bias else None, windows, starts, activate=False)
    return out.view(rows.shape)


def _softplus(_: Recipe, raw: torch.Tensor) -> torch.Tensor:
    return F.softplus(raw.to(at_least_float32(raw.dtype)))


def _packed_softplus(_: Recipe, raw: torch.Tensor) -> torch.Tensor:
    wide = raw.to(at_least_float32(raw.dtype))
    return softplus_rows(wide.reshape(-1, raw.shape[-1])).view(raw.shape)


def _packed_with_skip(_: Recipe, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
    """Return y + D x rounded once, as compiled kernels do it."""
    return (y.double() + D.double() * x.double()).to(y.dtype)


def _packed_silu(_: Recipe, rows: torch.Tensor) -> torch.Tensor:
    return silu_rows(rows.reshape(-1, rows.shape[-1])).view(rows.shape)


def _write(_: Recipe, delta: torch.Tensor, B: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return _into_state(_, delta, B) * x.to(delta.dtype).unsqueeze(-1)


def _into_state(_: Recipe, delta: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return delta.unsqueeze(-1) * B.to(delta.dtype).unsqueeze(-2)


def _window(recipe: Recipe, rows: torch.Tensor, *before: torch.Tensor) -> torch.Tensor:
    assert recipe.position is not None
    batch, length, width = recipe.shape
    start = before[0] if before else rows.new_zeros(batch, length, width)
    first = recipe.position + 1
    return torch.cat([start, rows[:, :first]], dim=1)[:, first : first + length].clone()


STEPS: dict[str, Callable[..., torch.Tensor]] = {
    "zeros": lambda recipe, zero: zero.expand(recipe.shape).clone(),
    "masked": lambda _, rows, mask: rows * mask.unsqueeze(-1).to(rows.dtype),
    "rms_norm": _rms_norm,
    "packed_rms_norm": _packed_rms_norm,
    "conv": _conv,
    "packed_conv": _packed_conv,
    "silu": lambda _, rows: F.silu(rows),
    "packed_silu": _packed_silu,
    "softplus": _softplus,
    "packed_softplus": _packed_softplus,
    "with_skip": lambda _, y, x, D: y + x * D.to(y.dtype),
    "packed_with_skip": _packed_with_skip,
    "gated": lambda _, rows, gate: rows * F.silu(gate),
    "packed_gated": lambda _, rows, gate: rows * _packed_silu(_, gate),
    "decay": lambda _, delta, A: torch.exp(delta.unsqueeze(-1) * A),
    "into_state": _into_state,
    "write": _write,
    "window": _window,
    "first": lambda _, value: value[0],
    "as": lambda _, value, like: value.to(like.dtype),
}
"""What `Recipe.step` can say; files name these."""

TRAJECTORY_STEPS = frozenset({"states", "packed_states", "state_at"})


# --- the states of one layer ----------------------------------------------------------------------


class StateMemo:
    """States scanned so far, so that a loop over positions costs about one scan, in any order.

    Of each layer every 16th state is kept, and the last one asked for; layers looked up longest ago
    are forgotten first.

    Args:
        budget: Bytes to keep; the layer looked up last always stays.
    """

    def __init__(self, budget: int = 64 << 20) -> None:
        self.budget = budget
        self._known: OrderedDict[int, tuple[Recipe, Trajectory]] = OrderedDict()

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield what is held."""
        for _, scanned in self._known.values():
            yield from (scanned.x, scanned.delta, scanned.A, scanned.B, scanned.h_start)
            yield from scanned.states.values()

    def state(self, trajectory: Recipe, position: int) -> torch.Tensor:
        """Return one state, "batch d_inner d_state"."""
        scanned = self._scanned(trajectory)
        at, h = scanned.nearest(position)
        marks = [p for p in range(at + 1, position) if p % STATE_EVERY == STATE_EVERY - 1]
        if at < position:
            wanted = [*marks, position]
            found = dict(zip(wanted, scanned.run_on(at, h, wanted), strict=True))
            scanned.states |= found
            h = found[position]
        for known in [p for p in scanned.states if p % STATE_EVERY != STATE_EVERY - 1]:
            if known != position:
                del scanned.states[known]
        self._forget()
        return h.clone()

    def states(self, trajectory: Recipe, positions: Sequence[int]) -> torch.Tensor:
        """Return the states at ascending positions, "batch pos d_inner d_state", by one scan."""
        batch, _, width, n_state = trajectory.shape
        scanned = self._scanned(trajectory)
        out = scanned.h_start.new_empty(batch, len(positions), width, n_state)
        at, h = scanned.nearest(positions[0] - 1)
        for index, h_t in enumerate(scanned.run_on(at, h, positions)):
            out[:, index] = h_t
        self._forget()
        return out

    def _scanned(self, trajectory: Recipe) -> Trajectory:
        key = id(trajectory)
        if key not in self._known:
            x, delta, A, B, h_start = (value_of(part, self) for part in trajectory.parts)
            packed = trajectory.step == "packed_states"
            scanned = Trajectory(x.to(A.dtype), delta, A, B.to(A.dtype), h_start, packed)
            self._known[key] = (trajectory, scanned)  # the recipe too: its id stays its own
        self._known.move_to_end(key)
        return self._known[key][1]

    def _forget(self) -> None:
        while len(self._known) > 1 and bytes_held(self.tensors()) > self.budget:
            self._known.popitem(last=False)


# --- working with nodes ---------------------------------------------------------------------------


@torch.no_grad()
def value_of(node: Node, memo: StateMemo) -> torch.Tensor:
    """Return the tensor itself if it was kept, a fresh one otherwise."""
    if isinstance(node, torch.Tensor):
        return node
    trajectory = node.parts[0]
    if node.step == "state_at":
        assert isinstance(trajectory, Recipe)
        assert node.position is not None
        return memo.state(trajectory, node.position)
    if node.step in TRAJECTORY_STEPS:
        return memo.states(node, range(node.shape[1]))
    return STEPS[node.step](node, *(value_of(part, memo) for part in node.parts))


@torch.no_grad()
def stacked(nodes: Sequence[Node], dim: int, memo: StateMemo) -> torch.Tensor:
    """Return the values of several nodes side by side; the states of one layer by one scan."""
    recipes = [node for node in nodes if isinstance(node, Recipe) and node.step == "state_at"]
    trajectories = {id(recipe.parts[0]): recipe.parts[0] for recipe in recipes}
    positions = [recipe.position for recipe in recipes if recipe.position is not None]
    if len(recipes) == len(nodes) and len(trajectories) == 1 and dim == 1:
        (trajectory,) = trajectories.values()
        assert isinstance(trajectory, Recipe)
        return memo.states(trajectory, positions)
    return torch.stack([value_of(node, memo) for node in nodes], dim=dim)


Done = dict[int, tuple[Node, Node]]
"""What `mapped` has dealt with, by identity; the old node lies beside the new, to stay alive."""


def mapped(node: Node, change: Callable[[torch.Tensor], torch.Tensor], done: Done) -> Node:
    """Apply `change` to every tensor that is kept; what is shared stays shared through `done`."""
    if id(node) not in done:
        if isinstance(node, torch.Tensor):
            done[id(node)] = (node, change(node))
        else:
            parts = tuple(mapped(part, change, done) for part in node.parts)
            done[id(node)] = (node, replace(node, parts=parts))
    return done[id(node)][1]


def converted(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], done: Done) -> Node:
    """Return `node` as `torch.Tensor.to(*args, **kwargs)` would give its value.

    What a recipe is made from keeps its dtype: the value is rebuilt as before, then converted.
    """
    if isinstance(node, torch.Tensor):
        return node.to(*args, **kwargs)
    like = torch.empty(0, dtype=node.dtype).to(*args, **kwargs)
    device = _device_asked_for(args, kwargs)
    moved = node if device is None else mapped(node, lambda value: value.to(device), done)
    if like.dtype == node.dtype:
        return moved
    return Recipe("as", (moved, like), node.shape, like.dtype)


def _device_asked_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    asked = [*args, *kwargs.values()]
    like = [value.device for value in asked if isinstance(value, torch.Tensor)]
    named = [torch.device(value) for value in asked if isinstance(value, (str, torch.device))]
    return next(iter([*like, *named]), None)


def tensors_in(nodes: Iterable[Node]) -> Iterator[torch.Tensor]:
    """Yield every tensor that `nodes` keep, each recipe's once."""
    seen: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            yield node
        else:
            waiting += node.parts


def bytes_held(tensors: Iterable[torch.Tensor]) -> int:
    """Return the memory behind `tensors`; what they share counts once."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in tensors}
    return sum(storage.nbytes() for storage in storages.values())
