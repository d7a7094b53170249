"""How is an intervention carried out over a set of prompts, and did it change anything?

The plain executor: one forward pass a batch, through the hooks. Batches are formed from the prompts
alone, never from the number of processes, because matrix products of other sizes round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float

from mechtest.errors import NonFiniteError, NothingChangedError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.plan import PlannedEdit, channel_mask, plan_edits
from mechtest.interventions.spec import Intervention, Run
from mechtest.models import HookedMamba, HookPoint, ModelState
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs

BATCH_SIZE = 512


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


@dataclass(frozen=True, eq=False)
class _Resumed:
    """What is left of a run after the prefix that no edit touches."""

    tokens: torch.Tensor
    mask: torch.Tensor | None
    state: ModelState | None


@dataclass(eq=False)
class Runner:
    """Runs interventions in one model on one set of prompts, keeping what they share.

    An edit cannot reach back in time: what comes before the first edited position is run once, kept
    as the recurrent state it ends in, and every intervention goes on from there.

    Args:
        model: The model.
        pairs: Encoded prompts.
        batch_size: Prompts a forward pass; part of what fixes the last bits of a result.
    """

    model: HookedMamba
    pairs: EncodedPairs
    batch_size: int = BATCH_SIZE
    forward_passes: int = field(default=0, init=False)
    forward_tokens: int = field(default=0, init=False)
    _logits: dict[tuple[Run, int], torch.Tensor] = field(default_factory=dict, init=False)
    _caches: dict[tuple[Run, int, int, str], Mapping[str, torch.Tensor]] = field(
        default_factory=dict, init=False
    )
    _prefixes: dict[tuple[Run, int, int], _Resumed] = field(default_factory=dict, init=False)
    _plans: dict[tuple[Site, ...], tuple[PlannedEdit, ...]] = field(
        default_factory=dict, init=False
    )
    _batches: list[EncodedPairs] = field(init=False)

    def __post_init__(self) -> None:
        self._batches = list(self.pairs.batches(self.batch_size))

    @torch.no_grad()
    def logits(self, run: Run, *, column: int = 0) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of the clean or the corrupted run at the last position.

        Args:
            run: Which run.
            column: Run on from the state before this column; values agree to rounding.

        Raises:
            NonFiniteError: NaN or infinity; names the first prompt.
        """
        key = (run, column)
        if key not in self._logits:
            rows = [self._forward(run, index, column) for index in range(len(self._batches))]
            self._logits[key] = self._finite(torch.cat(rows), f"the {run} run")
        return self._logits[key]

    @torch.no_grad()
    def run(
        self,
        circuit: Circuit | Sequence[Circuit],
        intervention: Intervention,
        base: Run = "clean",
    ) -> InterventionRun:
        """Carry out one intervention.

        Args:
            circuit: Where; several are edited at once.
            intervention: What.
            base: The run intervened in: `clean` asks for necessity, `corrupted` (with a patch from
                clean) for sufficiency.

        Raises:
            NothingChangedError: No activation of any prompt was changed.
            NonFiniteError: The result holds NaN or infinity.
            UnknownSiteError, PositionError, ShapeError: The circuit does not fit.
        """
        circuits = [circuit] if isinstance(circuit, Circuit) else list(circuit)
        name = " + ".join(one.name for one in circuits)
        tokens = self.forward_tokens
        touched = torch.zeros(len(self.pairs), dtype=torch.bool, device=self.pairs.device)
        after, column = self._edited(circuits, intervention, base, touched)
        if not bool(touched.any()):
            raise NothingChangedError(
                f"{intervention.name} of {name} changed no activation of any prompt",
                given=f"{name} on {len(self.pairs)} prompts",
                expected="activations that differ between the runs, or a replacement that differs",
                next_step="check the position: before the first differing token nothing differs",
            )
        before = self.logits(base, column=column)
        moved = (after != before).any(1)
        return InterventionRun(after, before, touched, moved, self.forward_tokens - tokens)

    @torch.no_grad()
    def logits_after(
        self, circuits: Sequence[Circuit], intervention: Intervention, base: Run = "clean"
    ) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits `run` gives, without asking which activations were changed.

        For the many controls of a claim: one that changes nothing is an answer, not a mistake.

        Raises:
            NonFiniteError: The result holds NaN or infinity.
        """
        return self._edited(circuits, intervention, base, None)[0]

    def _edited(
        self,
        circuits: Sequence[Circuit],
        intervention: Intervention,
        base: Run,
        touched: torch.Tensor | None,
    ) -> tuple[torch.Tensor, int]:
        """Return the logits after an intervention, and the column it ran on from.

        Args:
            circuits: Edited at once.
            intervention: What.
            base: The run intervened in.
            touched: "prompt"; set where an activation was changed, unless None.
        """
        plans = [(one, self._plan(one)) for one in circuits]
        column = self._first_column([edit for _, plan in plans for edit in plan])
        source = intervention.source(base)
        logits = []
        for index, batch in enumerate(self._batches):
            start = index * self.batch_size
            here = None if touched is None else touched[start : start + len(batch)]
            rows = torch.as_tensor(batch.order)
            hooks = []
            for one, plan in plans:
                wanted = [edit for edit in plan if touched is not None or not _too_late(edit)]
                part = [_sliced(edit, start, len(batch), column) for edit in wanted]
                reference: Mapping[str, torch.Tensor] = {}
                if source is not None and part:
                    reference = self._cached(part, source, index, column)
                for edit in part:
                    hooks += _hooks(edit, one, intervention, reference, rows, here)
            logits.append(self._forward(base, index, column, hooks))
        names = " + ".join(one.name for one in circuits)
        after = self._finite(torch.cat(logits), f"{intervention.name} of {names}")
        return after, column

    def _plan(self, circuit: Circuit) -> tuple[PlannedEdit, ...]:
        """Return the edits of a circuit; its sites decide, whatever channels or subspace."""
        if circuit.sites not in self._plans:
            self._plans[circuit.sites] = plan_edits(self.model.resolver, circuit, self.pairs)
        return self._plans[circuit.sites]

    def _first_column(self, plan: Sequence[PlannedEdit]) -> int:
        """Return the column to run on from: the first edited one, or 0 for the whole prompt."""
        if any(edit.where is None for edit in plan):
            return 0
        column = min(edit.positions()[0] for edit in plan if edit.where is not None)
        padding = self.pairs.clean_tokens.shape[1] - int(self.pairs.lengths.min())
        return column if column > padding else 0  # every prompt needs a token before it

    def _forward(
        self, run: Run, index: int, column: int, hooks: Sequence[tuple[str, Callable]] = ()
    ) -> torch.Tensor:
        """Return the logits at the last position of one batch."""
        rest = self._rest(run, index, column)
        self._count(rest.tokens)
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
                self._count(tokens[:, :column])
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
            self._count(rest.tokens)
            values: dict[str, torch.Tensor] = {}

            def keep(value: torch.Tensor, hook: HookPoint) -> None:
                values[hook.name] = value

            with self.model.hooks(fwd_hooks=[(name, keep) for name in names]):
                self.model.run_with_state(rest.tokens, rest.state, attention_mask=rest.mask)
            self._caches[key] = values
        return self._caches[key]

    def _count(self, tokens: torch.Tensor) -> None:
        self.forward_passes += 1
        self.forward_tokens += tokens.numel()

    def _finite(self, logits: torch.Tensor, what: str) -> torch.Tensor:
        if bool(logits.sum().isfinite()):
            return logits
        bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"{what} gives NaN or infinity for {len(bad)} of {len(logits)} prompts",
                given=", ".join(self.pairs.ids[row] for row in bad[:5]),
                expected="finite logits",
            )
        return logits


def _needed(mask: torch.Tensor) -> torch.Tensor | None:
    """Return a mask, None where it leaves out nothing."""
    return None if bool(mask.all()) else mask


def _too_late(edit: PlannedEdit) -> bool:
    """Say whether an edit can change nothing: of the window after the last token."""
    if edit.site.hook != "hook_conv_state" or edit.where is None:
        return False
    return edit.positions() == [edit.where.shape[1] - 1]


def _sliced(edit: PlannedEdit, start: int, count: int, column: int) -> PlannedEdit:
    where = None if edit.where is None else edit.where[start : start + count, column:]
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
    touched: torch.Tensor | None,
) -> list[tuple[str, Callable]]:
    """Return (hook name, function) pairs that carry out one edit and note what they changed."""

    def hook_for(name: str, where: torch.Tensor | None) -> Callable:
        def edited(value: torch.Tensor, hook: object) -> torch.Tensor:
            del hook
            new = intervention.replacement(value, reference.get(name), edit.name, rows)
            new = _restricted(value, new, edit, circuit)
            if where is not None and not bool(where.all()):
                new = torch.where(where.reshape(*where.shape, *_ones(value, where)), new, value)
            if touched is None:
                return new
            if edit.where is not None:
                touched.logical_or_((new != value).flatten(1).any(1))
            elif bool((new != value).any()):
                touched[:] = True  # one tensor for all prompts, such as hook_A
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
