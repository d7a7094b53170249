"""Trained models of the zoo with a circuit weakened, removed, moved or left alone, as reports."""

from dataclasses import asdict, replace

import torch

from mechtest.assertions import check_necessary, check_not_necessary
from mechtest.checkpoints import save_hf
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from tests.assertions.zoo import LEVEL, prompts, prose
from tests.report.example import report_of, row

SOURCE = "fixtures/zoo/prose/seed0/step-02500"
KEPT, EMPTY = "blocks.1.state@last", "blocks.2.state@last"

# Rows of x_proj that read the state out (C): after dt_rank rows for delta and d_state for B.
READS = slice(20, 36)


def _weights():
    """Return the weights of three layers: those of the zoo model, and one that adds nothing."""
    found = {k: v.clone() for k, v in prose().state_dict().items()}
    for name in [name for name in found if name.startswith("blocks.1.")]:
        found[name.replace("blocks.1.", "blocks.2.")] = found[name].clone()
    found["blocks.2.mixer.out_proj.weight"] *= 0.001
    return found


def _swapped(weights):
    names = {"blocks.1.": "blocks.2.", "blocks.2.": "blocks.1."}
    return {names.get(k[:9], k[:9]) + k[9:]: v for k, v in weights.items()}


def _edited(name, change):
    weights = _weights()
    change(weights[name])
    return weights


EDITS = {
    "as it was": _weights,
    "moved": lambda: _swapped(_weights()),
    "weakened": lambda: _edited("blocks.1.mixer.x_proj.weight", lambda w: w[READS].mul_(0.1)),
    "removed": lambda: _edited("blocks.1.mixer.x_proj.weight", lambda w: w[READS].zero_()),
    "elsewhere": lambda: _edited("blocks.2.mixer.conv1d.weight", lambda w: w.mul_(-1)),
}


def planted_report(folder, edit):
    """Save an edited model, load it back, check two claims of it, and return their report."""
    cfg = replace(prose().cfg, n_layer=3)
    path = save_hf(folder / edit.replace(" ", "-"), cfg, EDITS[edit](), tokenizer=SOURCE)
    with torch.no_grad():
        model = HookedMamba.from_pretrained(str(path))
        pairs = prompts("fact_city", 2)
        there = check_necessary(model, Circuit(KEPT), pairs, threshold=0.5, level=LEVEL)
        absent = check_not_necessary(model, Circuit(EMPTY), pairs, threshold=0.2, level=LEVEL)
    return report_of([_row("test_there", there, 0), _row("test_absent", absent, 1)])


def _row(name, record, order):
    model = {"suite": "planted", "seed": 0, "checkpoint": "", "sha256": "", "dtype": "float32",
             "device": "cpu"}  # fmt: skip
    return row(
        name, name, str(record.verdict), [asdict(item) for item in record.evidence],
        order=order, level=record.level, p=record.p, binding=record.binding,
        reason=record.reason, settings=[dict(record.settings)], model=model,
    )  # fmt: skip
