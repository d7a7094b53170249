"""Of which few directions are a site's activations made, and what does the model do with them?"""

from mechtest.discovery.sae.autoencoder import SAE
from mechtest.discovery.sae.features import SAEFeatures, sae_features
from mechtest.discovery.sae.matching import SAEMatch, match_features
from mechtest.discovery.sae.quality import SAEQuality, sae_quality
from mechtest.discovery.sae.training import train_sae

__all__ = [
    "SAE",
    "SAEFeatures",
    "SAEMatch",
    "SAEQuality",
    "match_features",
    "sae_features",
    "sae_quality",
    "train_sae",
]
