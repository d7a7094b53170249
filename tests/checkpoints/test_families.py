import re
import shutil

import pytest

from mechtest.checkpoints import (
    CheckpointSource,
    SuiteIndex,
    read_checkpoint,
    save_hf,
    save_original,
)
from mechtest.checkpoints.suite_names import (
    SEED_PATTERN,
    STEP_PATTERN,
    compile_pattern,
    parse_number,
    parse_step,
)
from mechtest.errors import CheckpointNotFoundError, ConfigError, DuplicateWeightsError
from tests.checkpoints.weights_by_hand import random_weights, tiny_cfg

CFG = tiny_cfg(n_layer=1)


def checkpoint(directory, seed):
    return save_hf(directory, CFG, random_weights(CFG, seed))


@pytest.fixture
def tree(tmp_path):
    suite = tmp_path / "suite"
    for seed in (0, 1, 10):
        for step in (2, 10):
            checkpoint(suite / f"seed{seed}" / f"step-{step}", 100 * seed + step)
    return suite


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step1000", 1000),
        ("step-001000-2BT", 1000),
        ("step1000-tokens4B", 1000),
        ("step_7", 7),
        ("Step-7", 7),
        ("global_step8", 8),
        ("checkpoint-500", 500),
        ("000250", 250),
        ("figures", None),
        ("step", None),
        ("step-last", None),
        ("12b", None),
        ("130m", None),
        ("10B", 10_000_000_000),
        ("2.3BT", 2_300_000_000),
        ("tokens-300M", 300_000_000),
        ("1.5T-tokens", 1_500_000_000_000),
        ("tokens4000", 4000),
        ("10Bx", None),
    ],
)
def test_step_names(name, step):
    assert parse_step(name, compile_pattern(STEP_PATTERN)) == step


def test_a_pattern_of_ones_own_reads_no_tokens():
    assert parse_step("10B", compile_pattern(r"at-(\d+)")) is None


@pytest.mark.parametrize(
    ("name", "seed"),
    [("seed0", 0), ("seed-01", 1), ("seed_3", 3), ("run2", 2), ("4", 4), ("seed", None)],
)
def test_seed_names(name, seed):
    assert parse_number(name, compile_pattern(SEED_PATTERN)) == seed


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "not a regular expression"), (r"\d+", "0 groups"), ("(a)(b)", "2 g")],
)
def test_unusable_patterns_are_refused(tree, pattern, words):
    with pytest.raises(ConfigError, match=words):
        SuiteIndex.scan(tree, step_pattern=pattern)


def test_tree_of_seeds_and_steps(tree):
    suite = SuiteIndex.scan(tree)
    assert (suite.name, suite.seeds, suite.steps, suite.gaps) == ("suite", (0, 1, 10), (2, 10), ())
    assert suite.source(1, 2) == CheckpointSource(str(tree / "seed1" / "step-2"))
    assert suite.source(1) == suite.source(1, "last") == suite.source(1, 10)
    assert str(suite) == "suite: 3 seeds x 2 steps"
    source = suite.source(10)
    assert read_checkpoint(source.path_or_repo, source.revision, source.subfolder).cfg.D == CFG.D


def test_own_pattern(tmp_path):
    checkpoint(tmp_path / "r" / "seed0" / "tokens-4B-at-30", 1)
    suite = SuiteIndex.scan(tmp_path / "r", step_pattern=r"tokens-\w+-at-(\d+)")
    assert suite.steps == (30,)


def test_single_run_counts_as_seed_zero(tmp_path):
    for step in ("step-00100", "step-00020"):
        checkpoint(tmp_path / "run" / step, 1)
    suite = SuiteIndex.scan(tmp_path / "run")
    assert (suite.seeds, suite.steps) == ((0,), (20, 100))


def test_seeds_without_steps_count_as_step_zero(tmp_path):
    for seed in (3, 4):
        checkpoint(tmp_path / "final" / f"seed{seed}", seed)
    suite = SuiteIndex.scan(tmp_path / "final")
    assert (suite.seeds, suite.steps) == ((3, 4), (0,))


def test_bare_numbers(tmp_path):
    checkpoint(tmp_path / "a" / "0" / "100", 1)
    checkpoint(tmp_path / "b" / "100", 1)
    assert SuiteIndex.scan(tmp_path / "a").members.keys() == {(0, 100)}
    assert SuiteIndex.scan(tmp_path / "b").members.keys() == {(0, 100)}


def test_gap_is_reported_with_what_there_is(tree):
    shutil.rmtree(tree / "seed1" / "step-10")
    suite = SuiteIndex.scan(tree)
    assert suite.gaps == ((1, 10),)
    assert "1 missing" in str(suite)
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"seed 1 .* no step 10, the last of the suite(.|\n)*steps 2 \(the suite has 2, 10\)",
    ):
        suite.source(1, "last")


def test_unfinished_member_is_a_gap_with_its_reason(tree):
    (tree / "seed1" / "step-10" / "config.json").unlink()
    suite = SuiteIndex.scan(tree)
    with pytest.raises(CheckpointNotFoundError, match=r"seed1/step-10: no config.json"):
        suite.source(1, 10)


