"""Which channels of a site are strongest one by one, and which go together?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.circuits.measuring import Bench
from mechtest.interventions import Circuit, Runner, collect_activations
from mechtest.interventions.complement import channel_count
from mechtest.sites import Site

__all__ = ["channel_correlations", "channel_groups", "memory_part", "strongest_channels"]


def memory_part(site: str) -> Site:
    """Return the one hook whose values are compared: of a state site, `hook_h`."""
    parts = Circuit(site).parts
    return next((part for part in parts if part.hook == "hook_h"), parts[0])


def strongest_channels(bench: Bench, site: str, count: int) -> list[int]:
    """Return the channels whose ablation, one at a time, costs the metric most; one run each.

    One by one is blind to channels that matter only together.

    Sources: Michel et al. 2019.
    """
    width = channel_count(bench.runner.model, Circuit(site).sites[0])
    each = [[Circuit(site, channels=[channel])] for channel in range(width)]
    after = bench.edited(each, bench.ablation)
    lost = [bench.mean(bench.clean - row) for row in after]
    return sorted(sorted(range(width), key=lambda channel: -lost[channel])[:count])


def channel_correlations(runner: Runner, site: str) -> Float[np.ndarray, "channel channel"]:
    """Return how alike channels change between clean and corrupted prompts: Pearson's r.

    What a channel does is all its coordinates at all prompts, so that the channels of a state are
    compared by what they hold and along which directions. Channels that do not vary have r 0 with
    all others.

    Args:
        runner: Model and discovery prompts.
        site: Of a state site, `hook_h` is taken.
    """
    part = memory_part(site)
    whole = Circuit(str(part))
    clean, corrupted = (
        next(iter(collect_activations(runner, whole, run).values()))
        for run in ("clean", "corrupted")
    )
    change = (clean - corrupted).double()
    rows = torch.movedim(change, _channel_axis(part, change.ndim), 0).flatten(1).cpu().numpy()
    rows = rows - rows.mean(axis=1, keepdims=True)
    size = np.linalg.norm(rows, axis=1)
    varies = size > 1e-9 * max(float(size.max()), 1e-300)
    unit = np.where(varies[:, None], rows / np.where(varies, size, 1.0)[:, None], 0.0)
    found = unit @ unit.T
    np.fill_diagonal(found, 1.0)
    return np.asarray(np.clip(found, -1.0, 1.0))


def channel_groups(runner: Runner, site: str, count: int) -> list[list[int]]:
    """Return groups of channels that go together, up or down: average linkage over 1 - |r|.

    Args:
        runner: Model and discovery prompts.
        site: The site.
        count: Number of groups the tree is cut into; those of one channel are left out.

    Returns:
        The largest group first. n channels need n * n numbers: 200 MiB for 5120.

    Sources: Sokal & Michener 1958 (average linkage).
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = 1.0 - np.abs(channel_correlations(runner, site))
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    labels = fcluster(tree, count, criterion="maxclust")
    groups = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    wanted = [group for group in groups if 1 < len(group) < len(labels)]
    return sorted(wanted, key=lambda group: (-len(group), group))


def _channel_axis(site: Site, ndim: int) -> int:
    axes = [axis for axis in site.spec.axes if axis not in ("batch", "pos")]
    if "d_inner" in axes:
        return ndim - len(axes) + axes.index("d_inner")
    return ndim - 1
