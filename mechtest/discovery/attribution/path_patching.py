"""What does one edge of the residual graph truly carry?

What a reader reads is replaced by what it would have read if one writer had written what it writes
on the twin; every other reader reads what it read. Likewise for one tap of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from mechtest.discovery.attribution.agreement import true_effects
from mechtest.discovery.attribution.first_order import layers_of, tap_change
from mechtest.discovery.attribution.residual_graph import (
    Reader,
    Writer,
    changes_written,
    input_after,
)
from mechtest.discovery.attribution.traces import Tracer
from mechtest.discovery.looking import Behaviour
from mechtest.interventions import Circuit, Intervention, Places
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs

__all__ = ["Edge", "Tap", "true_edge_effects"]


@dataclass(frozen=True, slots=True)
class Edge:
    """One writer's term in what one reader reads.

    Attributes:
        writer: Who wrote.
        reader: Who reads.
        position: Where, in the notation of sites; empty for all positions at once.
    """

    writer: Writer
    reader: Reader
    position: str = ""

    @property
    def name(self) -> str:
        """For example `0.state->1.conv@last`."""
        return f"{self.writer.name}->{self.reader.name}" + _at(self.position)

    @property
    def site(self) -> str:
        """Where it is patched."""
        return self.reader.site + _at(self.position)

    def hooks(self) -> tuple[str, ...]:
        """Return the hooks from which the patched rows follow."""
        start = f"blocks.{self.writer.layer}."
        inner = ("hook_ssm_input", "hook_skip", "hook_y")
        wrote = ["hook_embed"] if self.writer.layer < 0 else [start + hook for hook in inner]
        resid = f"blocks.{self.reader.layer}.hook_resid_pre"
        return (*wrote, self.reader.site if self.reader.part == "logits" else resid)

    def rows(
        self,
        model: HookedMamba,
        clean: Mapping[str, torch.Tensor],
        corrupted: Mapping[str, torch.Tensor],
        differs: torch.Tensor,
    ) -> Float[torch.Tensor, "prompt pos width"]:
        """Return what then stands at the site."""
        resid = clean[self.hooks()[-1]]
        change = changes_written(model, [self.writer], clean, corrupted, differs)[0]
        return input_after(model, self.reader, resid, change)


@dataclass(frozen=True, slots=True)
class Tap:
    """What one tap of a layer's convolution brings from `distance` tokens before.

    Attributes:
        layer: Which block.
        distance: 0 is the token itself.
        position: Where it brings it to; empty for all positions at once.
    """

    layer: int
    distance: int
    position: str = ""

    @property
    def name(self) -> str:
        """For example `0.tap1@last`."""
        return f"{self.layer}.tap{self.distance}" + _at(self.position)

    @property
    def site(self) -> str:
        """Where it is patched."""
        return f"blocks.{self.layer}.hook_conv" + _at(self.position)

    def hooks(self) -> tuple[str, ...]:
        """Return the hooks from which the patched rows follow."""
        return f"blocks.{self.layer}.hook_in_proj", f"blocks.{self.layer}.hook_conv"

    def rows(
        self,
        model: HookedMamba,
        clean: Mapping[str, torch.Tensor],
        corrupted: Mapping[str, torch.Tensor],
        differs: torch.Tensor,
    ) -> Float[torch.Tensor, "prompt pos width"]:
        """Return what then stands at the site."""
        name, conv = self.hooks()
        change = (corrupted[name] - clean[name]) * differs.unsqueeze(-1)
        weight = layers_of(model)[self.layer].mixer.conv1d.weight
        return clean[conv] + tap_change(change, weight, self.distance)


@dataclass(frozen=True, eq=False)
class _RowsPatch(Intervention):
    """Put in rows worked out beforehand.

    Attributes:
        rows: One for each prompt and column.
        number: Row of each prompt of the collection in `rows`.
    """

    rows: Float[torch.Tensor, "prompt pos width"]
    number: Int64[torch.Tensor, " order"]
    name: str = "path patch"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the rows of these places."""
        del reference, site
        prompt = self.number[places.prompt.cpu()].to(self.rows.device)
        column = self.rows.shape[1] - places.from_end.to(self.rows.device)
        return self.rows[prompt, column].to(value.dtype)


@torch.no_grad()
def true_edge_effects(
    tracer: Tracer, behaviour: Behaviour, edges: Sequence[Edge | Tap]
) -> Float[np.ndarray, "edge prompt"]:
    """Return the share of the behaviour that is lost when one edge alone is patched.

    Args:
        tracer: Runs the model.
        behaviour: What the untouched model does.
        edges: Which; one at a time.

    Memory: as many edges go together as `tracer.memory` holds the patched rows of, at least one.
    Sources: Wang et al. 2022, section 3 and Goldowsky-Dill et al. 2023 (path patching).
    """
    runner = tracer.runner
    pairs, cfg = runner.pairs, runner.model.cfg
    number = torch.zeros(int(pairs.order.max()) + 1, dtype=torch.int64)
    number[torch.as_tensor(pairs.order)] = torch.arange(len(pairs))
    size = pairs.clean_tokens.numel() * max(cfg.E, cfg.d_model)
    together = max(1, tracer.memory // (size * runner.model.embedding.weight.element_size()))
    found = []
    for start in range(0, len(edges), together):
        group = edges[start : start + together]
        parts = [_rows(tracer, group, batch) for _, batch in tracer.batches()]
        for edge, rows in zip(group, zip(*parts, strict=True), strict=True):
            patch = _RowsPatch(torch.cat(rows), number)
            variant = runner.variant([Circuit(edge.site)], patch)
            found.append(true_effects(runner, behaviour, [variant])[0])
    return np.stack(found) if found else np.zeros((0, len(pairs)))


def _rows(tracer: Tracer, edges: Sequence[Edge | Tap], batch: EncodedPairs) -> list[torch.Tensor]:
    """Return the patched rows of each edge on one batch."""
    names = list(dict.fromkeys(name for edge in edges for name in edge.hooks()))
    clean = tracer.values(batch, "clean", names)
    corrupted = tracer.values(batch, "corrupted", names)
    differs = batch.changed.cumsum(1).bool() & batch.attention_mask
    return [edge.rows(tracer.model, clean, corrupted, differs) for edge in edges]


def _at(position: str) -> str:
    return f"@{position}" if position else ""
