"""A study file is strict: what nobody would read is refused, with what is close to it."""

import pytest

from mechtest.errors import StudyError
from mechtest.study import STEPS, Study
from mechtest.study.thresholds import proposed_threshold

HEAD = '[study]\nname = "a"\nmodel = "m"\nprompts = "p"\n'


def read(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return Study.from_toml(path)


def test_three_keys_are_enough_and_the_rest_has_defaults(tmp_path):
    settings = read(tmp_path, HEAD).settings
    assert settings.name == "a"
    assert str(settings.output) == "studies/a"
    assert settings.study["metric"] == "logit_difference"
    for step in STEPS:
        assert set(settings.steps[step.name]) == set(step.settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[study]\nname = 'a'\nmodel = 'm'\n", "does not say 'prompts'"),
        (HEAD + "metrik = 'x'\n", "metric"),
        (HEAD + "[step.sae]\n", "steps"),
        (HEAD + "[steps.selecton]\ncount = 1\n", "selection"),
        (HEAD + "[steps.selection]\ncuont = 1\n", "count"),
        (HEAD + "[steps.selection]\ncount = 'many'\n", "a whole number"),
        (HEAD + "[steps.selection]\ncount = -1\n", "not below 0"),
        (HEAD + "[steps.selection]\ncount = true\n", "a whole number"),
        (HEAD + "[steps.selection]\nsites = 'blocks.0.state'\n", "a list of texts"),
        (HEAD + "[steps.patching]\nmap = 1\n", "true or false"),
        (HEAD + "[steps]\nskip = ['scal']\n", "scale"),
        (HEAD + "[steps]\nskip = 'scale'\n", "a list of steps"),
        (HEAD + "[transfer]\nprompts = 'p'\n", "a list of texts"),
        (HEAD.replace('"a"', '"a/../b"'), "letters, digits"),
        ("[study\n", "is no TOML"),
        ("study = 3\n", "is a table"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(StudyError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "study.toml" in str(caught.value)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(StudyError, match="mechtest new-study"):
        Study.from_toml(tmp_path / "nothing.toml")


def test_steps_are_fifteen_in_order_and_build_on_earlier_ones():
    names = [step.name for step in STEPS]
    assert [step.number for step in STEPS] == list(range(1, 16))
    for index, step in enumerate(STEPS):
        assert {*step.needs, *step.uses} <= set(names[:index]), step.name


@pytest.mark.parametrize(
    ("effect", "low", "most", "proposed"),
    [
        (0.98, 0.95, 0.5, 0.5),
        (0.98, 0.95, 0.8, 0.8),
        (0.6, 0.5, 0.5, 0.4),
        (0.6, 0.449, 0.5, 0.3),
        (0.5, 0.4, 0.8, 0.3),
        (0.3, 0.19, 0.5, None),
        (0.8, None, 0.5, 0.3),
        (None, None, 0.5, None),
        (-0.5, -0.8, 0.5, None),
    ],
)
def test_thresholds_leave_a_margin_for_optimism(effect, low, most, proposed):
    assert proposed_threshold(effect, low, most) == proposed
