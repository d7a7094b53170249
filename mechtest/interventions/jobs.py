"""Which part of which prompt has to be computed again for an edit, and in which order?

An edit at one layer and position leaves earlier layers and earlier positions as they were. A job is
what is left: one prompt from one position on, from one layer on. Planning needs no tensors of the
model, so that a plan can be costed and printed before anything runs.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64

from mechtest.interventions.circuit import Circuit
from mechtest.interventions.edits import Edit
from mechtest.interventions.plan import PlannedEdit, Spots, Tokens
from mechtest.interventions.spec import Intervention
from mechtest.models import ENTERED_BEFORE, PACKED_HOOKS
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs

__all__ = ["Jobs", "RowEdit", "Variant", "entry_columns", "lay_out", "row_edits"]

WHOLE_BLOCK, FROM_RECURRENCE = 0, 2
LEAVES_STEP_ALONE = frozenset(
    hook for hook, stage in ENTERED_BEFORE.items() if stage == FROM_RECURRENCE
) | {"hook_conv_state"}
"""Hooks whose edit at a position leaves that position's own update of the state as it was."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to intervene: what a control, a cell of a sweep, or a claimed circuit is.

    Attributes:
        edits: Circuits with what is planned for each of their hooks; all are made at once.
        intervention: What is put in.
    """

    edits: tuple[tuple[Circuit, PlannedEdit], ...]
    intervention: Intervention

    @property
    def packable(self) -> bool:
        """Whether packed rows can carry it out."""
        return self.intervention.on_rows and all(
            edit.spots is not None and edit.site.hook in PACKED_HOOKS for _, edit in self.edits
        )

    @property
    def layer(self) -> int:
        """First layer that is not as it was."""
        return min((layer_of(edit) for _, edit in self.edits), default=0)

    @property
    def stage(self) -> int:
        """Where in that layer the first edit is."""
        return min(
            (ENTERED_BEFORE[e.site.hook] for _, e in self.edits if layer_of(e) == self.layer),
            default=WHOLE_BLOCK,
        )


@dataclass(frozen=True, eq=False)
class RowEdit:
    """One edit, as rows of the packed matrix.

    Attributes:
        layer: Block.
        edit: What is done.
        tokens: Where its activations stand in the batch; edits at the same spots share them.
        rows: Packed rows.
        jobs: Their jobs.
        index: Which of `tokens` each row is.
        given: These are first rows of jobs, and what stands there is known from the run intervened
            in.
    """

    layer: int
    edit: Edit
    tokens: Tokens
    rows: Int64[torch.Tensor, " row"]
    jobs: Int64[torch.Tensor, " row"]
    index: Int64[torch.Tensor, " row"]
    given: bool

    @property
    def site(self) -> Site:
        """Layer and hook."""
        return self.edit.site


@dataclass(frozen=True, eq=False)
class Jobs:
    """Jobs in the order they stand in the packed matrix: by layer and stage of entry.

    Attributes:
        variant: Index of the variant, one a job.
        prompt: Index of the prompt in the batch.
        column: First column computed.
        layer: Layer of entry.
        stage: Stage of entry.
        given: Whether the job starts from an edited state after its first position.
        starts: First row of each job, and the number of rows at the end.
        n_pos: Columns of the batch.
    """

    variant: Int64[torch.Tensor, " job"]
    prompt: Int64[torch.Tensor, " job"]
    column: Int64[torch.Tensor, " job"]
    layer: Int64[torch.Tensor, " job"]
    stage: Int64[torch.Tensor, " job"]
    given: Bool[torch.Tensor, " job"]
    starts: Int64[torch.Tensor, " job+1"]
    n_pos: int

    def __len__(self) -> int:
        return len(self.variant)

    @property
    def n_rows(self) -> int:
        """Packed rows when all jobs are in flight."""
        return self.bounds[-1]

    @cached_property
    def bounds(self) -> list[int]:
        """First row of each job, and the number of rows at the end."""
        found: list[int] = self.starts.tolist()
        return found

    def rows_in_flight(self, layer: int, stage: int = FROM_RECURRENCE) -> int:
        """Return how many rows, from the first on, are computed at a stage of a layer."""
        return self.bounds[self.in_flight(layer, stage)]

    @cached_property
    def job_of_row(self) -> Int64[torch.Tensor, " row"]:
        """Job of each packed row."""
        return torch.repeat_interleave(torch.arange(len(self)), self.starts.diff())

    @cached_property
    def column_of_row(self) -> Int64[torch.Tensor, " row"]:
        """Column of each packed row."""
        job = self.job_of_row
        return torch.arange(self.n_rows) - self.starts[job] + self.column[job]

    @cached_property
    def prompt_of_row(self) -> Int64[torch.Tensor, " row"]:
        """Prompt of each packed row."""
        return self.prompt[self.job_of_row]

    def in_flight(self, layer: int, stage: int = FROM_RECURRENCE) -> int:
        """Return how many jobs, from the first on, are computed at a stage of a layer."""
        return bisect_right(self._entries, (layer, stage))

    @cached_property
    def _entries(self) -> list[tuple[int, int]]:
        return list(zip(self.layer.tolist(), self.stage.tolist(), strict=True))

    def entering(self, layer: int) -> range:
        """Return the jobs that start in a layer."""
        return range(self.in_flight(layer - 1), self.in_flight(layer))


def layer_of(edit: PlannedEdit) -> int:
    """Return the layer an edit is in; the embedding belongs to the first."""
    return 0 if edit.site.layer is None else edit.site.layer


def first_columns(pairs: EncodedPairs) -> Int64[torch.Tensor, " prompt"]:
    """Return the column of each prompt's first token."""
    return pairs.attention_mask.shape[1] - pairs.lengths.cpu()


