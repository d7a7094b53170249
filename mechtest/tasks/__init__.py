"""What is a model asked, and how is its answer turned into one number a prompt?

Prompt pairs (load, validate, explain, split by template, encode) and metrics on logits. Knows
nothing of models: a tokenizer and logits are all it takes.
"""

from mechtest.tasks.answers import AnswerIds
from mechtest.tasks.encoding import EncodedPairs
from mechtest.tasks.findings import Finding
from mechtest.tasks.fingerprints import Fingerprints
from mechtest.tasks.metrics import (
    METRICS,
    Metric,
    NamedMetric,
    accuracy,
    broken,
    kl_divergence,
    log_probability,
    logit_difference,
    metric_by_name,
    moved,
    probability_mass,
)
from mechtest.tasks.pair import PromptPair
from mechtest.tasks.pairs import ConfirmationPairs, DiscoveryPairs, PromptPairs
from mechtest.tasks.recovery import normalized_logit_difference
from mechtest.tasks.split import DEFAULT_SALT, side_of
from mechtest.tasks.tokens import Tokenizer

__all__ = [
    "DEFAULT_SALT",
    "METRICS",
    "AnswerIds",
    "ConfirmationPairs",
    "DiscoveryPairs",
    "EncodedPairs",
    "Finding",
    "Fingerprints",
    "Metric",
    "NamedMetric",
    "PromptPair",
    "PromptPairs",
    "Tokenizer",
    "accuracy",
    "broken",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "metric_by_name",
    "moved",
    "normalized_logit_difference",
    "probability_mass",
    "side_of",
]
