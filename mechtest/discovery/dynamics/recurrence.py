"""What does the recurrence of a layer get to see on some prompts, one prompt at a time?

Prompts of one length run together and without padding, so that nothing here needs a mask: position
0 is a prompt's first token, and the last index is its last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from tqdm import tqdm

from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import About, about, identity_of
from mechtest.errors import ShapeError
from mechtest.interventions import Run
from mechtest.interventions.sweep_labels import token_label
from mechtest.models import HookedMamba
from mechtest.models.block import MambaBlock
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Fingerprints, PromptPairs

__all__ = ["Recurrence", "TextRows", "chosen_layers", "read_recurrences", "rows_of"]

MEMORY = 2**28
"""Bytes of activations that one pass keeps; layers beyond them wait for another pass."""

PASS_PROMPTS = 8


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Everything one layer's recurrence is, on one prompt.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, and y_t = C_t h_t + D x_t.

    Attributes:
        layer: Which layer.
        prompt: Index of the prompt.
        x: Inputs.
        delta: Step sizes.
        A: Continuous decay, negative.
        B: Input matrix of each token.
        C: Output matrix of each token.
        D: Weight of the direct path.
        output: What the model itself computed, `hook_ssm_output`; None unless asked for.
    """

    layer: int
    prompt: int
    x: Float[torch.Tensor, "pos d_inner"]
    delta: Float[torch.Tensor, "pos d_inner"]
    A: Float[torch.Tensor, "d_inner d_state"]
    B: Float[torch.Tensor, "pos d_state"]
    C: Float[torch.Tensor, "pos d_state"]
    D: Float[torch.Tensor, " d_inner"]
    output: Float[torch.Tensor, "pos d_inner"] | None = None


@dataclass(frozen=True, eq=False)
class TextRows:
    """The token rows of one run of some prompts, or of texts without a twin.

    Attributes:
        tokens: Ids, padded on the left.
        lengths: Tokens of each row.
        about: Core fields for a record; the tool fills in its name.
    """

    tokens: Int64[torch.Tensor, "prompt pos"]
    lengths: Int64[torch.Tensor, " prompt"]
    about: About

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, prompt: int) -> Int64[torch.Tensor, " pos"]:
        """Return the tokens of one row without padding."""
        return self.tokens[prompt, self.tokens.shape[1] - int(self.lengths[prompt]) :]

    def labels(self, model: HookedMamba) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Return labels of the positions, and each row's own where tokens differ between rows.

        Rows of different lengths are counted from the end.
        """
        count = self.tokens.shape[1]
        if bool((self.lengths < count).any()):
            return tuple(str(position) for position in range(-count, 0)), ()
        plain = tuple(str(position) for position in range(count))
        if not model.tokens.available:
            return plain, ()
        each = self.own_labels(model)
        return (each[0], ()) if len(set(each)) == 1 else (plain, each)

    def own_labels(self, model: HookedMamba) -> tuple[tuple[str, ...], ...]:
        """Return each row's own labels: its tokens, counted from its first one."""
        if not model.tokens.available:
            return tuple(tuple(map(str, range(length))) for length in self.lengths.tolist())
        return tuple(
            tuple(
                token_label(at, text) for at, text in enumerate(model.to_str_tokens(self.of(row)))
            )
            for row in range(len(self))
        )


def rows_of(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs | str | torch.Tensor,
    *,
    tool: str,
    run: Run = "clean",
    **settings: Any,
) -> TextRows:
    """Return the token rows a tool looks at.

    Args:
        model: The model.
        prompts: Pairs (their discovery half is taken), one text, or token ids "pos" or
            "prompt pos" without padding.
        tool: Public name of the tool.
        run: Which prompt of each pair.
        **settings: What else was asked for, as plain JSON values.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        ShapeError: Ids that are no rows of tokens.
    """
    if isinstance(prompts, (str, torch.Tensor)):
        tokens = model.to_tokens(prompts) if isinstance(prompts, str) else prompts
        tokens = tokens.reshape(1, -1) if tokens.ndim == 1 else tokens
        if tokens.ndim != 2 or not tokens.numel() or tokens.dtype != torch.int64:
            raise ShapeError(
                "these are no rows of token ids",
                given=f"{tuple(tokens.shape)} {tokens.dtype}",
                expected="int64 ids, pos or prompt x pos",
            )
        names = tuple(f"text {index}" for index in range(len(tokens)))
        seen = Fingerprints.of(tokens=tokens.tolist())
        core = About(tool, identity_of(model), names, names, seen, settings=settings)
        lengths = torch.full((len(tokens),), tokens.shape[1])
        return TextRows(tokens.to(model.device), lengths, core)
    pairs = looking_runner(model, prompts).pairs
    tokens = pairs.clean_tokens if run == "clean" else pairs.corrupted_tokens
    return TextRows(tokens, pairs.lengths.cpu(), about(tool, model, pairs, run=run, **settings))


