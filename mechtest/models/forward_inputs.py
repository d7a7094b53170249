"""What was the model called with: text, tokens or a residual stream, and what of it is padding?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechtest.checkpoints import MambaCfg
from mechtest.errors import ShapeError
from mechtest.models.padding import padding_mask
from mechtest.models.tokens import PaddingSide, Tokens


@dataclass(frozen=True)
class ForwardInput:
    """Input of one forward pass.

    Attributes:
        tokens: "batch pos", or None.
        resid: "batch pos d_model", or None.
        mask: True at text, None when nothing is padded.
        n_pos: Positions.
        batch: Prompts.
    """

    tokens: torch.Tensor | None
    resid: torch.Tensor | None
    mask: torch.Tensor | None
    n_pos: int
    batch: int

    def loss_tokens(self) -> torch.Tensor:
        """Return the tokens a loss compares with.

        Raises:
            ShapeError: Only a residual stream was given.
        """
        if self.tokens is None:
            raise ShapeError(
                "a loss needs tokens, and only a residual stream was given",
                expected="tokens= beside start_at_layer=",
            )
        return self.tokens


@dataclass(frozen=True)
class InputReader:
    """Brings what a model was called with into one form.

    Attributes:
        tokens: Turns text into ids.
        cfg: Sizes to check against.
        device: Where tensors go.
    """

    tokens: Tokens
    cfg: MambaCfg
    device: torch.device

    def read(
        self,
        given: Any,
        attention_mask: torch.Tensor | None = None,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "left",
    ) -> ForwardInput:
        """Read text, texts or token ids.

        Raises:
            ShapeError: Neither text nor ids of this vocabulary.
            PaddingError: See `padding_mask`.
        """
        if isinstance(given, str) or (
            isinstance(given, (list, tuple)) and given and all(isinstance(t, str) for t in given)
        ):
            texts = [given] if isinstance(given, str) else list(given)
            ids = self.tokens.to_tokens(
                texts, prepend_bos=prepend_bos, padding_side=padding_side
            ).to(self.device)
            if attention_mask is None:
                attention_mask = self._mask_of(texts, ids, prepend_bos, padding_side)
        else:
            ids = self._token_tensor(given)
        if attention_mask is not None:
            attention_mask = attention_mask.to(self.device)
        mask = padding_mask(ids, attention_mask, self.tokens.pad_id, self.tokens.boundary_ids)
        return ForwardInput(ids, None, mask, ids.shape[1], ids.shape[0])

    def _mask_of(
        self,
        texts: list[str],
        ids: torch.Tensor,
        prepend_bos: bool | None,
        padding_side: PaddingSide,
    ) -> torch.Tensor:
        """Return the mask of texts we padded ourselves: their lengths are known."""
        lengths = [len(self.tokens.ids(text, prepend_bos=prepend_bos)) for text in texts]
        length = torch.tensor(lengths, device=ids.device).unsqueeze(1)
        position = torch.arange(ids.shape[1], device=ids.device)
        return position >= ids.shape[1] - length if padding_side == "left" else position < length

    def _token_tensor(self, given: Any) -> torch.Tensor:
        try:
            is_list = isinstance(given, (list, tuple))
            ids = torch.as_tensor(np.asarray(given) if is_list else given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(
                "this is neither text nor token ids",
                given=f"{type(given).__name__}: {error}",
                expected="a text, a list of texts, or integer ids 'batch pos'",
            ) from error
        ids = ids.to(self.device)
        if ids.ndim == 1:
            ids = ids.unsqueeze(0)
        if ids.ndim != 2 or 0 in ids.shape or ids.is_floating_point() or ids.is_complex():
            raise ShapeError(
                "this is neither text nor token ids",
                given=f"{tuple(ids.shape)} {ids.dtype}",
                expected="integer ids 'batch pos', at least one position",
                next_step="a residual stream goes in with start_at_layer=",
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.cfg.d_vocab:
            raise ShapeError(
                "token ids outside the vocabulary",
                given=f"ids from {low} to {high}",
                expected=f"0 to {self.cfg.d_vocab - 1}",
                next_step="was this text tokenized with another model's tokenizer?",
            )
        return ids.long()

    def read_residual(
        self,
        given: Any,
        attention_mask: torch.Tensor | None = None,
        loss_tokens: torch.Tensor | None = None,
    ) -> ForwardInput:
        """Read a residual stream that enters a later layer.

        Raises:
            ShapeError: Not "batch pos d_model".
            PaddingError: See `padding_mask`.
        """
        width = self.cfg.d_model
        fits = isinstance(given, torch.Tensor) and given.ndim == 3 and given.shape[2] == width
        if not fits or 0 in given.shape:
            raise ShapeError(
                "start_at_layer takes a residual stream",
                given=f"{tuple(getattr(given, 'shape', ()))} {type(given).__name__}",
                expected=f"'batch pos d_model' with d_model={width}",
            )
        mask = None
        if attention_mask is not None:
            stand_in = torch.zeros(given.shape[:2], dtype=torch.long, device=given.device)
            mask = padding_mask(stand_in, attention_mask.to(given.device), None)
        return ForwardInput(loss_tokens, given, mask, given.shape[1], given.shape[0])
