"""Which places of a model can be named, and what does each name mean?

Pure Python: names are parsed, resolved and listed without torch. Tensors meet names one floor up,
in `mechtest.models`.
"""

from mechtest.sites.position import Position
from mechtest.sites.resolve import HookTarget, SiteResolver
from mechtest.sites.site import Site
from mechtest.sites.table import MAMBA1_HOOKS, STATE_PARTS, HookSpec

__all__ = [
    "MAMBA1_HOOKS",
    "STATE_PARTS",
    "HookSpec",
    "HookTarget",
    "Position",
    "Site",
    "SiteResolver",
]
