"""The claims come out the same, whatever carries their interventions out.

Two complete runs that have nothing in common but the models: hooks on the default kernels, and
packed rows in batches of next to no memory on kernels of torch alone. Minutes each, so
`make test-slow` runs them; `test_same_report.py` does the same for a few claims at every change.
"""

from pathlib import Path

import pytest

from tests.claims.reports import effects, exact, require_close, run_claims

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4


def run(place, name, *options, kernels=""):
    return run_claims(
        ROOT, str(place / name), "-n", "2", *options,
        claims=ROOT / "claims", environment={"MECHTEST_KERNELS": kernels},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_verdicts_p_values_and_control_counts_are_equal_to_the_last_digit(tmp_path):
    """One test, not several: with workers, each would have runs of its own."""
    statuses, reports = zip(
        run(tmp_path, "hooked", "--mechtest-engine=hooked"),
        run(tmp_path, "packed", "--mechtest-memory=8", kernels="torch"),
        strict=True,
    )
    hooked, packed = reports
    assert statuses == (0, 0)
    engines = [{c["engine"] for c in report["run"]["claims"].values()} for report in reports]
    assert engines[0] == {"", "hooked"}
    assert engines[1] == {"", "packed"}
    assert packed["run"]["kernels"] == ["torch"]
    assert packed["run"]["forward_tokens"] < hooked["run"]["forward_tokens"]

    assert exact(packed) == exact(hooked)
    assert sum(row["verdict"] == "supported" for row in hooked["claims"]) > 10
    assert sum(row["verdict"] == "refuted" for row in hooked["claims"]) > 5
    require_close(effects(packed), effects(hooked), TOLERANCE)
