"""Which findings of one report still hold in another?

Two reports in, one plain dict out: claims are paired by their key, evidence by its kind, effects
prompt by prompt. No model is loaded and torch is never imported. See docs/baselines.md.
"""

from mechtest.comparison.allowances import Allowance, read_allowances
from mechtest.comparison.compare import SCHEMA, Rules, compare_reports, require_templates
from mechtest.comparison.statuses import INCOMPARABLE, INCOMPLETE, REGRESSED, status_of

__all__ = [
    "INCOMPARABLE",
    "INCOMPLETE",
    "REGRESSED",
    "SCHEMA",
    "Allowance",
    "Rules",
    "compare_reports",
    "read_allowances",
    "require_templates",
    "status_of",
]
