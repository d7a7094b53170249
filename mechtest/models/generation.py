"""How does a hooked model read text, and continue it?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from mechtest.checkpoints import MambaCfg
from mechtest.errors import ShapeError
from mechtest.models.forward_inputs import InputReader
from mechtest.models.hooked_root import HookedRoot
from mechtest.models.state import ModelState
from mechtest.models.tokens import PaddingSide, Tokens


class TextModel(HookedRoot):
    """A hooked model with a tokenizer.

    Attributes:
        cfg: Configuration.
        tokens: Turns text into ids and back.
    """

    cfg: MambaCfg
    tokens: Tokens

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the weights."""

    @abstractmethod
    def run_with_state(
        self,
        input: Any,  # noqa: A002 - as forward
        state: ModelState | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        fast_ssm: bool | None = None,
    ) -> tuple[torch.Tensor, ModelState]:
        """Run from a state and return the state at the end."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer (TokenizerMissingError without one)."""
        return self.tokens.tokenizer

    @property
    def inputs(self) -> InputReader:
        """Reads what the model is called with."""
        return InputReader(self.tokens, self.cfg, self.device)

    def to_tokens(
        self,
        input: str | Sequence[str],  # noqa: A002 - TransformerLens's name
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "left",
        move_to_device: bool = True,
    ) -> torch.Tensor:
        """Return token ids "batch pos" of one text or several; see `Tokens.to_tokens`."""
        ids = self.tokens.to_tokens(input, prepend_bos=prepend_bos, padding_side=padding_side)
        return ids.to(self.device) if move_to_device else ids

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> Any:  # noqa: A002
        """Return the tokens of a text, or of ids, as strings."""
        return self.tokens.to_str_tokens(input, prepend_bos=prepend_bos)

    def to_single_token(self, string: str) -> int:
        """Return the id of a text that is exactly one token (AnswerTokenError otherwise)."""
        return self.tokens.to_single_token(string)

    def to_single_str_token(self, token: int) -> str:
        """Return one token as text."""
        return self.tokens.decode_one(token)

    def to_string(self, tokens: Any) -> Any:
        """Return ids as text."""
        return self.tokens.to_string(tokens)

    @torch.no_grad()
    def generate(
        self,
        input: Any = "",  # noqa: A002 - TransformerLens's name
        max_new_tokens: int = 10,
        *,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        prepend_bos: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        verbose: bool = False,
    ) -> Any:
        """Continue texts or tokens.

        Without hooks each new token costs one step from the kept state. With hooks every step runs
        the whole prompt so far, so that hook positions keep their meaning.

        Args:
            input: Text, texts (padded on the left where lengths differ), or tokens "batch pos".
            max_new_tokens: At most this many.
            stop_at_eos: Stop when every row has produced the end token; those that have are filled
                with it.
            eos_token_id: The end token (default: the tokenizer's).
            do_sample: Draw instead of taking the most likely token.
            temperature: Divides the logits before drawing.
            top_k: Draw among the k most likely only.
            generator: Source of randomness, required when drawing.
            prepend_bos: See `to_tokens`.
            attention_mask: 1 at text, for tokens padded on the left.
            return_type: `str`, `tokens`, or like the input.
            verbose: Show progress.

        Returns:
            Prompt and continuation, as text(s) or tokens "batch pos".

        Raises:
            ShapeError: Drawing without a generator.
        """
        if do_sample and generator is None:
            raise ShapeError(
                "drawing needs a generator, so that the text can be drawn again",
                expected="generator=torch.Generator().manual_seed(0), or do_sample=False",
            )
        given = self.inputs.read(input, attention_mask, prepend_bos)
        assert given.tokens is not None
        tokens, text = given.tokens, given.mask
        text = torch.ones_like(tokens, dtype=torch.bool) if text is None else text
        if eos_token_id is None and self.tokens.available:
            eos_token_id = self.tokenizer.eos_token_id
        done = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        hooked = self.has_any_hooks
        state, fresh = None, tokens
        for _ in _steps(max_new_tokens, verbose):
            if hooked:
                logits = self(tokens, attention_mask=text)
            else:
                # What is generated is text, whatever its id.
                mask = text[:, -fresh.shape[1] :]
                logits, state = self.run_with_state(fresh, state, attention_mask=mask)
            chosen = _choose(logits[:, -1], do_sample, temperature, top_k, generator)
            if stop_at_eos and eos_token_id is not None:
                chosen = torch.where(done, eos_token_id, chosen)
                done |= chosen == eos_token_id
            fresh = chosen.unsqueeze(1)
            tokens = torch.cat([tokens, fresh], dim=1)
            text = torch.cat([text, torch.ones_like(fresh, dtype=torch.bool)], dim=1)
            if stop_at_eos and bool(done.all()):
                break
        is_text = isinstance(input, str) or isinstance(input[0], str)
        if return_type == "tokens" or (return_type == "input" and not is_text):
            return tokens
        texts = [self.to_string(row[kept]) for row, kept in zip(tokens, text, strict=True)]
        return texts[0] if isinstance(input, str) else texts


def _steps(count: int, verbose: bool) -> Iterable[int]:
    if not verbose:
        return range(count)
    from tqdm.auto import tqdm

    return tqdm(range(count), desc="generate", unit="token")


def _choose(
    logits: torch.Tensor,
    do_sample: bool,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    if not do_sample:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)
