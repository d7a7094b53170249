"""How long do a layer x position sweep, many controls and a batched forward pass take?

Run as a script: prints ratios to the peers and to a floor, writes results/timing_engine.json. All
contenders of a contest run in one process on one thread, in rounds, in an order that turns from
round to round; what is compared is CPU time. What would take too long is timed in part and scaled
(`Shape`): a part is whole units of equal work (cells, layers, prompts).

The floor is the products of rows with projections and nothing else: the model's own weights, the
rows that have to be computed, results written into buffers that exist already.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from edits import changed_by, taken_from
from peers import Pair, hf_model, random_pair
from results import shown, table, write

from mechtest import HookedMamba
from mechtest.interventions import Circuit, MeanAblation, Patch, Subspace
from mechtest.interventions.run import Runner
from mechtest.kernels import backend_name
from mechtest.tasks import AnswerIds, EncodedPairs, Fingerprints

N_POS = 17
PROMPTS, CONTROLS, RANK, POSITION = 64, 200, 8, 8
FIXED = 999
"""Controls of a fixed test. The sequential one decides a true claim after 57 and a false one after
11; blocks are measured whole, so these are what it computes."""
TRUE_CLAIM, FALSE_CLAIM = (8, 8, 16, 27), (8, 8)
COLUMNS = 256
"""Vocabulary entries at which values are compared; the metric reads the first two."""
ROWS_AT_ONCE = 4096
"""Rows of one product of the controls' floor."""
OURS, LENS, BATCHED, HF, FLOOR = "mechtest", "mamba-lens", "mamba-lens batched", "hf", "floor"
SEQUENTIAL = "mechtest, sequential"
Run = Callable[[], object]
Cell = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """One model, and how much of the long runs is timed.

    Attributes:
        name: For tables.
        size: Arguments of `random_pair`.
        layer: Where controls are.
        cells: Cells of the README's loop that are timed, evenly spread.
        layers: Layers of the batched loop that are timed.
        prompts: Prompts that our controls are timed on (of 64; every control).
        rounds: Rounds for each one asked for.
        faster: Times the README's loop that the sweep has to be.
        floors: Floors that the sweep may take.
    """

    name: str
    size: Mapping[str, int]
    layer: int
    cells: int
    layers: int
    prompts: int
    rounds: int
    faster: float
    floors: float | None

    @property
    def all_cells(self) -> list[Cell]:
        """Every layer and position."""
        return [(layer, pos) for layer in range(self.size["n_layer"]) for pos in range(N_POS)]

    @property
    def timed(self) -> list[int]:
        """Which of the cells are timed one by one."""
        spread = np.linspace(0, len(self.all_cells) - 1, self.cells)
        return [int(index) for index in spread.round()]


TINY = {"d_model": 128, "n_layer": 4, "d_state": 16, "vocab_size": 1024}
SMALL = {"d_model": 768, "n_layer": 24, "d_state": 16, "vocab_size": 50280}
SHAPES = (
    Shape("tiny", TINY, 2, cells=68, layers=4, prompts=64, rounds=3, faster=50, floors=None),
    Shape("130m", SMALL, 12, cells=12, layers=1, prompts=8, rounds=1, faster=25, floors=1.5),
)


# --- rounds and ratios ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """What is timed, how many times that the whole is, and what runs first (or the same)."""

    run: Run
    scale: float = 1.0
    warm: Run | None = None


