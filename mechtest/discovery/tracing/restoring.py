"""Where does a model keep what it has read of a subject?

The subject's embeddings are noised, so that the answer is lost. Then the clean value is put back at
one place of the noised run, and what comes back of the answer is that place's indirect effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.looking import looking_runner
from mechtest.discovery.record import about, identity_of, read_only
from mechtest.discovery.tracing.answer_probability import metric_named
from mechtest.discovery.tracing.embedding_noise import (
    EmbeddingNoise,
    make_noise,
    noised_pairs,
    subject_mask,
)
from mechtest.discovery.tracing.severing import PATHS, RestoreAndHold, held_sites
from mechtest.discovery.tracing.trace_record import CausalTrace
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, Patch, Runner, SweepResult
from mechtest.interventions.jobs import Variant
from mechtest.interventions.sweep_places import SweepTable, lay_out_table
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs

__all__ = ["causal_trace"]

ROWS = 256
"""Noised prompts that run together."""

LOGITS = 128 * 2**20
"""Bytes of logits, or of values held, at once."""

UNCHANGED = "the noised and the clean run are alike here"

Cells = list[tuple[tuple[int, int], Circuit]]


@torch.no_grad()
def causal_trace(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    subject: str | Sequence[str] | None = None,
    sites: str | Sequence[str] = "blocks.*.hook_resid_post",
    positions: str | int | Sequence[str | int] = "*",
    window: int = 1,
    noise: float = 3.0,
    noise_over: str = "subject",
    samples: int = 10,
    sever: str | None = None,
    metric: Metric | str = "probability",
    progress: bool = True,
    seed: int = 0,
) -> CausalTrace:
    """Noise a subject's embeddings, restore one place at a time, and measure what comes back.

    Only clean prompts are run; their twins are used where no `subject` is named. Noise is off the
    model's distribution: beside saying nothing it may say something wrong. A `sweep` with
    `base="corrupted"` restores places of the prompt's own twin instead.

    Args:
        model: The model.
        prompts: Their discovery half is taken.
        subject: The tokens that are noised: roles (`["subject_first", "subject_last"]`), a span
            (`subject_first:subject_last+1`), or positions; by default wherever clean and corrupted
            tokens differ.
        sites: What is restored: names without positions, or patterns (`blocks.*.state`,
            `blocks.*.hook_out_proj`). Each pattern makes a map, each of its sites a row.
        positions: Where: `"*"` for every token (counted from the end among prompts of different
            lengths), or some in the notation of sites.
        window: Layers restored at once, around each.
        noise: Standard deviation of the noise, in those of embeddings.
        noise_over: Which embeddings': `subject` (the subjects of all these prompts) or
            `vocabulary`.
        samples: Draws of the noise a prompt.
        sever: Keep a path of all later layers, at the restored tokens, as it is in the corrupted
            run: `mixer` (all that blocks add), `ssm` (the state-space model's output), `conv` (the
            convolution's output, so what these tokens write into states), or `gate`.
        metric: `probability` (of the answers), or any metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: Key of the noise. Each prompt, token and sample has its own stream.

    Returns:
        Indirect effects of every place and prompt, and the total effect.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        PositionError: No subject, or a position some prompt lacks.
        NothingChangedError: Noise of size 0.
        ShapeError: No window, no samples, or no such path.
        UnknownSiteError: No such site.

    A severed trace costs two: one more run says where restoring alone changes anything.

    Memory: `ROWS` noised prompts at a time, their activations as `Runner` bounds them, and at most
    `LOGITS` bytes each of logits and of values held on severed paths.

    Sources: Meng et al. 2022, section 2 and appendix B (noise of 3 standard deviations, 10 samples,
    windows, severed paths); Sharma, Atkinson & Bau 2024 for Mamba.
    """
    patterns = [sites] if isinstance(sites, str) else list(sites)
    if window < 1 or (sever is not None and sever not in PATHS) or not patterns:
        raise ShapeError(
            "this is no way to trace",
            given=f"sites={sites!r}, window={window}, sever={sever!r}",
            expected=f"sites, a window of at least one layer, sever None or {', '.join(PATHS)}",
        )
    pairs = looking_runner(model, prompts).pairs
    chosen = metric_named(metric)
    named = subject if subject is None or isinstance(subject, str) else tuple(subject)
    where = subject_mask(model, pairs, named)
    drawn = make_noise(model, pairs, where, noise, samples, seed, noise_over)
    planner = looking_runner(model, pairs).planner
    tables = [lay_out_table(model, one, planner, positions, None) for one in patterns]
    tracing = _Tracing(model, pairs, drawn, chosen, tables, window, sever)
    tracing.run(progress=progress)
    core = about(
        "causal_trace", model, pairs, metric=chosen.name, subject=named, sites=patterns,
        positions=list(tracing.positions), window=window, noise=noise, noise_over=noise_over,
        samples=samples, sever=sever, seed=seed,
    )  # fmt: skip
    maps = tuple(tracing.map_of(index, window, sever) for index in range(len(tables)))
    return CausalTrace(
        about=core,
        maps=maps,
        clean=read_only(tracing.clean),
        corrupted=read_only(tracing.corrupted.mean(0)),
        samples=read_only(tracing.corrupted),
        std=drawn.std,
    )


@dataclass(eq=False)
class _Tracing:
    """Restores every place of some tables, a batch of prompts at a time."""

    model: HookedMamba
    pairs: EncodedPairs
    noise: EmbeddingNoise
    metric: Metric
    tables: list[SweepTable]
    window: int
    sever: str | None
    values: list[np.ndarray] = field(init=False)
    touched: list[np.ndarray] = field(init=False)
    clean: np.ndarray = field(init=False)
    corrupted: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for table in self.tables:
            self._require_layers(table)
        shapes = [(len(table.rows), len(table.columns)) for table in self.tables]
        self.values = [np.full((*shape, len(self.pairs)), np.nan) for shape in shapes]
        self.touched = [np.zeros(shape, dtype=bool) for shape in shapes]
        self.clean = np.zeros(len(self.pairs))
        self.corrupted = np.zeros((self.noise.samples, len(self.pairs)))

    @property
    def positions(self) -> tuple[str, ...]:
        """Positions of the columns."""
        return tuple(site.partition("@")[2] for site in self.tables[0].sites[0])

    def run(self, *, progress: bool) -> None:
        """Fill the maps."""
        size = self._prompts_at_once()
        starts = range(0, len(self.pairs), size)
        cells = sum(len(table.circuits) for table in self.tables)
        with tqdm(
            total=cells * len(starts), desc="causal trace", unit="place",
            disable=None if progress else True,
        ) as bar:  # fmt: skip
            for start in starts:
                part = slice(start, start + size)
                own = dataclasses.replace(self.noise, where=self.noise.where[part])
                noised, pairs = noised_pairs(self.model, self.pairs[part], own)
                batch = _NoisedBatch(Runner(noised, pairs), self.metric, self.noise.samples)
                self.clean[part], self.corrupted[:, part] = batch.clean, batch.corrupted
                for index, table in enumerate(self.tables):
                    for cells_done in self._restore(batch, index, table, part):
                        bar.update(cells_done)

    def _prompts_at_once(self) -> int:
        """Return how many prompts, with all their samples, run together."""
        rows = ROWS
        if self.sever is not None:
            cfg, n_pos = self.model.cfg, self.pairs.clean_tokens.shape[1]
            width = cfg.d_model if self.sever == "mixer" else cfg.E
            rows = min(rows, LOGITS // (4 * n_pos * cfg.n_layer * width))
        return max(1, rows // self.noise.samples)

    def _restore(
        self, batch: _NoisedBatch, index: int, table: SweepTable, part: slice
    ) -> Sequence[int]:
        """Restore the places of one table, and return how many went together each time."""
        done = []
        for row in range(len(table.rows)):
            cells = [
                (at, self._windowed(table, row, circuit))
                for at, circuit in table.circuits.items()
                if at[0] == row
            ]
            if not cells:
                continue
            found, changed = batch.effects([circuit for _, circuit in cells], self.sever)
            for (at, _), value, any_changed in zip(cells, found, changed, strict=True):
                self.values[index][at][part] = value
                self.touched[index][at] |= any_changed
            done.append(len(cells))
        return done

    def _require_layers(self, table: SweepTable) -> None:
        """Refuse to take a window over rows that are not the layers of one hook."""
        if self.window > 1 and table.row_name != "layer":
            raise ShapeError(
                "a window is taken over the layers of one hook",
                given=f"window={self.window} over {', '.join(table.rows[:4])}",
                expected="one hook a pattern: sites=['blocks.*.hook_conv', 'blocks.*.hook_skip']",
            )

    def _windowed(self, table: SweepTable, row: int, circuit: Circuit) -> Circuit:
        """Return a place with the layers around it that the table has."""
        if self.window == 1:
            return circuit
        first = max(0, row - self.window // 2)
        rows = range(first, min(len(table.rows), row + (self.window + 1) // 2))
        position = str(circuit.sites[0].position)
        names = [Site.parse(table.sites[at][0].partition("@")[0]) for at in rows]
        return Circuit(*(f"{name}@{position}" for name in names))

    def map_of(self, index: int, window: int, sever: str | None) -> SweepResult:
        """Return what was found in one table."""
        table, values = self.tables[index], self.values[index]
        reasons = dict(table.reasons)
        for at in table.circuits:
            if not self.touched[index][at]:
                values[at] = np.nan
                reasons[at] = UNCHANGED
        what = "restoring" if window == 1 else f"restoring {window} layers"
        if sever is not None:
            what += f" with the {sever} path severed"
        return SweepResult(
            rows=table.rows,
            columns=table.columns,
            row_name=table.row_name,
            column_name=table.column_name,
            sites=table.sites,
            values=values,
            reasons=reasons,
            prompt_ids=self.pairs.ids,
            templates=tuple(self.pairs.templates[one] for one in self.pairs.cluster),
            effect_name="indirect effect",
            unit=self.metric.unit,
            intervention=what,
            base="noised",
            metric=self.metric.name,
            model=identity_of(self.model),
            prompt_columns=table.prompt_columns,
        )


class _NoisedBatch:
    """Some prompts, every sample of their noise, and what restoring does to them."""

    def __init__(self, runner: Runner, metric: Metric, samples: int) -> None:
        self.runner, self.metric, self.samples = runner, metric, samples
        self._columns: torch.Tensor | None = None
        self._answers = runner.pairs.answers
        self._held: dict[str, torch.Tensor] = {}
        if getattr(metric, "answers_only", False) and getattr(metric, "vocabulary", None) is None:
            self._columns, self._answers = runner.pairs.answers.among_themselves()
        self.clean = self._read(runner.logits("clean"))[0]
        self.corrupted = self._read(runner.logits("corrupted"))

    def effects(
        self, circuits: Sequence[Circuit], sever: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return effects "circuit prompt", and whether each circuit changed any activation."""
        variants = self._variants(circuits, sever)
        width = self.runner.model.cfg.d_vocab if self._columns is None else len(self._columns)
        size = max(1, LOGITS // (4 * width * len(self.runner.pairs)))
        self.runner.prepare(variants, "corrupted")
        found, changed = [], []
        for start in range(0, len(variants), size):
            logits, touched = self.runner.sweep_logits(
                variants[start : start + size], "corrupted", columns=self._columns
            )
            for one, flags in zip(logits, touched, strict=True):
                restored = self._read(one, chosen=True)
                found.append((restored - self.corrupted).mean(0))
                changed.append(bool(flags.any()))
        if sever is not None:  # what is held there must not pass for something restored
            alone, device = self._variants(circuits, None), self.runner.pairs.device
            _, touched = self.runner.sweep_logits(
                alone, "corrupted", columns=torch.zeros(1, dtype=torch.int64, device=device)
            )
            changed = touched.any(1).tolist()
        return np.array(found), np.array(changed)

    def _variants(self, circuits: Sequence[Circuit], sever: str | None) -> list[Variant]:
        if sever is None:
            patch = Patch("clean")
            return [self.runner.variant([one], patch) for one in circuits]
        n_layer = self.runner.model.cfg.n_layer
        names = frozenset(str(Site(one.hook, one.layer)) for one in circuits[0].parts)
        found = []
        held = [held_sites(sever, one, n_layer) for one in circuits]
        known = self._held_values({site.partition("@")[0] for each in held for site in each})
        restoring = RestoreAndHold(names, known)
        for circuit, others in zip(circuits, held, strict=True):
            beside = [Circuit(*others)] if others else []
            found.append(self.runner.variant([circuit, *beside], restoring))
        return found

    def _held_values(self, hooks: set[str]) -> dict[str, torch.Tensor]:
        """Return the corrupted run's values of some hooks, "prompt pos ...", by name."""
        missing = sorted(hooks - set(self._held))
        if missing:
            pairs = self.runner.pairs
            _, cache = self.runner.model.run_with_cache(
                pairs.corrupted_tokens, attention_mask=pairs.attention_mask, names_filter=missing
            )
            self._held |= {hook: cache[hook] for hook in missing}
        return {hook: self._held[hook] for hook in hooks}

    def _read(self, logits: torch.Tensor, *, chosen: bool = False) -> np.ndarray:
        """Return the metric, "sample prompt"; `chosen` logits are of the answers' tokens only."""
        narrow = chosen and self._columns is not None
        answers = self._answers if narrow else self.runner.pairs
        if getattr(self.metric, "needs_reference", False):
            read = -self.metric(logits, answers, reference=self.runner.logits("clean"))
        else:
            read = self.metric(logits, answers)
        return np.asarray(read.cpu().double().numpy().reshape(-1, self.samples).T)
