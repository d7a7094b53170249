"""A study goes on where it was, never does anything twice, and survives a step that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from mechtest.errors import StudyError
from mechtest.study import Study
from mechtest.study.step_folder import read_step
from mechtest.study.study_directory import own_directory
from mechtest.tasks.split import side_of
from tests.study.studies import ROOT, prose, written

STEPS = ["setup", "activations", "selection", "patching", "controls", "deliverables"]

KILLED = """
import os, signal, sys
from mechtest.study import Study
from mechtest.study.steps import patching

calls = []
measure = patching.measure_share

def deadly(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(*arguments)

patching.measure_share = deadly
Study.from_toml(sys.argv[1]).run(steps=["patching"], progress=False)
"""


def contents(folder):
    """Return every file that holds numbers, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".json", ".svg", ".png"} and path.name not in ("run.json", "study.json")
    }


def run(study, **options):
    return {one.step.name: one for one in study.run(progress=False, **options)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study.from_toml(prose(tmp_path_factory.mktemp("study")))
    outcomes = run(made, steps=STEPS)
    assert {one.step.name for one in outcomes.values() if one.status == "done"} == set(STEPS)
    return made


@pytest.fixture
def copy(study, tmp_path):
    """The finished study in a directory of its own."""
    shutil.copytree(study.output, tmp_path / "out")
    made = Study(study.settings, tmp_path / "out")
    made.__dict__["chosen"] = study.chosen  # the model is loaded once
    return made


def test_finished_steps_are_not_done_again(study):
    before = {path: path.stat().st_mtime_ns for path in study.output.glob("*/step.json")}
    outcomes = run(study, steps=STEPS)
    assert not any(one.fresh for one in outcomes.values())
    assert before == {path: path.stat().st_mtime_ns for path in study.output.glob("*/step.json")}


def test_a_killed_study_goes_on_and_ends_the_same_bit_by_bit(study, tmp_path):
    file = prose(tmp_path)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = Study.from_toml(file)
    assert (again.output / "05-selection" / "step.json").is_file()
    assert not (again.output / "06-patching").exists()
    outcomes = run(again, steps=["patching", "deliverables"], skip=["activations", "controls"])
    assert not outcomes["selection"].fresh
    assert outcomes["patching"].fresh
    for step in ("01-setup", "05-selection", "06-patching"):
        assert contents(again.output / step) == contents(study.output / step)
    assert not list(again.output.glob(".*.new"))
    assert not (again.output / ".journals").exists()


def test_a_setting_changes_its_step_and_what_builds_on_it(copy):
    copy.settings.steps["patching"]["count"] = 1
    try:
        outcomes = run(copy, steps=STEPS)
    finally:
        copy.settings.steps["patching"]["count"] = 8
    fresh = [name for name, one in outcomes.items() if one.fresh]
    assert fresh == ["patching", "controls", "deliverables"]


def test_a_damaged_file_is_made_again(copy):
    path = copy.output / "02-activations" / "statistics.json"
    path.write_bytes(path.read_bytes().replace(b"blocks.0", b"blocks.7"))
    assert read_step(path.parent) is None
    outcomes = run(copy, steps=STEPS)
    # It comes out as before, so that nothing that builds on it has to be done anew.
    assert [name for name, one in outcomes.items() if one.fresh] == ["activations"]


def test_a_step_that_fails_leaves_the_others_and_is_tried_again(copy):
    from mechtest.study import steps

    def failing(bench):
        raise ValueError("<script>no such luck</script>")

    (index,) = (i for i, step in enumerate(steps.STEPS) if step.name == "activations")
    broken = steps.STEPS[index]
    shutil.rmtree(copy.output / broken.folder)
    object.__setattr__(broken, "run", failing)
    try:
        outcomes = run(copy, steps=STEPS)
    finally:
        object.__setattr__(broken, "run", steps.collect_statistics)
    assert outcomes["activations"].status == "failed"
    assert "no such luck" in outcomes["activations"].why
    assert outcomes["selection"].status == outcomes["deliverables"].status == "done"
    page = (copy.output / "index.html").read_text()
    assert "1 failed" in page
    assert "&lt;script&gt;no such luck" in page
    assert "<script" not in page
    assert run(copy, steps=STEPS)["activations"].status == "done"


def test_what_a_failed_step_was_needed_for_is_not_run(tmp_path):
    study = Study.from_toml(prose(tmp_path, min_accuracy=1.5))
    outcomes = run(study, steps=["patching"])
    assert outcomes["setup"].status == "failed"
    assert "does not do the task" in outcomes["setup"].why
    assert outcomes["patching"].status == "not run"
    assert "'setup'" in outcomes["patching"].why
    assert outcomes["scale"].status == "left out"
    with pytest.raises(StudyError, match="not run"):
        study.run_step("selection", progress=False)


def test_one_step_from_python_brings_what_it_found(copy):
    found = copy.run_step("selection", progress=False)
    assert list(found.circuits) == [row.name for row in found.records["candidates"].rows]
    assert found.records["map"].top(1)[0].site.startswith("blocks.1.state@")


def test_a_step_left_out_is_not_used(copy):
    outcomes = run(copy, steps=["deliverables"], skip=["controls"])
    assert outcomes["controls"].status == "left out"
    assert "controls" not in outcomes["deliverables"].finished.depends["below"]
    with pytest.raises(StudyError, match=r"closest .*controls"):
        run(copy, skip=["control"])


def test_another_study_or_something_else_in_the_directory_is_refused(copy, tmp_path):
    other = Study.from_toml(prose(tmp_path, seed=1), output=copy.output)
    with pytest.raises(StudyError, match="another study") as caught:
        run(other)
    assert "seed was 0, is 1" in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(StudyError, match=r"thesis\.tex"):
        run(Study.from_toml(prose(tmp_path), output=tmp_path / "full"))


def test_two_runs_at_once_are_refused(copy):
    owned = own_directory(copy.output, copy.settings.study)
    with owned, pytest.raises(StudyError, match="another run"):
        run(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "fixtures/zoo/prosa"}, r"prose"),
        ({"model": "fixtures/zoo/prose", "seed": 77}, "no seed 77"),
        ({"prompts": "no/such.jsonl"}, "no prompt file"),
    ],
)
def test_a_missing_model_or_prompt_file_is_told_before_anything_is_written(tmp_path, change, said):
    study = Study.from_toml(prose(tmp_path, **change))
    with pytest.raises(StudyError, match=said):
        run(study)
    assert not study.output.exists()


