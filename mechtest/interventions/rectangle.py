"""How are many interventions carried out on the same prompts for the price of few?

An edit at layer l and position p leaves layers before l and positions before p as they were. What
stood there is kept from one unedited run; everything behind it is packed, for all interventions and
prompts at once, into one matrix a layer. Only the logits that are read are computed.

A memory budget decides how many go together. It is no part of any result beyond rounding: see
`mechtest.models.packed_block.FEWEST_ROWS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.errors import SiteNotServedError
from mechtest.interventions.base_run import (
    STATE_HOOKS,
    BaseNeeds,
    BaseRun,
    stacked_needs,
)
from mechtest.interventions.cost import Cost, cost_of, flops_of, row_bytes, state_bytes
from mechtest.interventions.jobs import (
    Jobs,
    RowEdit,
    Variant,
    entry_columns,
    first_columns,
    lay_out,
    row_edits,
)
from mechtest.interventions.packed_pass import PackedPass, Reader
from mechtest.interventions.plan import PlannedEdit, Spots
from mechtest.interventions.spec import Run
from mechtest.interventions.unedited_runs import Bases, UneditedRuns, bytes_of
from mechtest.kernels import backend_name
from mechtest.kernels.segments import rms_norm_rows
from mechtest.models import PACKED_HOOKS, HookedMamba, Workspace
from mechtest.models.packed_block import linear
from mechtest.running_claim import DEFAULT_MEMORY, Tally
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs

__all__ = ["MEMORY", "Rectangle"]

MEMORY = DEFAULT_MEMORY
"""Bytes that one batch may take, by default."""

FLOAT = 4


@dataclass(eq=False)
class Rectangle:
    """Carries out interventions on packed rows.

    Args:
        model: The model, in float32 or float64.
        pairs: Encoded prompts.
        memory: Bytes a batch may take.
        unedited: Where unedited runs are shared with others; None keeps them here.

    Attributes:
        tally: What was done so far.
    """

    model: HookedMamba
    pairs: EncodedPairs
    memory: int = MEMORY
    unedited: UneditedRuns | None = None
    tally: Tally = field(init=False)
    _bases: Bases = field(default_factory=dict, init=False)
    _ahead: dict[Run, BaseNeeds] = field(default_factory=dict, init=False)
    _workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally("packed", self.model.cfg.n_layer)
        self._workspace = Workspace(self.model.embedding.weight.dtype, self.model.device)

    def serves(self, variants: Sequence[Variant]) -> bool:
        """Whether packed rows can carry these out, in this model."""
        dtype = self.model.embedding.weight.dtype
        return (
            dtype in (torch.float32, torch.float64)
            and not self.model.has_any_hooks
            and all(variant.packable for variant in variants)
        )

    def refusal(self, variants: Sequence[Variant]) -> SiteNotServedError:
        """Return the error for what packed rows cannot carry out."""
        hooks = {edit.site.hook for v in variants for _, edit in v.edits} - PACKED_HOOKS
        whole = {v.intervention.name for v in variants if not v.intervention.on_rows}
        what = ", ".join(sorted(whole | hooks)) or "a model with hooks of its own"
        return SiteNotServedError(
            "packed rows cannot carry this out",
            given=f"{what} in {self.model.embedding.weight.dtype}",
            expected=f"float32 or float64, no hooks on the model, and edits row by row of "
            f"{', '.join(sorted(PACKED_HOOKS))}",
            next_step="leave engine at 'auto': hooks then do it",
        )

    @torch.no_grad()
    def plain(self, run: Run) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of an unedited run at the last position."""
        nothing = torch.zeros(self.pairs.attention_mask.shape, dtype=torch.bool)
        needs = BaseNeeds(frozenset(), nothing, {})
        return torch.cat(
            [
                self._unembed(self._base_runs({run: here}, start, stop)[run].last, None)
                for start, stop in self._prompt_batches(())
                for here in (needs.of_prompts(start, stop),)
            ]
        )

    @torch.no_grad()
    def logits(
        self,
        variants: Sequence[Variant],
        base: Run,
        *,
        columns: Int64[torch.Tensor, " token"] | None = None,
        touched: Bool[torch.Tensor, "variant prompt"] | None = None,
        unedited: bool = False,
    ) -> Float[torch.Tensor, "variant prompt token"]:
        """Return the logits at the last position after each intervention.

        Args:
            variants: What is done; each one alone.
            base: The run intervened in.
            columns: Tokens whose logits are wanted; None for the whole vocabulary.
            touched: Set where an activation was changed, unless None.
            unedited: Compute the same batches, and change nothing: what to compare with.
        """
        self.tally.interventions += 0 if unedited else len(variants)
        width = self.model.cfg.d_vocab if columns is None else len(columns)
        out = self.model.embedding.weight.new_empty(len(variants), len(self.pairs), width)
        for start, stop in self._prompt_batches(variants):
            here = [_of_prompts(variant, start, stop) for variant in variants]
            for group in self._variant_batches(here, stop - start):
                flags = torch.zeros(len(group), stop - start, dtype=torch.bool)
                resid, jobs = self._pass(
                    [here[i] for i in group],
                    base,
                    start,
                    stop,
                    None if touched is None else flags,
                    unedited=unedited,
                )
                if touched is not None:
                    touched[group, start:stop] |= flags.to(touched.device)
                logits = self._unembed(resid, columns)
                place = torch.as_tensor(group)[jobs.variant].to(out.device)
                out[place, (jobs.prompt + start).to(out.device)] = logits
        return out

    def prepare(self, variants: Sequence[Variant], base: Run) -> None:
        """Say what is to come in several calls, so that unedited runs are made once for all.

        Args:
            variants: All of it, packable.
            base: The run intervened in.
        """
        where = torch.zeros(self.pairs.attention_mask.shape, dtype=torch.bool)
        for spots in _all_spots(variants):
            where |= spots.mask.cpu()
        reads: dict[Run, dict[Site, torch.Tensor]] = {"clean": {}, "corrupted": {}}
        for source, site, spots in _all_reads(variants, base):
            here = spots.mask.cpu()
            known = reads[source].get(site)
            reads[source][site] = here if known is None else known | here
        before = torch.zeros_like(where)
        before[:, :-1] = where[:, 1:]
        states = (where | before) & self.pairs.attention_mask.cpu()
        resid = frozenset(variant.layer for variant in variants)
        self._ahead = {
            run: BaseNeeds(resid if run == base else frozenset(), states, reads[run])
            for run in ("clean", "corrupted")
        }

    def cost(self, variants: Sequence[Variant], read: int) -> Cost:
        """Return what `logits` will cost, the unedited runs left out; nothing runs.

        Args:
            variants: What would be done.
            read: Logits read of each prompt.
        """
        total = Cost()
        for start, stop in self._prompt_batches(variants):
            here = [_of_prompts(variant, start, stop) for variant in variants]
            for group in self._variant_batches(here, stop - start):
                jobs = lay_out([here[i] for i in group], stop - start, self._n_pos)
                total += cost_of(jobs, self.model.cfg, read)
        return total

    def work(self, variants: Sequence[Variant], read: int) -> list[float]:
        """Return the floating-point operations of each variant on its own; nothing runs.

        Args:
            variants: What would be done.
            read: Logits read of each prompt.
        """
        count = len(self.pairs)
        rows = (self._n_pos - entry_columns(variants, count, self._n_pos)).sum(1).tolist()
        cfg = self.model.cfg
        return [
            flops_of(cfg, variant.layer, variant.stage, number, count, read)
            for variant, number in zip(variants, rows, strict=True)
        ]

    def _pass(
        self,
        variants: Sequence[Variant],
        base: Run,
        start: int,
        stop: int,
        touched: torch.Tensor | None,
        *,
        unedited: bool,
    ) -> tuple[torch.Tensor, Jobs]:
        jobs = lay_out(variants, stop - start, self._n_pos)
        edits = row_edits(variants, jobs)
        first = first_columns(self.pairs)[start:stop]
        needs = {base: _needs(jobs, edits, first, from_here=True)}
        origins = {id(v.intervention): v.intervention.source(base) for v in variants}
        for origin in {origin for origin in origins.values() if origin is not None}:
            wanted = [edit for edit in edits if origins[id(edit.edit.intervention)] == origin]
            needs[origin] = _needs(jobs, wanted, first, from_here=False)
        ran = self._base_runs(needs, start, stop)
        sources = {key: ran[origin] for key, origin in origins.items() if origin is not None}
        run = PackedPass(
            self.model,
            jobs,
            self._tokens(base)[start:stop],
            self._workspace,
            base=ran[base],
            edits=edits,
            sources=sources,
            order=torch.as_tensor(self.pairs.order[start:stop]),
            apply=not unedited,
            touched=touched,
        )
        resid = run.run()
        self._count(run.row_layers)
        return resid, jobs

    def _base_runs(
        self, wanted: Mapping[Run, BaseNeeds], start: int, stop: int
    ) -> dict[Run, BaseRun]:
        """Return unedited runs that kept everything needed; what they kept before, they keep."""
        bases = self._bases if self.unedited is None else self.unedited.bases()
        found: dict[Run, BaseRun] = {}
        missing: dict[Run, BaseNeeds] = {}
        for run, needs in wanted.items():
            known = bases.get((run, start, stop))
            if known is not None and known.needs.covers(needs):
                found[run] = known
                continue
            missing[run] = needs if known is None else needs.joined(known.needs)
        if missing:
            for run, ahead in self._ahead.items():
                here = ahead.of_prompts(start, stop)
                if run in missing or (run, start, stop) not in bases:
                    missing[run] = here.joined(missing[run]) if run in missing else here
            made = self._run_bases(missing, start, stop)
            for run in made:
                bases.pop((run, start, stop), None)
            # Oldest first: runs over other prompts make room.
            while bases and bytes_of([*bases.values(), *made.values()]) > self.memory:
                bases.pop(next(iter(bases)))
            bases |= {(run, start, stop): base for run, base in made.items()}
            if self.unedited is not None:
                self.unedited.make_room(self.memory)
            found |= {run: base for run, base in made.items() if run in wanted}
        return found

    def _run_bases(
        self, wanted: Mapping[Run, BaseNeeds], start: int, stop: int
    ) -> dict[Run, BaseRun]:
        """Make unedited runs in one pass, their prompts below one another."""
        first = first_columns(self.pairs)[start:stop]
        jobs = _every_token(first.repeat(len(wanted)), self._n_pos)
        needs = stacked_needs(list(wanted.values()))
        base_rows = jobs.starts[:-1] - jobs.column
        prompt, column = needs.states.nonzero(as_tuple=True)
        sites: dict[tuple[int, str], list[tuple[Site, torch.Tensor]]] = {}
        for site, where in needs.reads.items():
            at_prompt, at_column = where.nonzero(as_tuple=True)
            place = (0 if site.layer is None else site.layer, site.hook)
            sites.setdefault(place, []).append((site, base_rows[at_prompt] + at_column))
        reader = Reader(needs, base_rows[prompt] + column, sites)
        tokens = torch.cat([self._tokens(run)[start:stop] for run in wanted])
        work = PackedPass(self.model, jobs, tokens, self._workspace, reader=reader)
        last = work.run()
        self._count(work.row_layers)
        slots = torch.full((len(jobs), self._n_pos + 1), -1)
        slots[prompt, column + 1] = torch.arange(len(prompt)) + 1
        whole = BaseRun(
            needs, jobs.starts, jobs.column, reader.resid, reader.h, reader.windows, slots,
            reader.values, last,
        )  # fmt: skip
        count = stop - start
        return {
            run: whole.part(number * count, (number + 1) * count, own)
            for number, (run, own) in enumerate(wanted.items())
        }

    def _count(self, row_layers: int) -> None:
        weight = self.model.embedding.weight
        self.tally.kernels = backend_name(weight.device.type, weight.dtype)
        self.tally.passes += 1
        self.tally.row_layers += row_layers

    def _unembed(self, resid: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        norm, weight = self.model.norm, self.model.lm_head.weight
        weight = weight if columns is None else weight[columns]
        logits = resid.new_empty(len(resid), len(weight))
        linear(rms_norm_rows(resid, norm.weight, norm.eps), weight, None, logits)
        return logits

    # --- batches ---------------------------------------------------------------------------------

    @property
    def _n_pos(self) -> int:
        return self.pairs.clean_tokens.shape[1]

    def _tokens(self, run: Run) -> torch.Tensor:
        return self.pairs.clean_tokens if run == "clean" else self.pairs.corrupted_tokens

    def _prompt_batches(self, variants: Sequence[Variant]) -> Iterator[tuple[int, int]]:
        """Yield ranges of prompts whose kept states fit a quarter of the memory."""
        positions = torch.zeros(self._n_pos, dtype=torch.bool)
        for needs in self._ahead.values():
            positions |= needs.states.any(0)
        for spots in _all_spots(variants):
            positions |= spots.columns
        cfg = self.model.cfg
        state = FLOAT * cfg.E * (cfg.N + cfg.d_conv) * cfg.n_layer
        rows = FLOAT * self._n_pos * (cfg.d_model * cfg.n_layer + 8 * cfg.E)
        each = 2 * (2 * int(positions.sum()) * state + rows)
        size = max(1, self.memory // 4 // each)
        for start in range(0, len(self.pairs), size):
            yield start, min(start + size, len(self.pairs))

    def _variant_batches(self, variants: Sequence[Variant], n_prompts: int) -> Iterator[list[int]]:
        """Yield groups of variants whose rows fit in the rest of the memory."""
        cfg = self.model.cfg
        row, state = row_bytes(cfg), state_bytes(cfg)
        budget = self.memory * 3 // 4
        group: list[int] = []
        used = 0
        rows = (self._n_pos - entry_columns(variants, n_prompts, self._n_pos)).sum(1)
        for number, size in enumerate((rows * row + n_prompts * state).tolist()):
            if group and used + size > budget:
                yield group
                group, used = [], 0
            group.append(number)
            used += size
        if group:
            yield group


def _of_prompts(variant: Variant, start: int, stop: int) -> Variant:
    """Return the part of a variant for some of the prompts; itself where that is all of them."""
    edits = tuple(
        (circuit, PlannedEdit(edit.site, edit.known_spots.of_prompts(start, stop)))
        for circuit, edit in variant.edits
    )
    same = all(
        new.spots is old.spots for (_, new), (_, old) in zip(edits, variant.edits, strict=True)
    )
    return variant if same else Variant(edits, variant.intervention)


def _all_spots(variants: Sequence[Variant]) -> Iterator[Spots]:
    """Yield where any variant edits, the same spots once."""
    found = {id(edit.spots): edit.known_spots for v in variants for _, edit in v.edits}
    yield from found.values()


def _all_reads(variants: Sequence[Variant], base: Run) -> Iterator[tuple[Run, Site, Spots]]:
    """Yield what is read of source runs beside states: from which run, what, and where."""
    found = {}
    for variant in variants:
        source = variant.intervention.source(base)
        for _, edit in variant.edits:
            if source is not None and edit.site.hook not in STATE_HOOKS:
                found[source, edit.site, id(edit.spots)] = source, edit.site, edit.known_spots
    yield from found.values()


def _needs(
    jobs: Jobs, edits: Sequence[RowEdit], first: torch.Tensor, *, from_here: bool
) -> BaseNeeds:
    """Return what an unedited run has to keep.

    Args:
        jobs: What goes on from it.
        edits: What they change.
        first: Column of each prompt's first token.
        from_here: It is the run intervened in; otherwise the one activations come from.
    """
    n_prompts = int(jobs.prompt.max()) + 1
    states = torch.zeros(n_prompts, jobs.n_pos, dtype=torch.bool)
    reads: dict[Site, torch.Tensor] = {}
    resid: frozenset[int] = frozenset()
    if from_here:
        later = jobs.column > first[jobs.prompt]
        states[jobs.prompt[later], jobs.column[later] - 1] = True
        resid = frozenset(jobs.layer.unique().tolist()) - {0}
    for edit in edits:
        prompt, column = edit.tokens.prompt, edit.tokens.column
        if from_here and not edit.given:
            continue
        if edit.site.hook in STATE_HOOKS:
            states[prompt, column] = True
        else:
            where = reads.setdefault(edit.site, torch.zeros_like(states))
            where[prompt, column] = True
    behind = bool((jobs.stage > 0).any()) and from_here
    if behind:
        resid |= frozenset(jobs.layer[jobs.stage > 0].unique().tolist())
    return BaseNeeds(resid, states, reads)


def _every_token(first: torch.Tensor, n_pos: int) -> Jobs:
    """Return the jobs of an unedited run: all of every prompt."""
    count = len(first)
    zeros = torch.zeros(count, dtype=torch.int64)
    lengths = n_pos - first
    return Jobs(
        variant=zeros,
        prompt=torch.arange(count),
        column=first,
        layer=zeros,
        stage=zeros,
        given=torch.zeros(count, dtype=torch.bool),
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        n_pos=n_pos,
    )
