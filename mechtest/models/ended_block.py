"""What was read in one block, and which cache entries does that give?

Values are kept as they left their hooks, or as recipes over such values. The hooks of `MADE_FROM`
need not have been read. Those of `COMPARED` were, and are left out only if a step gives the same
bits: whatever the block did there, nothing wrong can come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mechtest.models.block import MambaBlock
from mechtest.models.hook_points import Index
from mechtest.models.recipes import STEPS, Node, Recipe

MADE_FROM = {
    "hook_A_bar": ("hook_delta", "hook_A"),
    "hook_B_bar": ("hook_delta", "hook_B"),
    "hook_ssm_write": ("hook_delta", "hook_B", "hook_ssm_input"),
    "hook_h": ("hook_ssm_input", "hook_delta", "hook_A", "hook_B", "hook_h_start"),
    "hook_conv_state": ("hook_in_proj",),
}
"""Hooks that can be rebuilt without having been read, and what they are computed from."""

COMPARED: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("hook_normalized_input", ("hook_layer_input",), ("rms_norm", "packed_rms_norm")),
    ("hook_conv", ("hook_in_proj",), ("conv", "packed_conv")),
    ("hook_ssm_input", ("hook_conv",), ("silu", "packed_silu")),
    ("hook_delta", ("hook_delta_2",), ("softplus", "packed_softplus")),
    ("hook_ssm_output", ("hook_y", "hook_ssm_input"), ("with_skip", "packed_with_skip")),
    ("hook_after_skip", ("hook_ssm_output", "hook_skip"), ("gated", "packed_gated")),
)
"""Hooks that are read and compared with each of the steps, made from the hooks in the middle."""

STEP_BY_STEP = frozenset({"stepwise", "reference"})
"""Scan paths that compute states as `kernels.selective_scan` does; others use segment kernels."""


@dataclass(frozen=True)
class Wanted:
    """One entry of the cache to be.

    Attributes:
        key: Name in the cache.
        hook: Name inside the block (or the model), without a position.
        position: For hooks of one position.
        index: Indices into the tensor, None for all of it.
    """

    key: str
    hook: str
    position: int | None
    index: Index | None

    @property
    def whole(self) -> bool:
        """True for a hook's whole tensor."""
        return self.position is None and self.index is None


@dataclass(frozen=True)
class BlockPlan:
    """What is read in one block, and which hooks are left to recipes."""

    wanted: tuple[Wanted, ...]
    reads: tuple[str, ...]
    rebuilt: frozenset[str]