def compete(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Return the CPU times of all contenders, interleaved, scaled to the whole."""
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for contender in contenders.values():
        (contender.warm or contender.run)()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                gc.collect()
                start = time.process_time()
                contenders[name].run()
                seconds = time.process_time() - start
                times[name].append(seconds * contenders[name].scale)
    finally:
        gc.enable()
    return times


def ratio(
    times: Mapping[str, Sequence[float]],
    over: str,
    under: str,
    *,
    least: float | None = None,
    most: float | None = None,
    factor: float = 1.0,
    what: str = "",
) -> dict[str, Any]:
    """Return the ratio of the fastest rounds, and the median and range of those within a round."""
    pairs = zip(times[over], times[under], strict=True)
    paired = [factor * a / b for a, b in pairs]
    fastest = factor * min(times[over]) / min(times[under])
    found: dict[str, Any] = {
        "ratio": what or f"{over} / {under}",
        "fastest": round(fastest, 3),
        "median": round(statistics.median(paired), 3),
        "range": [round(min(paired), 3), round(max(paired), 3)],
    }
    if least is not None:
        found |= {"target": f">= {least:g}", "met": fastest >= least}
    if most is not None:
        found |= {"target": f"<= {most:g}", "met": fastest <= most}
    return found


# --- prompts and the floor -----------------------------------------------------------------------


def prompt_pairs(pair: Pair, count: int) -> EncodedPairs:
    """Return random prompts; their twins are other ones, so that no effect is small."""
    return EncodedPairs(
        clean_tokens=pair.tokens(count, N_POS),
        corrupted_tokens=pair.tokens(count, N_POS, seed=1),
        attention_mask=torch.ones(count, N_POS, dtype=torch.bool),
        answers=AnswerIds.of([1] * count, [2] * count),
        roles=("last",),
        role_positions=torch.full((count, 1), N_POS - 1),
        cluster=np.zeros(count, dtype=np.int64),
        templates=("random",),
        order=np.arange(count),
        fingerprints=Fingerprints.of(),
        side="all",
    )


def floor(model: HookedMamba, layers: Sequence[tuple[int, int, int]]) -> Run:
    """Return the products of some layers: which, rows before the recurrence, rows behind it."""
    cfg, most = model.cfg, max(after for _, _, after in layers)
    resid, inner, rank = (torch.randn(most, width) for width in (cfg.d_model, cfg.E, cfg.R))
    widths = (2 * cfg.E, cfg.R + 2 * cfg.N, cfg.E, cfg.d_model)
    fused, x_proj, delta, out = (torch.empty(most, width) for width in widths)

    def run() -> None:
        for layer, before, after in layers:
            mixer: Any = model.blocks[layer].mixer
            if before:
                torch.mm(resid[:before], mixer.in_proj.weight.T, out=fused[:before])
                torch.mm(inner[:before], mixer.x_proj.weight.T, out=x_proj[:before])
                torch.mm(rank[:before], mixer.dt_proj.weight.T, out=delta[:before])
            torch.mm(inner[:after], mixer.out_proj.weight.T, out=out[:after])

    return run


def sweep_floor(model: HookedMamba) -> Run:
    """Return the products of the sweep: the cells of a layer enter behind its projections."""
    each = N_POS * (N_POS + 1) // 2
    return floor(model, [(at, each * at, each * (at + 1)) for at in range(model.cfg.n_layer)])


def controls_floor(model: HookedMamba, layer: int, prompts: int) -> Run:
    """Return the products of all controls on some prompts."""
    left, parts = CONTROLS * prompts * (N_POS - POSITION), []
    while left:
        rows = min(left, ROWS_AT_ONCE)
        left -= rows
        parts.append((layer, 0, rows))
        parts += [(at, rows, rows) for at in range(layer + 1, model.cfg.n_layer)]
    return floor(model, parts)


# --- the sweep -----------------------------------------------------------------------------------


def our_sweep(
    model: HookedMamba, pairs: EncodedPairs, cells: Iterable[Cell], columns: torch.Tensor
) -> torch.Tensor:
    """Patch each cell of the corrupted run from the clean one; both runs are part of it."""
    circuits = [[Circuit(f"blocks.{layer}.hook_h@{pos}")] for layer, pos in cells]
    return Runner(model, pairs).logits_after(circuits, Patch(), "corrupted", columns=columns)


def readme_loop(
    model: Any, tokens: torch.Tensor, cache: Any, cells: Iterable[Cell]
) -> list[torch.Tensor]:
    """Patch each cell in a run of its own."""
    hooks = [(f"blocks.{layer}.hook_h.{pos}", taken_from(cache)) for layer, pos in cells]
    return [model.run_with_hooks(tokens, fwd_hooks=[hook])[0, -1] for hook in hooks]


def batched_loop(model: Any, tokens: torch.Tensor, cache: Any, layers: int) -> None:
    """Patch all positions of a layer in one run, each in a prompt of its own."""

    def in_one_prompt(row: int, clean: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        value[row] = clean[0]
        return value

    for layer in range(layers):
        names = [f"blocks.{layer}.hook_h.{pos}" for pos in range(N_POS)]
        edits = [partial(in_one_prompt, row, cache[name]) for row, name in enumerate(names)]
        hooks = [(name, changed_by(edit)) for name, edit in zip(names, edits, strict=True)]
        model.run_with_hooks(tokens.expand(N_POS, -1), fwd_hooks=hooks)


def time_sweep(pair: Pair, shape: Shape, rounds: int) -> dict[str, Any]:
    """Time the full sweep of one prompt, and compare its values."""
    ours, theirs, pairs = pair.ours, pair.theirs, prompt_pairs(pair, 1)
    columns, cells = some_columns(ours), shape.all_cells
    timed = [cells[index] for index in shape.timed]
    kept = {*timed, *((at, pos) for at in range(shape.layers) for pos in range(N_POS))}
    names = [f"blocks.{layer}.hook_h.{pos}" for layer, pos in sorted(kept)]
    cache = theirs.run_with_cache(pairs.clean_tokens, names_filter=names)[1]
    tokens = pairs.corrupted_tokens
    contenders = {
        OURS: Contender(
            lambda: our_sweep(ours, pairs, cells, columns[:2]),
            warm=lambda: our_sweep(ours, pairs, timed, columns[:2]),
        ),
        LENS: Contender(
            lambda: readme_loop(theirs, tokens, cache, timed),
            scale=len(cells) / len(timed),
            warm=lambda: readme_loop(theirs, tokens, cache, timed[:1]),
        ),
        BATCHED: Contender(
            lambda: batched_loop(theirs, tokens, cache, shape.layers),
            scale=ours.cfg.n_layer / shape.layers,
        ),
        FLOOR: Contender(sweep_floor(ours)),
    }
    times = compete(contenders, rounds)
    return {
        "timed": {"README cells": len(timed), "layers, batched": shape.layers},
        "ratios": [
            ratio(times, LENS, OURS, least=shape.faster),
            ratio(times, BATCHED, OURS),
            ratio(times, OURS, FLOOR, most=shape.floors),
        ],
        "values": sweep_values(pair, shape, pairs, cache),
    }


def sweep_values(pair: Pair, shape: Shape, pairs: EncodedPairs, cache: Any) -> dict[str, Any]:
    """Compare logits after patches, and both libraries' with a float64 run of ours."""
    columns = some_columns(pair.ours)
    cells = [shape.all_cells[index] for index in shape.timed]
    ours = our_sweep(pair.ours, pairs, shape.all_cells, columns)[shape.timed, 0]
    loop = readme_loop(pair.theirs, pairs.corrupted_tokens, cache, cells)
    theirs = torch.stack(loop)[:, columns]
    wide = HookedMamba(replace(pair.ours.cfg, dtype="float64"), initialize_params=False)
    wide.load_state_dict({name: value.double() for name, value in pair.ours.state_dict().items()})
    exact = our_sweep(wide, pairs, cells, columns)[:, 0]
    effects = exact - wide(pairs.corrupted_tokens)[0, -1, columns]
    metric = (ours - theirs)[:, 0] - (ours - theirs)[:, 1]
    relative = largest(ours - theirs) / largest(theirs)
    found = {
        "cells, logits of each": [len(cells), len(columns)],
        "largest effect on a logit": largest(effects),
        "largest difference to mamba-lens": largest(ours - theirs),
        "rms difference to mamba-lens": rms(ours - theirs),
        "largest difference of the logit difference": largest(metric),
        "largest difference over the largest logit": relative,
        "largest difference over the largest effect": largest(ours - theirs) / largest(effects),
        "rms error against float64, mechtest": rms(ours - exact),
        "rms error against float64, mamba-lens": rms(theirs - exact),
        "rms error over mamba-lens's, at most 1.5": rms(ours - exact) / rms(theirs - exact),
        "met": rms(ours - exact) <= 1.5 * rms(theirs - exact),
    }
    if shape.name == "tiny":
        found["largest difference over the largest logit <= 1e-5"] = relative <= 1e-5
    return found


def some_columns(model: HookedMamba) -> torch.Tensor:
    """Return vocabulary entries, the metric's first."""
    generator = torch.Generator().manual_seed(1)
    return torch.randperm(model.cfg.d_vocab, generator=generator)[:COLUMNS]


def rms(values: torch.Tensor) -> float:
    """Return the root of the mean square."""
    return float(values.double().square().mean().sqrt())


def largest(values: torch.Tensor) -> float:
    """Return the largest size of a number."""
    return float(values.abs().max())


# --- controls ------------------------------------------------------------------------------------


def our_controls(
    model: HookedMamba,
    pairs: EncodedPairs,
    blocks: Iterable[Sequence[Circuit]],
    means: MeanAblation,
    columns: torch.Tensor,
) -> torch.Tensor:
    """Carry out controls, block after block; the run they start from is part of it."""
    runner = Runner(model, pairs)
    asked = ([[circuit] for circuit in block] for block in blocks)
    return torch.cat([runner.logits_after(one, means, columns=columns) for one in asked])


def in_blocks(circuits: Sequence[Circuit], sizes: Sequence[int]) -> list[Sequence[Circuit]]:
    """Return the first controls, cut into blocks."""
    ends = np.cumsum(sizes)
    return [circuits[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def time_controls(pair: Pair, shape: Shape, rounds: int) -> dict[str, Any]:
    """Time the controls of one layer and position, and compare the values of one."""
    ours, theirs, everyone = pair.ours, pair.theirs, prompt_pairs(pair, PROMPTS)
    some, tokens, columns = everyone[: shape.prompts], everyone.clean_tokens, some_columns(ours)
    site = f"blocks.{shape.layer}.hook_h"
    name = f"{site}.{POSITION}"
    mean = theirs.run_with_cache(tokens, names_filter=[name])[1][name].mean(0)
    means = MeanAblation({site: mean})
    draws = torch.randn(CONTROLS, mean.numel(), RANK, generator=torch.Generator().manual_seed(2))
    frames = [torch.linalg.qr(draw).Q for draw in draws]
    circuits = [Circuit(f"{site}@{POSITION}", subspace=Subspace(one, one)) for one in frames]

    def ours_of(*blocks: Sequence[Circuit], read: int = 2) -> torch.Tensor:
        return our_controls(ours, some, blocks, means, columns[:read])

    def edit(value: torch.Tensor) -> torch.Tensor:
        change = (mean - value).flatten(1)
        return value + (change @ frames[0] @ frames[0].T).reshape(value.shape)

    def naive() -> torch.Tensor:
        return theirs.run_with_hooks(tokens, fwd_hooks=[(name, changed_by(edit))])[:, -1]

    part = PROMPTS / shape.prompts
    claims = [in_blocks(circuits, sizes) for sizes in (TRUE_CLAIM, FALSE_CLAIM)]
    least = controls_floor(ours, shape.layer, shape.prompts)
    contenders = {
        OURS: Contender(lambda: ours_of(circuits), part, warm=lambda: ours_of(circuits[:16])),
        SEQUENTIAL: Contender(
            lambda: [ours_of(*blocks) for blocks in claims], part, warm=lambda: None
        ),
        LENS: Contender(naive, CONTROLS),
        FLOOR: Contender(least, part, warm=lambda: None),
    }
    times = compete(contenders, rounds)
    drawn = sum(TRUE_CLAIM) + sum(FALSE_CLAIM)
    product = {"factor": 2 * FIXED / CONTROLS, "what": f"2 x {FIXED} / {drawn} sequential"}
    expected = naive()[: shape.prompts, columns]
    found = ours_of(circuits[:1], read=COLUMNS)[0]
    moved = expected - theirs(some.clean_tokens)[:, -1, columns]
    return {
        "timed": {"prompts of ours": shape.prompts, "controls": CONTROLS, "naive passes": 1},
        "ratios": [
            ratio(times, LENS, OURS, least=12),
            ratio(times, OURS, FLOOR, most=1.5),
            ratio(times, LENS, SEQUENTIAL, least=150, **product),
        ],
        "values": {
            "largest effect on a logit": largest(moved),
            "largest difference over the largest logit": largest(found - expected)
            / largest(expected),
            "rms difference to mamba-lens": rms(found - expected),
        },
    }


# --- a plain forward pass ------------------------------------------------------------------------


def time_forward(pair: Pair, _shape: Shape, rounds: int) -> dict[str, Any]:
    """Time a batch of 32 prompts."""
    ours, theirs, hf, tokens = pair.ours, pair.theirs, hf_model(pair.ours), pair.tokens(32, N_POS)
    contenders = {
        OURS: Contender(lambda: ours(tokens)),
        LENS: Contender(lambda: theirs(tokens)),
        HF: Contender(lambda: hf(tokens, use_cache=False)),
    }
    times = compete(contenders, rounds)
    found, expected = ours(tokens), theirs(tokens)
    relative = largest(found - expected) / largest(expected)
    return {
        "timed": {"batch": 32},
        "ratios": [ratio(times, HF, OURS, least=4), ratio(times, LENS, OURS)],
        "values": {"largest difference over the largest logit": relative},
    }


CONTESTS = {"sweep": time_sweep, "controls": time_controls, "forward": time_forward}


def main() -> None:
    """Run what was asked for and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds at 130m; tiny takes 3 x")
    parser.add_argument("--only", choices=list(CONTESTS), help="one contest; writes no file")
    parser.add_argument("--shape", choices=[one.name for one in SHAPES], help="one; the same")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    kernels = backend_name("cpu", torch.float32)
    print(f"kernels: {kernels}", flush=True)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for shape in [one for one in SHAPES if asked.shape in (None, one.name)]:
            pair = random_pair(shape.name, 0, **shape.size)
            for what in CONTESTS if asked.only is None else (asked.only,):
                rounds = asked.rounds * shape.rounds
                found = CONTESTS[what](pair, shape, rounds)
                rows.append({"model": shape.name, "what": what, "rounds": rounds, **found})
                show(rows[-1])
    print("\nCPU time: ratio of the fastest rounds, median of the ratios within a round\n")
    header = ["model", "what", "ratio", "fastest, median", "target", "met"]
    print(table(header, [cells(row, one) for row in rows for one in row["ratios"]]))
    if asked.only is None and asked.shape is None:
        facts = {"kernels": kernels, "positions": N_POS, "threads": 1}
        write("timing_engine", {**facts, "rows": rows})


def show(row: Mapping[str, Any]) -> None:
    """Print one contest's figures as soon as they are there."""
    for one in row["ratios"]:
        print(row["model"], row["what"], one, flush=True)
    for name, value in row["values"].items():
        text = shown(value) if isinstance(value, float) else value
        print(row["model"], row["what"], f"{name}: {text}", flush=True)


def cells(row: Mapping[str, Any], one: Mapping[str, Any]) -> list[object]:
    """Return one ratio as cells of the table."""
    met = {True: "yes", False: "no"}.get(one.get("met", ""), "")
    figures = f"{one['fastest']:.2f}, {one['median']:.2f}"
    return [row["model"], row["what"], one["ratio"], figures, one.get("target", ""), met]


if __name__ == "__main__":
    main()
