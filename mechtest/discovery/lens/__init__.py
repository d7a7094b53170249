"""What does the residual stream say at each layer, and which parts of the model write the answer?

Readings of unedited runs: they say where something can be read, not what is used.
"""

from mechtest.discovery.lens.attribution import direct_logit_attribution
from mechtest.discovery.lens.attribution_result import LogitAttribution
from mechtest.discovery.lens.lens_result import Guesses, LensResult
from mechtest.discovery.lens.reading import logit_lens, tuned_lens
from mechtest.discovery.lens.translators import TunedLens

__all__ = [
    "Guesses",
    "LensResult",
    "LogitAttribution",
    "TunedLens",
    "direct_logit_attribution",
    "logit_lens",
    "tuned_lens",
]