@pytest.mark.parametrize("step", [3, "2", "first"])
def test_absent_step_lists_the_steps(tree, step):
    with pytest.raises(
        CheckpointNotFoundError, match=rf"no step {step}(.|\n)*expected +steps 2, 10"
    ):
        SuiteIndex.scan(tree).source(0, step)


def test_absent_seed_lists_the_seeds(tree):
    with pytest.raises(CheckpointNotFoundError, match=r"no seed 2(.|\n)*seeds 0, 1, 10"):
        SuiteIndex.scan(tree).source(2)


def test_other_directories_are_ignored_and_listed(tree):
    (tree / "figures").mkdir()
    (tree / ".cache").mkdir()
    assert "figures: the name gives no number" in SuiteIndex.scan(tree).ignored


def test_two_directories_for_one_member_are_refused(tree):
    shutil.copytree(tree / "seed0" / "step-2", tree / "seed0" / "step-002")
    with pytest.raises(
        ConfigError, match=r"two directories stand for seed 0 step 2(.|\n)*step-002"
    ):
        SuiteIndex.scan(tree)


def test_absent_suite_names_the_closest(tree):
    with pytest.raises(CheckpointNotFoundError, match=r"no suite(.|\n)*closest .*suite"):
        SuiteIndex.scan(tree.parent / "siute")


def test_directory_without_checkpoints(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="holds no checkpoints of a suite"):
        SuiteIndex.scan(tmp_path)


def test_distinct_seeds_pass(tree):
    SuiteIndex.scan(tree).check_distinct()


@pytest.mark.parametrize("form", ["copy", "sharded", "original"])
def test_equal_weights_are_found_in_whatever_format(tree, form):
    again = random_weights(CFG, 10)  # what seed 0 has at step 10
    target = tree / "seed10" / "step-10"
    shutil.rmtree(target)
    if form == "original":
        save_original(target, CFG, again)
    else:
        save_hf(target, CFG, again, max_shard_size=2000 if form == "sharded" else None)
    suite = SuiteIndex.scan(tree)
    with pytest.raises(
        DuplicateWeightsError, match=r"MT207.*seeds 0 and 10 .* at step 10(.|\n)*seed0/step-10 and"
    ):
        suite.check_distinct()
    suite.check_distinct(steps=[2])


def test_members_that_differ_in_one_matrix_only_are_distinct(tree):
    weights = random_weights(CFG, 10)
    weights["blocks.0.mixer.A_log"][0, 0] += 1
    save_hf(tree / "seed10" / "step-10", CFG, weights, overwrite=True)
    SuiteIndex.scan(tree).check_distinct()


def write(directory, text):
    (directory / "suite.toml").write_text(text, encoding="utf-8")
    return directory / "suite.toml"


def test_manifest(tree):
    path = write(
        tree,
        """
        [suite]
        name = "mine"
        [[members]]
        seed = 0
        step = 100
        path = "seed0/step-10"
        [[members]]
        seeds = [1, 2]
        steps = [100, 200]
        repo = "owner/mamba-seed{seed}"
        revision = "step{step:05d}"
        subfolder = "x"
        """,
    )
    for place in (tree, path):
        suite = SuiteIndex.scan(place)
        assert (suite.name, suite.seeds, suite.steps) == ("mine", (0, 1, 2), (100, 200))
        assert suite.gaps == ((0, 200),)
        assert suite.source(2, 200) == CheckpointSource("owner/mamba-seed2", "step00200", "x")
        assert str(suite.source(2, 200)) == "owner/mamba-seed2@step00200/x"
        source = suite.source(0, 100)
        assert read_checkpoint(source.path_or_repo).cfg.D == CFG.D


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "suite.toml cannot be read"),
        ("", "lists no [[members]]"),
        ("members = 3", "lists no [[members]]"),
        ("members = [3]", "is not a table"),
        ("suite = 3", "[suite] in"),
        ("[sweet]", "unknown keys: sweet"),
        ('[[members]]\nseed=0\nstep=1\npth="a"', "unknown keys: pth"),
        ("[[members]]\nseed=0\nstep=1", "needs either path or repo"),
        ('[[members]]\nseed=0\nstep=1\npath="a"\nrepo="b/c"', "needs either path or repo"),
        ('[[members]]\nseed=0\nstep=1\npath="a"\nrevision="b"', "revision with a local path"),
        ('[[members]]\nstep=1\npath="a"', "needs either seed or seeds"),
        ('[[members]]\nseed=0\nstep=1\nsteps=[1]\npath="a"', "needs either step or steps"),
        ('[[members]]\nseed="0"\nstep=1\npath="a"', "seed must be a whole number"),
        ('[[members]]\nseeds=[]\nstep=1\npath="a"', "seed must be a whole number"),
        ('[[members]]\nseed=0\nstep=-1\npath="a"', "step must be a whole number"),
        ('[[members]]\nseed=0\nstep=1\npath="{sed}"', "path cannot be filled in (KeyError"),
        ('[[members]]\nseed=0\nstep=1\npath="{"', "path cannot be filled in (ValueError"),
        ('[[members]]\nseed=0\nsteps=[1,1]\npath="a"', "seed 0 step 1 was given before"),
    ],
)
def test_wrong_manifest_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        SuiteIndex.scan(write(tmp_path, text))
