"""How are hooks put on a model and taken off again, and how is a run cached?

The interface is TransformerLens's and MambaLens's. What differs: a hook that never fires is an
error, a filter that matches nothing is an error, and hooks given to `run_with_cache` are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from mechtest.models.activation_cache import ActivationCache
from mechtest.models.block import MambaBlock
from mechtest.models.hook_points import Direction, HookFunction, HookPoint, PositionHooks
from mechtest.models.hook_requests import HookRequest, PosSlice, Request, never_reached
from mechtest.models.recording import Recorder
from mechtest.sites import SiteResolver
from mechtest.sites.resolve import NameFilter
from mechtest.sites.site import unknown_site

NamedHook = tuple[NameFilter, HookFunction]
Directions = Literal["fwd", "bwd", "both"]


class HookDict(Mapping[str, HookPoint]):
    """All hook points by name; per-position ones appear when they are named.

    Iterating gives every hook without a position, and those positions that were named before.

    Args:
        resolver: Reads names.
        points: Hook points and position families by name, in firing order.
    """

    def __init__(
        self, resolver: SiteResolver, points: Mapping[str, HookPoint | PositionHooks]
    ) -> None:
        self._resolver = resolver
        self._points = dict(points)

    def __getitem__(self, name: str) -> HookPoint:
        site = self._resolver.site(name)
        base = site.hook if site.layer is None else f"blocks.{site.layer}.{site.hook}"
        found = self._points.get(base)
        start = site.position.start
        if isinstance(found, HookPoint) and site.position.everywhere:
            return found
        if isinstance(found, PositionHooks) and start is not None and start.role is None:
            return found.at(start.offset)
        raise unknown_site(name, base, self._resolver.n_layers)

    def __iter__(self) -> Iterator[str]:
        return (point.name for point in self.every_point())

    def __len__(self) -> int:
        return sum(1 for _ in self.every_point())

    def edited(self, base: str, n_pos: int) -> bool:
        """Return whether anybody may change the value of a hook, or its gradient.

        Args:
            base: Name without a position: every position below `n_pos` is then meant.
            n_pos: Positions of the prompt.
        """
        found = self._points[base]
        if isinstance(found, PositionHooks):
            return bool(found.edits_before(n_pos))
        return bool(found.bwd_hooks) or any(not handle.reads_only for handle in found.fwd_hooks)

    def every_point(self) -> Iterator[HookPoint]:
        """Yield every hook point that exists so far, in firing order."""
        for found in self._points.values():
            if isinstance(found, HookPoint):
                yield found
            else:
                yield from (found.points[position] for position in sorted(found.points))


class HookedRoot(nn.Module):
    """A module with named hooks.

    Attributes:
        hook_dict: Hook points by name.
        resolver: Reads site names for this model.
    """

    hook_dict: HookDict
    resolver: SiteResolver

    def setup_hooks(self, n_layers: int, points: Mapping[str, HookPoint | PositionHooks]) -> None:
        """Register the hook points; call once, when all of them exist."""
        self.resolver = SiteResolver(n_layers)
        self.hook_dict = HookDict(self.resolver, points)
        self._requests: list[Request] = []
        self._level = 0

    # --- hooks that stay -------------------------------------------------------------------------

    def add_hook(
        self,
        name: NameFilter,
        hook: HookFunction,
        dir: Direction = "fwd",  # noqa: A002 - TransformerLens's keyword
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Install a hook until `reset_hooks`.

        Args:
            name: Site, pattern, list of sites, or predicate on names. Positions (`hook_h`, `@last`)
                are worked out anew for every forward pass.
            hook: `fn(tensor, hook) -> tensor | None`; it gets a copy it may edit in place.
            dir: `fwd` or `bwd`.
            is_permanent: Keep it through `reset_hooks`.
            level: Nesting depth, for contexts.
            prepend: Call it before those already there.

        Raises:
            UnknownSiteError: The name matches nothing.
        """
        self._request(
            HookRequest(
                name,
                hook,
                direction=dir,
                is_permanent=is_permanent,
                level=level,
                prepend=prepend,
            )
        )

    def add_perma_hook(
        self,
        name: NameFilter,
        hook: HookFunction,
        dir: Direction = "fwd",  # noqa: A002 - TransformerLens's keyword
    ) -> None:
        """Install a hook that `reset_hooks` leaves in place."""
        self.add_hook(name, hook, dir=dir, is_permanent=True)

    def _request(self, request: Request) -> None:
        request.check(self.resolver)
        self._requests.append(request)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take hooks off: all, or those of one direction or nesting depth."""
        for point in self.hook_dict.every_point():
            point.remove_hooks(direction, including_permanent, level)
            if clear_contexts:
                point.clear_context()
        self._requests = [
            request
            for request in self._requests
            if direction not in ("both", request.direction)
            or (request.is_permanent and not including_permanent)
            or (level is not None and request.level != level)
        ]

    def remove_all_hook_fns(
        self,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take hooks off and keep the contexts; TransformerLens's name for it."""
        self.reset_hooks(
            clear_contexts=False,
            direction=direction,
            including_permanent=including_permanent,
            level=level,
        )

    def clear_contexts(self) -> None:
        """Empty `ctx` of every hook point."""
        for point in self.hook_dict.every_point():
            point.clear_context()

    @property
    def has_any_hooks(self) -> bool:
        """True when any hook is installed or asked for."""
        points = self.hook_dict.every_point()
        return bool(self._requests) or any(point.has_hooks for point in points)

    # --- hooks for a block of code, or for one run -----------------------------------------------

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[NamedHook] = (),
        bwd_hooks: Iterable[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[HookedRoot]:
        """Install hooks for a `with` block, whatever happens inside it.

        Args:
            fwd_hooks: (site, pattern, list or predicate; function) pairs.
            bwd_hooks: The same, called with gradients.
            reset_hooks_end: Take these hooks off at the end (others stay).
            clear_contexts: Empty every `ctx` at the end.

        Raises:
            UnknownSiteError: A name matches nothing.
        """
        with self._nested(reset_hooks_end, clear_contexts) as level:
            for name, hook in fwd_hooks:
                self.add_hook(name, hook, dir="fwd", level=level)
            for name, hook in bwd_hooks:
                self.add_hook(name, hook, dir="bwd", level=level)
            yield self

    @contextmanager
    def _nested(self, reset_hooks_end: bool, clear_contexts: bool) -> Iterator[int]:
        self._level += 1
        level = self._level
        try:
            yield level
        finally:
            self._level -= 1
            if reset_hooks_end:
                self.reset_hooks(clear_contexts, level=level)

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Iterable[NamedHook] = (),
        bwd_hooks: Iterable[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Run the model once with hooks.

        Args:
            *model_args: Passed to the model.
            fwd_hooks: (site, function) pairs; a function is `fn(tensor, hook) -> tensor | None`.
            bwd_hooks: The same for gradients; they fire when `.backward()` is called on the result,
                also after this call has returned.
            reset_hooks_end: Take them off afterwards.
            clear_contexts: Empty every `ctx` afterwards.
            **model_kwargs: Passed to the model.

        Raises:
            UnknownSiteError: A name matches nothing.
            SiteNotReachedError: A forward hook never fired (a layer that was not run).
        """
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*model_args, **model_kwargs)

    # --- caching ---------------------------------------------------------------------------------

    def run_with_cache(
        self,
        *model_args: Any,
        names_filter: NameFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool | Callable[[Any], torch.Tensor] = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: PosSlice = None,
        fwd_hooks: Iterable[NamedHook] = (),
        bwd_hooks: Iterable[NamedHook] = (),
        return_cache_object: bool = True,
        rebuild: bool = True,
        **model_kwargs: Any,
    ) -> tuple[Any, Any]:
        """Run the model once and keep activations.

        What is many times larger than what it was computed from is not kept but rebuilt when it is
        looked up: `hook_A_bar`, `hook_B_bar`, `hook_ssm_write`, most states (`hook_h.p`) and
        windows, and elementwise steps. Looking one up twice gives two tensors.

        Args:
            *model_args: Passed to the model.
            names_filter: What to keep: a site or pattern, several, or a predicate on concrete
                names; None keeps every hook, the states and windows of all positions included.
            device: Where to keep it (default: where it is computed); rebuilt values are computed
                there.
            remove_batch_dim: Drop a batch axis of length 1.
            incl_bwd: Also keep gradients, as `name + "_grad"`. True calls `.backward()` on the
                model's output, which must be a scalar (`return_type="loss"`); a function is first
                applied to the output, for example `lambda logits: logits[0, -1, 3]`.
            reset_hooks_end: Take the given hooks off afterwards.
            clear_contexts: Empty every `ctx` afterwards.
            pos_slice: Positions to keep, as an index, slice or list.
            fwd_hooks: Further hooks; what they return is what is cached.
            bwd_hooks: Further backward hooks.
            return_cache_object: False gives a plain dictionary of tensors, all of them rebuilt.
            rebuild: False reads and keeps everything that was asked for.
            **model_kwargs: Passed to the model (`stop_at_layer=`, `attention_mask=` ...).

        Returns:
            (model output, ActivationCache). Cached tensors are detached.

        Raises:
            UnknownSiteError: The filter matches nothing.
            SiteNotReachedError: A named hook lies beyond `stop_at_layer`.

        Numerics: rebuilt on the same device, everything but the states has the bits a reading hook
        would have seen in this run; states agree within 1e-6 of their largest value (float32).
        Without readers the block may take a faster scan, which rounds differently. A hook with a
        function of the caller's on it, and what follows from it, is read.
        """
        gradients: dict[str, torch.Tensor] = {}

        def keep_gradient(key: str, value: torch.Tensor) -> None:
            value = value.detach()
            gradients[f"{key}_grad"] = value if device is None else value.to(device)

        # The caller's hooks come first: the cache holds what the model went on with.
        with (
            self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts),
            self._nested(reset_hooks_end=True, clear_contexts=False) as level,
        ):
            if incl_bwd:
                self._request(
                    HookRequest(
                        names_filter,
                        reader=keep_gradient,
                        direction="bwd",
                        level=level,
                        pos_slice=pos_slice,
                    )
                )
            recorder = Recorder(
                names_filter,
                [block for block in self.modules() if isinstance(block, MambaBlock)],
                self.hook_dict.edited,
                pos_slice=pos_slice,
                device=device,
                rebuild=rebuild,
                level=level,
            )
            self._request(recorder)
            with recorder.watching():
                out = self(*model_args, **model_kwargs)
            recorder.finish()
            if incl_bwd:
                (incl_bwd(out) if callable(incl_bwd) else out).backward()
        cache = ActivationCache(recorder.values | gradients, n_layers=self.resolver.n_layers)
        if remove_batch_dim:
            cache = cache.remove_batch_dim()
        return out, cache if return_cache_object else dict(cache)

    # --- what every forward pass does ------------------------------------------------------------

    @contextmanager
    def hooked_pass(self, n_pos: int, *, partial: bool = False) -> Iterator[None]:
        """Put the requested hooks in place for one forward pass, and check that they fired.

        Args:
            n_pos: Positions of this prompt.
            partial: Some layers are left out on purpose; requests for "everything" then mean
                everything that runs, and named sites still have to be reached.

        Raises:
            SiteNotReachedError: A hook was in place and never fired.
        """
        installed = []
        lenient: set[int] = set()
        try:
            for request in self._requests:
                handles = request.install(self.resolver, self.hook_dict.__getitem__, n_pos)
                installed += handles
                if partial and request.selects_everything:
                    lenient.update(id(handle) for _, handle in handles)
            watched = [
                (point.name, handle, handle.fired)
                for point in self.hook_dict.every_point()
                for handle in point.fwd_hooks
                if id(handle) not in lenient
            ]
            yield
            for name, handle, fired_before in watched:
                if handle.fired == fired_before:
                    raise never_reached(name)
        finally:
            for point, handle in installed:
                point.remove(handle)
