"""Reading and counting a report needs nothing heavy; Jinja comes when a page is asked for."""

import subprocess
import sys

HEAVY = {"jinja2", "markupsafe", "torch", "numpy", "scipy", "hypothesis", "jsonschema"}


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_report_brings_in_nothing_heavy():
    modules = modules_after("import mechtest.report")
    assert "mechtest.report.page" in modules
    assert modules.isdisjoint(HEAVY)


def test_a_page_brings_in_jinja_alone():
    code = """
from mechtest.report import build_report, html, load_schema
budget = {"alpha": .05, "registered": 0, "selected": 0, "source": "collection", "stale": []}
html(build_report([], families={}, family_error=budget, provenance={}, run={}, assumptions=[]))
load_schema()
"""
    assert modules_after(code) & HEAVY == {"jinja2", "markupsafe"}
