"""Which models a claim runs on, read from names of directories alone."""

import pytest

from mechtest.errors import CheckpointNotFoundError, RegistrationError
from mechtest.plugin.marks import FamilyMark
from mechtest.plugin.models import ModelChoice, choose_models, key_without_model
from mechtest.plugin.options import Options


@pytest.fixture
def suite(tmp_path):
    for seed in (0, 1):
        for step in ("step-00250", "step-02500"):
            (tmp_path / "zoo" / f"seed{seed}" / step).mkdir(parents=True)
            (tmp_path / "zoo" / f"seed{seed}" / step / "config.json").write_text("{}")
    return tmp_path


def ids(root, *, family=None, all_seeds=False, **options):
    family = family or FamilyMark("f", model="zoo")
    choices = choose_models(family, Options(**options), root, all_seeds=all_seeds)
    return [choice.id for choice in choices]


def test_a_suite_gives_the_familys_seed_at_its_last_checkpoint(suite):
    assert ids(suite) == ["seed0-step-02500"]
    assert ids(suite, family=FamilyMark("f", model="zoo", seed=1)) == ["seed1-step-02500"]
    assert ids(suite, family=FamilyMark("f", model="zoo", checkpoint="250")) == ["seed0-step-00250"]
    assert ids(suite, all_seeds=True) == ["step-02500"]


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (("all",), ["step-00250", "step-02500"]),
        (("250",), ["step-00250"]),
        (("last", "step-00250"), ["step-00250", "step-02500"]),
    ],
)
def test_checkpoints_are_chosen_by_name_or_number(suite, names, steps):
    assert ids(suite, checkpoints=names) == [f"seed0-{step}" for step in steps]
    assert ids(suite, checkpoints=names, all_seeds=True) == steps


def test_an_unknown_checkpoint_is_a_usage_error_that_lists_what_there_is(suite):
    options = Options(checkpoints=("step-3",))
    choice = choose_models(FamilyMark("f", model="zoo"), options, suite, all_seeds=False)[0]
    assert choice.usage
    assert "step-00250, step-02500, last, all" in str(choice.error)


def test_a_checkpoint_directory_is_one_model(suite):
    family = FamilyMark("f", model="zoo/seed0/step-00250")
    choice = choose_models(family, Options(), suite, all_seeds=False)[0]
    assert choice.id == "step-00250"
    assert choice.source == (str(suite / "zoo/seed0/step-00250"), None, None)
    assert choice.record.seed is None
    seeds = choose_models(family, Options(), suite, all_seeds=True)[0]
    assert isinstance(seeds.error, RegistrationError)


def test_a_repository_is_left_for_the_fixture_to_load(suite):
    family = FamilyMark("f", model="state-spaces/mamba-130m-hf")
    choice = choose_models(family, Options(), suite, all_seeds=False)[0]
    assert (choice.id, choice.error) == ("mamba-130m-hf", None)


@pytest.mark.parametrize(
    ("names", "ids_in_order"),
    [
        (("step1000", "step-250", "step-10000"), ["step-250", "step1000", "step-10000"]),
        (("checkpoint-500", "checkpoint-1000"), ["checkpoint-500", "checkpoint-1000"]),
        (("global_step8", "global_step16"), ["global_step8", "global_step16"]),
        (("10B", "2.5B", "300M"), ["300M", "2.5B", "10B"]),
        (("step1000-tokens4B", "step200-tokens1B"), ["step200-tokens1B", "step1000-tokens4B"]),
    ],
)
def test_checkpoints_come_in_the_order_of_their_steps_under_their_own_names(
    tmp_path, names, ids_in_order
):
    for name in names:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    family = FamilyMark("f", model="run")
    assert ids(tmp_path, family=family, checkpoints=("all",)) == ids_in_order
    assert ids(tmp_path, family=family, checkpoints=(names[0],)) == [names[0]]


def test_revisions_of_a_repository_are_checkpoints_with_steps(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "suite.toml").write_text(
        '[[members]]\nseed = 0\nsteps = [1000, 200]\nrepo = "owner/name"\nrevision = "step{step}"\n'
    )
    family = FamilyMark("f", model="hub")
    chosen = choose_models(family, Options(checkpoints=("all",)), tmp_path, all_seeds=False)
    assert [(c.id, c.step) for c in chosen] == [("seed0-step200", 200), ("seed0-step1000", 1000)]
    assert chosen[0].source == ("owner/name", "step200", None)
    family = FamilyMark("f", model="owner/name@step1000")
    (choice,) = choose_models(family, Options(), tmp_path, all_seeds=False)
    assert (choice.id, choice.step) == ("name-step1000", 1000)
    assert choice.source == ("owner/name", "step1000", None)


def test_a_missing_model_is_an_error_that_says_what_to_do(suite):
    choice = choose_models(FamilyMark("f", model="zo"), Options(), suite, all_seeds=False)[0]
    assert isinstance(choice.error, CheckpointNotFoundError)
    assert "--mechtest-model" in str(choice.error)
    none = choose_models(FamilyMark("f"), Options(), suite, all_seeds=False)[0]
    assert 'mt.family("f", model=' in str(none.error)


def test_several_models_replace_the_familys_and_get_names_of_their_own(suite):
    found = ids(suite, models=("zoo", "zoo/seed1", "zoo/seed0/step-00250"))
    assert found == ["zoo-seed0-step-02500", "seed1-step-02500", "step-00250"]


@pytest.mark.parametrize(
    ("node", "parameters", "key"),
    [
        ("t.py::a[seed0-step-1]", ["seed0-step-1"], "t.py::a"),
        ("t.py::a[x-seed0-step-1-y]", ["seed0-step-1"], "t.py::a[x-y]"),
        ("t.py::a[step-1-seed0-step-1]", ["seed0-step-1", "step-1"], "t.py::a"),
        ("t.py::a[x]", [], "t.py::a[x]"),
        ("t.py::a", ["m"], "t.py::a"),
    ],
)
def test_the_key_is_the_node_id_without_the_model(node, parameters, key):
    assert key_without_model(node, [ModelChoice(name) for name in parameters]) == key
