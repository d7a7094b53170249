"""How is one block's recurrence computed, and which way can show what was asked for?

Neighbours of `stats` and `report`: kernels know tensors, never hooks, prompts or claims.
"""

from mechtest.kernels.backends import backend_name
from mechtest.kernels.conv import causal_conv, window_after
from mechtest.kernels.dispatch import FUSED, SCAN_PATHS, ScanPath, choose_scan
from mechtest.kernels.scan import discretize, selective_scan
from mechtest.kernels.segments import compiled_for

__all__ = [
    "FUSED",
    "SCAN_PATHS",
    "ScanPath",
    "backend_name",
    "causal_conv",
    "choose_scan",
    "compiled_for",
    "discretize",
    "selective_scan",
    "window_after",
]
