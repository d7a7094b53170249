"""What runs without torch stays quick to import: collecting tests, errors, names, the shell."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ["hypothesis", "numpy", "scipy", "statsmodels", "torch", "transformers"]


def modules_after(code, cwd=ROOT):
    """Return what a fresh interpreter has imported after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('modules', *sys.modules)"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "module",
    [
        "mechtest",
        "mechtest.plugin",
        "mechtest.errors",
        "mechtest.sites",
        "mechtest.sites.listing",
        "mechtest.cli",
        "mechtest.checkpoints.config",
    ],
)
def test_importing_brings_in_nothing_heavy(module):
    modules = modules_after(f"import {module}")
    assert module in modules
    assert modules.isdisjoint(HEAVY), sorted(modules.intersection(HEAVY))


def test_a_heavy_import_would_be_noticed():
    """The check can fail."""
    assert "numpy" in modules_after("import mechtest, numpy")


def test_collecting_tests_with_the_plugin_imports_no_torch(tmp_path):
    modules = modules_after(
        "import pytest; pytest.main(['--collect-only', '-p', 'no:cacheprovider'])", cwd=tmp_path
    )
    assert "mechtest.plugin" in modules, "the plugin's entry point is not installed"
    assert modules.isdisjoint({"torch", "scipy", "statsmodels", "transformers"})


def test_help_of_the_command_line_needs_no_torch():
    modules = modules_after(
        "import mechtest.cli as c\ntry: c.main(['sites', '--help'])\nexcept SystemExit: pass"
    )
    assert "torch" not in modules
