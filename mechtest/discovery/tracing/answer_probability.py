"""How probable does the model find the answer?"""

from __future__ import annotations

import torch

from mechtest.tasks import Metric, NamedMetric, log_probability, metric_by_name

__all__ = ["answer_probability", "metric_named"]

answer_probability = NamedMetric(
    "answer_probability",
    "probability",
    "probability of the answer set; in [0, 1]",
    lambda read: torch.exp(log_probability.formula(read)),
)
"""Probability of the answers over the whole vocabulary: what causal tracing was first read in.

Source: Meng et al. 2022, section 2.1.
"""


def metric_named(metric: Metric | str) -> Metric:
    """Return a metric, or the one of a name; `probability` is the answers' own.

    Raises:
        MetricError: There is none of that name.
    """
    if not isinstance(metric, str):
        return metric
    if metric in ("probability", answer_probability.name):
        return answer_probability
    return metric_by_name(metric)
