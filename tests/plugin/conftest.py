"""Projects with claims that need no model: `fake()` records what it is told to."""

import json
import os

import jinja2  # noqa: F401
import numpy as np  # noqa: F401  pytester forgets modules, and these load once a process
import pytest
import scipy.special  # noqa: F401
import torch  # noqa: F401

# A run inside this process forgets what it imported: what every run needs is imported here, once.
import mechtest.report  # noqa: F401

# Hypothesis would be imported anew in every inner run.
QUICK = ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:jaxtyping", "-W", "error"]

FAKES = """
from mechtest.errors import ClaimInconclusive, ClaimRefuted
from mechtest.records import ClaimRecord, Effect, Evidence, ModelIdentity, Verdict
from mechtest.running_claim import Tally, current_claim

MODEL = ModelIdentity("fake", "abc", "def", "float32", "cpu")
RAISED = {"refuted": ClaimRefuted, "inconclusive": ClaimInconclusive}


def record(verdict="supported", p=0.001, threshold=0.5):
    claim = current_claim()
    effect = Effect(0.9, 0.8, 1.0, 0.95, "share of behaviour")
    evidence = Evidence(
        "necessity", "", ("blocks.0.state@last",), "resample", "logit_difference", effect,
        Verdict(verdict), threshold, "greater", p, "sign flips", 8, 8, "t1", 64, 1.0, 0.9, 0.0,
        MODEL, effects=(0.25,), prompt_ids=("prompt-7",),
    )
    return ClaimRecord(
        claim.id, claim.statement, "necessity", Verdict(verdict), "effect", f"it is {verdict}", "",
        claim.level, claim.seed, "digest", {"threshold": threshold}, (evidence,),
    )


def fake(verdict="supported", p=0.001, threshold=0.5, needs=""):
    claim = current_claim()
    claim.tallies.append(
        Tally("packed", 2, kernels="torch", interventions=2, passes=3, row_layers=14)
    )
    if claim.planning:
        claim.plans.append(
            {"settings": {"threshold": threshold}, "clusters": 8, "needed_clusters": 6,
             "controls": 237, "needed_controls": 237, "seeds": 1, "forward_passes": 300,
             "cost": None if needs else {"gflop": 1.25, "forward_tokens": 4000, "bytes": 3 << 20},
             "attainable": not needs, "problem": needs}
        )
        return
    made = record(verdict, p, threshold)
    claim.records.append(made)
    if verdict in RAISED:
        raise RAISED[verdict](f"+0.31 < +0.50, p=.9: it is {verdict}", record=made)
"""

HEAD = """
import os
import signal
import sys
import time

import pytest

import mechtest as mt
from fakes import fake, record

"""


class Project:
    """A directory with claims, and runs of pytest in it."""

    def __init__(self, pytester, monkeypatch):
        self._pytester = pytester
        self.path = pytester.path
        monkeypatch.syspath_prepend(str(pytester.path))
        # Ahead of where this run itself looks, so that processes test the same checkout.
        monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
        for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            monkeypatch.delenv(name, raising=False)
        (self.path / "fakes.py").write_text(FAKES)

    def write(self, **files):
        (self.path / "claims").mkdir(exist_ok=True)
        for name, text in files.items():
            (self.path / "claims" / f"{name}.py").write_text(HEAD + text, encoding="utf-8")
        return self

    def run(self, *options, process=False):
        """Run pytest; in a process of its own where workers or signals are involved."""
        apart = process or ("-n" in options and "0" not in options)
        where = [] if any("claims/" in option for option in options) else ["claims"]
        if apart:
            return self._pytester.runpytest_subprocess(*QUICK, *options, *where)
        # A claim that is interrupted ends its own run, not this one.
        return self._pytester.runpytest_inprocess(*QUICK, *options, *where, no_reraise_ctrlc=True)

    @property
    def report(self):
        return json.loads((self.path / "claims-report" / "report.json").read_text())

    @property
    def verdicts(self):
        return {row["id"].rpartition("::")[2]: row["verdict"] for row in self.report["claims"]}

    def row(self, name):
        return next(r for r in self.report["claims"] if r["id"].rpartition("::")[2] == name)

    @property
    def lock_path(self):
        return self.path / "claims" / "claims.lock"

    @property
    def lock(self):
        return json.loads(self.lock_path.read_text())


@pytest.fixture
def project(pytester, monkeypatch):
    return Project(pytester, monkeypatch)
