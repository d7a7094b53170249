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
from mechtest.interventions.optimal import fit_optimal
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
    "Circuit",
    "Cost",
    "Engine",
    "Intervention",
    "InterventionRun",
    "MeanAblation",
    "NoiseAblation",
    "OptimalAblation",
    "Patch",
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
    "digest_of",
    "digest_of_weights",
    "fit_means",
    "fit_optimal",
    "fit_spectrum",
    "forget_runs",
    "plan_edits",
    "pool_of_run",
    "read_activations",
    "runner_for_claim",
    "sweep",
]
