"""Do equally large random parts of the model do as much as a found circuit?

The same families of controls that claims are ranked among, on the prompts the circuit was found on.
A preview, and a flattering one: the circuit was chosen for these prompts, its controls were not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mechtest.assertions.control_sets import ControlSets, SubspaceSets, channel_sets
from mechtest.discovery.looking import mean_over_templates
from mechtest.discovery.record import about
from mechtest.errors import MechtestError, NothingChangedError
from mechtest.interventions import Circuit, Patch, ResampleAblation, Runner, fit_spectrum
from mechtest.models import HookedMamba
from mechtest.stats import SubspaceControls, derived_seed
from mechtest.study.bench import Bench
from mechtest.study.measured import measure_share
from mechtest.study.step import Found
from mechtest.study.table import StepTable

__all__ = ["PREVIEW", "draw_controls"]

PREVIEW = (
    "a preview on the prompts that the circuit was found on, which flatters it: whether it is "
    "special is tested by the claim, on the other half"
)
CUT = 1e-3
AT_ONCE = 8


@torch.no_grad()
def draw_controls(bench: Bench) -> Found:
    """Rank the best circuits among random parts of the same make-up, and look for cuts."""
    found = Found(warnings=[PREVIEW])
    rows: list[tuple[Any, ...]] = []
    twin = HookedMamba(
        bench.model.cfg,
        tokenizer=bench.model.tokenizer,
        seed=derived_seed(bench.seed, "study", "random twin") % 2**31,
    ).to(device=bench.model.device)
    beside = Runner(twin, bench.pairs)
    for name, circuit in bench.best(bench.settings["circuits"]).items():
        if _is_cut(beside, bench, circuit):
            found.facts.setdefault("cuts", []).append(name)
            found.warnings.append(
                f"{name} cuts the model in two: its effect is 1 in any model, and no claim"
            )
            continue
        try:
            values = _effects(bench, _family(bench, circuit))
        except MechtestError as error:
            found.warnings.append(f"{name}: no controls: {error.what}")
            continue
        own = measure_share(bench.runner, bench.metric, circuit).value or 0.0
        beaten = int((values >= own).sum())
        rows.append(
            (name, own, float(values.mean()), float(np.quantile(values, 0.95)),
             float(values.max()), len(values), beaten, (1 + beaten) / (1 + len(values)))
        )  # fmt: skip
    found.keep(
        "controls",
        StepTable(
            about("controls", bench.model, bench.pairs, metric=bench.metric.name,
                  draws=bench.settings["draws"]),
            title="found circuits beside random parts of the same make-up (a preview)",
            columns=("circuit", "lost", "mean of controls", "95 % of controls",
                     "largest control", "controls", "at least as large", "p of the preview"),
            rows=tuple(rows),
            bars=("lost", "mean of controls", "largest control"),
            unit="share of behaviour",
        ),
        count=4,
    )  # fmt: skip
    found.facts["p"] = {str(row[0]): row[7] for row in rows}
    return found


def _family(bench: Bench, circuit: Circuit) -> ControlSets:
    if circuit.subspace is None:
        return channel_sets(bench.model, circuit, bench.seed, 0.5)
    whole = Circuit(*map(str, circuit.sites))
    spectrum = fit_spectrum(bench.runner, whole)
    controls = SubspaceControls(
        circuit.subspace.basis.numpy(), spectrum, "block", bench.seed, f"study of {whole.name}"
    )
    return SubspaceSets(circuit, controls, "block")


def _effects(bench: Bench, family: ControlSets) -> np.ndarray:
    """Return the effect of each control, as claims rank them."""
    gap, clean = bench.behaviour.gap, bench.behaviour.clean
    effects: list[float] = []
    for start in range(0, bench.settings["draws"], AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, bench.settings["draws"]))
        drawn = [family.draw(number) for number in numbers]
        logits = bench.runner.logits_after([one.circuits for one in drawn], ResampleAblation())
        for control, after in zip(drawn, logits, strict=True):
            lost = clean - bench.metric(after, bench.pairs)
            effects.append(control.statistic(mean_over_templates(lost, bench.pairs) / gap))
    return np.array(effects)


def _is_cut(runner: Runner, bench: Bench, circuit: Circuit) -> bool:
    """Whether restoring it in a model that knows nothing restores everything there, too."""
    try:
        run = runner.run(circuit, Patch("clean"), "corrupted")
    except NothingChangedError:
        return False
    values = [
        bench.metric(logits, bench.pairs)
        for logits in (runner.logits("clean"), runner.logits("corrupted"), run.logits)
    ]
    clean, corrupted, restored = (value.double() for value in values)
    largest = float((clean - corrupted).abs().max())
    return largest > 0 and float((restored - clean).abs().max()) <= CUT * largest
