"""Which token ids count as right and which as wrong for each prompt of a batch?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechtest.errors import ShapeError

__all__ = ["NO_TOKEN", "AnswerIds"]

NO_TOKEN = -1


@dataclass(frozen=True, eq=False)
class AnswerIds:
    """Answer and foil token ids, one row a prompt; rows with fewer ids end in -1.

    Attributes:
        answer_ids: Right next tokens, int64 "prompt answer".
        foil_ids: Wrong ones to compare with, int64 "prompt foil".
        ids: Names of the prompts, for messages; empty where nobody named them.

    Raises:
        ShapeError: The two do not have one row a prompt each, or a row holds no id at all.
    """

    answer_ids: Tensor
    foil_ids: Tensor
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, tensor in (("answer_ids", self.answer_ids), ("foil_ids", self.foil_ids)):
            if tensor.ndim != 2 or tensor.dtype != torch.int64:
                raise ShapeError(
                    f"{name} are not one row of token ids a prompt",
                    given=f"{name}: {tensor.dtype} {tuple(tensor.shape)}",
                    expected='int64 "prompt answer", -1 after the last id of a row',
                )
            if tensor.is_meta:  # shapes without values: nothing more to see
                continue
            empty = (tensor == NO_TOKEN).all(1)
            if bool(empty.any()):
                row = int(empty.nonzero()[0])
                raise ShapeError(f"prompt {row} has no token id in {name}", given=tensor[row])
        if len(self.answer_ids) != len(self.foil_ids):
            raise ShapeError(
                "answers and foils are of different numbers of prompts",
                given=f"{len(self.answer_ids)} answer rows, {len(self.foil_ids)} foil rows",
            )

    @classmethod
    def of(
        cls,
        answers: Sequence[int | Sequence[int]],
        foils: Sequence[int | Sequence[int]],
        ids: Sequence[str] = (),
    ) -> "AnswerIds":
        """Build from plain numbers: one id or a list of ids for each prompt."""
        return cls(_rows(answers), _rows(foils), tuple(ids))

    def __len__(self) -> int:
        return len(self.answer_ids)

    def __getitem__(self, picked: Tensor) -> "AnswerIds":
        """Return the rows at some indices."""
        names = tuple(self.ids[index] for index in picked.tolist()) if self.ids else ()
        return AnswerIds(self.answer_ids[picked], self.foil_ids[picked], names)

    def repeated(self, times: int) -> "AnswerIds":
        """Return all rows, several times one after another."""
        return self[torch.arange(len(self)).repeat(times)]

    def among_themselves(self) -> tuple[Tensor, "AnswerIds"]:
        """Return all tokens that are an answer or a foil, and these rows as indices into them.

        For metrics that look at nothing else: their logits alone need computing.
        """
        tokens = torch.cat([self.answer_ids, self.foil_ids], 1).unique()
        tokens = tokens[tokens != NO_TOKEN]
        places = [
            torch.where(ids == NO_TOKEN, NO_TOKEN, torch.searchsorted(tokens, ids))
            for ids in (self.answer_ids, self.foil_ids)
        ]
        return tokens, AnswerIds(places[0], places[1], self.ids)

    def name(self, prompt: int) -> str:
        """Return how to call a prompt in a message."""
        return f"prompt {prompt} ({self.ids[prompt]!r})" if self.ids else f"prompt {prompt}"

    def to(self, device: torch.device | str) -> "AnswerIds":
        """Return the same ids on another device."""
        return AnswerIds(self.answer_ids.to(device), self.foil_ids.to(device), self.ids)


def _rows(values: Sequence[int | Sequence[int]]) -> Tensor:
    lists = [[value] if isinstance(value, int) else list(value) for value in values]
    width = max((len(row) for row in lists), default=0)
    return torch.tensor(
        [row + [NO_TOKEN] * (width - len(row)) for row in lists], dtype=torch.int64
    ).reshape(len(lists), width)
