"""Where does a model keep what it has read, and how much of an answer goes through there?"""

from mechtest.discovery.tracing.answer_probability import answer_probability
from mechtest.discovery.tracing.embedding_noise import EmbeddingNoise
from mechtest.discovery.tracing.mediated import MediatedEffects, mediated_effects
from mechtest.discovery.tracing.restoring import causal_trace
from mechtest.discovery.tracing.trace_record import CausalTrace

__all__ = [
    "CausalTrace",
    "EmbeddingNoise",
    "MediatedEffects",
    "answer_probability",
    "causal_trace",
    "mediated_effects",
]
