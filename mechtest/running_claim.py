"""Which claim is being checked right now, at which level, and where does its evidence go?

The plugin puts a `RunningClaim` in place around each test; assertions, on a lower floor, find it
here. Pure Python: knowing the claim costs no import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mechtest.records import ClaimRecord, EffectMap

__all__ = [
    "DEFAULT_ALPHA",
    "DEFAULT_MEMORY",
    "RunningClaim",
    "Tally",
    "current_claim",
    "running",
]

DEFAULT_ALPHA = 0.05
DEFAULT_MEMORY = 512 * 2**20
"""Bytes that a batch of packed rows may take."""

Event = Callable[[str, Mapping[str, Any]], None]


def _nobody(event: str, content: Mapping[str, Any]) -> None:
    del event, content


@dataclass
class Tally:
    """What one executor of interventions has done so far.

    Attributes:
        engine: `packed` or `hooked`.
        n_layer: Layers of the model.
        kernels: What its passes ran on; empty before the first.
        interventions: Carried out; unedited runs are none.
        passes: Passes through the model, or through the part of it that was left.
        row_layers: Tokens times the layers they went through.
    """

    engine: str
    n_layer: int
    kernels: str = ""
    interventions: int = 0
    passes: int = 0
    row_layers: int = 0

    @property
    def tokens(self) -> int:
        """Tokens through the model; one through half of the layers counts half."""
        return self.row_layers // self.n_layer


@dataclass
class RunningClaim:
    """A claim while its test runs.

    Attributes:
        id: Node id of the test, with all parameters.
        key: The id without the model's seed and checkpoint: what the lock registers. Random draws
            are keyed by it, so that every checkpoint sees the same controls.
        statement: The claim as a sentence.
        family: Name of its family; empty outside one.
        level: Error rate this claim is tested at; static, from the lock.
        seed: Root seed.
        registered: Whether the lock holds this claim; otherwise it is exploratory.
        exact: Whether it takes no part in the error rate: an identity, or a search.
        planning: Only say what would be done: no forward pass, no verdict.
        engine: Executor of interventions that is asked for: `auto`, `packed` or `hooked`.
        memory: Bytes that a batch of packed rows may take.
        records: What its assertions found, in order.
        plans: What they would do, while planning.
        maps: Tables attached to it.
        on_event: Told of progress; the plugin writes it to a journal.
        tallies: What the executors made for it have done.
        ledger: (digest of a test half, digest of a circuit tested on it), as they come.
        searches: What searches inside the test know so far, by what they ask.
    """

    id: str = ""
    key: str = ""
    statement: str = ""
    family: str = ""
    level: float = DEFAULT_ALPHA
    seed: int = 0
    registered: bool = False
    exact: bool = False
    planning: bool = False
    engine: str = "auto"
    memory: int = DEFAULT_MEMORY
    records: list[ClaimRecord] = field(default_factory=list)
    plans: list[Mapping[str, Any]] = field(default_factory=list)
    maps: list[EffectMap] = field(default_factory=list)
    on_event: Event = _nobody
    tallies: list[Tally] = field(default_factory=list)
    ledger: list[tuple[str, str]] = field(default_factory=list)
    searches: dict[str, Any] = field(default_factory=dict)

    @property
    def forward_passes(self) -> int:
        """Of all its assertions and of what they were given."""
        return sum(tally.passes for tally in self.tallies)

    @property
    def forward_tokens(self) -> int:
        """Tokens through the model for these."""
        return sum(tally.tokens for tally in self.tallies)

    @property
    def engines(self) -> str:
        """Which executors carried its interventions out: `packed`, `hooked`, both or none."""
        used = {tally.engine for tally in self.tallies if tally.interventions}
        return ", ".join(sorted(used, reverse=True))

    @property
    def kernels(self) -> list[str]:
        """What its passes ran on: `native`, `numba`, `torch`, `cuda`."""
        return sorted({tally.kernels for tally in self.tallies if tally.kernels})

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Say how far a long claim has come.

        Args:
            done: Controls (or other units) measured so far.
            total: The most there may be.
            note: What they are, and what would stop it.
        """
        self.on_event("progress", {"done": done, "total": total, "note": note})

    def attach_map(self, table: EffectMap) -> None:
        """Put a table of effects beside this claim in the report."""
        self.maps.append(table)


_current: ContextVar[RunningClaim | None] = ContextVar("mechtest_running_claim", default=None)


def current_claim() -> RunningClaim | None:
    """Return the claim whose test is running, None outside one."""
    return _current.get()


@contextmanager
def running(claim: RunningClaim) -> Iterator[RunningClaim]:
    """Make `claim` the current one for the time of a `with` block."""
    token = _current.set(claim)
    try:
        yield claim
    finally:
        _current.reset(token)
