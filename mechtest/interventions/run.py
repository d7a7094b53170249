"""How is an intervention carried out over a set of prompts, and did it change anything?

Two executors do the work: packed rows (`rectangle`), and the hooks of the model (`hooked`) for what
packed rows cannot do. Batches are formed from the prompts and the memory allowed, never from the
number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.errors import NonFiniteError, NothingChangedError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.cost import Cost
from mechtest.interventions.hooked import Hooked
from mechtest.interventions.jobs import Variant
from mechtest.interventions.plan import PlannedEdit, Planner
from mechtest.interventions.rectangle import MEMORY, Rectangle
from mechtest.interventions.spec import Intervention, Run
from mechtest.interventions.unedited_runs import UneditedRuns
from mechtest.models import HookedMamba
from mechtest.running_claim import Tally
from mechtest.tasks import EncodedPairs

__all__ = ["BATCH_SIZE", "ENGINES", "Engine", "InterventionRun", "Runner"]

BATCH_SIZE = 512

Engine = Literal["auto", "packed", "hooked"]
ENGINES = ("auto", "packed", "hooked")


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

    An edit cannot reach back in time, nor to earlier layers: what comes before the first edited
    place is run once, and every intervention goes on from there.

    Args:
        model: The model.
        pairs: Encoded prompts.
        batch_size: Prompts a forward pass through hooks; part of what fixes the last bits of a
            result.
        memory: Bytes a batch of packed rows may take.
        engine: `auto` packs what can be packed; `hooked` uses hooks for everything; `packed`
            refuses what cannot be packed.
        unedited: Where unedited runs are shared with other runners; None keeps them here.
    """

    model: HookedMamba
    pairs: EncodedPairs
    batch_size: int = BATCH_SIZE
    memory: int = MEMORY
    engine: Engine = "auto"
    unedited: UneditedRuns | None = None
    _logits: dict[Run, torch.Tensor] = field(default_factory=dict, init=False)
    planner: Planner = field(init=False)
    _hooked: Hooked = field(init=False)
    _packed: Rectangle = field(init=False)

    def __post_init__(self) -> None:
        self.planner = Planner(self.model.resolver, self.pairs)
        self._hooked = Hooked(self.model, self.pairs, self.batch_size)
        self._packed = Rectangle(self.model, self.pairs, self.memory, self.unedited)

    @property
    def forward_passes(self) -> int:
        """Passes through the model, or through the part of it that was left."""
        return sum(tally.passes for tally in self.tallies)

    @property
    def forward_tokens(self) -> int:
        """Tokens that went through the model; a token through half the layers counts half."""
        return sum(tally.tokens for tally in self.tallies)

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What its executors have done."""
        return self._hooked.tally, self._packed.tally

    def count(self, tokens: Int64[torch.Tensor, "prompt pos"]) -> None:
        """Count a pass that was made beside this runner, on its model and prompts."""
        self._hooked.count(tokens)

    @torch.no_grad()
    def logits(self, run: Run) -> Float[torch.Tensor, "prompt d_vocab"]:
        """Return the logits of the clean or the corrupted run at the last position.

        Raises:
            NonFiniteError: NaN or infinity; names the first prompt.
        """
        if run not in self._logits:
            self._logits[run] = self._finite(self._plain(run), f"the {run} run")
        return self._logits[run]

    def _plain(self, run: Run) -> torch.Tensor:
        known = None if self.unedited is None else self.unedited.logits(run)
        if known is not None:
            return known
        found = self._packed.plain(run) if self.packs(()) else self._hooked.plain(run)
        if self.unedited is not None:
            self.unedited.keep(run, found)
        return found

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
        variant = self.variant(circuits, intervention)
        if self.packs([variant]):
            after = self._packed.logits([variant], base, touched=touched[None])[0]
        else:
            after = self._hooked.edited(variant, base, touched)
        after = self._finite(after, f"{intervention.name} of {name}")
        if not bool(touched.any()):
            raise NothingChangedError(
                f"{intervention.name} of {name} changed no activation of any prompt",
                given=f"{name} on {len(self.pairs)} prompts",
                expected="activations that differ between the runs, or a replacement that differs",
                next_step="check the position: before the first differing token nothing differs",
            )
        before = self._unedited(variant, base)
        moved = (after != before).any(1)
        return InterventionRun(after, before, touched, moved, self.forward_tokens - tokens)

    def _unedited(self, variant: Variant, base: Run) -> torch.Tensor:
        """Return the run intervened in, computed in the very same batches."""
        if self.packs([variant]):
            return self._packed.logits([variant], base, unedited=True)[0]
        return self._hooked.unedited(variant, base)

    @torch.no_grad()
    def logits_after(
        self,
        circuits: Sequence[Sequence[Circuit]],
        intervention: Intervention,
        base: Run = "clean",
        *,
        columns: Int64[torch.Tensor, " token"] | None = None,
    ) -> Float[torch.Tensor, "variant prompt token"]:
        """Return the logits `run` gives, without asking which activations were changed.

        For the many controls of a claim: one that changes nothing is an answer, not a mistake.

        Args:
            circuits: One list a control; the circuits of a list are edited at once.
            intervention: What is done to each.
            base: The run intervened in.
            columns: Tokens whose logits are wanted; None for the whole vocabulary.

        Raises:
            NonFiniteError: A result holds NaN or infinity.
        """
        variants = [self.variant(one, intervention, last_window=False) for one in circuits]
        if self.packs(variants):
            after = self._packed.logits(variants, base, columns=columns)
        else:
            each = [self._hooked.edited(variant, base, None) for variant in variants]
            after = torch.stack(each if columns is None else [one[:, columns] for one in each])
        self._all_finite(variants, after)
        return after

    @torch.no_grad()
    def sweep_logits(
        self, variants: Sequence[Variant], base: Run, *, columns: torch.Tensor | None = None
    ) -> tuple[Float[torch.Tensor, "variant prompt token"], Bool[torch.Tensor, "variant prompt"]]:
        """Return the logits after each of some interventions, and where activations changed.

        Args:
            variants: From `variant`.
            base: The run intervened in.
            columns: Tokens whose logits are wanted; None for the whole vocabulary.

        Raises:
            NonFiniteError: A result holds NaN or infinity.
        """
        changed = torch.zeros(
            len(variants), len(self.pairs), dtype=torch.bool, device=self.pairs.device
        )
        if self.packs(variants):
            after = self._packed.logits(variants, base, columns=columns, touched=changed)
        else:
            each = [
                self._hooked.edited(variant, base, flags)
                for variant, flags in zip(variants, changed, strict=True)
            ]
            after = torch.stack(each if columns is None else [one[:, columns] for one in each])
        self._all_finite(variants, after)
        return after, changed

    def _all_finite(self, variants: Sequence[Variant], logits: torch.Tensor) -> None:
        """Raise for the first variant whose logits hold NaN or infinity."""
        if bool(logits.sum().isfinite()):
            return
        for variant, one in zip(variants, logits, strict=True):
            names = dict.fromkeys(circuit.name for circuit, _ in variant.edits)
            self._finite(one, f"{variant.intervention.name} of {' + '.join(names)}")

    def prepare(self, variants: Sequence[Variant], base: Run) -> None:
        """Say what is to come in several calls; see `Rectangle.prepare`."""
        if self.packs(variants):
            self._packed.prepare(variants, base)

    def cost(self, variants: Sequence[Variant], *, read: int = 2) -> Cost:
        """Return what interventions cost on packed rows, the unedited runs left out.

        Args:
            variants: From `variant`.
            read: Logits read of each prompt.
        """
        if self.packs(variants):
            return self._packed.cost(variants, read)
        tokens = self.pairs.clean_tokens.numel()
        weights = sum(part.numel() for part in self.model.parameters())
        each = Cost(2.0 * weights * tokens, tokens, 0, -(-len(self.pairs) // self.batch_size))
        twins = (not v.intervention.on_rows and v.intervention.source("clean") for v in variants)
        return sum((each + each if twin else each for twin in twins), Cost())

    def work(self, variants: Sequence[Variant], *, read: int = 2) -> list[float]:
        """Return the floating-point operations of each intervention alone; nothing runs."""
        if self.packs(variants):
            return self._packed.work(variants, read)
        return [self.cost([variant], read=read).flops for variant in variants]

    def variant(
        self, circuits: Sequence[Circuit], intervention: Intervention, *, last_window: bool = True
    ) -> Variant:
        """Return what an intervention means for these prompts.

        Args:
            circuits: Edited at once.
            intervention: What is done.
            last_window: Keep edits of the window after the last token, which change nothing.

        Raises:
            UnknownSiteError, PositionError, ShapeError: The circuits do not fit.
        """
        intervention.require_fits(circuits)
        pieces = [piece for one in circuits for piece in one.pieces]
        edits = [(one, edit) for one in pieces for edit in self.planner.plan(one)]
        kept = [(one, edit) for one, edit in edits if last_window or not _too_late(edit)]
        return Variant(tuple(kept), intervention)

    def packs(self, variants: Sequence[Variant]) -> bool:
        """Whether packed rows carry these out.

        Raises:
            SiteNotServedError: They cannot, and `engine` allows nothing else.
        """
        if self.engine == "hooked":
            return False
        served = self._packed.serves(variants)
        if self.engine == "packed" and not served:
            raise self._packed.refusal(variants)
        return served

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


def _too_late(edit: PlannedEdit) -> bool:
    """Say whether an edit can change nothing: of the window after the last token."""
    if edit.site.hook != "hook_conv_state" or edit.where is None:
        return False
    return edit.positions() == [edit.where.shape[1] - 1]
