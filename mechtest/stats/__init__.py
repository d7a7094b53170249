"""How big, how sure, how special: every test, interval and control the claims are judged by.

Arrays in, frozen records out. Importing this package costs numpy; scipy and statsmodels are
imported by the functions that need them. What each test assumes, and its measured error rates, is
in docs/statistics.md.
"""

from mechtest.stats.all_parts import (
    AllParts,
    Part,
    all_parts_test,
)
from mechtest.stats.best_of import (
    BestOf,
    best_of_test,
)
from mechtest.stats.bootstrap_t import (
    bootstrap_t_p,
)
from mechtest.stats.candidate_controls import (
    CandidateControls,
)
from mechtest.stats.component_controls import (
    ComponentControls,
    ComponentDraw,
    position_strata,
)
from mechtest.stats.controls import (
    KINDS,
    ControlKind,
    SubspaceControls,
    SubspaceDraw,
)
from mechtest.stats.effect_test import (
    Behaviour,
    EffectTest,
    behaviour_test,
    effect_interval,
    effect_p_value,
    effect_test,
    largest_upper_end,
)
from mechtest.stats.effects import (
    ClusterEffect,
    Heterogeneity,
    cluster_effect,
)
from mechtest.stats.equivalence import (
    Equivalence,
    equivalence_test,
)
from mechtest.stats.intervals import (
    Interval,
    fieller_interval,
    inversion_interval,
)
from mechtest.stats.keys import (
    derived_seed,
    keyed_generator,
)
from mechtest.stats.levels import (
    reaches,
)
from mechtest.stats.membership import (
    Membership,
    membership_test,
    require_sets,
)
from mechtest.stats.monte_carlo import (
    LOSSES,
    ControlSummary,
    ControlTest,
    most_controls,
    needed_controls,
    smallest_control_level,
)
from mechtest.stats.multiplicity import (
    ClaimFamily,
    closed_gates,
    fixed_sequence,
    holm,
    static_levels,
)
from mechtest.stats.noninferiority import (
    MARGIN,
    NonInferiority,
    StillAbsent,
    noninferiority_test,
    still_absent_test,
)
from mechtest.stats.optimism import (
    optimism_interval,
)
from mechtest.stats.power import (
    ClusterPlan,
    clusters_for_power,
    control_power,
    effect_test_power,
    plan_clusters,
    standardised_distance,
)
from mechtest.stats.proportions import (
    clopper_pearson_interval,
    wilson_interval,
)
from mechtest.stats.seed_spread import (
    ENOUGH_SEEDS,
    BetweenSeeds,
    StableSeeds,
    between_seeds,
    prediction_interval,
    stable_seeds,
)
from mechtest.stats.sign_flip import (
    EXACT_UP_TO,
    FLIPS,
    SignFlip,
    needed_clusters,
    require_clusters,
    sign_flip_test,
    smallest_sign_flip_p,
)
from mechtest.stats.spectrum import (
    Spectrum,
    measure_spectrum,
    spectrum_of_covariance,
)
from mechtest.stats.stability import (
    AllSeeds,
    MeanOverSeeds,
    all_seeds,
    mean_over_seeds,
    needed_seeds,
    require_seeds_for_mean,
)
from mechtest.stats.subspace_match import (
    MatchSide,
    linear_cka,
    match_test,
)
from mechtest.stats.twin_count import (
    TwinCount,
    count_twins,
)
from mechtest.stats.two_samples import (
    FEWEST_EACH,
    TwoSamples,
    cluster_shares,
    require_two_samples,
    two_sample_test,
)

__all__ = [
    "ENOUGH_SEEDS",
    "EXACT_UP_TO",
    "FEWEST_EACH",
    "FLIPS",
    "KINDS",
    "LOSSES",
    "MARGIN",
    "AllParts",
    "AllSeeds",
    "Behaviour",
    "BestOf",
    "BetweenSeeds",
    "CandidateControls",
    "ClaimFamily",
    "ClusterEffect",
    "ClusterPlan",
    "ComponentControls",
    "ComponentDraw",
    "ControlKind",
    "ControlSummary",
    "ControlTest",
    "EffectTest",
    "Equivalence",
    "Heterogeneity",
    "Interval",
    "MatchSide",
    "MeanOverSeeds",
    "Membership",
    "NonInferiority",
    "Part",
    "SignFlip",
    "Spectrum",
    "StableSeeds",
    "StillAbsent",
    "SubspaceControls",
    "SubspaceDraw",
    "TwinCount",
    "TwoSamples",
    "all_parts_test",
    "all_seeds",
    "behaviour_test",
    "best_of_test",
    "between_seeds",
    "bootstrap_t_p",
    "clopper_pearson_interval",
    "closed_gates",
    "cluster_effect",
    "cluster_shares",
    "clusters_for_power",
    "control_power",
    "count_twins",
    "derived_seed",
    "effect_interval",
    "effect_p_value",
    "effect_test",
    "effect_test_power",
    "equivalence_test",
    "fieller_interval",
    "fixed_sequence",
    "holm",
    "inversion_interval",
    "keyed_generator",
    "largest_upper_end",
    "linear_cka",
    "match_test",
    "mean_over_seeds",
    "measure_spectrum",
    "membership_test",
    "most_controls",
    "needed_clusters",
    "needed_controls",
    "needed_seeds",
    "noninferiority_test",
    "optimism_interval",
    "plan_clusters",
    "position_strata",
    "prediction_interval",
    "reaches",
    "require_clusters",
    "require_seeds_for_mean",
    "require_sets",
    "require_two_samples",
    "sign_flip_test",
    "smallest_control_level",
    "smallest_sign_flip_p",
    "spectrum_of_covariance",
    "stable_seeds",
    "standardised_distance",
    "static_levels",
    "still_absent_test",
    "two_sample_test",
    "wilson_interval",
]
