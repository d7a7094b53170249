"""Which members of a suite hold the same weights?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch

from mechtest.checkpoints.conversion import to_native
from mechtest.checkpoints.fingerprint import digest_weights
from mechtest.checkpoints.formats import read_config
from mechtest.checkpoints.json_file import read_json
from mechtest.checkpoints.location import locate
from mechtest.checkpoints.manifest import CheckpointSource
from mechtest.checkpoints.weights import load_weights

__all__ = ["find_duplicates"]

Key = tuple[int, int]


def find_duplicates(members: Mapping[Key, CheckpointSource]) -> Iterator[tuple[Key, Key]]:
    """Yield pairs of members whose weights are equal, in whatever format they are stored."""
    for alike in _groups(members, _probe):
        for equal in _groups(alike, digest_weights):
            first, *others = equal
            yield from ((first, other) for other in others)


def _groups(
    members: Mapping[Key, CheckpointSource],
    digest: Callable[[Mapping[str, torch.Tensor]], str],
) -> Iterator[dict[Key, CheckpointSource]]:
    by_digest: dict[str, dict[Key, CheckpointSource]] = defaultdict(dict)
    if len(members) > 1:
        for key, source in members.items():
            by_digest[digest(_map(source))][key] = source
    yield from (group for group in by_digest.values() if len(group) > 1)


def _probe(native: Mapping[str, torch.Tensor]) -> str:
    """Digest the small tensors: weights that differ nearly always differ there already."""
    return digest_weights({name: tensor for name, tensor in native.items() if tensor.ndim == 1})


def _map(source: CheckpointSource) -> dict[str, torch.Tensor]:
    files = locate(source.path_or_repo, source.revision, source.subfolder)
    cfg = read_config(read_json(files.config_path), str(files.config_path))
    return to_native(load_weights(files, check_finite=False), cfg)
