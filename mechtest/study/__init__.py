"""How does one get from a model and some prompts to a claim file, in one command?

Fifteen steps look for circuits on the discovery half of the prompts; what they find is written
down step by step, shown on one page, and proposed as claims that pytest tests on the other half.
"""

from __future__ import annotations

from mechtest.study.emitting import emit_claims
from mechtest.study.settings import StudySettings, read_study_file
from mechtest.study.step import Found, Setting, Step
from mechtest.study.steps import STEPS
from mechtest.study.study import Outcome, Study
from mechtest.study.table import StepTable

__all__ = [
    "STEPS",
    "Found",
    "Outcome",
    "Setting",
    "Step",
    "StepTable",
    "Study",
    "StudySettings",
    "emit_claims",
    "read_study_file",
]
