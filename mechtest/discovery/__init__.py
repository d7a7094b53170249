"""Where might a circuit be? Looked for on the discovery half of the prompts only.

What is found here carries the fingerprints of every prompt that was used, so that a claim about it
cannot be tested on the same ones. Each kind of tool has a room of its own, imported when it is
asked for: `lens`, `tracing`, `attribution`, `probes`, `sae`, `temporal`, `dynamics`, `circuits`.
"""

from mechtest.discovery.channels import find_channels
from mechtest.discovery.effect_map import map_effects
from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.subspaces import find_difference_subspace

__all__ = ["DiscoveryRecord", "find_channels", "find_difference_subspace", "map_effects"]
