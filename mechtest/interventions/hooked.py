"""How is an intervention carried out through the hooks of the model itself?

The plain way: one forward pass a batch, every hook served. It runs on from the recurrent state
before the first edited position. What packed rows cannot do is done here, and what they do is
compared with this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float

from mechtest.interventions.edits import Edit
from mechtest.interventions.jobs import Variant
from mechtest.interventions.native.carrying_out import operator_hooks
from mechtest.interventions.native.operator import NativeOperator
from mechtest.interventions.plan import PlannedEdit, Spots, mask_of
from mechtest.interventions.spec import Places, Run
from mechtest.kernels import backend_name
from mechtest.models import HookedMamba, HookPoint, ModelState
from mechtest.running_claim import Tally
from mechtest.sites import Position
from mechtest.tasks import EncodedPairs

__all__ = ["Hooked", "edit_hooks", "planned_part"]


@dataclass(frozen=True, eq=False)
class _Resumed:
    """What is left of a run after the prefix that no edit touches."""

    tokens: torch.Tensor
    mask: torch.Tensor | None
    state: ModelState | None


@dataclass(eq=False)
class Hooked:
    """Carries out interventions by hooks.

    Args:
        model: The model.
        pairs: Encoded prompts.
        batch_size: Prompts a forward pass; part of what fixes the last bits of a result.

    Attributes:
        tally: What was done so far.
    """

    model: HookedMamba
    pairs: EncodedPairs
    batch_size: int
    tally: Tally = field(init=False)
    _caches: dict[tuple[Run, int, int, str], Mapping[str, torch.Tensor]] = field(
        default_factory=dict, init=False
    )
    _prefixes: dict[tuple[Run, int, int], _Resumed] = field(default_factory=dict, init=False)
    _batches: list[EncodedPairs] = field(init=False)

    def __post_init__(self) -> None:
        self._batches = list(self.pairs.batches(self.batch_size))
        self.tally = Tally("hooked", self.model.cfg.n_layer)

    def plain(self, run: Run, column: int = 0) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of an unedited run at the last position.

        Args:
            run: Which one.
            column: Run on from the state before this column; values agree to rounding.
        """
        rows = [self._forward(run, index, column) for index in range(len(self._batches))]
        return torch.cat(rows)

    def edited(
        self, variant: Variant, base: Run, touched: Bool[torch.Tensor, " prompt"] | None
    ) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits at the last position after an intervention.

        Args:
            variant: What is done.
            base: The run intervened in.
            touched: Set where an activation of a prompt was changed, unless None.
        """
        self.tally.interventions += 1
        if isinstance(variant.intervention, NativeOperator):
            return self._operated(variant, variant.intervention, base, touched)
        column = self.first_column(variant)
        source = variant.intervention.source(base)
        logits = []
        for index, batch in enumerate(self._batches):
            start = index * self.batch_size
            here = None if touched is None else touched[start : start + len(batch)]
            plan = [
                (circuit, planned_part(edit, start, len(batch), column))
                for circuit, edit in variant.edits
            ]
            reference: Mapping[str, torch.Tensor] = {}
            if source is not None and plan:
                reference = self._cached([edit for _, edit in plan], source, index, column)
            hooks = []
            for circuit, planned in plan:
                edit = Edit(planned.site, circuit, variant.intervention)
                hooks += edit_hooks(edit, planned, reference, torch.as_tensor(batch.order), here)
            logits.append(self._forward(base, index, column, hooks))
        return torch.cat(logits)

    def unedited(self, variant: Variant, base: Run) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of the run intervened in, computed in the very same batches."""
        if isinstance(variant.intervention, NativeOperator):
            return self._operated(variant, variant.intervention, base, None, apply=False)
        return self.plain(base, self.first_column(variant))

    def _operated(
        self,
        variant: Variant,
        operator: NativeOperator,
        base: Run,
        touched: torch.Tensor | None,
        *,
        apply: bool = True,
    ) -> torch.Tensor:
        """Return the logits after an operator on whole layers, the twins in the same pass."""
        sender, twin = None, operator.source(base)
        if operator.sender_position is not None:
            sender = mask_of(Position.parse(operator.sender_position), self.pairs)
        logits = []
        for index, batch in enumerate(self._batches):
            start = index * self.batch_size
            part = slice(start, start + len(batch))
            rest = [self._rest(run, index, 0) for run in (base, twin) if run is not None]
            hooks = operator_hooks(
                operator,
                self.model,
                [(one, planned_part(edit, start, len(batch), 0)) for one, edit in variant.edits],
                batch.attention_mask,
                None if sender is None else sender[part],
                None if touched is None else touched[part],
                apply=apply,
            )
            tokens = torch.cat([one.tokens for one in rest])
            mask = None if rest[0].mask is None else torch.cat([batch.attention_mask] * len(rest))
            self.count(tokens)
            with self.model.hooks(fwd_hooks=hooks):
                found, _ = self.model.run_with_state(tokens, None, attention_mask=mask)
            logits.append(found[: len(batch), -1])
        return torch.cat(logits)

    def first_column(self, variant: Variant) -> int:
        """Return the column to run on from: the first edited one, or 0 for the whole prompt."""
        plan = [edit for _, edit in variant.edits]
        if not plan or any(edit.where is None for edit in plan):
            return 0
        column = min(min(edit.positions(), default=0) for edit in plan)
        padding = self.pairs.clean_tokens.shape[1] - int(self.pairs.lengths.min())
        return column if column > padding else 0  # every prompt needs a token before it

    def _forward(
        self, run: Run, index: int, column: int, hooks: Sequence[tuple[str, Callable]] = ()
    ) -> torch.Tensor:
        """Return the logits at the last position of one batch."""
        rest = self._rest(run, index, column)
        self.count(rest.tokens)
        with self.model.hooks(fwd_hooks=list(hooks)):
            logits, _ = self.model.run_with_state(rest.tokens, rest.state, attention_mask=rest.mask)
        return logits[:, -1]

    def _rest(self, run: Run, index: int, column: int) -> _Resumed:
        key = (run, index, column)
        if key not in self._prefixes:
            batch = self._batches[index]
            tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
            mask, state = batch.attention_mask, None
            if column:
                self.count(tokens[:, :column])
                _, state = self.model.run_with_state(
                    tokens[:, :column], attention_mask=_needed(mask[:, :column])
                )
            self._prefixes[key] = _Resumed(tokens[:, column:], _needed(mask[:, column:]), state)
        return self._prefixes[key]

    def _cached(
        self, part: list[PlannedEdit], run: Run, index: int, column: int
    ) -> Mapping[str, torch.Tensor]:
        """Return the source run's activations at the edited hooks, by concrete name."""
        names = list(dict.fromkeys(name for edit in part for name in _concrete(edit)))
        key = (run, index, column, "|".join(names))
        if key not in self._caches:
            rest = self._rest(run, index, column)
            self.count(rest.tokens)
            values: dict[str, torch.Tensor] = {}

            def keep(value: torch.Tensor, hook: HookPoint) -> None:
                values[hook.name] = value

            with self.model.hooks(fwd_hooks=[(name, keep) for name in names]):
                self.model.run_with_state(rest.tokens, rest.state, attention_mask=rest.mask)
            self._caches[key] = values
        return self._caches[key]

    def count(self, tokens: torch.Tensor) -> None:
        """Count a pass of these tokens through the whole model."""
        weight = self.model.embedding.weight
        self.tally.kernels = backend_name(weight.device.type, weight.dtype)
        self.tally.passes += 1
        self.tally.row_layers += tokens.numel() * self.model.cfg.n_layer


