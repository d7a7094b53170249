"""What can be changed in how a Mamba's layer works, beyond replacing activations?

`operator` says what an operator is, `branches`, `paths` and `knockout` are the operators,
`recurrence` computes what they change, `carrying_out` turns them into hooks.
"""

from mechtest.interventions.native.branches import DropConvTap, FreezeDelta, FreezeGate
from mechtest.interventions.native.decay_classes import (
    DECAY_CLASSES,
    DecayClass,
    decay_channels,
    retention_of_channels,
)
from mechtest.interventions.native.knockout import KNOCKOUT_MODES, Knockout, KnockoutMode
from mechtest.interventions.native.operator import LayerRun, NativeOperator
from mechtest.interventions.native.paths import BlockPath, CutCrossTalk, EditDecay

__all__ = [
    "DECAY_CLASSES",
    "KNOCKOUT_MODES",
    "BlockPath",
    "CutCrossTalk",
    "DecayClass",
    "DropConvTap",
    "EditDecay",
    "FreezeDelta",
    "FreezeGate",
    "Knockout",
    "KnockoutMode",
    "LayerRun",
    "NativeOperator",
    "decay_channels",
    "retention_of_channels",
]
