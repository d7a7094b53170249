"""Who writes to the residual stream, who reads it, and what does one reader owe to one writer?

The stream is a sum, so what reaches a reader is the sum of what every earlier writer put in: an
edge is one term of one reader's sum. A layer writes twice, what it read out of its state and what
it let pass directly (W_D), both gated; and it reads twice, for the convolution and for the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float

from mechtest.discovery.attribution.first_order import layers_of
from mechtest.discovery.attribution.traces import Trace
from mechtest.models import HookedMamba
from mechtest.models.block import MambaBlock

__all__ = [
    "Reader",
    "Writer",
    "changes_written",
    "edges_exist",
    "input_after",
    "readers",
    "slope_of_readers",
    "slopes_needed",
    "values_needed",
    "writers",
]


@dataclass(frozen=True, slots=True)
class Writer:
    """What writes to the residual stream.

    Attributes:
        part: `embed`; `state`, the gated read-out of the recurrent state; or `direct`, the gated
            part that passes by it (D x).
        layer: Which block; -1 for the embedding.
    """

    part: Literal["embed", "state", "direct"]
    layer: int = -1

    @property
    def name(self) -> str:
        """Short name: `embed`, `0.state`, `0.direct`."""
        return self.part if self.layer < 0 else f"{self.layer}.{self.part}"

    @property
    def site(self) -> str:
        """The hook whose rows it is, or is a part of."""
        return "hook_embed" if self.layer < 0 else f"blocks.{self.layer}.hook_out_proj"


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads the residual stream, through a norm of its own.

    Attributes:
        part: `conv`, the branch through convolution and state; `gate`; or `logits`.
        layer: Which block; the number of blocks for the logits.
    """

    part: Literal["conv", "gate", "logits"]
    layer: int

    @property
    def name(self) -> str:
        """Short name: `1.conv`, `1.gate`, `logits`."""
        return self.part if self.part == "logits" else f"{self.layer}.{self.part}"

    @property
    def site(self) -> str:
        """The hook where an edge into it is patched."""
        hooks = {"conv": "hook_in_proj", "gate": "hook_skip"}
        if self.part == "logits":
            return f"blocks.{self.layer - 1}.hook_resid_post"
        return f"blocks.{self.layer}.{hooks[self.part]}"


def writers(n_layer: int) -> tuple[Writer, ...]:
    """Return all writers, the first to write first."""
    found = [Writer("embed")]
    for layer in range(n_layer):
        found += [Writer("state", layer), Writer("direct", layer)]
    return tuple(found)


def readers(n_layer: int) -> tuple[Reader, ...]:
    """Return all readers, the first to read first."""
    found = [
        reader
        for layer in range(n_layer)
        for reader in (Reader("conv", layer), Reader("gate", layer))
    ]
    return (*found, Reader("logits", n_layer))


def edges_exist(reader: Reader) -> int:
    """Return how many of the writers, from the first on, have written when a reader reads."""
    return 1 + 2 * reader.layer


def values_needed(n_layer: int) -> list[str]:
    """Return the hooks from which all that is written follows."""
    inner = ("hook_in_proj", "hook_ssm_input", "hook_skip", "hook_y")
    return ["hook_embed", *(f"blocks.{i}.{hook}" for i in range(n_layer) for hook in inner)]


def slopes_needed(n_layer: int) -> list[str]:
    """Return the hooks at which slopes are taken, with what stands there."""
    inner = ("hook_resid_pre", "hook_in_proj", "hook_skip", "hook_conv")
    found = [f"blocks.{i}.{hook}" for i in range(n_layer) for hook in inner]
    return [*found, f"blocks.{n_layer - 1}.hook_resid_post"]


def changes_written(
    model: HookedMamba,
    chosen: Iterable[Writer],
    base: Mapping[str, torch.Tensor],
    other: Mapping[str, torch.Tensor],
    mask: torch.Tensor,
) -> Float[torch.Tensor, "writer prompt pos d_model"]:
    """Return how what some writers write differs between two runs.

    Args:
        model: The model.
        chosen: Which writers.
        base: Values of one run.
        other: Of the other.
        mask: Where they can differ, bool "prompt pos".
    """
    rows = []
    for writer in chosen:
        change = _written(model, writer, other) - _written(model, writer, base)
        rows.append(change * mask.unsqueeze(-1))
    return torch.stack(rows)


def _written(
    model: HookedMamba, writer: Writer, values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Return what a writer writes, but for the constant bias of `out_proj`."""
    if writer.layer < 0:
        return values["hook_embed"]
    block = layers_of(model)[writer.layer]
    start = f"blocks.{writer.layer}."
    inner = values[start + "hook_y"]
    if writer.part == "direct":
        inner = values[start + "hook_ssm_input"] * block.mixer.D.detach().to(inner.dtype)
    gated = inner * F.silu(values[start + "hook_skip"])
    weight = block.mixer.out_proj.weight.detach()
    return F.linear(gated.to(weight.dtype), weight).to(inner.dtype)


def slope_of_readers(
    model: HookedMamba, trace: Trace
) -> Float[torch.Tensor, "reader prompt pos d_model"]:
    """Return the slope of the metric at what each reader reads, every other reader left alone.

    A layer's slope at the stream is split by its two branches: each has its part of the slope at
    the normed rows, taken back through the norm.
    """
    found = []
    for reader in readers(model.cfg.n_layer):
        if reader.part == "logits":
            found.append(trace.slopes[reader.site])
            continue
        block = layers_of(model)[reader.layer]
        weight = _projection(block, reader)[0]
        normed = trace.slopes[reader.site].to(weight.dtype) @ weight
        resid = trace.values[f"blocks.{reader.layer}.hook_resid_pre"]
        with torch.enable_grad():
            start = resid.detach().requires_grad_()
            (slope,) = torch.autograd.grad(block.norm(start), start, normed.to(start.dtype))
        found.append(slope)
    return torch.stack(found)


def input_after(
    model: HookedMamba, reader: Reader, resid: torch.Tensor, change: torch.Tensor
) -> torch.Tensor:
    """Return what stands at a reader's site when an edge brings it `change` more."""
    if reader.part == "logits":
        return resid + change
    block = layers_of(model)[reader.layer]
    weight, bias = _projection(block, reader)
    return F.linear(block.norm(resid + change).to(weight.dtype), weight, bias)


def _projection(block: MambaBlock, reader: Reader) -> tuple[torch.Tensor, torch.Tensor | None]:
    view = block.in_proj if reader.part == "conv" else block.skip_proj
    return view.weight.detach(), None if view.bias is None else view.bias.detach()
