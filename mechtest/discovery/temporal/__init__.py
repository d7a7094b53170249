"""Which earlier tokens matter for what comes later, and how fast does that fade?"""

from mechtest.discovery.temporal.decay_fit import DecayFit, FittedDecay, decay_fit
from mechtest.discovery.temporal.hidden_attention import HiddenAttention, hidden_attention
from mechtest.discovery.temporal.influence_map import InfluenceMap, RankAgreement, influence_map

__all__ = [
    "DecayFit",
    "FittedDecay",
    "HiddenAttention",
    "InfluenceMap",
    "RankAgreement",
    "decay_fit",
    "hidden_attention",
    "influence_map",
]
