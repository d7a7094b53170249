"""How does text become tokens, and back, for a hooked model?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from mechtest.errors import AnswerTokenError, ShapeError, TokenizerMissingError
from mechtest.models.local_tokenizer import Encoded, LocalTokenizer, read_local

PaddingSide = Literal["left", "right"]
# The options of single texts that are answered without transformers.
_SPECIAL, _SKIP = "add_special_tokens", "skip_special_tokens"


def load_tokenizer(source: str | Path, revision: str | None = None) -> Any:
    """Load a tokenizer from a directory, a `tokenizer.json`, or a hub name.

    A directory with a `tokenizer.json` is read as exactly that: the automatic choice by model type
    picks another tokenizer class for Mamba configurations and gives wrong ids without a word.

    Raises:
        TokenizerMissingError: Nothing usable there.
    """
    # transformers takes long to import; most models do without: see local_tokenizer.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(source)
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        if (path / "tokenizer_config.json").is_file() and (path / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(str(path))
        if (path / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
        return AutoTokenizer.from_pretrained(str(source), revision=revision)
    except (OSError, ValueError) as error:
        raise TokenizerMissingError(
            f"no tokenizer could be loaded from {source}",
            given=str(error).splitlines()[0],
            expected="a directory with tokenizer.json, or a hub name that is cached or reachable",
            next_step="pass tokenizer= to from_pretrained",
        ) from error


class LazyTokenizer:
    """A tokenizer that is read when it is first used, and by transformers only where it must be.

    What a claim needs (the ids of a text, the text of ids, the special tokens) is answered from
    `tokenizer.json` alone where that gives the same. Everything else of the Hugging Face interface
    is there as well: asking for it, or setting anything, brings in transformers, which from then
    on answers everything, so that the two cannot drift apart.

    Args:
        source: Path or hub name.
    """

    def __init__(self, source: str | Path) -> None:
        self.__dict__.update(_source=source, _local=None, _whole=None)

    def _reader(self) -> Any:
        """Return whoever answers: transformers' tokenizer once there is one."""
        if self._whole is None and self._local is None:
            self.__dict__["_local"] = read_local(self._source)
        return self._local if self._whole is None and self._local is not None else self._load()

    def _load(self) -> Any:
        """Return transformers' tokenizer."""
        if self._whole is None:
            self.__dict__["_whole"] = load_tokenizer(self._source)
        return self._whole

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_source", "_local", "_whole"):
            raise AttributeError(name)
        reader = self._reader()
        known = isinstance(reader, LocalTokenizer) and name in reader.special
        return reader.special[name] if known else getattr(self._load(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._load(), name, value)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Tokenize."""
        reader = self._reader()
        simple = len(args) == 1 and isinstance(args[0], str)
        if not isinstance(reader, LocalTokenizer) or not simple or options.keys() - {_SPECIAL}:
            return self._load()(*args, **options)
        return Encoded(reader.encode(*args, **options), partial(self._again, *args, **options))

    def _again(self, *args: Any, **options: Any) -> Any:
        return self._load()(*args, **options)

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Return ids as text."""
        reader = self._reader()
        simple = isinstance(token_ids, list) and all(type(one) is int for one in token_ids)
        if not isinstance(reader, LocalTokenizer) or not simple or options.keys() - {_SKIP}:
            return self._load().decode(token_ids, **options)
        return reader.decode(token_ids, **options)

    def __len__(self) -> int:
        return len(self._reader())

    def __bool__(self) -> bool:
        return True


class Tokens:
    """Turns text into token ids and back for one tokenizer.

    Args:
        tokenizer: A Hugging Face fast tokenizer, or None.
        prepend_bos: Put the beginning-of-sequence token in front where the tokenizer has one and
            does not do so by itself.
    """

    def __init__(self, tokenizer: Any, *, prepend_bos: bool = True) -> None:
        self._tokenizer = tokenizer
        self.prepend_bos = prepend_bos

    @property
    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            TokenizerMissingError: The model was loaded without one.
        """
        if self._tokenizer is None:
            raise TokenizerMissingError(
                "text was given, but this model has no tokenizer",
                expected="token ids, or a model with a tokenizer",
                next_step="from_pretrained(..., tokenizer='EleutherAI/gpt-neox-20b') "
                "is what the published Mamba models use",
            )
        return self._tokenizer

    @property
    def available(self) -> bool:
        """True when there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def pad_id(self) -> int | None:
        """Id used for padding: the pad token, or the end token where there is none."""
        if not self.available:
            return None
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def boundary_ids(self) -> frozenset[int]:
        """Ids of the bos and eos tokens, as far as there are any."""
        if not self.available:
            return frozenset()
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return frozenset(token for token in ids if token is not None)

    def ids(self, text: str, *, prepend_bos: bool | None = None) -> list[int]:
        """Return the ids of one text.

        Args:
            text: Any string.
            prepend_bos: True: exactly one bos in front; False: none; None: the model's default.
        """
        tokenizer = self.tokenizer
        wanted = self.prepend_bos if prepend_bos is None else prepend_bos
        ids = list(tokenizer(text)["input_ids"])
        bos = tokenizer.bos_token_id
        if bos is None:
            return ids
        has_bos = bool(ids) and ids[0] == bos
        if wanted and not has_bos:
            return [bos, *ids]
        if not wanted and has_bos and not text.startswith(str(tokenizer.bos_token)):
            return ids[1:]
        return ids

    def to_tokens(
        self,
        text: str | Sequence[str],
        *,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "left",
    ) -> Int[torch.Tensor, "batch pos"]:
        """Return ids "batch pos"; texts of different lengths are padded.

        Raises:
            TokenizerMissingError: No tokenizer.
            ShapeError: No text, or a text without tokens.
        """
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.ids(one, prepend_bos=prepend_bos) for one in texts]
        if not rows or not all(rows):
            raise ShapeError(
                "there is nothing to tokenize",
                given=repr(texts),
                expected="at least one text, none of them empty",
            )
        longest = max(map(len, rows))
        if any(len(row) < longest for row in rows) and self.pad_id is None:
            raise ShapeError(
                "texts of different lengths need a padding token, and the tokenizer has none",
                given=f"lengths {sorted({len(row) for row in rows})}",
                expected="equal lengths, or tokenizer.pad_token set",
            )
        return torch.tensor([_padded(row, longest, self.pad_id, padding_side) for row in rows])

    def to_single_token(self, text: str) -> int:
        """Return the id of a text that is exactly one token.

        Raises:
            AnswerTokenError: It is not; the message shows how it splits.
        """
        ids = self.ids(text, prepend_bos=False)
        unknown = self.tokenizer.unk_token_id
        if len(ids) != 1 or (unknown is not None and ids[0] == unknown):
            raise AnswerTokenError(
                f"{text!r} is not exactly one token",
                given=f"{len(ids)} tokens: {[self.decode_one(i) for i in ids]}",
                expected="one token",
                next_step="most tokenizers need the leading space: ' Emma', not 'Emma'",
            )
        return ids[0]

    def decode_one(self, token: int) -> str:
        """Return one token as text, its leading space kept."""
        return str(self.tokenizer.decode([token]))

    def to_str_tokens(self, source: object, *, prepend_bos: bool | None = None) -> Any:
        """Return the tokens of a text (or of ids) as strings; a list of lists for a batch."""
        if isinstance(source, str):
            return [self.decode_one(i) for i in self.ids(source, prepend_bos=prepend_bos)]
        given: Any = source
        is_array = isinstance(given, (torch.Tensor, np.ndarray))
        rows: Any = given.tolist() if is_array else list(given)
        if rows and isinstance(rows[0], str):
            return [self.to_str_tokens(text, prepend_bos=prepend_bos) for text in rows]
        if rows and isinstance(rows[0], list):
            # One prompt comes back as one list, as in TransformerLens.
            lists = [[self.decode_one(i) for i in row] for row in rows]
            return lists[0] if len(lists) == 1 else lists
        return [self.decode_one(i) for i in (rows if isinstance(rows, list) else [rows])]

    def to_string(self, tokens: object) -> Any:
        """Return ids as text; a list of texts for a batch."""
        ids = tokens.tolist() if isinstance(tokens, (torch.Tensor, np.ndarray)) else tokens
        if isinstance(ids, int):
            return self.decode_one(ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [str(self.tokenizer.decode(row)) for row in ids]
        return str(self.tokenizer.decode(ids))


def _padded(row: list[int], length: int, pad: int | None, side: PaddingSide) -> list[int]:
    fill = [pad or 0] * (length - len(row))
    return fill + row if side == "left" else row + fill
