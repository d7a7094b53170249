"""Which hook points of this very model, and which positions of this very prompt, are meant?"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mechtest.sites.aliases import canonical
from mechtest.sites.site import Site, unknown_site
from mechtest.sites.table import BLOCK_HOOKS, MAMBA1_HOOKS, MODEL_HOOKS, HookSpec

NameFilter = str | Iterable[str] | Callable[[str], bool] | None
"""What `names_filter=` takes: a name or pattern, several of them, a predicate, or None for all."""

_POSITIONAL = re.compile(r"(?P<stem>.+\.(?:hook_h|hook_conv_state))\.(?P<index>\*|\d+)")


@dataclass(frozen=True, slots=True)
class HookTarget:
    """One hook point, and the part of its tensor that is meant.

    Attributes:
        name: Concrete hook point, for example `blocks.1.hook_h.7`.
        positions: Indices along the `pos` axis, or None for the whole tensor.
        single: One position was named: the hook function sees the axis dropped.
    """

    name: str
    positions: range | None = None
    single: bool = False


class SiteResolver:
    """Turns names into the hook points of a model with `n_layers` layers.

    Args:
        n_layers: Blocks of the model.
    """

    def __init__(self, n_layers: int) -> None:
        self.n_layers = n_layers

    def site(self, name: str) -> Site:
        """Read a name and check its layer; the layer comes back non-negative.

        Raises:
            UnknownSiteError: No such hook or layer.
        """
        return self.in_model(Site.parse(name))

    def in_model(self, site: Site) -> Site:
        """Check the layer of a site; it comes back non-negative.

        Raises:
            UnknownSiteError: No such layer.
        """
        if site.layer is None or 0 <= site.layer < self.n_layers:
            return site
        if site.layer < -self.n_layers or site.layer >= self.n_layers:
            name = str(site)
            raise unknown_site(name, canonical(name.partition("@")[0]), self.n_layers)
        return Site(site.hook, site.layer % self.n_layers, site.position)

    def sites(self, name: str) -> tuple[Site, ...]:
        """Read a name that may hold `*` for the layer, the hook or the position."""
        base, at, where = name.partition("@")
        if "*" not in base and "?" not in base:
            return (self.site(name),)
        pattern, index = canonical(base), ""
        if positional := _POSITIONAL.fullmatch(pattern):
            pattern = positional["stem"]
            index = "" if positional["index"] == "*" else f".{positional['index']}"
        # A second view of other hooks is meant only when it is named: a function put on both
        # would be applied twice.
        candidates = self.static_names(fused="mixer." in pattern)
        candidates += self._state_names() if pattern.endswith(".state") else []
        found = [known for known in candidates if fnmatch.fnmatchcase(known, pattern)]
        if not found:
            raise unknown_site(name, pattern, self.n_layers)
        suffix = index + at + where
        return tuple(self.site(known + suffix) for known in found)

    def targets(self, name: str, n_pos: int) -> tuple[HookTarget, ...]:
        """Return the hook points a name means for prompts of `n_pos` tokens.

        Raises:
            UnknownSiteError: No such site.
            PositionError: A position outside the prompt, or a role (a bare model knows none).
        """
        found = (
            target
            for site in self.sites(name)
            for part in site.parts
            for target in self._targets_of(part, n_pos)
        )
        return tuple(dict.fromkeys(found))

    def _targets_of(self, site: Site, n_pos: int) -> Iterator[HookTarget]:
        base = site.hook if site.layer is None else f"blocks.{site.layer}.{site.hook}"
        if site.spec.per_position:
            for index in site.position.indices(n_pos):
                yield HookTarget(f"{base}.{index}")
        elif site.position.everywhere:
            yield HookTarget(base)
        else:
            single = not site.position.is_range
            yield HookTarget(base, site.position.indices(n_pos), single)

    def filtered(self, names_filter: NameFilter, n_pos: int) -> tuple[HookTarget, ...]:
        """Return the hook points that a `names_filter=` selects, in firing order.

        None selects every MambaLens hook and the convolution windows; the fused projections, which
        repeat them, and nothing else is left out.

        Raises:
            UnknownSiteError: A name or pattern that matches nothing, or a predicate that accepts
                nothing.
        """
        order = {name: rank for rank, name in enumerate(self.all_names(n_pos, fused=True))}
        if names_filter is None:
            return tuple(HookTarget(name) for name in self.all_names(n_pos))
        if callable(names_filter):
            chosen = [HookTarget(name) for name in order if names_filter(name)]
            if not chosen:
                raise unknown_site("names_filter=<function>", "", self.n_layers)
            return tuple(chosen)
        names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        if not names:
            raise unknown_site("names_filter=[]", "", self.n_layers)
        targets = {target: None for name in names for target in self.targets(name, n_pos)}
        return tuple(sorted(targets, key=lambda target: order[target.name]))

    def static_names(self, *, fused: bool = False) -> list[str]:
        """Return hook names without positions, in firing order."""
        return [name for name, _ in self._walk(fused=fused)]

    def all_names(self, n_pos: int, *, fused: bool = False) -> list[str]:
        """Return every concrete hook name for prompts of `n_pos` tokens, in firing order."""
        names = []
        for name, spec in self._walk(fused=fused):
            names += [f"{name}.{p}" for p in range(n_pos)] if spec.per_position else [name]
        return names

    def _state_names(self) -> list[str]:
        return [f"blocks.{layer}.state" for layer in range(self.n_layers)]

    def _walk(self, *, fused: bool) -> Iterator[tuple[str, HookSpec]]:
        split = MAMBA1_HOOKS.index(MODEL_HOOKS[1])
        blocks = [
            (f"blocks.{layer}.{spec.name}", spec)
            for layer in range(self.n_layers)
            for spec in BLOCK_HOOKS
        ]
        rows = [(spec.name, spec) for spec in MAMBA1_HOOKS[:split] if spec.scope == "model"]
        rows += blocks
        rows += [(spec.name, spec) for spec in MAMBA1_HOOKS[split:]]
        return ((name, spec) for name, spec in rows if fused or not spec.fused)
