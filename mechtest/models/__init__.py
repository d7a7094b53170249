"""What is a hooked Mamba, how is it loaded, run, cached and edited?"""

from mechtest.models.activation_cache import ActivationCache
from mechtest.models.hook_points import HookPoint
from mechtest.models.mamba import HookedMamba, Output
from mechtest.models.state import ModelState, RecurrentState
from mechtest.models.suite import ModelSuite

__all__ = [
    "ActivationCache",
    "HookPoint",
    "HookedMamba",
    "ModelState",
    "ModelSuite",
    "Output",
    "RecurrentState",
]
