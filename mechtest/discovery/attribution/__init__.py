"""Which places and edges would matter if they were patched, by the slope of the metric?

Two passes forward and one back say it of every place at once, to first order; true patching of some
places says beside it how far that can be trusted.
"""

from mechtest.discovery.attribution.agreement import Agreement
from mechtest.discovery.attribution.attribution_result import AttributionResult
from mechtest.discovery.attribution.edge_result import EdgeAttributionResult, ScoredEdge
from mechtest.discovery.attribution.edges import edge_attribution
from mechtest.discovery.attribution.patching import attribution_patching
from mechtest.discovery.attribution.traces import AttributionCost

__all__ = [
    "Agreement",
    "AttributionCost",
    "AttributionResult",
    "EdgeAttributionResult",
    "ScoredEdge",
    "attribution_patching",
    "edge_attribution",
]
