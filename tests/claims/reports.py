"""Runs claims in a process of their own, and says what of their reports has to be equal."""

import json
import os
import subprocess
import sys


def run_claims(place, name, *options, claims="claims", environment=None, timeout=400):
    """Return the exit status of a run of claims, and its report."""
    report = place / name
    command = [
        sys.executable, "-m", "pytest", str(claims), "-q", "-p", "no:cacheprovider",
        f"--mechtest-report={report}", *options,
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert (report / "report.json").exists(), result.stdout + result.stderr
    return result.returncode, json.loads((report / "report.json").read_text())


def exact(report):
    """Return what is equal to the last digit, whatever computes it."""
    return [
        (
            row["id"], row["verdict"], row["binding"], row["gate"], row["p"], row["p_adjusted"],
            [_ranks(item) for item in row["evidence"]],
        )
        for row in report["claims"]
    ]  # fmt: skip


def _ranks(evidence):
    controls = evidence["controls"] or {}
    names = ("kind", "drawn", "at_least_as_extreme", "p", "stopped")
    guards = [(guard["name"], guard["passed"], guard["p"]) for guard in evidence["guards"]]
    return evidence["p_effect"], [controls.get(name) for name in names], guards


def effects(report):
    """Return all estimates and their intervals by claim, None where there is no number."""
    return {
        f"{row['id']} {number} {name}": item["effect"][name]
        for row in report["claims"]
        for number, item in enumerate(row["evidence"])
        for name in ("estimate", "low", "high")
    }


def require_close(found, wanted, tolerance):
    """Assert that effects agree, and are missing in the same places."""
    assert found.keys() == wanted.keys()
    assert [place for place in found if found[place] is None] == [
        place for place in wanted if wanted[place] is None
    ]
    off = {
        place: (value, wanted[place])
        for place, value in found.items()
        if value is not None and not abs(value - wanted[place]) <= tolerance
    }
    assert not off
