"""How is an intervention carried out over a set of prompts, and did it change anything?

The plain executor: one forward pass a batch, through the hooks. Batches are formed from the prompts
alone, never from the number of processes, because matrix products of other sizes round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float

from mechtest.errors import NonFiniteError, NothingChangedError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.plan import PlannedEdit, channel_mask, plan_edits
from mechtest.interventions.spec import Intervention, Run
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs

BATCH_SIZE = 128


@dataclass(frozen=True, eq=False)
class InterventionRun:
    """What one intervention did.

    Attributes:
        logits: At the last position, with the intervention, float "prompt d_vocab".
        base: The run intervened in, without it.
        changed: Whether any activation of the prompt was changed.
        moved: Whether any logit of the prompt was.
        forward_tokens: Tokens that went through the model for this.
    """

    logits: Float[torch.Tensor, "prompt d_vocab"]
    base: Float[torch.Tensor, "prompt d_vocab"]
    changed: Bool[torch.Tensor, " prompt"]
    moved: Bool[torch.Tensor, " prompt"]
    forward_tokens: int


@dataclass(eq=False)
class Runner:
    """Runs interventions in one model on one set of prompts, keeping what they share.

    Args:
        model: The model.
        pairs: Encoded prompts.
        batch_size: Prompts a forward pass; part of what fixes the last bits of a result.
    """

    model: HookedMamba
    pairs: EncodedPairs
    batch_size: int = BATCH_SIZE
    forward_passes: int = field(default=0, init=False)
    _logits: dict[Run, torch.Tensor] = field(default_factory=dict, init=False)
    _caches: dict[tuple[Run, int, str], Mapping[str, torch.Tensor]] = field(
        default_factory=dict, init=False
    )

    @torch.no_grad()
    def logits(self, run: Run) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of the clean or the corrupted run at the last position.

        Raises:
            NonFiniteError: NaN or infinity; names the first prompt.
        """
        if run not in self._logits:
            rows = [self._forward(batch, run)[:, -1] for batch in self._batches()]
            self._logits[run] = self._finite(torch.cat(rows), f"the {run} run")
        return self._logits[run]

    @torch.no_grad()
    def run(
        self, circuit: Circuit, intervention: Intervention, base: Run = "clean"
    ) -> InterventionRun:
        """Carry out one intervention.

        Args:
            circuit: Where.
            intervention: What.
            base: The run intervened in: `clean` asks for necessity, `corrupted` (with a patch from
                clean) for sufficiency.

        Raises:
            NothingChangedError: No activation of any prompt was changed.
            NonFiniteError: The result holds NaN or infinity.
            UnknownSiteError, PositionError, ShapeError: The circuit does not fit.
        """
        plan = plan_edits(self.model.resolver, circuit, self.pairs)
        source = intervention.source(base)
        logits, changed, tokens = [], [], 0
        for index, batch in enumerate(self._batches()):
            start = index * self.batch_size
            part = [_sliced(edit, start, len(batch)) for edit in plan]
            reference = {} if source is None else self._cached(part, source, index, batch)
            touched = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
            rows = torch.as_tensor(batch.order)
            hooks = [
                hook
                for edit in part
                for hook in _hooks(edit, circuit, intervention, reference, rows, touched)
            ]
            logits.append(self._forward(batch, base, hooks)[:, -1])
            changed.append(touched)
            tokens += batch.clean_tokens.numel()
        after, any_change = torch.cat(logits), torch.cat(changed)
        if not bool(any_change.any()):
            raise NothingChangedError(
                f"{intervention.name} of {circuit.name} changed no activation of any prompt",
                given=f"{circuit!r} on {len(self.pairs)} prompts",
                expected="activations that differ between the runs, or a replacement that differs",
                next_step="check the position: before the first differing token nothing differs",
            )
        after = self._finite(after, f"{intervention.name} of {circuit.name}")
        before = self.logits(base)
        return InterventionRun(after, before, any_change, (after != before).any(1), tokens)

    def _batches(self) -> list[EncodedPairs]:
        return list(self.pairs.batches(self.batch_size))

    def _forward(
        self, batch: EncodedPairs, run: Run, hooks: list[tuple[str, Callable]] | None = None
    ) -> torch.Tensor:
        tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
        self.forward_passes += 1
        return self.model.run_with_hooks(
            tokens, attention_mask=batch.attention_mask, fwd_hooks=hooks or []
        )

    def _cached(
        self, part: list[PlannedEdit], run: Run, index: int, batch: EncodedPairs
    ) -> Mapping[str, torch.Tensor]:
        """Return the source run's activations at the edited hooks, by concrete name."""
        names = [name for edit in part for name in _concrete(edit)]
        key = (run, index, "|".join(names))
        if key not in self._caches:
            tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
            self.forward_passes += 1
            _, cache = self.model.run_with_cache(
                tokens, attention_mask=batch.attention_mask, names_filter=names
            )
            self._caches[key] = dict(cache)
        return self._caches[key]

    def _finite(self, logits: torch.Tensor, what: str) -> torch.Tensor:
        bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"{what} gives NaN or infinity for {len(bad)} of {len(logits)} prompts",
                given=", ".join(self.pairs.ids[row] for row in bad[:5]),
                expected="finite logits",
            )
        return logits


def _sliced(edit: PlannedEdit, start: int, count: int) -> PlannedEdit:
    where = None if edit.where is None else edit.where[start : start + count]
    return PlannedEdit(edit.site, where)


def _concrete(edit: PlannedEdit) -> list[str]:
    if edit.site.spec.per_position:
        return [f"{edit.name}.{position}" for position in edit.positions()]
    return [edit.name]


def _hooks(
    edit: PlannedEdit,
    circuit: Circuit,
    intervention: Intervention,
    reference: Mapping[str, torch.Tensor],
    rows: torch.Tensor,
    touched: torch.Tensor,
) -> list[tuple[str, Callable]]:
    """Return (hook name, function) pairs that carry out one edit and note what they changed."""

    def hook_for(name: str, where: torch.Tensor | None) -> Callable:
        def edited(value: torch.Tensor, hook: object) -> torch.Tensor:
            del hook
            new = intervention.replacement(value, reference.get(name), edit.name, rows)
            new = _restricted(value, new, edit, circuit)
            if where is not None:
                new = torch.where(where.reshape(*where.shape, *_ones(value, where)), new, value)
            if edit.where is not None:
                touched.logical_or_((new != value).flatten(1).any(1))
            elif bool((new != value).any()):
                touched.logical_or_(
                    torch.ones_like(touched)
                )  # one tensor for all prompts, such as hook_A
            return new

        return edited

    if edit.where is None or not edit.site.spec.per_position:
        return [(edit.name, hook_for(edit.name, edit.where))]
    return [
        (f"{edit.name}.{position}", hook_for(f"{edit.name}.{position}", edit.where[:, position]))
        for position in edit.positions()
    ]


def _ones(value: torch.Tensor, where: torch.Tensor) -> list[int]:
    return [1] * (value.ndim - where.ndim)


def _restricted(
    value: torch.Tensor, new: torch.Tensor, edit: PlannedEdit, circuit: Circuit
) -> torch.Tensor:
    """Return `new` in the circuit's channels or directions, and `value` elsewhere."""
    if circuit.channels is not None:
        mask = channel_mask(edit.site, circuit.channels, value.shape).to(value.device)
        return torch.where(mask, new, value)
    if circuit.subspace is not None:
        lead = 2 if edit.site.spec.position_axis is not None else 1
        change = (new - value).flatten(lead).flatten(0, lead - 1)
        return value + circuit.subspace.project(change).reshape(value.shape)
    return new
