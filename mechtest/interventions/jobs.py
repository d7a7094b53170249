"""Which part of which prompt has to be computed again for an edit, and in which order?

An edit at one layer and position leaves earlier layers and earlier positions as they were. A job is
what is left: one prompt from one position on, from one layer on. Planning needs no tensors of the
model, so that a plan can be costed and printed before anything runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64

from mechtest.interventions.circuit import Circuit
from mechtest.interventions.edits import Edit
from mechtest.interventions.plan import PlannedEdit
from mechtest.interventions.spec import Intervention, Places
from mechtest.models import ENTERED_BEFORE, PACKED_HOOKS
from mechtest.tasks import EncodedPairs

__all__ = ["Jobs", "RowEdit", "Variant", "lay_out"]

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
        return all(
            edit.where is not None and edit.site.hook in PACKED_HOOKS for _, edit in self.edits
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
        planned: Where it comes from.
        edit: What is done.
        rows: Packed rows.
        jobs: Their jobs.
        index: Which of the planned places each row is.
        given: These are first rows of jobs, and what stands there is known from the run intervened
            in.
    """

    layer: int
    planned: PlannedEdit
    edit: Edit
    rows: Int64[torch.Tensor, " row"]
    jobs: Int64[torch.Tensor, " row"]
    index: Int64[torch.Tensor, " row"]
    given: bool


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
        return int(self.starts[-1])

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


def lay_out(variants: Sequence[Variant], n_prompts: int, n_pos: int) -> Jobs:
    """Return the jobs of some variants on one batch of prompts.

    Args:
        variants: What is done; every one is packable, and planned for these prompts.
        n_prompts: Prompts of the batch.
        n_pos: Their columns.
    """
    columns, given = zip(*(_entry(variant, n_prompts, n_pos) for variant in variants), strict=True)
    layer = torch.tensor([variant.layer for variant in variants]).repeat_interleave(n_prompts)
    stage = torch.tensor([variant.stage for variant in variants]).repeat_interleave(n_prompts)
    order = (layer * (FROM_RECURRENCE + 1) + stage).argsort(stable=True)
    column = torch.cat(columns)[order]
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


def _entry(variant: Variant, n_prompts: int, n_pos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each prompt's first column, and whether it starts from an edited state there."""
    column = torch.full((n_prompts,), n_pos - 1)
    for _, edit in variant.edits:
        column = torch.minimum(column, edit.first_columns)
    here = [edit for _, edit in variant.edits if layer_of(edit) == variant.layer]
    given = torch.zeros(n_prompts, dtype=torch.bool)
    if all(edit.site.hook in LEAVES_STEP_ALONE for edit in here):
        for edit in here:
            if edit.site.hook == "hook_h":
                given |= edit.edited & (edit.first_columns == column)
    return column, given


def row_edits(variants: Sequence[Variant], jobs: Jobs) -> list[RowEdit]:
    """Return the edits of all variants, as rows of their jobs."""
    job_of = torch.empty(len(variants), _count(jobs.prompt), dtype=torch.int64)
    job_of[jobs.variant, jobs.prompt] = torch.arange(len(jobs))
    found = []
    for number, variant in enumerate(variants):
        for circuit, planned in variant.edits:
            edit = Edit(planned.site, circuit, variant.intervention)
            prompt, column = planned.places
            job = job_of[number, prompt]
            rows = jobs.starts[job] + column - jobs.column[job]
            index = torch.arange(len(rows))
            layer = layer_of(planned)
            known = torch.zeros(len(rows), dtype=torch.bool)
            if planned.site.hook == "hook_h":
                known = jobs.given[job] & (column == jobs.column[job]) & (jobs.layer[job] == layer)
            for given, these in ((True, known), (False, ~known)):
                if bool(these.any()):
                    part = index[these]
                    found.append(RowEdit(layer, planned, edit, rows[part], job[part], part, given))
    return found


def _count(index: torch.Tensor) -> int:
    return int(index.max()) + 1


def places_of(planned: PlannedEdit, order: Int64[torch.Tensor, " prompt"], n_pos: int) -> Places:
    """Return prompt and position of every planned place.

    Args:
        planned: The edit.
        order: Index of each prompt of the batch in the whole set.
        n_pos: Columns of the batch.
    """
    prompt, column = planned.places
    return Places(order[prompt], n_pos - column)
