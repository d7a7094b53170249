"""What does pytest learn from mechtest?

Loaded by every pytest run of an environment that has mechtest installed, in every worker: it
imports nothing that is slow to import. Torch comes when a fixture or a test asks for a model. A run
without claims is left exactly as it was.
"""

from __future__ import annotations

import os

from mechtest.plugin.threads import share_cores

share_cores(os.environ)  # before anything can import torch

from mechtest.plugin.fixtures import checkpoint, claim, mamba, mamba_seeds, prompts, rng  # noqa: E402
from mechtest.plugin.hooks import (  # noqa: E402
    pytest_addoption,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_configure_node,
    pytest_generate_tests,
    pytest_report_header,
    pytest_report_teststatus,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_unconfigure,
    pytest_xdist_make_scheduler,
    pytest_xdist_node_collection_finished,
)

__all__ = [
    "checkpoint",
    "claim",
    "mamba",
    "mamba_seeds",
    "prompts",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_generate_tests",
    "pytest_report_header",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_unconfigure",
    "pytest_xdist_make_scheduler",
    "pytest_xdist_node_collection_finished",
    "rng",
]