class EndedBlock:
    """What was read in one block, and the cache entries it gives.

    Args:
        block: The block.
        plan: What was wanted of it.
        seen: Values by hook, as they left it.
        mask: Padding mask the block ran with.
        window: Convolution window the block started from, None for zeros.
    """

    def __init__(
        self,
        block: MambaBlock,
        plan: BlockPlan,
        seen: Mapping[str, torch.Tensor],
        mask: torch.Tensor | None,
        window: torch.Tensor | None,
    ) -> None:
        self.seen: dict[str, Node] = dict(seen)
        self._block = block
        self._plan = plan
        self._mask = mask
        self._window = window
        self._whole = {entry.hook for entry in plan.wanted if entry.whole}
        self._pieces: dict[tuple[str, str], torch.Tensor] = {}
        self._masked: dict[int, Recipe] = {}
        self._states: Recipe | None = None

    def without_what_can_be_rebuilt(self) -> dict[str, Node]:
        """Return the values seen, those replaced by recipes that give the same bits."""
        nodes: dict[str, Node] = dict(self.seen)
        if "hook_h_start" in self.seen:
            nodes["hook_h_start"] = _zeros_or_itself(self.seen["hook_h_start"])
        for hook, sources, steps in COMPARED:
            if not self._whole.issuperset((hook, *sources)):
                continue
            value = self.seen[hook]
            assert isinstance(value, torch.Tensor)
            weights = self._weights(hook)
            now = [_value(self._used(source, self.seen[source])) for source in sources]
            for step in steps:
                recipe = Recipe(step, (), tuple(value.shape), value.dtype)
                if _same_bits(step, recipe, [*now, *weights], value):
                    parts = (*(self._used(source, nodes[source]) for source in sources), *weights)
                    nodes[hook] = Recipe(step, parts, recipe.shape, recipe.dtype)
                    break
        return nodes

    def node(self, entry: Wanted, nodes: Mapping[str, Node]) -> Node:
        """Return what the cache holds for one entry."""
        if entry.hook not in self._plan.rebuilt:
            if entry.whole:
                return nodes[entry.hook]
            if entry.position is None:
                return self._piece(entry.hook, entry.index)
            return nodes[f"{entry.hook}.{entry.position}"]
        if entry.hook == "hook_h":
            return self._state_at(entry, nodes)
        if entry.hook == "hook_conv_state":
            return self._window_at(entry, nodes)
        parts = [self._source(source, entry.index, nodes) for source in MADE_FROM[entry.hook]]
        delta = parts[0]
        step = {"hook_A_bar": "decay", "hook_B_bar": "into_state", "hook_ssm_write": "write"}
        shape = (*delta.shape, self._block.cfg.N)
        return Recipe(step[entry.hook], tuple(parts), shape, delta.dtype)

    def _state_at(self, entry: Wanted, nodes: Mapping[str, Node]) -> Recipe:
        if self._states is None:
            x, delta, A, B, h_start = self._rows(entry.hook, nodes)
            step = "states" if self._block.last_scan in STEP_BY_STEP else "packed_states"
            shape = (*delta.shape, A.shape[1])
            self._states = Recipe(step, (x, delta, A, B, h_start), shape, delta.dtype)
        batch, _, width, n_state = self._states.shape
        shape = (batch, width, n_state)
        return Recipe("state_at", (self._states,), shape, self._states.dtype, entry.position)

    def _window_at(self, entry: Wanted, nodes: Mapping[str, Node]) -> Recipe:
        (rows,) = self._rows(entry.hook, nodes)
        batch, _, width = rows.shape
        before = () if self._window is None else (self._window.detach(),)
        shape = (batch, self._block.cfg.d_conv - 1, width)
        return Recipe("window", (rows, *before), shape, rows.dtype, entry.position)

    def _rows(self, hook: str, nodes: Mapping[str, Node]) -> list[Node]:
        """Return what a per-position hook is made from: at least the rows it depends on."""
        last = max(e.position or 0 for e in self._plan.wanted if e.hook == hook) + 1
        found = []
        for source in MADE_FROM[hook]:
            value = self.seen[source]
            in_rows = source not in ("hook_A", "hook_h_start") and source not in self._whole
            some = in_rows and last < value.shape[1]
            found.append(self._source(source, (slice(None), slice(last)) if some else None, nodes))
        return found

    def _source(self, hook: str, index: Index | None, nodes: Mapping[str, Node]) -> Node:
        """Return an ingredient as the recurrence used it: indexed, and masked."""
        if hook == "hook_h_start":
            return _zeros_or_itself(self.seen[hook])
        if index is None or hook == "hook_A":
            return self._used(hook, nodes[hook])
        return self._used(hook, self._piece(hook, index), index)

    def _used(self, hook: str, node: Node, index: Index | None = None) -> Node:
        if self._mask is None or hook not in ("hook_in_proj", "hook_ssm_input"):
            return node
        if id(node) not in self._masked:
            mask = self._mask if index is None else self._part("mask", self._mask, index)
            recipe = Recipe("masked", (node, mask), tuple(node.shape), node.dtype)
            self._masked[id(node)] = recipe  # which holds the node: its id stays its own
        return self._masked[id(node)]

    def _piece(self, hook: str, index: Index | None) -> torch.Tensor:
        value = self.seen[hook]
        assert isinstance(value, torch.Tensor)
        return self._part(hook, value, index)

    def _part(self, name: str, value: torch.Tensor, index: Index | None) -> torch.Tensor:
        key = (name, str(index))
        if key not in self._pieces:
            self._pieces[key] = piece(value, index)
        return self._pieces[key]

    def _weights(self, hook: str) -> list[torch.Tensor]:
        """Return copies: a recipe does not follow the weights when they are trained on."""
        norm, mixer = self._block.norm, self._block.mixer
        found = {
            "hook_normalized_input": (norm.weight, torch.tensor(norm.eps, dtype=torch.float64)),
            "hook_conv": (mixer.conv1d.weight, mixer.conv1d.bias),
            "hook_ssm_output": (mixer.D,),
        }.get(hook, ())
        return [weight.detach().clone() for weight in found if weight is not None]


def piece(value: torch.Tensor, index: Index | None) -> torch.Tensor:
    """Return a part of a tensor, a copy: a view would keep all of it."""
    if index is None:
        return value
    part = value[index]
    shares = part.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    return part.clone() if shares else part


def _zeros_or_itself(value: Node) -> Node:
    if isinstance(value, Recipe) or value.any():
        return value
    return Recipe("zeros", (value.new_zeros(()),), tuple(value.shape), value.dtype)


def _value(node: Node) -> torch.Tensor:
    """Return the value of a tensor or of a masked tensor."""
    if isinstance(node, torch.Tensor):
        return node
    return STEPS[node.step](node, *(_value(part) for part in node.parts))


def _same_bits(
    step: str, recipe: Recipe, parts: Sequence[torch.Tensor], value: torch.Tensor
) -> bool:
    with torch.no_grad():
        made = STEPS[step](recipe, *parts)
    return made.dtype == value.dtype and torch.equal(made, value)
