"""What is studied, exactly, and does the model do the task at all?"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mechtest.discovery.looking import mean_over_templates
from mechtest.discovery.record import about, identity_of
from mechtest.errors import BehaviourAbsentError
from mechtest.study.bench import Bench
from mechtest.study.step import Found
from mechtest.study.table import StepTable
from mechtest.tasks import METRICS

__all__ = ["set_up"]

PACKAGES = ("mechtest", "torch", "numpy", "scipy", "scikit-learn", "matplotlib")
FEW_TEMPLATES = 6


def set_up(bench: Bench) -> Found:
    """Say which model, prompts and versions these are, and measure the behaviour.

    Raises:
        BehaviourAbsentError: The model answers fewer clean prompts right than `min_accuracy`.
        MetricError: Clean and corrupted prompts score alike.
    """
    model, pairs, halves = bench.model, bench.pairs, bench.prompts.split()
    behaviour, metric = bench.behaviour, bench.metric
    right = METRICS["accuracy"](bench.runner.logits("clean"), pairs).double()
    accuracy = mean_over_templates(right, pairs)
    wanted = bench.study.study["min_accuracy"]
    if accuracy < wanted:
        raise BehaviourAbsentError(
            "this model does not do the task, so there is no circuit of it to look for",
            given=f"{accuracy:.0%} of the clean discovery prompts are answered right",
            expected=f"at least {wanted:.0%}",
            next_step="look at prompts.explain(model.tokenizer), or lower min_accuracy",
        )
    found = Found()
    rows = tuple(
        (template, len(part), float(clean.mean()), float(corrupted.mean()), float(hit.mean()))
        for template, part, clean, corrupted, hit in _by_template(bench, right)
    )
    table = StepTable(
        about("setup", model, pairs, metric=metric.name),
        title=f"{metric.name} by template, discovery half",
        columns=("template", "prompts", "clean", "corrupted", "accuracy"),
        rows=rows,
        bars=("clean", "corrupted"),
        unit=metric.unit,
    )
    found.records["behaviour"] = table
    cfg, identity = model.cfg, identity_of(model)
    found.facts = {
        "model": {"name": identity.name, "weights": identity.weights, "dtype": identity.dtype,
                  "layers": cfg.n_layer, "d_model": cfg.d_model, "d_inner": cfg.E,
                  "d_state": cfg.N, "vocabulary": cfg.d_vocab},
        "prompts": {"digest": bench.prompts.digest, "discovery": len(halves[0]),
                    "test": len(halves[1]), "discovery_templates": len(halves[0].templates),
                    "test_templates": len(halves[1].templates)},
        "versions": {name: _version(name) for name in PACKAGES} | {
            "python": platform.python_version()},
        "accuracy": accuracy,
        "gap": behaviour.gap,
        "random_seed": bench.seed,
    }  # fmt: skip
    found.lines = [
        (
            f"{accuracy:.0%} of {len(pairs)} discovery prompts are answered right; {metric.name} "
            f"differs by {behaviour.gap:.3g} {metric.unit} between the twins"
        ),
        (
            f"{identity.name}: {cfg.n_layer} layers, d_model {cfg.d_model}, weights "
            f"{identity.weights[:12] or 'without a file'}"
        ),
        (
            f"{len(halves[0])} prompts of {len(halves[0].templates)} templates to look at, "
            f"{len(halves[1])} of {len(halves[1].templates)} kept for testing claims"
        ),
    ]
    few = [half for half in halves if len(half.templates) < FEW_TEMPLATES]
    if few:
        found.warnings.append(
            f"only {len(few[0].templates)} templates on the {few[0].side} half: claims about so "
            "few stay inconclusive"
        )
    found.warnings += [
        str(one) for one in bench.prompts.validate(model.tokenizer) if one.severity == "warning"
    ][:5]
    return found


def _by_template(bench: Bench, right: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    for index, template in enumerate(bench.pairs.templates):
        own = torch.as_tensor(bench.pairs.cluster) == index
        if bool(own.any()):
            parts = (bench.behaviour.clean, bench.behaviour.corrupted, right)
            yield template, own.nonzero(), *(part.cpu()[own] for part in parts)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
