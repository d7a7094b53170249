"""What does `run_with_cache` read during a run, and what does it leave to be rebuilt?

Reading `hook_A_bar`, `hook_B_bar` or `hook_ssm_write` makes the block build tensors of positions
times states, and every `hook_h.p` is another state. Where nobody edits these, the recorder reads
what they are computed from and leaves recipes in the cache. What leaves a hook is what the block
goes on with, so an edit upstream of a recipe is in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mechtest.errors import SiteNotServedError
from mechtest.models.block import MambaBlock
from mechtest.models.ended_block import MADE_FROM, BlockPlan, EndedBlock, Wanted, piece
from mechtest.models.hook_points import Direction, HookHandle, HookPoint
from mechtest.models.hook_requests import (
    HookRequest,
    PosSlice,
    narrowed_targets,
    never_reached,
)
from mechtest.models.recipes import Done, Node, mapped
from mechtest.sites.resolve import NameFilter, SiteResolver

SPOILED_BY = {
    "hook_A_bar": ("hook_A_bar",),
    "hook_B_bar": ("hook_B_bar",),
    "hook_ssm_write": ("hook_B_bar", "hook_ssm_write"),
    "hook_h": ("hook_A_bar", "hook_B_bar", "hook_ssm_write", "hook_h"),
    "hook_conv_state": ("hook_conv_state",),
}
"""Hooks after which a recipe no longer says what the block computes, if somebody may edit them."""

FEW = 3
"""Up to this many states are read: cheaper to look up again than a scan."""


class Recorder:
    """Reads activations for one run; a request like `HookRequest`, to be installed last.

    Args:
        names_filter: As for `run_with_cache`.
        blocks: Blocks of the model.
        edited: Called with a hook's name (no position) and the number of positions: may anybody
            change its value or its gradient?
        pos_slice: As for `run_with_cache`.
        device: Where to keep things.
        rebuild: False reads everything.
        level: Nesting depth.

    Attributes:
        values: What the cache will hold, in firing order.
    """

    direction: Direction = "fwd"
    is_permanent = False
    # Lets a run that stops early pass; `finish` names what was asked for and is missing.
    selects_everything = True

    def __init__(
        self,
        names_filter: NameFilter,
        blocks: Sequence[MambaBlock],
        edited: Callable[[str, int], bool],
        *,
        pos_slice: PosSlice,
        device: torch.device | str | None,
        rebuild: bool,
        level: int | None,
    ) -> None:
        self.request = HookRequest(names_filter, pos_slice=pos_slice)
        self.level = level
        self.values: dict[str, Node] = {}
        self._blocks = blocks
        self._edited = edited
        self._device = device
        self._rebuild = rebuild
        self._n_pos = 0
        self._asked: list[Wanted] = []
        self._plans: dict[int, BlockPlan] = {}
        self._seen: dict[int, dict[str, torch.Tensor]] = {}

    def check(self, resolver: SiteResolver) -> None:
        """Raise at once for names that no prompt could make right; as `HookRequest.check`."""
        self.request.check(resolver)

    # --- before the run --------------------------------------------------------------------------

    def install(
        self, resolver: SiteResolver, points: Callable[[str], HookPoint], n_pos: int
    ) -> list[tuple[HookPoint, HookHandle]]:
        """Plan every block, and put readers where something is read."""
        self._n_pos = n_pos
        by_layer: dict[int | None, list[Wanted]] = {}
        for target in narrowed_targets(resolver, self.request, n_pos):
            layer, hook, position = _place(target.name)
            entry = Wanted(target.key, hook, position, target.index)
            by_layer.setdefault(layer, []).append(entry)
            self._asked.append(entry)
        installed = []
        for layer, wanted in by_layer.items():
            if layer is None:
                installed += [
                    (points(entry.hook), self._handle(self._keeper(entry))) for entry in wanted
                ]
                continue
            plan = self._plan(layer, wanted)
            self._plans[layer] = plan
            seen = self._seen.setdefault(layer, {})
            for hook in plan.reads:
                point = points(f"blocks.{layer}.{hook}")
                installed.append((point, self._handle(_reader(seen, hook))))
        for point, handle in installed:
            point.install(handle, "fwd")
        return installed

    def _handle(self, fn: Callable[[torch.Tensor, HookPoint], None]) -> HookHandle:
        return HookHandle(fn, level=self.level, reads_only=True)

    def _keeper(self, entry: Wanted) -> Callable[[torch.Tensor, HookPoint], None]:
        def keep(value: torch.Tensor, point: HookPoint) -> None:
            del point
            self.values[entry.key] = self._placed(piece(value.detach(), entry.index), {})

        return keep

    def _plan(self, layer: int, wanted: Sequence[Wanted]) -> BlockPlan:
        whole = {entry.hook for entry in wanted if entry.whole}
        hooks = dict.fromkeys(entry.hook for entry in wanted)
        rebuilt: list[str] = []
        for hook in MADE_FROM if self._rebuild else ():
            if hook not in hooks or self._spoiled(layer, hook):
                continue
            positions = [e.position for e in wanted if e.hook == hook and e.position is not None]
            if not positions or self._pays(layer, hook, positions, whole):
                rebuilt.append(hook)
        reads = dict.fromkeys(
            entry.hook if entry.position is None else f"{entry.hook}.{entry.position}"
            for entry in wanted
            if entry.hook not in rebuilt
        )
        reads |= dict.fromkeys(source for hook in rebuilt for source in MADE_FROM[hook])
        return BlockPlan(tuple(wanted), tuple(reads), frozenset(rebuilt))

    def _spoiled(self, layer: int, hook: str) -> bool:
        return any(
            self._edited(f"blocks.{layer}.{other}", self._n_pos) for other in SPOILED_BY[hook]
        )

    def _pays(self, layer: int, hook: str, positions: Sequence[int], whole: set[str]) -> bool:
        """Return whether what a hook is made from is smaller than the hook at `positions`."""
        cfg = self._blocks[layer].cfg
        widths = {"hook_ssm_input": cfg.E, "hook_delta": cfg.E, "hook_B": cfg.N}
        widths |= {"hook_in_proj": cfg.E}
        per_row = sum(widths.get(source, 0) for source in MADE_FROM[hook] if source not in whole)
        if not per_row:
            return True  # all of it is kept anyway
        each = cfg.E * (cfg.N if hook == "hook_h" else cfg.d_conv - 1)
        return len(positions) > FEW and (max(positions) + 1) * per_row < len(positions) * each

    # --- during the run --------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every block as it ends, for a `with` block."""
        handles = [
            block.register_forward_hook(self._end_block, with_kwargs=True) for block in self._blocks
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end_block(
        self, block: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        del out
        plan = self._plans.get(block.layer)
        if plan is None:
            return
        late = [hook for hook in plan.rebuilt if self._spoiled(block.layer, hook)]
        if late:
            raise SiteNotServedError(
                f"a hook near blocks.{block.layer}.{late[0]} was added while the model was running",
                given=f"a cache that rebuilds {late[0]}",
                next_step="add hooks before the run, or call run_with_cache(..., rebuild=False)",
            )
        seen = self._seen[block.layer]
        given = inspect.signature(block.forward).bind(*args, **kwargs).arguments
        state = given.get("state")
        window = None if state is None else state.conv
        ended = EndedBlock(block, plan, dict(seen), given.get("mask"), window)
        seen.clear()
        compare = self._rebuild and self.request.pos_slice is None
        nodes = ended.without_what_can_be_rebuilt() if compare else ended.seen
        done: Done = {}
        for entry in plan.wanted:
            self.values[entry.key] = self._placed(ended.node(entry, nodes), done)

    def _placed(self, node: Node, done: Done) -> Node:
        device = self._device
        return node if device is None else mapped(node, lambda value: value.to(device), done)

    # --- after the run ---------------------------------------------------------------------------

    def finish(self) -> None:
        """Raise SiteNotReachedError if a place that was named was not computed."""
        if self.request.selects_everything:
            return
        for entry in self._asked:
            if entry.key not in self.values:
                raise never_reached(entry.key)


def _place(name: str) -> tuple[int | None, str, int | None]:
    """Split a concrete hook name into layer, hook and position."""
    if not name.startswith("blocks."):
        return None, name, None
    _, layer, hook = name.split(".", 2)
    stem, _, last = hook.rpartition(".")
    return (int(layer), stem, int(last)) if last.isdigit() else (int(layer), hook, None)


def _reader(seen: dict[str, torch.Tensor], hook: str) -> Callable[[torch.Tensor, HookPoint], None]:
    def read(value: torch.Tensor, point: HookPoint) -> None:
        del point
        seen[hook] = value.detach()

    return read