def chosen_layers(model: HookedMamba, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return layers as indices from 0; None is all of them, negative ones count from the end.

    Raises:
        ShapeError: A layer the model does not have, or none.
    """
    count = model.cfg.n_layer
    asked = range(count) if layers is None else [layers] if isinstance(layers, int) else layers
    outside = [layer for layer in asked if not -count <= layer < count]
    if outside or not len(asked):
        raise ShapeError(
            "there are no such layers",
            given=f"layers={layers!r}",
            expected=f"some of 0 to {count - 1}",
        )
    return tuple(dict.fromkeys(layer % count for layer in asked))


@torch.no_grad()
def read_recurrences(
    model: HookedMamba,
    rows: TextRows,
    layers: Sequence[int],
    *,
    output: bool = False,
    progress: bool = False,
) -> Iterator[Recurrence]:
    """Yield the recurrence of each layer on each prompt, all prompts of a layer in no fixed order.

    Args:
        model: The model.
        rows: The prompts.
        layers: Which layers.
        output: Also keep what the model computed.
        progress: Show a bar on stderr, where that is a terminal.

    Memory: `MEMORY` bytes of activations (256 MiB), or one layer of 8 prompts where that is more:
    3 "pos d_inner" and 2 "pos d_state" a prompt and layer. No "pos d_inner d_state" is built.
    """
    lengths = rows.lengths.numpy()
    total = len(rows) * len(layers)
    bar = tqdm(total=total, desc=rows.about.tool, disable=None if progress else True)
    with bar:
        for length in np.unique(lengths).tolist():
            same = np.flatnonzero(lengths == length)
            for start in range(0, len(same), PASS_PROMPTS):
                part = same[start : start + PASS_PROMPTS]
                tokens = rows.tokens[torch.as_tensor(part), rows.tokens.shape[1] - length :]
                each = _bytes(model, tokens.numel())
                step = max(1, MEMORY // each)
                for first in range(0, len(layers), step):
                    some = layers[first : first + step]
                    for one in _of_pass(model, tokens, part.tolist(), some, output=output):
                        yield one
                        bar.update()


def _bytes(model: HookedMamba, tokens: int) -> int:
    width = model.embedding.weight.element_size()
    return tokens * (3 * model.cfg.E + 2 * model.cfg.N) * width


def _of_pass(
    model: HookedMamba,
    tokens: torch.Tensor,
    prompts: Sequence[int],
    layers: Sequence[int],
    *,
    output: bool,
) -> Iterator[Recurrence]:
    hooks = ["hook_ssm_input", "hook_delta", "hook_B", "hook_C"]
    hooks += ["hook_ssm_output"] if output else []
    names = [f"blocks.{layer}.{hook}" for layer in layers for hook in hooks]
    _, cache = model.run_with_cache(tokens, names_filter=names, stop_at_layer=max(layers) + 1)
    for layer in layers:
        found = [cache[f"blocks.{layer}.{hook}"] for hook in hooks]
        block = model.blocks[layer]
        assert isinstance(block, MambaBlock)
        mixer = block.mixer
        A = -torch.exp(mixer.A_log.detach().to(found[1].dtype))
        for place, prompt in enumerate(prompts):
            x, delta, B, C = (value[place] for value in found[:4])
            made = found[4][place] if output else None
            yield Recurrence(layer, prompt, x, delta, A, B, C, mixer.D.detach(), made)
