"""Which earlier tokens does a layer's recurrence read at each token?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.dynamics.prompt_tables import prompt_table
from mechtest.discovery.dynamics.recurrence import (
    Recurrence,
    chosen_layers,
    read_recurrences,
    rows_of,
)
from mechtest.discovery.record import DiscoveryRecord, read_only
from mechtest.discovery.temporal.attention_matrices import attention_matrices, identity_error
from mechtest.errors import DiscoveryError, ShapeError
from mechtest.interventions import Run, SweepResult
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, PromptPairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HiddenAttention", "hidden_attention"]

MEMORY = 2**27
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest `identity_error` of a model in this dtype; narrower ones get `LOOSE`."""
LOOSE = 3e-2

LATER = "a later token cannot be read"
SHORT = "a prompt is too short to have this position"


@dataclass(frozen=True, eq=False, repr=False)
class HiddenAttention(DiscoveryRecord):
    """How strongly each token is read at each later one, in one layer.

    Attributes:
        map: Rows are the tokens that read, columns the tokens that are read: the mean of |M_ij|
            over channels, a number for each prompt. Prompts of different lengths count from the
            end.
        error: Largest relative difference between M x + D x and what the model computed.
        tokens: Labels of each prompt's own positions.
        channels: The channels asked for one by one; empty for none.
        matrices: Their signed M, read-only "prompt channel query key", aligned at the last token
            and 0 where a prompt has no token.
    """

    map: SweepResult
    error: float
    tokens: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]
    matrices: Float[np.ndarray, "prompt channel query key"]

    def lines(self) -> tuple[str, ...]:
        """Return the strongest readings, and how exact the identity is."""
        first = [
            f"{place.row} reads {place.column}: {place.effect:.3g}" for place in self.map.top(3)
        ]
        return (*first, f"y = M x + D x holds to {self.error:.1e}")

    def plot(self, path: str | Path | None = None, *, prompt: int | str | None = None) -> Figure:
        """Draw the token by token heat map: of all prompts, or of one with its own tokens."""
        return (self.map if prompt is None else self.of_prompt(prompt)).plot(path)

    def of_prompt(self, prompt: int | str) -> SweepResult:
        """Return the table of one prompt, with its tokens as labels and no places before it.

        Raises:
            ShapeError: There is no such prompt.
        """
        index = self.map.prompt_index(prompt)
        labels = self.tokens[index]
        start = len(self.map.rows) - len(labels)
        reasons = {
            (i - start, j - start): why
            for (i, j), why in self.map.reasons.items()
            if min(i, j) >= start and j > i
        }
        return replace(
            self.map,
            rows=labels,
            columns=labels,
            sites=tuple(line[start:] for line in self.map.sites[start:]),
            values=self.map.values[start:, start:, index : index + 1],
            reasons=reasons,
            prompt_ids=self.map.prompt_ids[index : index + 1],
            templates=self.map.templates[index : index + 1],
            prompt_columns=(),
        )


@torch.no_grad()
def hidden_attention(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs | str | torch.Tensor,
    layer: int,
    *,
    channels: Sequence[int] | None = None,
    run: Run = "clean",
    tolerance: float | None = None,
    progress: bool = True,
) -> HiddenAttention:
    """Return the hidden attention of a layer, checked against what the model computed.

    A large |M_ij| says that token j's input reaches the output at token i inside this layer, not
    that the answer depends on it: `influence_map` asks that.

    Args:
        model: The model.
        prompts: Pairs (their discovery half is taken), one text, or rows of token ids.
        layer: Which layer.
        channels: Channels averaged over, whose signed matrices are kept as well; None averages
            over all of them and keeps no matrix.
        run: Which prompt of each pair.
        tolerance: Largest relative error of y = M x + D x; by default 1e-10 in float64 and 1e-4 in
            float32.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        DiscoveryError: M x + D x is not what the model computed.
        ShapeError: A layer or channel the model does not have.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: channels in chunks of 128 MiB of "channel pos pos"; the record holds "pos pos" a prompt,
    times the channels that were asked for.
    Sources: Ali et al. 2024, "The hidden attention of Mamba models", section 3.
    """
    (at,) = chosen_layers(model, layer)
    rows = rows_of(model, prompts, tool="hidden_attention", run=run, layer=at)
    width = model.cfg.E
    kept = tuple(range(width)) if channels is None else tuple(channels)
    if not kept or not all(0 <= channel < width for channel in kept):
        raise ShapeError(
            f"a layer of this model has {width} channels",
            given=f"channels={channels!r}",
            expected=f"some of 0 to {width - 1}",
        )
    allowed = tolerance or TOLERANCES.get(model.embedding.weight.dtype, LOOSE)
    n_pos = rows.tokens.shape[1]
    mean = np.full((n_pos, n_pos, len(rows)), np.nan)
    own = () if channels is None else kept
    matrices = np.zeros((len(rows), len(own), n_pos, n_pos))
    worst = 0.0
    for one in read_recurrences(model, rows, [at], output=True, progress=progress):
        strength, error = _strength(one, kept, matrices[one.prompt] if own else None)
        worst = max(worst, error) if error == error else float("nan")
        if not worst <= allowed:
            raise _refused(rows.about.prompt_ids[one.prompt], at, worst, allowed)
        start = n_pos - len(one.x)
        lower = np.tril_indices(len(one.x))
        mean[lower[0] + start, lower[1] + start, one.prompt] = strength[lower]
    labels, each = rows.labels(model)
    shortest = n_pos - int(rows.lengths.min())
    reasons = {
        (i, j): LATER if j > i else SHORT
        for i in range(n_pos)
        for j in range(n_pos)
        if j > i or min(i, j) < shortest
    }
    table = prompt_table(
        rows.about,
        mean,
        rows=(labels, "token that reads"),
        columns=(labels, "token that is read"),
        sites=[
            [f"blocks.{at}.hook_ssm_input@{j - n_pos}" for j in range(n_pos)] for _ in range(n_pos)
        ],
        what=f"layer {at} hidden attention",
        effect=("mean |M| over channels", "output per unit of input"),
        reasons=reasons,
        prompt_columns=each,
        run=run,
    )
    return HiddenAttention(
        rows.about, table, worst, rows.own_labels(model), own, read_only(matrices)
    )


def _strength(
    one: Recurrence, channels: Sequence[int], matrices: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Return the mean of |M| over channels, and the error; fill in the matrices asked for."""
    n_pos = len(one.x)
    size = max(1, MEMORY // (3 * 8 * n_pos**2))
    total, worst = np.zeros((n_pos, n_pos)), 0.0
    assert one.output is not None
    for start in range(0, len(channels), size):
        part = list(channels[start : start + size])
        made = attention_matrices(one.delta[:, part], one.A[part], one.B, one.C)
        error = identity_error(made, one.x[:, part], one.D[part], one.output[:, part])
        worst = max(worst, error) if error == error else float("nan")
        total += made.abs().sum(0).cpu().numpy()
        if matrices is not None:
            edge = matrices.shape[-1] - n_pos
            matrices[start : start + len(part), edge:, edge:] = made.cpu().numpy()
    return total / len(channels), worst


def _refused(prompt: str, layer: int, error: float, allowed: float) -> DiscoveryError:
    return DiscoveryError(
        f"the hidden attention of layer {layer} does not give what the model computed",
        given=f"prompt {prompt}: relative error {error:.2g}",
        expected=f"at most {allowed:.2g}",
        next_step="take permanent hooks off this layer; a narrow dtype needs a larger tolerance",
    )
