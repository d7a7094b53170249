"""Which token ids do a prompt, its twin and its answers become?

Positions in a prompt file index the sequence that is fed to the model. A tokenizer that adds a bos
token itself is taken as it is; one that does not (GPT-NeoX, which the published Mambas use) gets
one in front only where `prepend_bos=True` asks for it, and positions then count it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mechtest.errors import TokenizerMissingError
from mechtest.tasks.pair import PromptPair

__all__ = ["AnswerToken", "PairTokenizer", "PairTokens", "Tokenizer", "special_id"]

# A text without blanks has no last word; this much of its end decides how the next token is cut.
LONGEST_WORD = 24


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of a Hugging Face fast tokenizer; the special ids may be absent or None."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, Any]:
        """Return a mapping whose `"input_ids"` are a list of ints."""
        ...

    def decode(self, token_ids: Sequence[int], /) -> str:
        """Return the text of some token ids."""
        ...


@dataclass(frozen=True)
class AnswerToken:
    """What the tokenizer makes of one answer or foil.

    Attributes:
        text: As the row has it.
        pieces: Ids of the text standing alone, without special tokens.
        id: The single token it is, or None where it is not exactly one known token.
        lacks_space: It would continue the prompt's last word, while with a blank in front it is a
            token of its own: most likely a forgotten blank.
        spaced_id: The single token of the text with a blank in front, if there is one.
    """

    text: str
    pieces: tuple[int, ...]
    id: int | None
    lacks_space: bool
    spaced_id: int | None


@dataclass(frozen=True)
class PairTokens:
    """Token ids of one row, before any padding."""

    pair: PromptPair
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answer: tuple[AnswerToken, ...]
    foil: tuple[AnswerToken, ...]

    @property
    def differing(self) -> tuple[int, ...]:
        """Positions at which the two prompts differ; empty where their lengths do."""
        if len(self.clean) != len(self.corrupted):
            return ()
        both = zip(self.clean, self.corrupted, strict=True)
        return tuple(index for index, (one, other) in enumerate(both) if one != other)


def special_id(tokenizer: Tokenizer, kind: str) -> int | None:
    """Return the id of the `"bos"`, `"eos"`, `"pad"` or `"unk"` token, None if there is none."""
    found = getattr(tokenizer, f"{kind}_token_id", None)
    return None if found is None else int(found)


class PairTokenizer:
    """One tokenizer as it is applied to rows: the bos rule, the unknown token, single answers.

    Args:
        tokenizer: A Hugging Face fast tokenizer, or anything that behaves like one.
        prepend_bos: Put the bos token in front where the tokenizer does not do it itself.

    Raises:
        TokenizerMissingError: `tokenizer` is None or none of these, or has no bos token to prepend.
    """

    def __init__(self, tokenizer: object, *, prepend_bos: bool = False) -> None:
        if not isinstance(tokenizer, Tokenizer):
            raise TokenizerMissingError(
                "prompts cannot become tokens without a tokenizer",
                given=f"{tokenizer!r} ({type(tokenizer).__name__})",
                expected="a Hugging Face fast tokenizer",
                next_step="pass model.tokenizer, or load it with AutoTokenizer.from_pretrained",
            )
        self._tokenizer = tokenizer
        self.bos = special_id(tokenizer, "bos")
        self.eos = special_id(tokenizer, "eos")
        self.pad = special_id(tokenizer, "pad")
        if prepend_bos and self.bos is None:
            raise TokenizerMissingError(
                "the tokenizer has no bos token to put in front",
                given="prepend_bos=True",
                next_step="leave prepend_bos out, and count positions without a bos token",
            )
        self._prepend_bos = prepend_bos
        unknown = special_id(tokenizer, "unk")
        # Byte-level vocabularies know every text and name their end-of-text token as unknown.
        self.unknown = None if unknown in (self.bos, self.eos, self.pad) else unknown
        self._answers: dict[tuple[str, str], AnswerToken] = {}

    def prompt(self, text: str) -> tuple[int, ...]:
        """Return the ids that are fed to the model."""
        ids = self._ids(text, special=True)
        if self._prepend_bos and ids[:1] != (self.bos,):
            assert self.bos is not None
            ids = (self.bos, *ids)
        return ids

    def word(self, token: int) -> str:
        """Return the text of one token."""
        return str(self._tokenizer.decode([token]))

    def words(self, tokens: Iterable[int]) -> list[str]:
        """Return the text of each token."""
        return [self.word(token) for token in tokens]

    def pair(self, pair: PromptPair) -> PairTokens:
        """Tokenize both prompts and every answer and foil of a row."""
        return PairTokens(
            pair,
            self.prompt(pair.clean),
            self.prompt(pair.corrupted),
            tuple(self.answer(pair.clean, text) for text in pair.answer),
            tuple(self.answer(pair.clean, text) for text in pair.foil),
        )

    def answer(self, prompt: str, text: str) -> AnswerToken:
        """Find the single token that writes `text` after `prompt`.

        The token that the tokenizer itself puts there when it reads prompt and answer in one comes
        first (after "from 1896 to 18" the answer "97" is the token `97`, although a word-level
        tokenizer may read a lone "97" as ` 97`); if that is not one known token, the text alone.
        """
        # Tokenizers cut at blanks first, so the prompt's last word decides; few distinct ones
        # keep hundreds of answers (years above 14) from being tokenized for every row.
        start = max(prompt.rstrip().rfind(" "), len(prompt) - LONGEST_WORD, 0)
        key = (prompt[start:], text)
        if key not in self._answers:
            self._answers[key] = self._answer(*key)
        return self._answers[key]

    def _answer(self, context: str, text: str) -> AnswerToken:
        before = self._ids(context)
        whole = self._ids(context + text)
        continued = whole[len(before) :] if whole[: len(before)] == before else ()
        alone = self._ids(text)
        found = self._single(continued)
        if found is None:
            found = self._single(alone)
        spaced = None if text[:1].isspace() else self._single(self._ids(" " + text))
        joins = context[-1:].isalpha() and text[:1].isalpha()
        return AnswerToken(text, alone, found, joins and spaced is not None, spaced)

    def _single(self, ids: tuple[int, ...]) -> int | None:
        return ids[0] if len(ids) == 1 and ids[0] != self.unknown else None

    def _ids(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        return tuple(map(int, self._tokenizer(text, add_special_tokens=special)["input_ids"]))
