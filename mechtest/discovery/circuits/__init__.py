"""Which places together make a circuit, and how much of the behaviour do they carry?

Everything here looks at the discovery half of the prompts. What is found carries the fingerprints
of what was looked at, so that a claim about it is tested on the other half.
"""

from mechtest.discovery.circuits.candidate_table import Candidate, CandidateTable
from mechtest.discovery.circuits.candidates import candidates
from mechtest.discovery.circuits.evaluation import (
    CircuitEvaluation,
    KnockedOut,
    NodeWorth,
    evaluate_circuit,
)
from mechtest.discovery.circuits.faithfulness import FaithfulnessCurve, faithfulness_curve
from mechtest.discovery.circuits.measuring import Share
from mechtest.discovery.circuits.minimal_sets import (
    MinimalCircuit,
    MinimalCircuits,
    minimal_circuits,
)
from mechtest.discovery.circuits.pruning import PruneRecord, PruneStep, acdc_prune, greedy_prune
from mechtest.discovery.circuits.scrubbing import ScrubbedNode, ScrubRecord, scrub
from mechtest.discovery.circuits.seed_matching import (
    MatchedNode,
    SeedMatches,
    match_across_seeds,
)
from mechtest.discovery.circuits.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "Candidate",
    "CandidateTable",
    "CircuitEvaluation",
    "FaithfulnessCurve",
    "KnockedOut",
    "MatchedNode",
    "MinimalCircuit",
    "MinimalCircuits",
    "NodeWorth",
    "PruneRecord",
    "PruneStep",
    "ScrubRecord",
    "ScrubbedNode",
    "SeedMatches",
    "Share",
    "TransferMatrix",
    "acdc_prune",
    "candidates",
    "evaluate_circuit",
    "faithfulness_curve",
    "greedy_prune",
    "match_across_seeds",
    "minimal_circuits",
    "scrub",
    "transfer_matrix",
]
