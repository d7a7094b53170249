"""What does pytest learn from mechtest?

Loaded by every pytest run of an environment that has mechtest installed, in every worker: it
imports nothing that is slow to import. Torch comes when a fixture or a test asks for a model.
"""

from __future__ import annotations

import pytest

import mechtest

__all__ = ["pytest_configure", "pytest_report_header"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that claims carry."""
    config.addinivalue_line(
        "markers", "claim(statement): the test checks this sentence about a model"
    )


def pytest_report_header() -> str:
    """Say which version answers."""
    return f"mechtest: {mechtest.__version__}"
