"""What is a hooked Mamba, how is it loaded, run, cached and edited?"""

from mechtest.models.activation_cache import ActivationCache
from mechtest.models.hook_points import HookPoint
from mechtest.models.mamba import HookedMamba, Output
from mechtest.models.packed_block import ENTERED_BEFORE, PACKED_HOOKS, PackedBlock, Steps
from mechtest.models.state import ModelState, RecurrentState
from mechtest.models.suite import ModelSuite
from mechtest.models.workspace import Workspace

__all__ = [
    "ENTERED_BEFORE",
    "PACKED_HOOKS",
    "ActivationCache",
    "HookPoint",
    "HookedMamba",
    "ModelState",
    "ModelSuite",
    "Output",
    "PackedBlock",
    "RecurrentState",
    "Steps",
    "Workspace",
]
