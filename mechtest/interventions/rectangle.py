"""How are many interventions carried out on the same prompts for the price of few?

An edit at layer l and position p leaves layers before l and positions before p as they were. What
stood there is kept from one unedited run; everything behind it is packed, for all interventions and
prompts at once, into one matrix a layer. Only the logits that are read are computed.

A memory budget decides how many go together. It is no part of any result beyond rounding: see
`mechtest.models.packed_block.FEWEST_ROWS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.errors import SiteNotServedError
from mechtest.interventions.base_run import BaseNeeds, BaseRun
from mechtest.interventions.cost import Cost, cost_of, row_bytes, state_bytes
from mechtest.interventions.jobs import (
    Jobs,
    RowEdit,
    Variant,
    first_columns,
    lay_out,
    places_of,
    row_edits,
)
from mechtest.interventions.packed_pass import PackedPass, Reader
from mechtest.interventions.plan import PlannedEdit
from mechtest.interventions.spec import Places, Run
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
STATE_HOOKS = frozenset({"hook_h", "hook_conv_state"})


@dataclass(eq=False)
class Rectangle:
    """Carries out interventions on packed rows.

    Args:
        model: The model, in float32 or float64.
        pairs: Encoded prompts.
        memory: Bytes a batch may take.

    Attributes:
        tally: What was done so far.
    """

    model: HookedMamba
    pairs: EncodedPairs
    memory: int = MEMORY
    tally: Tally = field(init=False)
    _bases: dict[tuple[Run, int, int], BaseRun] = field(default_factory=dict, init=False)
    _places: dict[int, tuple[PlannedEdit, Places]] = field(default_factory=dict, init=False)
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
        return SiteNotServedError(
            "packed rows cannot carry this out",
            given=f"{', '.join(sorted(hooks)) or 'a model with hooks of its own'} in "
            f"{self.model.embedding.weight.dtype}",
            expected=f"float32 or float64, no hooks on the model, and edits of "
            f"{', '.join(sorted(PACKED_HOOKS))}",
            next_step="leave engine at 'auto': hooks then do it",
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
            for group in self._variant_batches(here):
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
        reads: dict[Run, dict[Site, torch.Tensor]] = {"clean": {}, "corrupted": {}}
        for variant in variants:
            source = variant.intervention.source(base)
            for _, edit in variant.edits:
                assert edit.where is not None
                here = edit.where.cpu()
                where |= here
                if source is not None and edit.site.hook not in STATE_HOOKS:
                    known = reads[source].get(edit.site)
                    reads[source][edit.site] = here if known is None else known | here
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
            for group in self._variant_batches(here):
                jobs = lay_out([here[i] for i in group], stop - start, self._n_pos)
                total += cost_of(jobs, self.model.cfg, read)
        return total

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
        ran = self._base(base, start, stop, _needs(jobs, edits, first, from_here=True))
        references: dict[int, torch.Tensor] = {}
        source = {id(v.intervention): v.intervention.source(base) for v in variants}
        wanted = [e for e in edits if source[id(e.edit.intervention)] is not None]
        if wanted:
            (origin,) = {source[id(edit.edit.intervention)] for edit in wanted}
            assert origin is not None
            other = self._base(origin, start, stop, _needs(jobs, wanted, first, from_here=False))
            references = {id(edit.planned): other.read(edit.planned) for edit in wanted}
        run = PackedPass(
            self.model,
            jobs,
            self._tokens(base)[start:stop],
            self._workspace,
            base=ran,
            edits=edits,
            references=references,
            places={id(edit.planned): self._places_of(edit.planned, start, stop) for edit in edits},
            apply=not unedited,
            touched=touched,
        )
        resid = run.run()
        self._count(run.row_layers)
        return resid, jobs

    def _base(self, run: Run, start: int, stop: int, needs: BaseNeeds) -> BaseRun:
        """Return an unedited run that kept everything needed; what it kept before, it keeps."""
        key = (run, start, stop)
        known = self._bases.get(key)
        if known is not None and known.needs.covers(needs):
            return known
        needs = needs if known is None else needs.joined(known.needs)
        if run in self._ahead:
            needs = needs.joined(self._ahead[run].of_prompts(start, stop))
        self._bases.pop(key, None)
        found = self._run_base(run, start, stop, needs)
        # Oldest first: runs over other prompts make room.
        while self._bases and sum(map(_size, self._bases.values())) + _size(found) > self.memory:
            self._bases.pop(next(iter(self._bases)))
        self._bases[key] = found
        return found

    def _run_base(self, run: Run, start: int, stop: int, needs: BaseNeeds) -> BaseRun:
        first = first_columns(self.pairs)[start:stop]
        jobs = _every_token(first, self._n_pos)
        base_rows = jobs.starts[:-1] - first
        prompt, column = needs.states.nonzero(as_tuple=True)
        slots = torch.full((stop - start, self._n_pos + 1), -1)
        slots[prompt, column + 1] = torch.arange(len(prompt)) + 1
        sites: dict[tuple[int, str], list[tuple[Site, torch.Tensor]]] = {}
        for site, where in needs.reads.items():
            at_prompt, at_column = where.nonzero(as_tuple=True)
            place = (0 if site.layer is None else site.layer, site.hook)
            sites.setdefault(place, []).append((site, base_rows[at_prompt] + at_column))
        reader = Reader(needs, base_rows[prompt] + column, sites)
        work = PackedPass(
            self.model,
            jobs,
            self._tokens(run)[start:stop],
            self._workspace,
            reader=reader,
        )
        last = work.run()
        self._count(work.row_layers)
        return BaseRun(
            needs, jobs.starts, first, reader.resid, reader.h, reader.windows, slots,
            reader.values, last,
        )  # fmt: skip

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

    def _places_of(self, planned: PlannedEdit, start: int, stop: int) -> Places:
        key = id(planned)
        if key not in self._places:
            order = torch.as_tensor(self.pairs.order[start:stop])
            self._places[key] = (planned, places_of(planned, order, self._n_pos))
        return self._places[key][1]

    def _prompt_batches(self, variants: Sequence[Variant]) -> Iterator[tuple[int, int]]:
        """Yield ranges of prompts whose kept states fit a quarter of the memory."""
        positions = torch.zeros(self._n_pos, dtype=torch.bool)
        for needs in self._ahead.values():
            positions |= needs.states.any(0)
        for variant in variants:
            for _, edit in variant.edits:
                positions[edit.positions()] = True
        cfg = self.model.cfg
        state = FLOAT * cfg.E * (cfg.N + cfg.d_conv) * cfg.n_layer
        rows = FLOAT * self._n_pos * (cfg.d_model * cfg.n_layer + 8 * cfg.E)
        each = 2 * (2 * int(positions.sum()) * state + rows)
        size = max(1, self.memory // 4 // each)
        for start in range(0, len(self.pairs), size):
            yield start, min(start + size, len(self.pairs))

    def _variant_batches(self, variants: Sequence[Variant]) -> Iterator[list[int]]:
        """Yield groups of variants whose rows fit in the rest of the memory."""
        cfg = self.model.cfg
        row, state = row_bytes(cfg), state_bytes(cfg)
        budget = self.memory * 3 // 4
        group: list[int] = []
        used = 0
        for number, variant in enumerate(variants):
            columns = [edit.first_columns for _, edit in variant.edits]
            first = torch.stack(columns or [torch.full((1,), self._n_pos - 1)]).amin(0)
            size = int((self._n_pos - first).sum()) * row + len(first) * state
            if group and used + size > budget:
                yield group
                group, used = [], 0
            group.append(number)
            used += size
        if group:
            yield group


def _of_prompts(variant: Variant, start: int, stop: int) -> Variant:
    edits = tuple((circuit, edit.of_prompts(start, stop)) for circuit, edit in variant.edits)
    return Variant(edits, variant.intervention)


def _size(run: BaseRun) -> int:
    kept = [*run.resid.values(), *run.h, *run.windows, *run.values.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


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
        prompt, column = edit.planned.places
        if from_here and not edit.given:
            continue
        if edit.planned.site.hook in STATE_HOOKS:
            states[prompt, column] = True
        else:
            site = edit.planned.site
            where = reads.setdefault(site, torch.zeros_like(states))
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
