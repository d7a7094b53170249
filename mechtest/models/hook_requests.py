"""What did the user ask to hook, and which hook points is that for the prompt at hand?

A request holds a name as the user wrote it. It becomes handles on hook points when a forward pass
begins, because only then is the number of positions known; the handles leave when the pass ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mechtest.errors import PositionError, SiteNotReachedError
from mechtest.models.hook_points import Direction, HookFunction, HookHandle, HookPoint, Index
from mechtest.sites import Site
from mechtest.sites.resolve import HookTarget, NameFilter, SiteResolver

PosSlice = int | slice | Sequence[int] | None
"""Positions to keep, as TransformerLens takes them; an int drops the axis."""

Reader = Callable[[str, torch.Tensor], None]
"""Called with the key to keep a value under, and the value."""


@runtime_checkable
class Request(Protocol):
    """What waits for a forward pass to begin; see `HookRequest` for the attributes."""

    @property
    def direction(self) -> Direction: ...  # noqa: D102
    @property
    def is_permanent(self) -> bool: ...  # noqa: D102
    @property
    def level(self) -> int | None: ...  # noqa: D102
    @property
    def selects_everything(self) -> bool: ...  # noqa: D102

    def check(self, resolver: SiteResolver) -> None:
        """Raise at once for names that no prompt could make right."""

    def install(
        self, resolver: SiteResolver, points: Callable[[str], HookPoint], n_pos: int
    ) -> list[tuple[HookPoint, HookHandle]]:
        """Put handles on the hook points meant for prompts of `n_pos` tokens."""
        ...


@dataclass(frozen=True, eq=False)
class HookRequest:
    """A hook as asked for.

    Attributes:
        name: Site, pattern, several of them, a predicate, or None for everything.
        hook: The user's function, or None when `reader` is set.
        reader: Gets (key, value) and changes nothing.
        direction: `fwd` or `bwd`.
        is_permanent: Survives `reset_hooks`.
        level: Nesting depth of the context it came from, None for `add_hook`.
        prepend: Goes before the hooks already there.
        pos_slice: For readers: the positions to keep.
    """

    name: NameFilter
    hook: HookFunction | None = None
    reader: Reader | None = None
    direction: Direction = "fwd"
    is_permanent: bool = False
    level: int | None = None
    prepend: bool = False
    pos_slice: PosSlice = None

    @property
    def selects_everything(self) -> bool:
        """True when no place was named: a run that stops early may leave some out."""
        return self.name is None or callable(self.name)

    def check(self, resolver: SiteResolver) -> None:
        """Raise at once for names that no prompt could make right.

        Raises:
            UnknownSiteError: A name or pattern that matches nothing.
            PositionError: A position that cannot be read, or a role.
        """
        if self.name is None or callable(self.name):
            return
        for name in [self.name] if isinstance(self.name, str) else self.name:
            for site in resolver.sites(name):
                if site.position.roles:
                    site.position.indices(1)  # raises: a bare model knows no roles

    def install(
        self, resolver: SiteResolver, points: Callable[[str], HookPoint], n_pos: int
    ) -> list[tuple[HookPoint, HookHandle]]:
        """Put handles on the hook points meant for prompts of `n_pos` tokens."""
        installed = []
        for target in narrowed_targets(resolver, self, n_pos):
            point = points(target.name)
            handle = self._handle(target)
            point.install(handle, self.direction, prepend=self.prepend)
            installed.append((point, handle))
        return installed

    def _handle(self, target: NarrowedTarget) -> HookHandle:
        if self.reader is None:
            assert self.hook is not None
            return HookHandle(self.hook, self.is_permanent, self.level, target.index)
        reader, key = self.reader, target.key
        return HookHandle(
            lambda value, hook: reader(key, value),  # noqa: ARG005 - the hook protocol
            self.is_permanent,
            self.level,
            target.index,
            reads_only=True,
        )


@dataclass(frozen=True)
class NarrowedTarget:
    """A hook target with its indexing worked out.

    Attributes:
        name: Concrete hook point.
        key: Name a cached value is kept under.
        index: Indices into the tensor, None for all of it.
    """

    name: str
    key: str
    index: Index | None


def narrowed_targets(
    resolver: SiteResolver, request: HookRequest, n_pos: int
) -> list[NarrowedTarget]:
    """Return the hook points a request means for prompts of `n_pos` tokens, in firing order.

    Raises:
        PositionError: `pos_slice` leaves none of them.
    """
    targets = resolver.filtered(request.name, n_pos)
    narrowed = (narrow(target, request.pos_slice, n_pos) for target in targets)
    found = [target for target in narrowed if target is not None]
    if not found:
        raise PositionError(
            f"pos_slice={request.pos_slice} keeps none of the sites asked for",
            given=f"pos_slice={request.pos_slice} with names_filter={request.name!r}",
            expected="positions that the named hooks have",
        )
    return found


def narrow(target: HookTarget, pos_slice: PosSlice, n_pos: int) -> NarrowedTarget | None:
    """Return how to index a target, or None when `pos_slice` leaves nothing of it.

    Positions in the name itself win over `pos_slice` and become part of the key.
    """
    if target.positions is None and pos_slice is None:
        return NarrowedTarget(target.name, target.name, None)
    site = Site.parse(target.name)
    if target.positions is not None:
        axis = site.spec.position_axis
        assert axis is not None
        where = target.positions
        step: int | slice = where.start if target.single else slice(where.start, where.stop)
        shown = f"{where.start}" if target.single else f"{where.start}:{where.stop}"
        return NarrowedTarget(
            target.name, f"{target.name}@{shown}", (slice(None),) * axis + (step,)
        )
    kept = _kept_positions(pos_slice, n_pos)
    if site.spec.per_position:
        (index,) = site.position.indices(n_pos)
        return NarrowedTarget(target.name, target.name, None) if index in kept else None
    axis = site.spec.position_axis
    if axis is None:
        return NarrowedTarget(target.name, target.name, None)
    chosen = kept[0] if isinstance(pos_slice, int) else kept
    return NarrowedTarget(target.name, target.name, (slice(None),) * axis + (chosen,))


def _kept_positions(pos_slice: PosSlice, n_pos: int) -> list[int]:
    everything = range(n_pos)
    if isinstance(pos_slice, slice):
        return list(everything[pos_slice])
    wanted = [pos_slice] if isinstance(pos_slice, int) else list(pos_slice or ())
    outside = [index for index in wanted if not -n_pos <= index < n_pos]
    if outside:
        raise PositionError(
            f"pos_slice names positions outside a prompt of {n_pos} tokens",
            given=f"pos_slice={pos_slice}",
            expected=f"-{n_pos} to {n_pos - 1}",
        )
    return [everything[index] for index in wanted]


def never_reached(name: str) -> SiteNotReachedError:
    """Build the error for a hook that a forward pass never came by."""
    return SiteNotReachedError(
        f"the hook on {name} never fired",
        given=name,
        expected="a site that this forward pass computes",
        next_step="check stop_at_layer, start_at_layer and only_use_these_layers",
    )
