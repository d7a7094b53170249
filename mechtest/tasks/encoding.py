"""What does a model get to see of some prompts, and where in it are the roles?

Prompts of one length stand as they are; shorter ones among longer ones are padded on the left, so
that the last token is at index -1 for all and the padding comes before the first state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mechtest.errors import PaddingError, PositionError, ShapeError, closest_names
from mechtest.tasks.answers import NO_TOKEN, AnswerIds
from mechtest.tasks.fingerprints import Fingerprints
from mechtest.tasks.split import Side
from mechtest.tasks.tokens import PairTokenizer, PairTokens

__all__ = ["EncodedPairs", "encode_rows"]

LAST = "last"
ABSENT = -1


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """Prompt pairs as tensors; everything a run, a metric and a cluster test need.

    Attributes:
        clean_tokens: Ids of the clean prompts, padded on the left.
        corrupted_tokens: Ids of their twins, in the same columns.
        attention_mask: True at tokens, False at padding; the same for both prompts.
        answers: Token ids of answers and foils, which metrics read.
        roles: Every role of any row, and `last`.
        role_positions: Column of each role in the padded tokens, -1 where a row has no such role.
        cluster: For each prompt, the index of its template in `templates`.
        templates: Template names; a part of a batch keeps them all, so that indices stay valid.
        order: For each prompt, its index in the collection that was encoded.
        fingerprints: Hashes of everything in here.
        side: `"discovery"` or `"test"` if the prompts are a half of a split, else `"all"`.
    """

    clean_tokens: Int64[Tensor, "prompt pos"]
    corrupted_tokens: Int64[Tensor, "prompt pos"]
    attention_mask: Bool[Tensor, "prompt pos"]
    answers: AnswerIds
    roles: tuple[str, ...]
    role_positions: Int64[Tensor, "prompt role"]
    cluster: Int64[np.ndarray, " prompt"]
    templates: tuple[str, ...]
    order: Int64[np.ndarray, " prompt"]
    fingerprints: Fingerprints
    side: Side

    def __len__(self) -> int:
        return len(self.clean_tokens)

    @property
    def ids(self) -> tuple[str, ...]:
        """Row ids, for messages and records."""
        return self.answers.ids

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.clean_tokens.device

    @property
    def padded(self) -> bool:
        """Whether any prompt has padding, so that the model needs the mask."""
        return not bool(self.attention_mask.all())

    @property
    def lengths(self) -> Int64[Tensor, " prompt"]:
        """Number of tokens of each prompt, without padding."""
        return self.attention_mask.sum(1)

    @property
    def changed(self) -> Bool[Tensor, "prompt pos"]:
        """True where clean and corrupted tokens differ."""
        return self.clean_tokens != self.corrupted_tokens

    def positions(self, role: str) -> Int64[Tensor, " prompt"]:
        """Return the column of a role in every prompt's padded tokens.

        Args:
            role: A role that all rows have; `"last"` always is one.

        Raises:
            PositionError: No row has the role, or some templates lack it.
        """
        if role not in self.roles:
            raise PositionError(
                f"no prompt has a role {role!r}",
                given=role,
                closest=closest_names(role, self.roles),
                expected="one of " + ", ".join(self.roles),
                next_step="add the role to 'positions' in the prompt file",
            )
        columns = self.role_positions[:, self.roles.index(role)]
        lacking = (columns == ABSENT).cpu().numpy()
        if lacking.any():
            templates = sorted({self.templates[index] for index in self.cluster[lacking]})
            raise PositionError(
                f"{lacking.sum()} of {len(self)} prompts have no role {role!r}",
                given=f"templates without it: {', '.join(templates[:5])}"
                + (", ..." if len(templates) > 5 else ""),
                expected="a role that every template has",
                next_step="add it to these templates, or filter them out by name",
            )
        return columns

    def __getitem__(
        self, index: int | slice | Sequence[int] | np.ndarray | Tensor
    ) -> "EncodedPairs":
        """Return some of the prompts, with all columns; an array of ints or a mask picks."""
        if isinstance(index, int):
            raise ShapeError(
                "one prompt of a batch is taken by a slice, so that the axes stay",
                given=f"encoded[{index}]",
                expected=f"encoded[{index}:{index + 1 or None}]",
            )
        numbers = torch.arange(len(self), device=self.device)
        if isinstance(index, slice):
            picked = numbers[index]
        else:
            picked = numbers[torch.as_tensor(index, device=self.device)]
        host = picked.cpu().numpy()
        return replace(
            self,
            clean_tokens=self.clean_tokens[picked],
            corrupted_tokens=self.corrupted_tokens[picked],
            attention_mask=self.attention_mask[picked],
            answers=self.answers[picked],
            role_positions=self.role_positions[picked],
            cluster=self.cluster[host],
            order=self.order[host],
        )

    def batches(self, size: int) -> Iterator["EncodedPairs"]:
        """Yield the prompts in order, at most `size` at a time, all with the same columns."""
        if size < 1:
            raise ShapeError(
                "a batch needs at least one prompt",
                given=f"size={size} ({type(size).__name__})",
                expected="a positive integer",
            )
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def by_length(self) -> Iterator["EncodedPairs"]:
        """Yield groups of equal length without any padding, shortest first.

        `order` of each group says where its prompts stood, so results can be put back in order.
        """
        lengths = self.lengths
        for length in sorted(set(lengths.tolist())):
            yield self[lengths == length]._without_columns(self.clean_tokens.shape[1] - length)

    def _without_columns(self, count: int) -> "EncodedPairs":
        """Cut `count` columns of padding off the left."""
        shifted = torch.where(
            self.role_positions == ABSENT, self.role_positions, self.role_positions - count
        )
        return replace(
            self,
            clean_tokens=self.clean_tokens[:, count:],
            corrupted_tokens=self.corrupted_tokens[:, count:],
            attention_mask=self.attention_mask[:, count:],
            role_positions=shifted,
        )

    def to(self, device: torch.device | str) -> "EncodedPairs":
        """Return the same prompts with all tensors on another device."""
        return replace(
            self,
            clean_tokens=self.clean_tokens.to(device),
            corrupted_tokens=self.corrupted_tokens.to(device),
            attention_mask=self.attention_mask.to(device),
            answers=self.answers.to(device),
            role_positions=self.role_positions.to(device),
        )


def encode_rows(
    rows: Sequence[PairTokens],
    tokenizer: PairTokenizer,
    *,
    templates: Sequence[str],
    fingerprints: Fingerprints,
    side: Side,
    device: torch.device | str,
) -> EncodedPairs:
    """Put validated rows into tensors.

    Args:
        rows: Rows without errors (`token_checks.py`); at least one.
        tokenizer: For the padding id.
        templates: All template names; a row's cluster is an index into them.
        fingerprints: Of the texts and templates; those of the tokens are added.
        side: Half of the split, or `"all"`.
        device: Where the tensors go.

    Raises:
        PaddingError: Lengths differ, and the tokenizer has neither a pad nor an eos token.
    """
    longest = max(len(row.clean) for row in rows)
    lengths = {len(row.clean) for row in rows}
    filler = tokenizer.pad if tokenizer.pad is not None else tokenizer.eos
    if filler is None:
        if len(lengths) > 1:
            raise PaddingError(
                "prompts of different lengths need padding, and the tokenizer has no pad token",
                given=f"lengths {', '.join(map(str, sorted(lengths)))}",
                expected="tokenizer.pad_token_id or tokenizer.eos_token_id",
                next_step="set tokenizer.pad_token; the mask keeps it from mattering",
            )
        filler = 0
    roles = (*dict.fromkeys(r for row in rows for r in row.pair.roles if r != LAST), LAST)
    starts = [longest - len(row.clean) for row in rows]
    home = {name: index for index, name in enumerate(templates)}
    positions = [
        [start + place if (place := _place(row, role)) is not None else ABSENT for role in roles]
        for row, start in zip(rows, starts, strict=True)
    ]
    encoded = EncodedPairs(
        clean_tokens=_left_padded([row.clean for row in rows], longest, filler),
        corrupted_tokens=_left_padded([row.corrupted for row in rows], longest, filler),
        attention_mask=torch.arange(longest)[None, :] >= torch.tensor(starts)[:, None],
        answers=AnswerIds(
            answer_ids=_right_filled([_known(row.answer) for row in rows]),
            foil_ids=_right_filled([_known(row.foil) for row in rows]),
            ids=tuple(row.pair.id for row in rows),
        ),
        roles=roles,
        role_positions=torch.tensor(positions, dtype=torch.int64),
        cluster=np.array([home[row.pair.template] for row in rows], dtype=np.int64),
        templates=tuple(templates),
        order=np.arange(len(rows), dtype=np.int64),
        fingerprints=fingerprints
        | Fingerprints.of(tokens=[ids for row in rows for ids in (row.clean, row.corrupted)]),
        side=side,
    )
    return encoded.to(device)


def _place(row: PairTokens, role: str) -> int | None:
    return len(row.clean) - 1 if role == LAST else dict(row.pair.positions).get(role)


def _known(answers: Sequence[object]) -> list[int]:
    found = [getattr(answer, "id", None) for answer in answers]
    assert all(isinstance(token, int) for token in found), "rows are validated before"
    return [token for token in found if isinstance(token, int)]


def _left_padded(rows: Sequence[Sequence[int]], width: int, filler: int) -> Tensor:
    padded = [[filler] * (width - len(row)) + list(row) for row in rows]
    return torch.tensor(padded, dtype=torch.int64)


def _right_filled(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    filled = [list(row) + [NO_TOKEN] * (width - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64)
