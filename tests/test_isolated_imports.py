"""Every module imports alone, without a warning: none relies on another having been imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# One interpreter imports the slow third parties once; every module gets a forked copy of it in
# which nothing of ours has been imported yet but the packages it lies in, which Python imports
# first in any case. What a package itself imports has been imported alone with it.
BATCH = """
import importlib, os, sys, traceback, warnings
third_parties, package, *names = sys.argv[1:]
for name in third_parties.split():
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] == package]

def alone(name):
    if name not in sys.modules:
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        warnings.simplefilter("error")
        try:
            importlib.import_module(name)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: {error!r} ({where.filename}:{where.lineno})", flush=True)
        inside(name)
        os._exit(0)
    inside(name)

def inside(name):
    print("tried", name, flush=True)
    for other in names:
        if other.rpartition(".")[0] == name:
            alone(other)

alone(package)
"""


THIRD_PARTIES = "pytest torch safetensors.torch tokenizers jaxtyping tqdm huggingface_hub"


def import_each_alone(folder, third_parties=THIRD_PARTIES):
    """Return one line for every module below `folder` that does not import alone."""
    files = sorted(folder.rglob("*.py"))
    modules = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in files
        if path.stem != "__main__"  # importing it runs the command line
    ]
    done = subprocess.run(
        [sys.executable, "-c", BATCH, third_parties, folder.name, *modules],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    tried = [line.removeprefix("tried ") for line in lines if line.startswith("tried ")]
    assert sorted(tried) == sorted(modules)
    return [line for line in lines if not line.startswith("tried ")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_every_module_imports_alone():
    assert import_each_alone(ROOT / "mechtest") == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_the_check_catches_a_module_that_leans_on_another(tmp_path):
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fine.py").write_text("X = 1\n")
    (package / "leans.py").write_text("import planted\nprint(planted.fine.X)\n")
    (package / "warns.py").write_text("import warnings\nwarnings.warn('old', stacklevel=1)\n")
    problems = "\n".join(import_each_alone(package, third_parties=""))
    assert "planted.leans: AttributeError" in problems
    assert "planted.warns: UserWarning" in problems
    assert "planted.fine:" not in problems


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mechtest", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mechtest ")


# What a worker does before it can answer a claim.
WORKER = """
import sys
import mechtest as mt
import mechtest.plugin
model = mt.HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
prompts = mt.PromptPairs.from_jsonl("fixtures/prompts/gender.jsonl")
encoded = prompts.encode(model.tokenizer)
model(model.to_tokens(["The king", "Emma gave an apple to"]))
mt.assert_necessary
{then}
for name in {unwanted}:
    if name in sys.modules:
        print(name)
print("done")
"""
UNWANTED = [
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "statsmodels",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "transformers",
]


def imported_by_a_worker(then=""):
    """Return which of the unwanted modules a worker has imported when it is ready."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER.format(then=then, unwanted=UNWANTED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *found, last = done.stdout.splitlines()
    assert last == "done"
    return found


def test_a_worker_is_ready_without_slow_imports():
    assert imported_by_a_worker() == []


def test_the_check_catches_an_import_that_sneaks_in():
    found = imported_by_a_worker("model.tokenizer.get_vocab()")
    assert "transformers" in found
    assert "huggingface_hub" in found
