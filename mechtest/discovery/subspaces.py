"""In which few directions do clean and corrupted runs differ at a site?"""

from __future__ import annotations

import torch

from mechtest.errors import ClaimInvalid, ShapeError
from mechtest.interventions import (
    Circuit,
    Runner,
    Subspace,
    collect_activations,
    fit_spectrum,
    runner_for_claim,
)
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs

__all__ = ["difference_subspace", "find_difference_subspace"]


@torch.no_grad()
def find_difference_subspace(
    model: HookedMamba, site: str, prompts: DiscoveryPairs, *, rank: int, name: str | None = None
) -> Circuit:
    """Return the subspace of a site that holds most of the clean-to-corrupted differences.

    The leading right singular vectors of the differences, in coordinates divided by their standard
    deviation over clean activations. For one pair of classes and rank 1 this is close
    to the difference of means.

    Args:
        model: The model.
        site: One hook at one position a prompt, for example `blocks.0.hook_h@last`.
        prompts: `prompts.discovery`.
        rank: Dimensions.
        name: How reports call the circuit.

    Returns:
        A circuit with the fingerprints of the prompts it was found on.

    Raises:
        ClaimInvalid: Prompts that are not the discovery half.
        ShapeError: Several hooks, or a rank the differences do not have.

    Sources: Marks & Tegmark 2023 (differences of means); Wu et al. 2023 for subspaces of patching.
    """
    if not isinstance(prompts, DiscoveryPairs):
        raise ClaimInvalid(
            "circuits are looked for on the discovery half of the prompts",
            given=repr(prompts),
            expected="prompts.discovery",
        )
    runner = runner_for_claim(model, prompts.encode(model.tokenizer))
    subspace = difference_subspace(runner, site, rank)
    return Circuit(
        site,
        subspace=subspace,
        name=name or f"{rank} directions of {site}",
        fitted_on=runner.pairs.fingerprints,
    )


@torch.no_grad()
def difference_subspace(runner: Runner, site: str, rank: int) -> Subspace:
    """Return the subspace of a site that holds most of the differences on a runner's prompts.

    Raises:
        ShapeError: Several hooks, or a rank the differences do not have.
    """
    whole = Circuit(site)
    scale = torch.as_tensor(fit_spectrum(runner, whole).scale)
    clean, corrupted = (
        next(iter(collect_activations(runner, whole, run).values())).flatten(1).double()
        for run in ("clean", "corrupted")
    )
    differences = (clean - corrupted) / scale
    if not 0 < rank <= min(differences.shape):
        raise ShapeError(
            "there are not that many directions of difference",
            given=f"rank={rank}",
            expected=f"1 to {min(differences.shape)}",
        )
    axes = torch.linalg.svd(differences, full_matrices=False).Vh[:rank].T
    return Subspace.spanned_by(axes * scale[:, None], scale)
