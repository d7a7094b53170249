"""How do many jobs go through the model together, each from its own layer and position on?

All jobs in flight stand below one another in one matrix; a layer is one product per projection for
all of them. Jobs enter at their layer with what the unedited run had there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from mechtest.interventions.base_run import STATE_HOOKS, BaseNeeds, BaseRun
from mechtest.interventions.jobs import Jobs, RowEdit
from mechtest.interventions.plan import Tokens
from mechtest.interventions.spec import Places
from mechtest.interventions.waves import Wave, tails_of, waves_of, window_at
from mechtest.models import HookedMamba, PackedBlock, Steps, Workspace
from mechtest.models.block import MambaBlock
from mechtest.models.packed_block import BOTH_ENDS
from mechtest.sites import Site

__all__ = ["PackedPass", "Reader"]


@dataclass(eq=False)
class Reader:
    """Keeps what `BaseNeeds` asks for while an unedited run passes by."""

    needs: BaseNeeds
    rows: Int64[torch.Tensor, " kept"]
    sites: dict[tuple[int, str], list[tuple[Site, torch.Tensor]]]
    resid: dict[int, torch.Tensor] = field(default_factory=dict)
    h: list[torch.Tensor] = field(default_factory=list)
    windows: list[torch.Tensor] = field(default_factory=list)
    values: dict[Site, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Entered:
    """What the unedited run computed for the rows of jobs that enter behind the projections."""

    fused: torch.Tensor
    steps: Steps | None


class PackedPass:
    """One pass of some jobs through all layers they need.

    Args:
        model: The model.
        jobs: What is computed.
        tokens: Of the batch, "prompt pos".
        workspace: Where large results go.
        base: The run intervened in; None for an unedited run from the first token on.
        edits: What is changed.
        sources: The run whose activations an intervention puts in, by its `id`.
        order: Index of each prompt of the batch in the whole set.
        apply: False visits the same rows, so that results agree to the last bit, and edits nothing.
        touched: "variant prompt"; set where an activation was changed, unless None.
        reader: Keeps activations of an unedited run.
    """

    def __init__(
        self,
        model: HookedMamba,
        jobs: Jobs,
        tokens: Int64[torch.Tensor, "prompt pos"],
        workspace: Workspace,
        *,
        base: BaseRun | None = None,
        edits: Sequence[RowEdit] = (),
        sources: Mapping[int, BaseRun] | None = None,
        order: Int64[torch.Tensor, " prompt"] | None = None,
        apply: bool = True,
        touched: Bool[torch.Tensor, "variant prompt"] | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.model, self.jobs, self.tokens = model, jobs, tokens
        self.workspace, self.base, self.reader = workspace, base, reader
        self.sources = sources or {}
        self.order = torch.arange(len(tokens)) if order is None else order
        self.apply, self.touched = apply, touched
        self.device = model.device
        self.row_layers = 0
        self._entered: _Entered | None = None
        self._places: dict[int, Places] = {}
        self._edits: dict[tuple[int, str], list[RowEdit]] = {}
        for edit in edits:
            self._edits.setdefault((edit.layer, edit.site.hook), []).append(edit)

    def run(self) -> Float[torch.Tensor, "job d_model"]:
        """Return the residual stream after the last layer, at each job's last position."""
        jobs, cfg = self.jobs, self.model.cfg
        self._resid = self.workspace.take("resid", jobs.n_rows, cfg.d_model)
        self._fused = self.workspace.take("fused", jobs.n_rows, 2 * cfg.E)
        first = int(jobs.layer.min()) if len(jobs) else 0
        last_rows = (jobs.starts[1:] - 1).to(self.device)
        for layer in range(first, cfg.n_layer):
            if layer == cfg.n_layer - 1 and not self._looked_at(layer) & BOTH_ENDS:
                return self._last_layer(layer, last_rows)
            self._layer(layer)
        return self._resid[last_rows]

    # --- one layer -------------------------------------------------------------------------------

    def _layer(self, layer: int) -> None:
        jobs = self.jobs
        block = self._block(layer)
        resid, fused = self._arrive(layer, block, whole=True)
        gate = fused[:, block.cfg.E :]
        steps = self._steps(layer, block, fused[:, : block.cfg.E])
        out = self._recur(layer, block, steps, gate)

        def visit(hook: str, value: torch.Tensor) -> None:
            self._visit(layer, hook, value)

        block.add_to(resid, block.gated(out, steps.x, gate, visit), visit)
        self.row_layers += jobs.rows_in_flight(layer)

    def _last_layer(self, layer: int, last_rows: torch.Tensor) -> torch.Tensor:
        """Run the last layer: only the last position goes on from its recurrence."""
        block = self._block(layer)
        resid, inner = self._arrive(layer, block, whole=False)
        steps = self._steps(layer, block, inner)
        out = self._recur(layer, block, steps, None)
        resid = resid[last_rows]
        gated = block.last_gated(resid, steps.x[last_rows], out[last_rows])
        block.add_to(resid, gated, _ignore)
        self.row_layers += self.jobs.n_rows
        return resid

    def _arrive(
        self, layer: int, block: PackedBlock, *, whole: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return residual rows and projections of all rows in flight, loading what enters here.

        Args:
            layer: Block.
            block: Its weights.
            whole: False leaves the gate out.
        """
        jobs = self.jobs
        rows = jobs.rows_in_flight(layer)
        projected = jobs.rows_in_flight(layer, 0)
        entering = jobs.entering(layer)
        resid = self._resid[:rows]
        if entering:
            start = jobs.bounds[entering.start]
            resid[start:] = self._entering_resid(layer, start, rows)

        def visit(hook: str, value: torch.Tensor) -> None:
            self._visit(layer, hook, value)

        if layer == 0:
            visit("hook_embed", resid[:projected])
        visit("hook_resid_pre", resid[:projected])
        if self.reader is not None and layer in self.reader.needs.resid:
            self.reader.resid[layer] = resid.clone()
        width = 2 * block.cfg.E if whole else block.cfg.E
        fused = self._fused[:rows] if whole else self.workspace.take("inner", rows, width)
        if projected:
            block.project_in(resid[:projected], fused[:projected], visit)
        if rows > projected:
            index = self._enter_behind(layer, block, projected, rows, whole=whole)
            assert self._entered is not None
            torch.index_select(self._entered.fused, 0, index, out=fused[projected:])
        return resid, fused

    def _entering_resid(self, layer: int, start: int, stop: int) -> torch.Tensor:
        jobs = self.jobs
        prompt, column = jobs.prompt_of_row[start:stop], jobs.column_of_row[start:stop]
        if layer == 0:
            tokens = self.tokens[prompt.to(self.device), column.to(self.device)]
            return self.model.embedding(tokens)
        assert self.base is not None
        return self.base.resid[layer][self.base.rows(prompt, column).to(self.device)]

    def _enter_behind(
        self, layer: int, block: PackedBlock, start: int, stop: int, *, whole: bool
    ) -> torch.Tensor:
        """Compute what the unedited run has for the rows that enter behind the projections.

        Each token is computed once, however many jobs start from it.

        Returns:
            For each of those rows, its place among what was computed.
        """
        jobs, base = self.jobs, self.base
        assert base is not None
        prompt, column = jobs.prompt_of_row[start:stop], jobs.column_of_row[start:stop]
        unique, begins, index = _segments_of(base, base.rows(prompt, column))
        starts = torch.cat([begins, torch.tensor([len(unique)])])
        resid = base.resid[layer][unique.to(self.device)]
        fused = self.workspace.take("entered", len(unique), self._fused.shape[1])
        block.project_in(resid, fused, _ignore)
        inner = fused[:, : block.cfg.E]
        steps = None
        if jobs.in_flight(layer) > jobs.in_flight(layer, 1):
            slot = base.slot_before_row(unique[begins])
            windows = base.windows[layer][slot.to(self.device)]
            x = block.convolve(inner, windows, starts, _ignore)
            steps = _empty_steps(self.workspace, "entered", len(unique), block)
            steps.x.copy_(x)
            raw = block.parameters(steps.x, steps, _ignore)
            steps = Steps(steps.x, steps.delta, steps.B, steps.C, raw)
        self._entered = _Entered(fused if whole else inner, steps)
        self._entered_index = index.to(self.device)
        return self._entered_index

    def _steps(self, layer: int, block: PackedBlock, inner: torch.Tensor) -> Steps:
        """Return the recurrence's parameters of all rows in flight."""
        jobs = self.jobs
        rows = len(inner)
        behind = jobs.rows_in_flight(layer, 0)
        convolved = jobs.rows_in_flight(layer, 1)

        def visit(hook: str, value: torch.Tensor) -> None:
            self._visit(layer, hook, value)

        steps = _empty_steps(self.workspace, "steps", rows, block)
        raw = "hook_delta" not in block.looked_at
        if convolved:
            windows, starts = self._windows(layer, inner[:convolved])
            steps.x[:convolved] = block.convolve(inner[:convolved], windows, starts, visit)
            part = steps.rows(slice(convolved))
            raw = block.parameters(part.x, part, visit)
        if rows > convolved:
            assert self._entered is not None
            assert self._entered.steps is not None
            known, index = self._entered.steps, self._entered_index[convolved - behind :]
            for into, whence in (
                (steps.x, known.x),
                (steps.delta, known.delta),
                (steps.B, known.B),
                (steps.C, known.C),
            ):
                torch.index_select(whence, 0, index, out=into[convolved:])
        return Steps(steps.x, steps.delta, steps.B, steps.C, raw)

    # --- convolution windows ---------------------------------------------------------------------

    def _windows(
        self, layer: int, inner: torch.Tensor
    ) -> tuple[torch.Tensor, Int64[torch.Tensor, " segment+1"]]:
        """Return the window before each segment, cutting segments where windows are edited."""
        jobs = self.jobs
        count = jobs.in_flight(layer, 1)
        starts = jobs.starts[: count + 1]
        windows = self._start_windows(layer, count)
        if self.reader is not None:
            rows = self.reader.rows
            job = jobs.job_of_row[rows]
            kept = window_at(inner, rows, starts[job], windows, job)
            self.reader.windows.append(_after_nothing(kept))
        segment_start, segment_window, segment_job = starts[:-1], windows, torch.arange(count)
        current = torch.arange(count)  # the segment each job has come to
        for wave in waves_of(self._edits.get((layer, "hook_conv_state"), ())):
            segment = current[wave.jobs]
            value = window_at(inner, wave.rows, segment_start[segment], segment_window, segment)
            value = self._edited_states(wave, value)
            current[wave.jobs] = torch.arange(len(wave.rows)) + len(segment_start)
            segment_start = torch.cat([segment_start, wave.rows + 1])
            segment_window = torch.cat([segment_window, value])
            segment_job = torch.cat([segment_job, wave.jobs])
        if len(segment_start) == count:
            return windows, starts
        # The window after a job's last row is before nothing.
        alive = (segment_start < jobs.starts[segment_job + 1]).nonzero().flatten()
        order = alive[segment_start[alive].argsort(stable=True)]
        cut = torch.cat([segment_start[order], starts[-1:]])
        return segment_window[order.to(self.device)], cut

    def _start_windows(self, layer: int, count: int) -> torch.Tensor:
        cfg = self.model.cfg
        if self.base is None:
            return self._resid.new_zeros(count, cfg.d_conv - 1, cfg.E)
        return self.base.windows[layer][self._slots[:count].to(self.device)]

    # --- the recurrence --------------------------------------------------------------------------

    def _recur(
        self, layer: int, block: PackedBlock, steps: Steps, gate: torch.Tensor | None
    ) -> torch.Tensor:
        """Run the recurrence, again from each edited state on."""
        jobs = self.jobs
        count = jobs.in_flight(layer)
        edits = self._edits.get((layer, "hook_h"), [])
        own, given = self._given_states(layer, [edit for edit in edits if edit.given])
        waves = waves_of([edit for edit in edits if not edit.given])
        keep = self.reader.rows if self.reader is not None else waves[0].rows if waves else None
        out = self.workspace.take("recurred", len(steps.x), block.cfg.E)
        # Jobs with a state of their own enter here, so they come last.
        first = count - len(own)
        kept = []
        for part in (range(first), range(first, count)):
            if not part:
                continue
            start, stop = jobs.bounds[part.start], jobs.bounds[part.stop]
            rows = slice(start, stop)
            shared = part.start < first
            starts = jobs.starts[part.start : part.stop + 1]
            here = keep
            if (start, stop) != (0, len(steps.x)):
                starts = starts - start
                here = None if keep is None else keep[(keep >= start) & (keep < stop)] - start
            states = self._base_states(layer) if shared else own
            kept.append(
                block.recur(
                    steps.rows(rows),
                    None if gate is None else gate[rows],
                    states,
                    starts,
                    out[rows],
                    slots=self._slots[:first] if shared else None,
                    given=None if shared else given,
                    keep=here,
                )
            )
        states = torch.cat(kept) if len(kept) > 1 else kept[0]
        if self.reader is not None:
            self.reader.h.append(_after_nothing(states))
        for number, wave in enumerate(waves):
            new = self._edited_states(wave, states.transpose(1, 2)).transpose(1, 2).contiguous()
            index, again = tails_of(wave.rows, jobs.starts[wave.jobs + 1])
            keep = None
            if number + 1 < len(waves):
                keep = torch.searchsorted(index, waves[number + 1].rows)
            at = index.to(self.device)
            tail = self.workspace.take("recurred again", len(index), block.cfg.E)
            states = block.recur(
                steps.rows(at),
                None if gate is None else gate[at],
                new,
                again,
                tail,
                given=torch.ones(len(new), dtype=torch.bool, device=self.device),
                keep=keep,
            )
            out[at] = tail
        return out

    def _given_states(
        self, layer: int, edits: Sequence[RowEdit]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the states that the last jobs in flight start from, edited at once.

        Returns:
            "job d_state d_inner", from the first job with such a state on; and which of them stand
            after their job's first position instead of before it.
        """
        cfg, count = self.model.cfg, self.jobs.in_flight(layer)
        if not edits:
            return self._resid.new_empty(0, cfg.N, cfg.E), None
        assert self.base is not None
        first = min(int(edit.jobs.min()) for edit in edits)
        given = torch.zeros(count - first, dtype=torch.bool)
        for edit in edits:
            given[edit.jobs - first] = True
        own = self._resid.new_empty(count - first, cfg.N, cfg.E)
        if not bool(given.all()):
            others = (~given).to(self.device)
            own[others] = self.base.h[layer][self._slots[first:count][~given].to(self.device)]
        done = torch.zeros_like(given)
        for edit in edits:
            value = _picked(self.base.read(edit.site, edit.tokens), edit.index)
            place = (edit.jobs - first).to(self.device)
            again = done[edit.jobs - first]
            if bool(again.any()):  # another circuit edited these states before
                value = value.clone()
                value[again] = own[place[again]].transpose(1, 2)
            own[place] = self._replaced(edit, value, slice(None)).transpose(1, 2)
            done[edit.jobs - first] = True
        return own, given.to(self.device)

    def _base_states(self, layer: int) -> torch.Tensor:
        """Return the states of the unedited run; the one before any token where there is none."""
        if self.base is None:
            return self._resid.new_zeros(1, self.model.cfg.N, self.model.cfg.E)
        return self.base.h[layer]

    @property
    def _slots(self) -> torch.Tensor:
        if not hasattr(self, "_slot_of_job"):
            self._slot_of_job = torch.zeros(len(self.jobs), dtype=torch.int64)
            if self.base is not None:
                self._slot_of_job = self.base.slot_before(self.jobs.prompt, self.jobs.column)
        return self._slot_of_job

    # --- edits and reads -------------------------------------------------------------------------

    def _looked_at(self, layer: int) -> set[str]:
        hooks = {hook for at, hook in self._edits if at == layer}
        if self.reader is not None:
            hooks |= {hook for at, hook in self.reader.sites if at == layer}
        return hooks - STATE_HOOKS

    def _block(self, layer: int) -> PackedBlock:
        block = self.model.blocks[layer]
        assert isinstance(block, MambaBlock)
        return PackedBlock(block, self._looked_at(layer), self.workspace)

    def _visit(self, layer: int, hook: str, value: torch.Tensor) -> None:
        if self.reader is not None:
            for site, rows in self.reader.sites.get((layer, hook), ()):
                self.reader.values[site] = value[rows.to(self.device)]
        for edit in self._edits.get((layer, hook), ()):
            rows = edit.rows.to(self.device)
            value[rows] = self._replaced(edit, value[rows], slice(None))

    def _edited_states(self, wave: Wave, value: torch.Tensor) -> torch.Tensor:
        """Return the states (or windows) of a wave after its edits."""
        for edit, part, into in wave.parts:
            if len(wave.parts) == 1:  # then it is all of them, in order
                return self._replaced(edit, value, part)
            at = into.to(self.device)
            value[at] = self._replaced(edit, value[at], part)
        return value

    def _replaced(
        self, edit: RowEdit, value: torch.Tensor, part: slice | torch.Tensor
    ) -> torch.Tensor:
        """Return new rows for (a part of) an edit, and note which prompts changed."""
        if not self.apply:
            return value
        index = edit.index[part]
        source = self.sources.get(id(edit.edit.intervention))
        reference = None
        if source is not None:
            reference = _picked(source.read(edit.site, edit.tokens), index)
        places = self._places_of(edit.tokens)
        at = Places(_picked(places.prompt, index), _picked(places.from_end, index))
        new = edit.edit.edited(value, reference, at)
        if self.touched is not None:
            changed = (new != value).flatten(1).any(1)
            jobs = edit.jobs[part][changed.cpu()]
            self.touched[self.jobs.variant[jobs], self.jobs.prompt[jobs]] = True
        return new

    def _places_of(self, tokens: Tokens) -> Places:
        if id(tokens) not in self._places:  # held by the edits, so their ids stay their own
            from_end = self.jobs.n_pos - tokens.column
            self._places[id(tokens)] = Places(self.order[tokens.prompt], from_end)
        return self._places[id(tokens)]


def _segments_of(
    base: BaseRun, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which rows of a run are among some, where runs of them begin, and each one's place."""
    among = np.zeros(int(base.starts[-1]) + 1, dtype=bool)
    among[rows.numpy()] = True
    unique = np.flatnonzero(among)
    before = unique - 1
    follows = among[before] & (unique != base.starts.numpy()[base.prompt_of_row.numpy()[unique]])
    begins = np.flatnonzero(~follows)
    place = np.cumsum(among) - 1
    return torch.from_numpy(unique), torch.from_numpy(begins), torch.from_numpy(place[rows.numpy()])


def _picked(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return some of the rows; all of them without a copy."""
    if len(index) == len(values):  # ascending and without repeats, so these are all, in order
        return values
    return values[index.to(values.device)]


def _after_nothing(kept: torch.Tensor) -> torch.Tensor:
    """Return kept states behind slot 0: the one before any token."""
    return torch.cat([kept.new_zeros(1, *kept.shape[1:]), kept])


def _empty_steps(workspace: Workspace, name: str, rows: int, block: PackedBlock) -> Steps:
    cfg = block.cfg
    take = workspace.take
    return Steps(
        take(f"{name}.x", rows, cfg.E),
        take(f"{name}.delta", rows, cfg.E),
        take(f"{name}.B", rows, cfg.N),
        take(f"{name}.C", rows, cfg.N),
        raw=True,
    )


def _ignore(hook: str, value: torch.Tensor) -> None:
    """Visit nothing."""
    del hook, value
