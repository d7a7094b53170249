"""Which rows of a batch are padding, and is it padding that a recurrence can bear?

Left padding with a mask is exact: padded rows reach neither the window nor the state. Without a
mask a recurrence reads padding as text. So the mask is derived where that is unambiguous, and
everything else is an error.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int

from mechtest.errors import PaddingError, ShapeError


def padding_mask(
    tokens: Int[torch.Tensor, "batch pos"],
    attention_mask: torch.Tensor | None,
    pad_id: int | None,
    special_ids: frozenset[int] = frozenset(),
) -> Bool[torch.Tensor, "batch pos"] | None:
    """Return True where a row is text, or None when nothing is padded.

    Args:
        tokens: Token ids.
        attention_mask: The caller's mask, 1 or True at text.
        pad_id: The padding token, None if there is none.
        special_ids: Ids that also have another meaning (bos, eos): as the pad token they are
            ambiguous.

    Raises:
        ShapeError: The mask has another shape, or values other than 0 and 1.
        PaddingError: A hole in the mask; padding on the right without a mask; padding that might be
            text.
    """
    if attention_mask is not None:
        return _checked(attention_mask, tokens)
    if pad_id is None:
        return None
    is_pad = tokens == pad_id
    if pad_id in special_ids:
        _refuse_ambiguous(is_pad, pad_id)
        return None
    if not is_pad.any():
        return None
    leading = is_pad.long().cumprod(dim=1).bool()
    if (is_pad & ~leading).any():
        row = int((is_pad & ~leading).any(dim=1).nonzero()[0])
        raise PaddingError(
            f"row {row} has padding after its text, and no attention_mask came with it",
            given=f"pad token {pad_id} at positions {is_pad[row].nonzero().flatten().tolist()}",
            expected="padding on the left, or attention_mask=",
            next_step="to_tokens(texts, padding_side='left') pads so that the last position is "
            "always text; or pass attention_mask=(tokens != pad)",
        )
    return ~leading


def _checked(mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor | None:
    if mask.shape != tokens.shape or not ((mask == 0) | (mask == 1)).all():
        raise ShapeError(
            "attention_mask does not fit the tokens",
            given=f"{tuple(mask.shape)}, values {mask.unique().tolist()[:5]}",
            expected=f"{tuple(tokens.shape)}, 1 at text and 0 at padding",
        )
    text = mask.bool()
    if text.all():
        return None
    # From text to padding and back again would be a hole in the prompt.
    flips = (text[:, 1:] != text[:, :-1]).sum(dim=1)
    both_ends = (flips == 2) & ~text[:, 0] & ~text[:, -1]
    bad = ((flips > 1) & ~both_ends) | ~text.any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise PaddingError(
            f"row {row} of attention_mask is not one run of text",
            given=text[row].long().tolist(),
            expected="0s, then 1s, then 0s",
        )
    return text.to(tokens.device)


def _refuse_ambiguous(is_pad: torch.Tensor, pad_id: int) -> None:
    """Raise where a pad token that doubles as bos or eos can only have been padding."""
    if is_pad.shape[1] < 2:
        return
    leading = is_pad[:, 0] & is_pad[:, 1]
    trailing = is_pad[:, -1] & ~is_pad[:, -1].all()
    suspicious = leading | trailing
    if suspicious.any():
        row = int(suspicious.nonzero()[0])
        raise PaddingError(
            f"row {row} looks padded, but its pad token {pad_id} is also the bos or eos token",
            given=f"token {pad_id} at positions {is_pad[row].nonzero().flatten().tolist()}",
            expected="attention_mask= that says which positions are text",
            next_step="pass texts instead of tokens, and the mask is made for you; or pass "
            "attention_mask=torch.ones_like(tokens) if those tokens are text",
        )
