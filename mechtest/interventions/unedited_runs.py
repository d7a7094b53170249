"""Which unedited runs have been made already, by any claim of this run?

Claims on the same model and prompts start from the same clean and corrupted runs. Their logits are
kept in the pool of the run, where every worker finds them. What edits go on from (residual streams,
states and windows) is larger than it is costly, and is kept in the process that made it.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch

from mechtest.interventions.base_run import BaseRun
from mechtest.interventions.digests import digest_of, digest_of_weights
from mechtest.interventions.run_pool import RunPool, forget_pools, pool_of_run
from mechtest.interventions.spec import Run
from mechtest.kernels import backend_name
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs

__all__ = ["Bases", "UneditedRuns", "bytes_of", "forget_runs"]

Bases = dict[tuple[Run, int, int], BaseRun]
"""Unedited runs by run, first prompt, and one past the last."""

_BASES: OrderedDict[str, Bases] = OrderedDict()


class UneditedRuns:
    """The unedited runs of one model on some prompts, found by everything they depend on.

    Args:
        model: The model. Weights that change are other weights; with hooks on it, nothing is
            shared.
        pairs: Encoded prompts.
        settings: What else decides a run's last bits, and how much may be kept.
        pool: Where logits are kept; by default that of the run.
    """

    def __init__(
        self,
        model: HookedMamba,
        pairs: EncodedPairs,
        *settings: str | int,
        pool: RunPool | None = None,
    ) -> None:
        self._model = model
        self._rest = digest_of(
            [pairs.clean_tokens, pairs.corrupted_tokens, pairs.attention_mask, list(settings)]
        )
        self._shape = len(pairs), model.cfg.d_vocab
        self._device = pairs.device
        self._pool = pool if pool is not None else pool_of_run()

    def bases(self) -> Bases:
        """Return what this process keeps for edits to go on from; the caller adds to it."""
        key = self._key("bases")
        if key is None:
            return {}
        found = _BASES.setdefault(key, {})
        _BASES.move_to_end(key)
        return found

    def make_room(self, most: int) -> None:
        """Drop the runs of other models and prompts, oldest first, until `most` bytes are left."""
        while len(_BASES) > 1 and bytes_of([r for b in _BASES.values() for r in b.values()]) > most:
            _BASES.popitem(last=False)

    def logits(self, run: Run) -> torch.Tensor | None:
        """Return the logits of a run, "prompt d_vocab"; None where nobody has made it."""
        key = self._key(run)
        weight = self._model.embedding.weight
        if key is None or weight.dtype not in _NUMPY:
            return None
        found = self._pool.get(key, self._shape, _NUMPY[weight.dtype])
        return None if found is None else torch.from_numpy(found.copy()).to(self._device)

    def keep(self, run: Run, logits: torch.Tensor) -> None:
        """Keep the logits of a run for other claims."""
        key = self._key(run)
        if key is not None and logits.dtype in _NUMPY:
            self._pool.put(key, logits.cpu().numpy())

    def _key(self, what: str) -> str | None:
        if self._model.has_any_hooks:
            return None  # what a hook does is in no digest
        weight = self._model.embedding.weight
        kernels = backend_name(weight.device.type, weight.dtype)
        return digest_of([digest_of_weights(self._model), self._rest, kernels, what])


_NUMPY: dict[torch.dtype, type[np.floating]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
}


def bytes_of(runs: list[BaseRun]) -> int:
    """Return the bytes that some runs hold; runs made together hold some of them in common."""
    parts = {part.untyped_storage().data_ptr(): part for run in runs for part in run.kept}
    return sum(part.untyped_storage().nbytes() for part in parts.values())


def forget_runs() -> None:
    """Drop what this process keeps of unedited runs and controls, whoever made them."""
    _BASES.clear()
    forget_pools()
