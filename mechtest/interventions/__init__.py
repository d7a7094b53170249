"""What is changed inside a model, where, and how is it carried out over many prompts?

`circuit` and `spec` say what (frozen, no tensors run), `plan` works out which rows of which hooks
that means for given prompts, `run` carries it out. Faster executors replace the last one only.
"""

from mechtest.interventions.circuit import Circuit
from mechtest.interventions.claim_runner import runner_for_claim
from mechtest.interventions.cost import Cost
from mechtest.interventions.digests import digest_of, digest_of_weights
from mechtest.interventions.fit import (
    collect_activations,
    fit_means,
    fit_spectrum,
    read_activations,
)
from mechtest.interventions.knockout_profile import knockout
from mechtest.interventions.native import (
    KNOCKOUT_MODES,
    BlockPath,
    CutCrossTalk,
    DropConvTap,
    EditDecay,
    FreezeDelta,
    FreezeGate,
    Knockout,
    NativeOperator,
    decay_channels,
    retention_of_channels,
)
from mechtest.interventions.optimal import fit_optimal
from mechtest.interventions.patch_from import GivenRows, PatchFrom
from mechtest.interventions.plan import PlannedEdit, plan_edits
from mechtest.interventions.run import ENGINES, Engine, InterventionRun, Runner
from mechtest.interventions.run_pool import pool_of_run
from mechtest.interventions.spec import (
    Intervention,
    MeanAblation,
    NoiseAblation,
    OptimalAblation,
    Patch,
    Places,
    ResampleAblation,
    Run,
    Steer,
    ZeroAblation,
)
from mechtest.interventions.subspace import Subspace
from mechtest.interventions.sweep_result import SweepPlace, SweepResult
from mechtest.interventions.sweeping import SweepPlan, sweep
from mechtest.interventions.unedited_runs import forget_runs

__all__ = [
    "ENGINES",
    "KNOCKOUT_MODES",
    "BlockPath",
    "Circuit",
    "Cost",
    "CutCrossTalk",
    "DropConvTap",
    "EditDecay",
    "Engine",
    "FreezeDelta",
    "FreezeGate",
    "GivenRows",
    "Intervention",
    "InterventionRun",
    "Knockout",
    "MeanAblation",
    "NativeOperator",
    "NoiseAblation",
    "OptimalAblation",
    "Patch",
    "PatchFrom",
    "Places",
    "PlannedEdit",
    "ResampleAblation",
    "Run",
    "Runner",
    "Steer",
    "Subspace",
    "SweepPlace",
    "SweepPlan",
    "SweepResult",
    "ZeroAblation",
    "collect_activations",
    "decay_channels",
    "digest_of",
    "digest_of_weights",
    "fit_means",
    "fit_optimal",
    "fit_spectrum",
    "forget_runs",
    "knockout",
    "plan_edits",
    "pool_of_run",
    "read_activations",
    "retention_of_channels",
    "runner_for_claim",
    "sweep",
]