def test_prompts_without_a_discovery_half_are_refused(tmp_path):
    source = ROOT / "fixtures/prompts/fact_city.jsonl"
    only = json.loads(source.read_text().splitlines()[0])
    only["template"] = next(t for t in map(str, range(50)) if side_of(t) == "test")
    (tmp_path / "p.jsonl").write_text(json.dumps(only) + "\n")
    study = Study.from_toml(prose(tmp_path, prompts=str(tmp_path / "p.jsonl")))
    with pytest.raises(StudyError, match="discovery half"):
        run(study)


def test_a_directory_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    study = Study.from_toml(prose(tmp_path), output=tmp_path / "file" / "out")
    with pytest.raises(StudyError, match="cannot be written"):
        run(study)


def test_tables_and_pages_hold_hostile_names(tmp_path, study):
    told = {**study.settings.study, "output": str(tmp_path / "out")}
    told["metric"] = '"><script>alert(1)</script>'
    evil = Study.from_toml(written(tmp_path, {k: v for k, v in told.items() if v != ""}))
    outcomes = run(evil, steps=["setup"])
    assert outcomes["setup"].status == "failed"
    page = (evil.output / "index.html").read_text()
    assert "<script" not in page
    assert "alert(1)" in page


def test_the_page_needs_no_network_and_shows_pictures(tmp_path):
    study = Study.from_toml(prose(tmp_path, pictures=True))
    run(study, steps=["setup"])
    page = (study.output / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    for outside in ("http://", "https://", "//cdn", "<script", "@import"):
        assert outside not in page.replace("http-equiv", "")
    assert "left out" in page


def test_the_page_says_what_to_type_next(study):
    page = (study.output / "index.html").read_text()
    assert "--emit claims/test_city.py" in page
    assert "pytest claims/test_city.py" in page