def _needed(mask: torch.Tensor) -> torch.Tensor | None:
    """Return a mask, None where it leaves out nothing."""
    return None if bool(mask.all()) else mask


def planned_part(edit: PlannedEdit, start: int, count: int, column: int) -> PlannedEdit:
    """Return the part of a planned edit that lies in some prompts, from a column on."""
    if edit.spots is None:
        return edit
    return PlannedEdit(edit.site, Spots(edit.spots.mask[start : start + count, column:]))


def _concrete(edit: PlannedEdit) -> list[str]:
    if edit.site.spec.per_position:
        return [f"{edit.name}.{position}" for position in edit.positions()]
    return [edit.name]


def edit_hooks(
    edit: Edit,
    planned: PlannedEdit,
    reference: Mapping[str, torch.Tensor],
    order: torch.Tensor,
    touched: torch.Tensor | None,
) -> list[tuple[str, Callable]]:
    """Return (hook name, function) pairs that carry out one edit and note what they changed."""

    def hook_for(name: str, where: torch.Tensor, places: Places) -> Callable:
        def edited(value: torch.Tensor, hook: object) -> torch.Tensor:
            del hook
            other = reference.get(name)
            old = value[where]
            new = edit.edited(old, None if other is None else other[where], places)
            if touched is not None:
                changed = (new != old).flatten(1).any(1)
                touched[where.nonzero()[:, 0][changed]] = True
            value[where] = new
            return value

        return edited

    def hook_of_all(value: torch.Tensor, hook: object) -> torch.Tensor:
        del hook  # one tensor for all prompts, such as hook_A: one row
        other = reference.get(planned.name)
        zero = torch.zeros(1, dtype=torch.int64)
        new = edit.edited(
            value[None], None if other is None else other[None], Places(zero - 1, zero)
        )[0]
        if touched is not None and bool((new != value).any()):
            touched[:] = True
        return new

    if planned.where is None and planned.site.spec.axes[0] != "batch":
        return [(planned.name, hook_of_all)]
    if planned.where is None:
        every = torch.ones(len(order), dtype=torch.bool)
        places = Places(order, torch.zeros(len(order), dtype=torch.int64))
        return [(planned.name, hook_for(planned.name, every, places))]
    n_pos = planned.where.shape[1]
    if not planned.site.spec.per_position:
        row, column = planned.where.cpu().nonzero(as_tuple=True)
        places = Places(order[row], n_pos - column)
        return [(planned.name, hook_for(planned.name, planned.where, places))]
    found = []
    for position in planned.positions():
        where = planned.where[:, position]
        row = where.cpu().nonzero().flatten()
        places = Places(order[row], torch.full((len(row),), n_pos - position))
        name = f"{planned.name}.{position}"
        found.append((name, hook_for(name, where, places)))
    return found
