"""Which values of an intervention are learned from prompts, and from which?

Means and spectra are fits: they belong on the discovery half, and what they touched is recorded.
"""

from __future__ import annotations

import torch

from mechtest.errors import ShapeError
from mechtest.interventions.circuit import Circuit
from mechtest.interventions.plan import plan_edits
from mechtest.interventions.run import Runner
from mechtest.interventions.spec import MeanAblation, Run
from mechtest.stats import Spectrum, measure_spectrum


@torch.no_grad()
def fit_means(runner: Runner, circuit: Circuit, run: Run = "clean") -> MeanAblation:
    """Return the mean ablation of a circuit: the mean over prompts and the positions meant.

    Args:
        runner: Model and (discovery) prompts.
        circuit: Sites to average at.
        run: The run to average over.

    Raises:
        ShapeError: The prompts are the half that claims are tested on.
    """
    found = collect_activations(runner, circuit, run)
    return MeanAblation({name: rows.mean(0) for name, rows in found.items()})


@torch.no_grad()
def fit_spectrum(runner: Runner, circuit: Circuit, run: Run = "clean") -> Spectrum:
    """Return the spread and principal axes of a one-hook circuit's activations, flattened.

    Subspaces are taken, and controls drawn, in these coordinates.

    Args:
        runner: Model and (discovery) prompts.
        circuit: One hook.
        run: The run to look at.

    Raises:
        ShapeError: Several hooks, or the prompts are the half that claims are tested on.
        SampleError: Activations that do not vary.
    """
    found = list(collect_activations(runner, circuit, run).values())
    if len(found) != 1:
        raise ShapeError(
            "a spectrum belongs to one hook", given=circuit.name, expected="one site of one hook"
        )
    return measure_spectrum(found[0].flatten(1).cpu().numpy(), name=circuit.name)


@torch.no_grad()
def collect_activations(
    runner: Runner, circuit: Circuit, run: Run = "clean"
) -> dict[str, torch.Tensor]:
    """Return the activations at every place a circuit means, by hook name without position.

    Args:
        runner: Model and (discovery) prompts.
        circuit: Where; its channels and subspace play no part.
        run: The run to look at.

    Returns:
        "row ...": a row for each prompt and position meant, prompts in order.

    Raises:
        ShapeError: The prompts are the half that claims are tested on.
    """
    if runner.pairs.side == "test":
        raise ShapeError(
            "means and spectra are fits, and these prompts are kept for testing claims",
            given="the test half of the prompts",
            expected="prompts.discovery",
        )
    return read_activations(runner, circuit, run)


@torch.no_grad()
def read_activations(
    runner: Runner, circuit: Circuit, run: Run = "clean"
) -> dict[str, torch.Tensor]:
    """Return what `collect_activations` does, on any half: for tests that fit nothing to them.

    Args:
        runner: Model and prompts.
        circuit: Where; its channels and subspace play no part.
        run: The run to look at.
    """
    found: dict[str, list[torch.Tensor]] = {}
    plan = plan_edits(runner.model.resolver, circuit, runner.pairs)
    for index, batch in enumerate(runner.pairs.batches(runner.batch_size)):
        part = slice(index * runner.batch_size, index * runner.batch_size + len(batch))
        tokens = batch.clean_tokens if run == "clean" else batch.corrupted_tokens
        names = [edit.name for edit in plan]
        _, cache = runner.model.run_with_cache(
            tokens, attention_mask=batch.attention_mask, names_filter=names
        )
        runner.count(tokens)
        for edit in plan:
            value = cache[edit.name]  # per-position hooks come stacked along axis 1
            rows = value.unsqueeze(0) if edit.where is None else value[edit.where[part]]
            found.setdefault(edit.name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in found.items()}
