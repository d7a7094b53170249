"""How is the logit difference put together out of what each part of the model writes?

The residual stream is a sum, and the final norm divides it by one number: with that number taken
as it is, every part has its exact share of the logits. Inside a block the gate multiplies; it is
taken as it is, too, or held at its mean, with what it does beyond that as a part of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.lens.attribution_parts import (
    BlockParts,
    RunParts,
    block_of,
    parts_of_run,
    state_products,
)
from mechtest.discovery.lens.attribution_result import LogitAttribution
from mechtest.discovery.lens.residuals import prompt_batches
from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import about, identity_of, read_only
from mechtest.errors import ShapeError
from mechtest.interventions import SweepResult
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

__all__ = ["direct_logit_attribution"]

MOST_NUMBERS = 2**25
"""Numbers a map may hold: 256 MiB."""

FOUND_CHANNELS = 8
"""Channels whose states are looked at where none are named: those that read out most."""

By = Literal["layer", "branch", "channel", "state"]
BYS = ("layer", "branch", "channel", "state")
RUNS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "clean": (("clean", 1.0),),
    "corrupted": (("corrupted", 1.0),),
    "difference": (("clean", 1.0), ("corrupted", -1.0)),
}


@torch.no_grad()
def direct_logit_attribution(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    by: By = "layer",
    run: Literal["clean", "corrupted", "difference"] = "clean",
    gate: Literal["frozen", "mean"] = "frozen",
    layers: Sequence[int] | None = None,
    channels: Mapping[int, Sequence[int]] | None = None,
    progress: bool = True,
) -> LogitAttribution:
    """Take the logit difference at the last token apart into what each part of the model adds.

    Exact: the parts and the rest sum to the model's logit difference, to rounding. What a part
    makes later layers do is theirs, not its; so a large direct part need not be necessary, and a
    necessary one may write nothing directly.

    Args:
        model: The model.
        prompts: Their discovery half is taken.
        by: `layer`: the embedding and what each block adds. `branch`: each block's read-out of the
            state (`SSM`), what goes past the state (`D skip`), and its bias if it has one.
            `channel`: the `d_inner` channels of blocks, both branches together. `state`: the
            `d_state` numbers of some channels' states, each times its entry of C.
        run: The prompts that are looked at, or `difference`: clean minus corrupted.
        gate: In branches, the gate multiplies both. `frozen` takes it as it is. `mean` holds it at
            its mean over prompts; what it does beyond that is a third part, `gate`.
        layers: For `channel` and `state`: these only.
        channels: For `state`: channels by layer; by default the 8 of each layer that read out most
            from their states.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        Logits a part and prompt. For sets of answers and foils: the mean logit of the answers minus
        that of the foils, which for single tokens is the logit difference.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        ShapeError: Layers or channels the model does not have, or settings that do not go together.

    Memory: a batch of prompts at a time. A map by channels holds layers x d_inner x prompts numbers
    and is refused beyond 2**25: name `layers`.

    Sources: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (direct path
    terms); Wang et al. 2022, section 3 (projection to the logit difference, norm frozen).
    """
    pairs = looking_runner(model, prompts).pairs
    chosen = _layers(model, by, run, gate, layers, channels, len(pairs))
    with tqdm(
        total=len(pairs), desc="logit attribution", unit="prompt",
        disable=None if progress else True,
    ) as bar:  # fmt: skip
        work = _Attribution(model, pairs, by, run, gate, chosen, channels)
        for batch in work.batches():
            work.add(batch)
            bar.update(len(pairs[batch]))
    core = about(
        "direct_logit_attribution", model, pairs, metric="logit_difference", by=by, run=run,
        gate=gate, layers=list(chosen),
        channels={str(layer): list(of) for layer, of in work.channels.items()},
    )  # fmt: skip
    rows, columns, sites = work.labels()
    there = np.asarray(~np.isnan(work.values).any(-1))
    result = SweepResult(
        rows=rows,
        columns=columns,
        row_name="channel" if by == "state" else "layer",
        column_name={"state": "number of the state", "channel": "channel"}.get(by, "part"),
        sites=sites,
        values=work.values,
        reasons={at: "no such part here" for at in np.ndindex(*there.shape) if not there[at]},
        prompt_ids=core.prompt_ids,
        templates=core.templates,
        effect_name="logit difference"
        if run != "difference"
        else "difference of logit differences",
        unit="logits",
        intervention="direct logit attribution",
        base=run if run != "difference" else "clean minus the corrupted",
        metric="logit_difference",
        model=identity_of(model),
    )
    return LogitAttribution(core, result, read_only(work.rest), read_only(work.total))


class _Attribution:
    """Adds up the parts of the runs asked for, a batch of prompts at a time."""

    def __init__(
        self, model: HookedMamba, pairs: EncodedPairs, by: By, run: str, gate: str,
        layers: Sequence[int], channels: Mapping[int, Sequence[int]] | None,
    ) -> None:  # fmt: skip
        self.model, self.pairs, self.by, self.layers = model, pairs, by, layers
        self.runs, self.mean_gate = RUNS[run], gate == "mean"
        self.gates = self._mean_gates() if self.mean_gate else {}
        self.channels: dict[int, list[int]] = {}
        if by == "state":
            self.channels = self._strongest() if channels is None else {
                layer: list(channels[layer]) for layer in layers
            }  # fmt: skip
        rows, columns, _ = self.labels()
        self.values = np.zeros((len(rows), len(columns), len(pairs)))
        self.rest, self.total = np.zeros(len(pairs)), np.zeros(len(pairs))
        if by == "branch":
            self.values[0, 1:] = np.nan
            self.values[1:, 0] = np.nan

    def batches(self) -> Iterable[slice]:
        """Yield ranges of prompts."""
        cfg = self.model.cfg
        kept = (cfg.n_layer + 2) * cfg.d_model + 8 * len(self.layers) * cfg.E
        return prompt_batches(self.model, self.pairs, 2 * kept)

    def add(self, batch: slice) -> None:
        """Add the parts of some prompts."""
        part = self.pairs[batch]
        for run, sign in self.runs:
            found = parts_of_run(self.model, part, run, self.layers)
            self.total[batch] += sign * _array(found.total)
            if self.by == "layer":
                self.values[0, 0, batch] += sign * _array(found.embedding)
                self.values[1:, 0, batch] += sign * _array(found.layers)
            elif self.by == "branch":
                self._add_branches(batch, sign, found)
            else:
                self._add_inside(batch, sign, found, run)

    def labels(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Return rows, columns and sites."""
        cfg = self.model.cfg
        names = tuple(f"layer {layer}" for layer in range(cfg.n_layer))
        if self.by == "layer":
            added = [f"blocks.{layer}.hook_out_proj@last" for layer in range(cfg.n_layer)]
            whole = tuple((site,) for site in ("hook_embed@last", *added))
            return ("embedding", *names), ("all it adds",), whole
        if self.by == "branch":
            hooks = {"SSM": "hook_y", "D skip": "hook_ssm_input"}
            hooks |= {"gate": "hook_skip"} if self.mean_gate else {}
            hooks |= {"bias": ""} if cfg.bias else {}
            inner = tuple(
                ("", *(f"blocks.{layer}.{hook}@last" if hook else "" for hook in hooks.values()))
                for layer in range(cfg.n_layer)
            )
            first = ("hook_embed@last", *[""] * len(hooks))
            return ("embedding", *names), ("embedding", *hooks), (first, *inner)
        if self.by == "channel":
            columns = tuple(str(channel) for channel in range(cfg.E))
            sites = [(f"blocks.{at}.hook_after_skip@last",) * cfg.E for at in self.layers]
            return tuple(names[layer] for layer in self.layers), columns, tuple(sites)
        rows = [(layer, channel) for layer in self.layers for channel in self.channels[layer]]
        return (
            tuple(f"layer {layer} #{channel}" for layer, channel in rows),
            tuple(str(number) for number in range(cfg.N)),
            tuple((f"blocks.{layer}.hook_h@last",) * cfg.N for layer, _ in rows),
        )

    def _add_branches(self, batch: slice, sign: float, found: RunParts) -> None:
        self.values[0, 0, batch] += sign * _array(found.embedding)
        for layer, block in found.blocks.items():
            parts = self._branches(layer, block)
            for column, value in enumerate(parts, start=1):
                self.values[1 + layer, column, batch] += sign * _array(value)

    def _branches(self, layer: int, block: BlockParts) -> list[torch.Tensor]:
        gate = self.gates.get(layer, block.gate)
        parts = [(inner * gate * block.worth).sum(1) for inner in (block.y, block.direct)]
        if self.mean_gate:
            varying = (block.y + block.direct) * (block.gate - gate)
            parts.append((varying * block.worth).sum(1))
        return [*parts, block.bias] if self.model.cfg.bias else parts

    def _add_inside(self, batch: slice, sign: float, found: RunParts, run: str) -> None:
        """Add channels, or numbers of states; everything else of those blocks is rest."""
        others = [at for at in range(self.model.cfg.n_layer) if at not in found.blocks]
        rest = found.embedding + found.layers[others].sum(0)
        row = 0
        for layer, block in found.blocks.items():
            gated = (block.y + block.direct) * block.gate * block.worth
            rest = rest + block.bias
            if self.by == "channel":
                self.values[row, :, batch] += sign * _array(gated.T)
                row += 1
                continue
            own = self.channels[layer]
            there = torch.ones(gated.shape[1], dtype=torch.bool, device=gated.device)
            there[own] = False
            rest = rest + gated[:, there].sum(1)
            rest = rest + (block.direct * block.gate * block.worth)[:, own].sum(1)
            products = state_products(self.model, self.pairs[batch], run, layer, own)
            products = products * (block.gate * block.worth)[:, own, None]
            self.values[row : row + len(own), :, batch] += sign * _array(products.permute(1, 2, 0))
            row += len(own)
        self.rest[batch] += sign * _array(rest)

    def _mean_gates(self) -> dict[int, torch.Tensor]:
        """Return each layer's mean gate over the prompts of all runs looked at."""
        totals: dict[int, torch.Tensor] = {}
        for batch in self.batches():
            for run, _ in self.runs:
                found = parts_of_run(self.model, self.pairs[batch], run, self.layers)
                for layer, block in found.blocks.items():
                    before = totals.get(layer)
                    here = block.gate.sum(0)
                    totals[layer] = here if before is None else before + here
        return {at: total / (len(self.runs) * len(self.pairs)) for at, total in totals.items()}

    def _strongest(self) -> dict[int, list[int]]:
        """Return the channels of each layer whose states read out most into the logits."""
        totals: dict[int, torch.Tensor] = {}
        for batch in self.batches():
            for run, sign in self.runs:
                found = parts_of_run(self.model, self.pairs[batch], run, self.layers)
                for layer, block in found.blocks.items():
                    here = sign * (block.y * block.gate * block.worth).sum(0)
                    totals[layer] = totals[layer] + here if layer in totals else here
        count = min(FOUND_CHANNELS, self.model.cfg.E)
        return {at: sorted(sum_.abs().topk(count).indices.tolist()) for at, sum_ in totals.items()}