def entry_columns(
    variants: Sequence[Variant], n_prompts: int, n_pos: int
) -> Int64[torch.Tensor, "variant prompt"]:
    """Return the first column that is not as it was, the last one where nothing is edited."""
    last = torch.full((n_prompts,), n_pos - 1)
    return torch.stack([_entry_column(variant, last) for variant in variants])


def _entry_column(variant: Variant, last: torch.Tensor) -> torch.Tensor:
    columns = [edit.known_spots.first_columns for _, edit in variant.edits]
    return functools.reduce(torch.minimum, columns) if columns else last


def lay_out(variants: Sequence[Variant], n_prompts: int, n_pos: int) -> Jobs:
    """Return the jobs of some variants on one batch of prompts.

    Args:
        variants: What is done; every one is packable, and planned for these prompts.
        n_prompts: Prompts of the batch.
        n_pos: Their columns.
    """
    columns = entry_columns(variants, n_prompts, n_pos)
    none = torch.zeros(n_prompts, dtype=torch.bool)
    given = [_given(one, column, none) for one, column in zip(variants, columns, strict=True)]
    layer = torch.tensor([variant.layer for variant in variants]).repeat_interleave(n_prompts)
    stage = torch.tensor([variant.stage for variant in variants]).repeat_interleave(n_prompts)
    order = (layer * (FROM_RECURRENCE + 1) + stage).argsort(stable=True)
    column = columns.flatten()[order]
    lengths = n_pos - column
    return Jobs(
        variant=torch.arange(len(variants)).repeat_interleave(n_prompts)[order],
        prompt=torch.arange(n_prompts).repeat(len(variants))[order],
        column=column,
        layer=layer[order],
        stage=stage[order],
        given=torch.cat(given)[order],
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        n_pos=n_pos,
    )


def _given(variant: Variant, column: torch.Tensor, none: torch.Tensor) -> torch.Tensor:
    """Return whether each prompt starts from an edited state after its first column."""
    if len(variant.edits) == 1:  # the usual case; its first column is the first of all
        ((_, edit),) = variant.edits
        return edit.known_spots.edited if edit.site.hook == "hook_h" else none
    here = [edit for _, edit in variant.edits if layer_of(edit) == variant.layer]
    if not all(edit.site.hook in LEAVES_STEP_ALONE for edit in here):
        return none
    states = [edit.known_spots for edit in here if edit.site.hook == "hook_h"]
    at_start = [spots.edited & (spots.first_columns == column) for spots in states]
    return functools.reduce(torch.logical_or, at_start) if at_start else none


def row_edits(variants: Sequence[Variant], jobs: Jobs) -> list[RowEdit]:
    """Return the edits of all variants, as rows of their jobs.

    What is done alike at one hook is one edit, however many variants do it. Where a variant edits a
    hook several times, its edits stay in their order.
    """
    job_of = torch.empty(len(variants), _count(jobs.prompt), dtype=torch.int64)
    job_of[jobs.variant, jobs.prompt] = torch.arange(len(jobs))
    found: list[RowEdit] = []
    for group in _alike(variants):
        found += _as_rows(group, job_of, jobs)
    return found


@dataclass(frozen=True, eq=False)
class _Alike:
    """Edits of one hook that are carried out alike.

    Attributes:
        edit: What is done.
        layer: Block.
        members: Index of the variant and where it edits, of each.
    """

    edit: Edit
    layer: int
    members: list[tuple[int, Spots]]

    @property
    def tokens(self) -> Tokens:
        """All their places, one after another."""
        tokens = [spots.tokens for _, spots in self.members]
        if len(tokens) == 1:
            return tokens[0]
        return Tokens(
            torch.cat([one.prompt for one in tokens]), torch.cat([one.column for one in tokens])
        )

    @property
    def variants(self) -> torch.Tensor:
        """Variant of every place."""
        numbers = torch.tensor([number for number, _ in self.members])
        counts = torch.tensor([len(spots.tokens) for _, spots in self.members])
        return numbers.repeat_interleave(counts)


def _alike(variants: Sequence[Variant]) -> list[_Alike]:
    """Group the edits of some variants; a variant's first at a hook come before its second."""
    groups: dict[tuple[object, ...], _Alike] = {}
    for number, variant in enumerate(variants):
        turns: Counter[Site] = Counter()
        for circuit, planned in variant.edits:
            whole = circuit.channels is None and circuit.subspace is None
            alike = None if whole else id(circuit)
            key = turns[planned.site], planned.site, id(variant.intervention), alike
            turns[planned.site] += 1
            if key not in groups:
                edit = Edit(planned.site, circuit, variant.intervention)
                groups[key] = _Alike(edit, layer_of(planned), [])
            groups[key].members.append((number, planned.known_spots))
    return [groups[key] for key in sorted(groups, key=_turn)]


def _turn(key: tuple[object, ...]) -> int:
    turn = key[0]
    assert isinstance(turn, int)
    return turn


def _as_rows(group: _Alike, job_of: torch.Tensor, jobs: Jobs) -> Iterator[RowEdit]:
    """Yield a group as rows: those that are given, and the others."""
    tokens = group.tokens
    job = job_of[group.variants, tokens.prompt]
    offset = tokens.column - jobs.column[job]
    rows = jobs.starts[job] + offset
    known = torch.zeros(len(rows), dtype=torch.bool)
    if group.edit.site.hook == "hook_h":
        known = jobs.given[job] & (offset == 0) & (jobs.layer[job] == group.layer)
    for given, these in ((True, known), (False, ~known)):
        index = these.nonzero().flatten()
        if len(index):
            yield RowEdit(group.layer, group.edit, tokens, rows[index], job[index], index, given)


def _count(index: torch.Tensor) -> int:
    return int(index.max()) + 1
