"""How much of a state's variance, and of what flows through it, does each mode have?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.dynamics.prompt_tables import template_means
from mechtest.discovery.dynamics.recurrence import Recurrence, TextRows, read_recurrences
from mechtest.interventions import Circuit, Runner, collect_activations
from mechtest.models import HookedMamba

__all__ = ["coordinate_energy", "mode_energies", "mode_variances"]


def coordinate_energy(one: Recurrence, cut: int) -> Float[torch.Tensor, "d_inner d_state"]:
    """Return, for each mode, the product of both Gramians' diagonals at a token, in float64.

    What tokens up to `cut` can write into the mode, times what tokens from there on see of it.
    """
    steps, decay = one.delta.double(), one.A.double()
    B, C = one.B.double(), one.C.double()
    reached = torch.zeros_like(decay)
    for token in range(cut + 1):
        step = steps[token, :, None]
        reached = torch.exp(2 * step * decay) * reached + (step * B[token]).square()
    seen = torch.zeros_like(decay)
    for token in reversed(range(cut, len(steps))):
        seen = seen + C[token].square()
        if token > cut:
            seen = torch.exp(2 * steps[token, :, None] * decay) * seen
    return reached * seen


def mode_energies(
    model: HookedMamba, rows: TextRows, layer: int, cuts: list[int], *, progress: bool = False
) -> Float[np.ndarray, "d_inner d_state"]:
    """Return `coordinate_energy`, templates weighted equally.

    Args:
        model: The model.
        rows: The prompts.
        layer: Which layer.
        cuts: Token of each prompt, without padding.
        progress: Show a bar.
    """
    counts = {name: rows.about.templates.count(name) for name in set(rows.about.templates)}
    total = np.zeros((model.cfg.E, model.cfg.N))
    for one in read_recurrences(model, rows, [layer], progress=progress):
        weight = 1 / (len(counts) * counts[rows.about.templates[one.prompt]])
        total += weight * coordinate_energy(one, cuts[one.prompt]).cpu().numpy()
    return total


def mode_variances(
    runner: Runner, site: str
) -> tuple[Float[np.ndarray, "d_inner d_state"], Float[np.ndarray, "d_inner d_state"]]:
    """Return each mode's variance over clean prompts, and its mean squared clean-corrupted change.

    Templates weighted equally in the second.
    """
    clean, corrupted = (
        next(iter(collect_activations(runner, Circuit(site), run).values())).double().cpu()
        for run in ("clean", "corrupted")
    )
    names = [runner.pairs.templates[index] for index in runner.pairs.cluster]
    changes = (clean - corrupted).square().numpy()
    return np.asarray(clean.var(0, correction=0).numpy()), template_means(changes, names)
