"""How are the activations of one run kept, looked up, combined and stored?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mechtest.errors import NotCachedError, ShapeError, closest_names
from mechtest.models import cache_file
from mechtest.models.recipes import (
    Done,
    Node,
    Recipe,
    StateMemo,
    bytes_held,
    converted,
    stacked,
    tensors_in,
    value_of,
)
from mechtest.models.state import RecurrentState
from mechtest.sites import Site, SiteResolver
from mechtest.sites.table import BLOCK_HOOKS

GRADIENT = "_grad"


class ActivationCache(Mapping[str, Any]):
    """Activations by hook name, in the order they were computed.

    Keys are concrete names (`blocks.0.hook_h.3`). Looking up also understands aliases, positions
    (`blocks.0.hook_resid_pre@last`), whole trajectories (`blocks.0.hook_h`: positions stacked along
    axis 1), the state site (`blocks.0.state@3`, a RecurrentState), and TransformerLens's short form
    `cache["resid_pre", 0]`.

    Some values are kept as recipes and rebuilt by every look-up (see `run_with_cache`): a fresh
    tensor each time. `dict(cache)` and `cache.values()` rebuild everything; names cost nothing.

    Args:
        values: Tensors, or recipes for them, by concrete name, in firing order.
        n_layers: Blocks of the model.
        has_batch_dim: False once the batch axis was dropped.
    """

    def __init__(
        self, values: Mapping[str, Node], n_layers: int, *, has_batch_dim: bool = True
    ) -> None:
        self._values = dict(values)
        self._memo = StateMemo()
        self.n_layers = n_layers
        self.has_batch_dim = has_batch_dim
        self._resolver = SiteResolver(n_layers)

    # --- mapping ---------------------------------------------------------------------------------

    def __getitem__(self, name: str | tuple[str, int]) -> Any:
        """Return an activation; see the class for what may be asked.

        Raises:
            UnknownSiteError: The model has no such site (a KeyError).
            NotCachedError: It has, but this cache does not hold it (a KeyError).
        """
        key = _short_form(*name) if isinstance(name, tuple) else name
        if key in self._values:
            return value_of(self._values[key], self._memo)
        grad = GRADIENT if key.endswith(GRADIENT) else ""
        site = self._resolver.site(key.removesuffix(GRADIENT))
        if site.is_state:
            conv, h = (self._lookup(part, grad, key) for part in site.parts)
            return RecurrentState(h, conv)
        return self._lookup(site, grad, key)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, (str, tuple)):
            return False
        try:
            key = _short_form(*name) if isinstance(name, tuple) else name
            if key in self._values:
                return True
            grad = GRADIENT if key.endswith(GRADIENT) else ""
            for part in self._resolver.site(key.removesuffix(GRADIENT)).parts:
                self._names(part, grad, key)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        size = bytes_held([*tensors_in(self._values.values()), *self._memo.tensors()])
        rebuilt = sum(isinstance(node, Recipe) for node in self._values.values())
        on_demand = f", {rebuilt} of them rebuilt on demand" if rebuilt else ""
        return f"ActivationCache({len(self)} activations{on_demand}, {size / 1e6:.1f} MB)"

    @cached_property
    def n_pos(self) -> int:
        """Positions of the prompt, as far as this cache shows them.

        Raises:
            NotCachedError: Nothing here has positions.
        """
        counts = [0]
        for name, value in self._values.items():
            if name.endswith(GRADIENT) or "@" in name:
                continue
            site = Site.parse(name)
            if site.spec.per_position and site.position.start is not None:
                counts.append(site.position.start.offset + 1)
            elif site.spec.position_axis is not None:
                counts.append(value.shape[site.spec.position_axis - (not self.has_batch_dim)])
        if counts == [0]:
            raise self._missing("a position")
        return max(counts)

    def _names(self, site: Site, grad: str, asked: str) -> list[str]:
        """Return the names of what a site is made of: one, or one a position."""
        base = site.hook if site.layer is None else f"blocks.{site.layer}.{site.hook}"
        names = [f"{base}{grad}"]
        if site.spec.per_position:
            names = [f"{base}.{p}{grad}" for p in site.position.indices(self.n_pos)]
        if not all(name in self._values for name in names):
            raise self._missing(asked)
        return names

    def _lookup(self, site: Site, grad: str, asked: str) -> torch.Tensor:
        nodes = [self._values[name] for name in self._names(site, grad, asked)]
        if site.spec.per_position and site.position.is_range:
            return stacked(nodes, self._pos_dim, self._memo)
        value = value_of(nodes[0], self._memo)
        if site.spec.per_position or site.position.everywhere:
            return value
        where = site.position.indices(value.shape[self._pos_dim])
        if not site.position.is_range:
            return value.select(self._pos_dim, where.start)
        return value.narrow(self._pos_dim, where.start, len(where))

    @property
    def _pos_dim(self) -> int:
        return 1 if self.has_batch_dim else 0

    def _missing(self, asked: str) -> NotCachedError:
        return NotCachedError(
            f"{asked} was not cached",
            given=asked,
            closest=closest_names(asked, self._values),
            next_step="run_with_cache(..., names_filter=None) keeps every hook",
        )

    # --- combining -------------------------------------------------------------------------------

    def stack(self, hook: str) -> torch.Tensor:
        """Stack one hook over all layers.

        Args:
            hook: Name inside a block, with or without `hook_`: `resid_pre`, `hook_h`.

        Returns:
            "layer batch pos ..." (for `hook_h` and `hook_conv_state` the positions are stacked
            along axis 2, "layer batch pos d_inner d_state").

        Raises:
            UnknownSiteError: No such hook.
            NotCachedError: A layer or position is missing.
        """
        layers = range(self.n_layers)
        return torch.stack([self[_short_form(hook, layer)] for layer in layers])

    stack_activation = stack

    def decompose_resid(
        self, layer: int | None = None, *, return_labels: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[str]]:
        """Split a residual stream into what wrote it: the embedding and every earlier block.

        Args:
            layer: The stream entering this block; None or n_layers for the one that is unembedded.
            return_labels: Also return one name a component.

        Returns:
            "component batch pos d_model"; its sum over components is `hook_resid_pre` of that layer
            to rounding (exactly the order in which the model adds).

        Raises:
            NotCachedError: `hook_embed` or a block's `hook_out_proj` is missing.
            ShapeError: `layer` is outside the model.
        """
        stop = self.n_layers if layer is None else layer
        stop = stop + self.n_layers if stop < 0 else stop
        if not 0 <= stop <= self.n_layers:
            raise ShapeError(
                f"layer {layer} is outside a model of {self.n_layers} layers",
                given=layer,
                expected=f"0 to {self.n_layers}",
            )
        labels = ["embed", *(f"{block}_out_proj" for block in range(stop))]
        parts = [self["hook_embed"], *(self["out_proj", block] for block in range(stop))]
        stacked = torch.stack(parts)
        return (stacked, labels) if return_labels else stacked

    # --- moving and storing ----------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> ActivationCache:
        """Return a cache on another device or in another dtype (as `torch.Tensor.to`).

        What is rebuilt is rebuilt in the dtype of the run, and then converted.
        """
        done: Done = {}
        return ActivationCache(
            {name: converted(node, args, kwargs, done) for name, node in self._values.items()},
            self.n_layers,
            has_batch_dim=self.has_batch_dim,
        )

    def remove_batch_dim(self) -> ActivationCache:
        """Return a cache without its batch axis.

        Raises:
            ShapeError: The batch holds more than one prompt.
        """
        if not self.has_batch_dim:
            return self
        values: dict[str, Node] = {}
        for name, node in self._values.items():
            if Site.parse(name.removesuffix(GRADIENT)).spec.axes[0] != "batch":
                values[name] = node
                continue
            if node.shape[0] != 1:
                raise ShapeError(
                    "the batch axis can only be dropped when it holds one prompt",
                    given=f"{name} {tuple(node.shape)}",
                    expected="a first axis of length 1",
                )
            if isinstance(node, torch.Tensor):
                values[name] = node[0]
            else:
                values[name] = Recipe("first", (node,), tuple(node.shape[1:]), node.dtype)
        return ActivationCache(values, self.n_layers, has_batch_dim=False)

    def save(self, path: str | Path) -> None:
        """Write all activations to one safetensors file; recipes stay recipes."""
        about = {"n_layers": self.n_layers, "has_batch_dim": self.has_batch_dim}
        cache_file.write(path, self._values, about)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> ActivationCache:
        """Read a file written by `save`.

        Raises:
            CheckpointFormatError: Not such a file, or damaged.
        """
        values, about = cache_file.read(path, device)
        return cls(values, about["n_layers"], has_batch_dim=about["has_batch_dim"])


def _short_form(name: str, layer: int) -> str:
    hook = name if name.startswith(("hook_", "mixer.")) else f"hook_{name}"
    known = {spec.name for spec in BLOCK_HOOKS}
    return f"blocks.{layer}.{hook}" if hook in known else f"blocks.{layer}.{name}"