def _layers(
    model: HookedMamba, by: By, run: str, gate: str, layers: Sequence[int] | None,
    channels: Mapping[int, Sequence[int]] | None, prompts: int,
) -> list[int]:  # fmt: skip
    """Return the layers whose inside is looked at.

    Raises:
        ShapeError: Settings that do not exist or do not go together.
    """
    wrong = ""
    if by not in BYS or run not in RUNS or gate not in ("frozen", "mean"):
        wrong = f"by is one of {', '.join(BYS)}, run of {', '.join(RUNS)}, gate frozen or mean"
    elif gate == "mean" and by != "branch":
        wrong = "gate='mean' goes with by='branch'"
    elif layers is not None and by not in ("channel", "state"):
        wrong = "layers go with by='channel' or by='state'"
    elif channels is not None and (by != "state" or layers is not None):
        wrong = "channels go with by='state', and name the layers themselves"
    if wrong:
        raise ShapeError(
            "this logit attribution is asked for in a way that means nothing",
            given=f"by={by!r}, run={run!r}, gate={gate!r}, layers={layers}, channels={channels}",
            expected=wrong,
        )
    n_layer, width = model.cfg.n_layer, block_of(model, 0).cfg.E
    chosen = sorted(channels) if channels is not None else layers
    chosen = list(range(n_layer) if chosen is None else dict.fromkeys(chosen))
    of_channels = [one for each in (channels or {}).values() for one in each]
    inside = all(0 <= at < n_layer for at in chosen) and all(0 <= c < width for c in of_channels)
    if not chosen or not inside:
        raise ShapeError(
            "layers or channels the model does not have",
            given=f"layers={chosen}, channels={channels}",
            expected=f"layers 0 to {n_layer - 1}, channels 0 to {width - 1}",
        )
    if by == "channel" and len(chosen) * width * prompts > MOST_NUMBERS:
        raise ShapeError(
            "this map would hold too many numbers",
            given=f"{len(chosen)} layers x {width} channels x {prompts} prompts",
            expected=f"at most {MOST_NUMBERS:,}",
            next_step="name layers=[...], or take fewer prompts",
        )
    return [] if by == "layer" else chosen


def _array(values: torch.Tensor) -> np.ndarray:
    return np.asarray(values.cpu().double().numpy())
