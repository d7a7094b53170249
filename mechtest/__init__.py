"""Circuit claims about Mamba models, written as pytest tests and answered with honest statistics.

Names load on first use: importing this package costs nothing, torch comes with the first model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechtest._lazy import lazy_names

if TYPE_CHECKING:
    from mechtest.assertions import assert_beats_random_subspaces as assert_beats_random_subspaces
    from mechtest.assertions import assert_flip_rate as assert_flip_rate
    from mechtest.assertions import assert_identity as assert_identity
    from mechtest.assertions import assert_member_of_every as assert_member_of_every
    from mechtest.assertions import assert_minimal as assert_minimal
    from mechtest.assertions import assert_monotone as assert_monotone
    from mechtest.assertions import assert_necessary as assert_necessary
    from mechtest.assertions import assert_not_necessary as assert_not_necessary
    from mechtest.assertions import assert_ranked as assert_ranked
    from mechtest.assertions import assert_robust as assert_robust
    from mechtest.assertions import assert_specific_to as assert_specific_to
    from mechtest.assertions import assert_stable_across_seeds as assert_stable_across_seeds
    from mechtest.assertions import assert_subspaces_match as assert_subspaces_match
    from mechtest.assertions import assert_sufficient as assert_sufficient
    from mechtest.assertions import assert_transfers as assert_transfers
    from mechtest.assertions import best_of as best_of
    from mechtest.assertions import check_beats_random_subspaces as check_beats_random_subspaces
    from mechtest.assertions import check_flip_rate as check_flip_rate
    from mechtest.assertions import check_identity as check_identity
    from mechtest.assertions import check_member_of_every as check_member_of_every
    from mechtest.assertions import check_minimal as check_minimal
    from mechtest.assertions import check_monotone as check_monotone
    from mechtest.assertions import check_necessary as check_necessary
    from mechtest.assertions import check_not_necessary as check_not_necessary
    from mechtest.assertions import check_ranked as check_ranked
    from mechtest.assertions import check_robust as check_robust
    from mechtest.assertions import check_specific_to as check_specific_to
    from mechtest.assertions import check_stable_across_seeds as check_stable_across_seeds
    from mechtest.assertions import check_subspaces_match as check_subspaces_match
    from mechtest.assertions import check_sufficient as check_sufficient
    from mechtest.assertions import check_transfers as check_transfers
    from mechtest.assertions import must_retain as must_retain
    from mechtest.assertions import retained as retained
    from mechtest.checkpoints import MambaCfg as MambaCfg
    from mechtest.checkpoints import MambaInitCfg as MambaInitCfg
    from mechtest.checkpoints import (
        convert_hooked_mamba_config_to_original_config as convert_hooked_mamba_config_to_original_config,  # noqa: E501
    )
    from mechtest.checkpoints import (
        convert_hooked_state_dict_to_original_state_dict as convert_hooked_state_dict_to_original_state_dict,  # noqa: E501
    )
    from mechtest.checkpoints import (
        convert_original_config_to_hooked_mamba_config as convert_original_config_to_hooked_mamba_config,  # noqa: E501
    )
    from mechtest.checkpoints import (
        convert_original_state_dict_to_hooked_state_dict as convert_original_state_dict_to_hooked_state_dict,  # noqa: E501
    )
    from mechtest.discovery import DiscoveryRecord as DiscoveryRecord
    from mechtest.discovery import find_channels as find_channels
    from mechtest.discovery import find_difference_subspace as find_difference_subspace
    from mechtest.discovery import map_effects as map_effects
    from mechtest.discovery.attribution import attribution_patching as attribution_patching
    from mechtest.discovery.attribution import edge_attribution as edge_attribution
    from mechtest.discovery.circuits import acdc_prune as acdc_prune
    from mechtest.discovery.circuits import candidates as candidates
    from mechtest.discovery.circuits import evaluate_circuit as evaluate_circuit
    from mechtest.discovery.circuits import faithfulness_curve as faithfulness_curve
    from mechtest.discovery.circuits import greedy_prune as greedy_prune
    from mechtest.discovery.circuits import match_across_seeds as match_across_seeds
    from mechtest.discovery.circuits import minimal_circuits as minimal_circuits
    from mechtest.discovery.circuits import scrub as scrub
    from mechtest.discovery.circuits import transfer_matrix as transfer_matrix
    from mechtest.discovery.dynamics import eigenmodes as eigenmodes
    from mechtest.discovery.dynamics import gramians as gramians
    from mechtest.discovery.dynamics import mode_effects as mode_effects
    from mechtest.discovery.dynamics import state_rank as state_rank
    from mechtest.discovery.dynamics import timescales as timescales
    from mechtest.discovery.lens import TunedLens as TunedLens
    from mechtest.discovery.lens import direct_logit_attribution as direct_logit_attribution
    from mechtest.discovery.lens import logit_lens as logit_lens
    from mechtest.discovery.lens import tuned_lens as tuned_lens
    from mechtest.discovery.probes import probe as probe
    from mechtest.discovery.sae import SAE as SAE
    from mechtest.discovery.sae import match_features as match_features
    from mechtest.discovery.sae import sae_features as sae_features
    from mechtest.discovery.sae import sae_quality as sae_quality
    from mechtest.discovery.sae import train_sae as train_sae
    from mechtest.discovery.temporal import decay_fit as decay_fit
    from mechtest.discovery.temporal import hidden_attention as hidden_attention
    from mechtest.discovery.temporal import influence_map as influence_map
    from mechtest.discovery.tracing import causal_trace as causal_trace
    from mechtest.discovery.tracing import mediated_effects as mediated_effects
    from mechtest.errors import ClaimInconclusive as ClaimInconclusive
    from mechtest.errors import ClaimInvalid as ClaimInvalid
    from mechtest.errors import ClaimRefuted as ClaimRefuted
    from mechtest.errors import MechtestError as MechtestError
    from mechtest.interventions import BlockPath as BlockPath
    from mechtest.interventions import Circuit as Circuit
    from mechtest.interventions import CutCrossTalk as CutCrossTalk
    from mechtest.interventions import DropConvTap as DropConvTap
    from mechtest.interventions import EditDecay as EditDecay
    from mechtest.interventions import FreezeDelta as FreezeDelta
    from mechtest.interventions import FreezeGate as FreezeGate
    from mechtest.interventions import Knockout as Knockout
    from mechtest.interventions import MeanAblation as MeanAblation
    from mechtest.interventions import NoiseAblation as NoiseAblation
    from mechtest.interventions import OptimalAblation as OptimalAblation
    from mechtest.interventions import Patch as Patch
    from mechtest.interventions import PatchFrom as PatchFrom
    from mechtest.interventions import ResampleAblation as ResampleAblation
    from mechtest.interventions import Runner as Runner
    from mechtest.interventions import Steer as Steer
    from mechtest.interventions import Subspace as Subspace
    from mechtest.interventions import SweepPlan as SweepPlan
    from mechtest.interventions import SweepResult as SweepResult
    from mechtest.interventions import ZeroAblation as ZeroAblation
    from mechtest.interventions import collect_activations as collect_activations
    from mechtest.interventions import decay_channels as decay_channels
    from mechtest.interventions import fit_means as fit_means
    from mechtest.interventions import fit_optimal as fit_optimal
    from mechtest.interventions import fit_spectrum as fit_spectrum
    from mechtest.interventions import knockout as knockout
    from mechtest.interventions import sweep as sweep
    from mechtest.models import ActivationCache as ActivationCache
    from mechtest.models import HookedMamba as HookedMamba
    from mechtest.models import HookPoint as HookPoint
    from mechtest.models import ModelState as ModelState
    from mechtest.models import ModelSuite as ModelSuite
    from mechtest.models import RecurrentState as RecurrentState
    from mechtest.plugin.marks import claim as claim
    from mechtest.plugin.marks import family as family
    from mechtest.records import ClaimRecord as ClaimRecord
    from mechtest.records import EffectMap as EffectMap
    from mechtest.records import Verdict as Verdict
    from mechtest.sites import Site as Site
    from mechtest.study import Study as Study
    from mechtest.tasks import PromptPair as PromptPair
    from mechtest.tasks import PromptPairs as PromptPairs
    from mechtest.tasks import accuracy as accuracy
    from mechtest.tasks import kl_divergence as kl_divergence
    from mechtest.tasks import log_probability as log_probability
    from mechtest.tasks import logit_difference as logit_difference
    from mechtest.tasks import normalized_logit_difference as normalized_logit_difference
    from mechtest.tasks import probability_mass as probability_mass
    from mechtest.tasks.perturbation import Attractor as Attractor
    from mechtest.tasks.perturbation import Blanks as Blanks
    from mechtest.tasks.perturbation import Casing as Casing
    from mechtest.tasks.perturbation import Distractor as Distractor
    from mechtest.tasks.perturbation import Filler as Filler
    from mechtest.tasks.perturbation import Names as Names
    from mechtest.tasks.perturbation import Number as Number
    from mechtest.tasks.perturbation import Numbers as Numbers
    from mechtest.tasks.perturbation import Operation as Operation
    from mechtest.tasks.perturbation import Perturbation as Perturbation
    from mechtest.tasks.perturbation import Prefix as Prefix
    from mechtest.tasks.perturbation import Prefixes as Prefixes
    from mechtest.tasks.perturbation import Rename as Rename
    from mechtest.tasks.perturbation import SwapRoles as SwapRoles
    from mechtest.tasks.perturbation import SwapSentences as SwapSentences
    from mechtest.tasks.perturbation import Synonym as Synonym
    from mechtest.tasks.perturbation import Synonyms as Synonyms
    from mechtest.tasks.perturbation import perturbations as perturbations
    from mechtest.tasks.perturbation import perturbed as perturbed

__version__ = "0.1.0"

_HOME = {
    "ActivationCache": "mechtest.models",
    "Attractor": "mechtest.tasks.perturbation",
    "Blanks": "mechtest.tasks.perturbation",
    "BlockPath": "mechtest.interventions",
    "Casing": "mechtest.tasks.perturbation",
    "Circuit": "mechtest.interventions",
    "ClaimInconclusive": "mechtest.errors",
    "ClaimInvalid": "mechtest.errors",
    "ClaimRecord": "mechtest.records",
    "ClaimRefuted": "mechtest.errors",
    "CutCrossTalk": "mechtest.interventions",
    "DiscoveryRecord": "mechtest.discovery",
    "Distractor": "mechtest.tasks.perturbation",
    "DropConvTap": "mechtest.interventions",
    "EditDecay": "mechtest.interventions",
    "EffectMap": "mechtest.records",
    "Filler": "mechtest.tasks.perturbation",
    "FreezeDelta": "mechtest.interventions",
    "FreezeGate": "mechtest.interventions",
    "HookPoint": "mechtest.models",
    "HookedMamba": "mechtest.models",
    "Knockout": "mechtest.interventions",
    "MambaCfg": "mechtest.checkpoints",
    "MambaInitCfg": "mechtest.checkpoints",
    "MeanAblation": "mechtest.interventions",
    "MechtestError": "mechtest.errors",
    "ModelState": "mechtest.models",
    "ModelSuite": "mechtest.models",
    "Names": "mechtest.tasks.perturbation",
    "NoiseAblation": "mechtest.interventions",
    "Number": "mechtest.tasks.perturbation",
    "Numbers": "mechtest.tasks.perturbation",
    "Operation": "mechtest.tasks.perturbation",
    "OptimalAblation": "mechtest.interventions",
    "Patch": "mechtest.interventions",
    "PatchFrom": "mechtest.interventions",
    "Perturbation": "mechtest.tasks.perturbation",
    "Prefix": "mechtest.tasks.perturbation",
    "Prefixes": "mechtest.tasks.perturbation",
    "PromptPair": "mechtest.tasks",
    "PromptPairs": "mechtest.tasks",
    "RecurrentState": "mechtest.models",
    "Rename": "mechtest.tasks.perturbation",
    "ResampleAblation": "mechtest.interventions",
    "Runner": "mechtest.interventions",
    "SAE": "mechtest.discovery.sae",
    "Site": "mechtest.sites",
    "Steer": "mechtest.interventions",
    "Study": "mechtest.study",
    "Subspace": "mechtest.interventions",
    "SwapRoles": "mechtest.tasks.perturbation",
    "SwapSentences": "mechtest.tasks.perturbation",
    "SweepPlan": "mechtest.interventions",
    "SweepResult": "mechtest.interventions",
    "Synonym": "mechtest.tasks.perturbation",
    "Synonyms": "mechtest.tasks.perturbation",
    "TunedLens": "mechtest.discovery.lens",
    "Verdict": "mechtest.records",
    "ZeroAblation": "mechtest.interventions",
    "accuracy": "mechtest.tasks",
    "acdc_prune": "mechtest.discovery.circuits",
    "assert_beats_random_subspaces": "mechtest.assertions",
    "assert_flip_rate": "mechtest.assertions",
    "assert_identity": "mechtest.assertions",
    "assert_member_of_every": "mechtest.assertions",
    "assert_minimal": "mechtest.assertions",
    "assert_monotone": "mechtest.assertions",
    "assert_necessary": "mechtest.assertions",
    "assert_not_necessary": "mechtest.assertions",
    "assert_ranked": "mechtest.assertions",
    "assert_robust": "mechtest.assertions",
    "assert_specific_to": "mechtest.assertions",
    "assert_stable_across_seeds": "mechtest.assertions",
    "assert_subspaces_match": "mechtest.assertions",
    "assert_sufficient": "mechtest.assertions",
    "assert_transfers": "mechtest.assertions",
    "attribution_patching": "mechtest.discovery.attribution",
    "best_of": "mechtest.assertions",
    "candidates": "mechtest.discovery.circuits",
    "causal_trace": "mechtest.discovery.tracing",
    "check_beats_random_subspaces": "mechtest.assertions",
    "check_flip_rate": "mechtest.assertions",
    "check_identity": "mechtest.assertions",
    "check_member_of_every": "mechtest.assertions",
    "check_minimal": "mechtest.assertions",
    "check_monotone": "mechtest.assertions",
    "check_necessary": "mechtest.assertions",
    "check_not_necessary": "mechtest.assertions",
    "check_ranked": "mechtest.assertions",
    "check_robust": "mechtest.assertions",
    "check_specific_to": "mechtest.assertions",
    "check_stable_across_seeds": "mechtest.assertions",
    "check_subspaces_match": "mechtest.assertions",
    "check_sufficient": "mechtest.assertions",
    "check_transfers": "mechtest.assertions",
    "claim": "mechtest.plugin.marks",
    "collect_activations": "mechtest.interventions",
    "convert_hooked_mamba_config_to_original_config": "mechtest.checkpoints",
    "convert_hooked_state_dict_to_original_state_dict": "mechtest.checkpoints",
    "convert_original_config_to_hooked_mamba_config": "mechtest.checkpoints",
    "convert_original_state_dict_to_hooked_state_dict": "mechtest.checkpoints",
    "decay_channels": "mechtest.interventions",
    "decay_fit": "mechtest.discovery.temporal",
    "direct_logit_attribution": "mechtest.discovery.lens",
    "edge_attribution": "mechtest.discovery.attribution",
    "eigenmodes": "mechtest.discovery.dynamics",
    "evaluate_circuit": "mechtest.discovery.circuits",
    "faithfulness_curve": "mechtest.discovery.circuits",
    "family": "mechtest.plugin.marks",
    "find_channels": "mechtest.discovery",
    "find_difference_subspace": "mechtest.discovery",
    "fit_means": "mechtest.interventions",
    "fit_optimal": "mechtest.interventions",
    "fit_spectrum": "mechtest.interventions",
    "gramians": "mechtest.discovery.dynamics",
    "greedy_prune": "mechtest.discovery.circuits",
    "hidden_attention": "mechtest.discovery.temporal",
    "influence_map": "mechtest.discovery.temporal",
    "kl_divergence": "mechtest.tasks",
    "knockout": "mechtest.interventions",
    "log_probability": "mechtest.tasks",
    "logit_difference": "mechtest.tasks",
    "logit_lens": "mechtest.discovery.lens",
    "map_effects": "mechtest.discovery",
    "match_across_seeds": "mechtest.discovery.circuits",
    "match_features": "mechtest.discovery.sae",
    "mediated_effects": "mechtest.discovery.tracing",
    "minimal_circuits": "mechtest.discovery.circuits",
    "mode_effects": "mechtest.discovery.dynamics",
    "must_retain": "mechtest.assertions",
    "normalized_logit_difference": "mechtest.tasks",
    "perturbations": "mechtest.tasks.perturbation",
    "perturbed": "mechtest.tasks.perturbation",
    "probability_mass": "mechtest.tasks",
    "probe": "mechtest.discovery.probes",
    "retained": "mechtest.assertions",
    "sae_features": "mechtest.discovery.sae",
    "sae_quality": "mechtest.discovery.sae",
    "scrub": "mechtest.discovery.circuits",
    "state_rank": "mechtest.discovery.dynamics",
    "sweep": "mechtest.interventions",
    "timescales": "mechtest.discovery.dynamics",
    "train_sae": "mechtest.discovery.sae",
    "transfer_matrix": "mechtest.discovery.circuits",
    "tuned_lens": "mechtest.discovery.lens",
}

__all__ = [*_HOME, "__version__"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
