"""What cannot be tested as stated is invalid, with a reason, if possible before any run."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.assertions import (
    assert_beats_random_subspaces,
    assert_necessary,
    assert_not_necessary,
    assert_stable_across_seeds,
    assert_sufficient,
    check_necessary,
    check_stable_across_seeds,
    check_sufficient,
)
from mechtest.assertions.control_sets import ChannelSets, Control
from mechtest.discovery import find_difference_subspace
from mechtest.errors import ClaimInvalid, ShapeError
from mechtest.interventions import Circuit, Runner, Steer, Subspace, forget_runs
from mechtest.interventions.hooked import Hooked
from mechtest.interventions.packed_pass import PackedPass
from mechtest.interventions.run_pool import POOL_VARIABLE
from mechtest.models import HookedMamba
from mechtest.running_claim import RunningClaim, running
from mechtest.tasks import Fingerprints, logit_difference
from tests.assertions.zoo import CARRIES, INERT, LEVEL, of_rows, prompts, prose

LAYER = Circuit(CARRIES)


@pytest.fixture
def no_runs(monkeypatch):
    """Make every forward pass of a runner fail."""

    def refuse(*args, **kwargs):
        pytest.fail("something was run")

    monkeypatch.setattr(Hooked, "_forward", refuse)
    monkeypatch.setattr(PackedPass, "run", refuse)


def invalid(code, *texts, of=check_necessary, model=None, circuit=LAYER, pairs=None, **options):
    """Check that a claim is invalid, for this reason, in the record and as an exception."""
    pairs = prompts() if pairs is None else pairs
    asking = {"level": LEVEL, **options}
    model = model or prose()
    record = of(model, circuit, pairs, **asking)
    assert (record.verdict, record.binding, record.p) == ("invalid", code, 1.0), record.reason
    assert record.evidence == ()
    for text in texts:
        assert text in record.reason
    asserting = {check_necessary: assert_necessary, check_sufficient: assert_sufficient,
                 check_stable_across_seeds: assert_stable_across_seeds}[of]  # fmt: skip
    with pytest.raises(ClaimInvalid, match="cannot be tested") as raised:
        asserting(model, circuit, pairs, **asking)
    assert not isinstance(raised.value, AssertionError)
    assert raised.value.record == record
    assert f"[{code}]" in str(raised.value)
    return record


@dataclasses.dataclass(frozen=True)
class Scored:
    """A metric made of another, spoilt or bent by a function of the values."""

    bend: object
    name: str = "bent"
    unit: str = "logits"
    sign: str = "larger is better"

    def __call__(self, logits, encoded, *, position=None, reference=None):
        return self.bend(logit_difference(logits, encoded, position=position))


def spoilt_in_row(row, value):
    def bend(values):
        values = values.clone()
        values[row] = value
        return values

    return Scored(bend)


# --- numbers that are not finite ---------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_names_the_prompt(value):
    name = prompts().test.rows[3].id
    invalid("MT305", "1 of 24 prompts", name, metric=spoilt_in_row(3, value))


def test_an_effect_that_is_not_finite_names_the_prompt():
    """Finite on both runs, NaN after the intervention."""
    seen = []

    def third_is_nan(values):
        seen.append(1)
        return values * torch.nan if len(seen) % 3 == 0 else values

    record = check_necessary(prose(), LAYER, prompts(), level=LEVEL, metric=Scored(third_is_nan))
    assert (record.verdict, record.binding) == ("invalid", "MT305")
    assert prompts().test.rows[0].id in record.reason


def test_a_model_with_nan_weights_names_the_run_and_the_prompts():
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    with torch.no_grad():
        model.blocks[0].mixer.out_proj.weight[0, 0] = torch.nan
    invalid("MT305", "run gives NaN", prompts().test.rows[0].id, model=model)


def test_a_control_that_is_not_finite_is_named(monkeypatch):
    """A control is never left out: the claim cannot be ranked without it."""
    draw = ChannelSets.draw

    def spoilt(self, number):
        control = draw(self, number)
        return Control(control.circuits, lambda effect: torch.nan) if number == 4 else control

    monkeypatch.setattr(ChannelSets, "draw", spoilt)
    invalid("MT305", "control 4 has no finite statistic")


def test_a_control_whose_run_is_not_finite_is_named(monkeypatch):
    forget_runs()  # other tests may have measured these, in this process or another
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    after, draw = Runner.logits_after, ChannelSets.draw
    drawn = {}

    def noted(self, number):
        drawn[number] = draw(self, number)
        return drawn[number]

    def spoilt(self, circuits, *args, **kwargs):
        found = after(self, circuits, *args, **kwargs)
        bad = [one is drawn[4].circuits for one in circuits]
        return torch.where(torch.tensor(bad)[:, None, None], torch.nan, found)

    monkeypatch.setattr(ChannelSets, "draw", noted)
    monkeypatch.setattr(Runner, "logits_after", spoilt)
    record = check_necessary(prose(), LAYER, prompts(), level=LEVEL)
    assert (record.verdict, record.binding) == ("invalid", "MT305")
    assert "control 4: " in record.reason


def test_a_metric_gives_one_number_a_prompt():
    invalid("MT304", "one number a prompt", "shape (24, 1)", metric=Scored(lambda x: x[:, None]))
    invalid("MT304", "one number a prompt", metric=Scored(lambda values: values.mean()))


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(no_runs, threshold):
    invalid("MT703", "threshold has to be a finite number", threshold=threshold)


# --- too few prompts, templates, controls, seeds -----------------------------------------------


def test_no_prompts(no_runs):
    invalid("MT703", "no template falls on the test half", pairs=of_rows([]))


def test_no_prompts_on_the_test_half(no_runs):
    invalid("MT703", "no template falls", pairs=of_rows(prompts().discovery.rows))


def test_one_template_is_too_few(no_runs):
    one = prompts(count=4, templates=1)
    invalid("MT603", "1 clusters", pairs=one)


@pytest.mark.parametrize(("templates", "level"), [(4, 0.2), (5, 0.0125), (8, 0.0025)])
def test_fewer_templates_than_the_level_needs(no_runs, templates, level):
    """Said before any forward pass, for claims about an effect and about a rank alike."""
    few = prompts(templates=templates)
    invalid("MT603", f"{templates} clusters", "expected", pairs=few, level=level)


def test_a_rank_needs_templates_too_because_a_behaviour_does(no_runs):
    subspace = Subspace.spanned_by(torch.eye(64)[:, :1])
    circuit = Circuit("blocks.1.hook_out_proj@last", subspace=subspace)
    with pytest.raises(ClaimInvalid, match="4 clusters"):
        assert_beats_random_subspaces(prose(), circuit, prompts(templates=4), level=LEVEL)


def test_one_prompt_a_template_is_enough():
    found = check_necessary(prose(), LAYER, prompts(count=1), level=LEVEL)
    assert found.verdict == "supported"
    assert found.evidence[0].prompts == found.evidence[0].clusters == 24


def test_repeated_prompts_count_once_and_are_noted():
    rows = prompts(templates=12).rows
    again = [dataclasses.replace(row, id=row.id + "-again") for row in rows[::2]]
    twice = of_rows([*rows, *again])
    ours, theirs = (
        check_necessary(prose(), LAYER, pairs, level=LEVEL) for pairs in (twice, of_rows(rows))
    )
    count = len(twice.test) - len(of_rows(rows).test)
    assert count > 0
    assert ours.notes == (f"{count} repeated prompts were left out",)
    assert ours.evidence == theirs.evidence


def test_too_few_controls_for_the_level(no_runs):
    invalid("MT603", "at least 57 controls", max_controls=56, level=0.05)


def test_as_many_controls_as_the_level_needs():
    found = check_necessary(prose(), LAYER, prompts(), level=LEVEL, max_controls=12)
    assert (found.verdict, found.evidence[0].controls.drawn) == ("supported", 12)


def test_one_seed_is_no_stability(no_runs):
    invalid("MT703", "at least two seeds", of=check_stable_across_seeds, model={0: prose()})


def test_seeds_with_equal_weights_are_not_independent(no_runs):
    invalid("MT207", "same weights", of=check_stable_across_seeds, model={0: prose(), 1: prose()})


def test_a_mean_needs_as_many_seeds_as_the_level(no_runs):
    seeds = {0: prose(0), 1: prose(1)}
    invalid(
        "MT603", "2 seeds", of=check_stable_across_seeds, model=seeds, target="mean", level=0.05
    )


def test_a_mean_of_absences_is_refused_before_any_run(no_runs):
    seeds = {0: prose(0), 1: prose(1)}
    invalid("MT703", "claimed to be above", of=check_stable_across_seeds, model=seeds,
            target="mean", using=assert_not_necessary)  # fmt: skip


# --- no behaviour ------------------------------------------------------------------------------


def test_clean_and_corrupted_prompts_exchanged():
    swapped = of_rows(
        dataclasses.replace(row, clean=row.corrupted, corrupted=row.clean) for row in prompts()
    )
    invalid("MT705", "behaviour absent", "not clearly positive", pairs=swapped)


def test_a_checkpoint_that_has_not_learned_the_task():
    model = prose(step="step-00250")
    record = invalid("MT705", "behaviour absent", model=model, pairs=prompts("ioi"))
    assert "0.5" in record.reason or "50%" in record.reason or "positive" in record.reason


def test_too_many_wrong_answers():
    invalid("MT705", "behaviour absent", "clean prompts right", min_accuracy=1.01)


# --- no spread ---------------------------------------------------------------------------------


def test_equal_scores_of_all_prompts_are_tested_by_signs():
    """No t or Fieller interval exists; the sign-flip interval is a point."""

    def sides(values):
        return (values > 0).to(values.dtype)

    found = check_necessary(
        prose(), Circuit("blocks.1.hook_out_proj@last"), prompts(), level=LEVEL,
        metric=Scored(sides), threshold=0.5,
    )  # fmt: skip
    assert found.verdict == "supported", found.reason
    effect = found.evidence[0].effect
    assert effect.estimate == 1
    assert (effect.low, effect.high) == (1, 1) or effect.reason
    assert found.evidence[0].controls.excess is not None


# --- circuits ----------------------------------------------------------------------------------


def test_a_circuit_of_nothing_cannot_be_made():
    with pytest.raises(ShapeError, match="at least one site"):
        Circuit()
    with pytest.raises(ShapeError, match="no channels"):
        Circuit(CARRIES, channels=[])


def test_a_circuit_with_channels_and_a_subspace_cannot_be_made():
    """Only one of them would be edited, and the other compared with controls."""
    with pytest.raises(ShapeError, match="not both"):
        Circuit("blocks.1.hook_y@last", channels=[0],
                subspace=Subspace.spanned_by(torch.eye(128)[:, :1]))  # fmt: skip


@pytest.mark.parametrize(
    "sites",
    [
        [INERT, CARRIES],
        ["hook_embed@last"],
        ["blocks.0.hook_out_proj@last", "blocks.-1.hook_out_proj@last"],
    ],
    ids=["all states", "no layers", "all layers"],
)
def test_a_circuit_that_is_all_of_its_kind(no_runs, sites):
    invalid("MT602", "all there is of its kind", circuit=Circuit(*sites))


def test_all_channels_of_both_layers(no_runs):
    invalid("MT602", "all there is", circuit=Circuit(INERT, CARRIES, channels=range(128)))


def test_a_family_smaller_than_the_level(no_runs):
    """Of 256 channels, all but one: 256 sets."""
    claimed = Circuit("hook_embed@last", channels=range(63))
    invalid("MT603", "64 sets", circuit=claimed, level=0.01)


@pytest.mark.parametrize("rank", [0, 64, 65])
def test_a_subspace_of_all_or_no_dimensions(rank):
    with pytest.raises(ShapeError):
        Subspace.spanned_by(torch.randn(64, rank, generator=torch.Generator().manual_seed(0)))


def test_a_subspace_of_dependent_directions_reaches_no_model():
    """Neither where it is made nor, made by hand, where it is claimed."""
    ones = torch.ones(64, 2)
    with pytest.raises(ShapeError, match="rank 1"):
        Subspace.spanned_by(ones)
    invalid("MT601", circuit=Circuit("blocks.1.hook_out_proj@last", subspace=Subspace(ones, ones)))


def test_a_subspace_of_another_site():
    subspace = Subspace.spanned_by(torch.eye(32)[:, :2])
    circuit = Circuit("blocks.1.hook_out_proj@last", subspace=subspace)
    invalid("MT601", "do not belong to this site", circuit=circuit)


def test_an_edit_that_changes_nothing():
    """Before the first token that differs, both runs are one."""
    invalid("MT501", "changed no activation", circuit=Circuit("blocks.1.state@subject_first-1"))


@pytest.mark.parametrize(
    ("site", "code", "text"),
    [
        ("blocks.7.state@last", "MT101", "2 layers"),
        ("blocks.1.state@nowhere", "MT105", "nowhere"),
        ("blocks.1.state@90", "MT105", "outside a prompt"),
    ],
)
def test_places_the_model_or_the_prompts_lack(no_runs, site, code, text):
    invalid(code, text, circuit=Circuit(site))


def test_channels_the_site_lacks(no_runs):
    invalid("MT601", "#128", circuit=Circuit(CARRIES, channels=[3, 128]))


def test_a_cut_is_invalid_for_what_it_is():
    """The last token's residual stream decides the logits in any model."""
    invalid("MT703", "cut:", circuit=Circuit("blocks.1.hook_resid_post@last"))


# --- circular ----------------------------------------------------------------------------------


def found_on(pairs):
    return Circuit(CARRIES, name="found", fitted_on=pairs.fingerprints)


def test_a_circuit_found_on_the_prompts_it_is_tested_on(no_runs):
    invalid("MT703", "circular", "prompts it would be", circuit=found_on(prompts()))


def test_a_circuit_found_on_other_prompts_of_the_same_templates(no_runs):
    seen = Fingerprints.of(texts=["another prompt"], clusters=prompts().test.templates)
    circuit = Circuit(CARRIES, name="found", fitted_on=seen)
    invalid("MT703", "circular", "24 templates", circuit=circuit)


def test_a_circuit_found_on_the_discovery_half_is_not_circular():
    found = check_necessary(prose(), found_on(prompts().discovery), prompts(), level=LEVEL)
    assert found.verdict == "supported"


def test_the_discovery_half_cannot_be_tested_on(no_runs):
    invalid("MT703", "circular", pairs=prompts().discovery)


def test_the_test_half_alone_has_no_prompts_for_the_controls_of_a_subspace(no_runs):
    whole = Circuit("blocks.1.hook_out_proj@last",
                    subspace=Subspace.spanned_by(torch.eye(64)[:, :2]))  # fmt: skip
    invalid("MT703", "the whole collection", circuit=whole, pairs=prompts().test)


def test_the_test_half_alone_is_enough_for_whole_sites():
    found = check_necessary(prose(), LAYER, prompts().test, level=LEVEL)
    assert found.verdict == "supported"


# --- words nobody knows ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"metric": "logit_diference"}, "MT304", "logit_difference"),
        ({"metric": max}, "MT703", "name, unit and sign"),
        ({"metric": 3}, "MT703", "a metric"),
        ({"intervention": "zero"}, "MT703", "an intervention"),
        ({"controls": "blocks"}, "MT703", "no kind of control"),
        ({"controls": "block"}, "MT703", "do not fit this circuit"),
        ({"losses": 0}, "MT601", "losses"),
        ({"level": 0.0}, "MT601", "level"),
        ({"level": 1.5}, "MT601", "level"),
    ],
    ids=str,
)
def test_unknown_options(no_runs, options, code, text):
    invalid(code, text, **options)


def test_a_misspelt_option_is_a_type_error():
    with pytest.raises(TypeError, match="treshold"):
        check_necessary(prose(), LAYER, prompts(), treshold=0.5)


def test_an_unknown_target_of_stability(no_runs):
    seeds = {0: prose(0), 1: prose(1)}
    invalid("MT703", "unknown target", of=check_stable_across_seeds, model=seeds, target="most")


def test_no_assertion_to_make_in_every_seed(no_runs):
    seeds = {0: prose(0), 1: prose(1)}
    invalid("MT703", "no assertion", of=check_stable_across_seeds, model=seeds, using=print)


def test_a_model_without_a_tokenizer(no_runs):
    bare = HookedMamba(prose().cfg, seed=0)
    invalid("MT401", "tokenizer", model=bare)


@pytest.mark.parametrize(
    ("model", "pairs", "text"),
    [("mamba", None, "one hooked model"), (None, ["a prompt"], "needs prompt pairs")],
)
def test_things_that_are_no_model_and_no_prompts(no_runs, model, pairs, text):
    invalid("MT703", text, model=model, pairs=pairs)


def test_a_steering_vector_of_another_size():
    """The shape is known only where the hook fires."""
    invalid("MT403", "does not fit", intervention=Steer(torch.ones(5)),
            circuit=Circuit("blocks.1.hook_out_proj@last"))  # fmt: skip


# --- the claim itself --------------------------------------------------------------------------


def test_a_registered_claim_cannot_loosen_its_level(no_runs):
    with running(RunningClaim(id="t.py::t", key="t.py::t", level=0.01, registered=True)) as claim:
        record = check_necessary(prose(), LAYER, prompts(), level=0.05)
        with pytest.raises(ClaimInvalid, match="looser than its own"):
            assert_necessary(prose(), LAYER, prompts(), level=0.05)
    assert (record.verdict, record.binding, record.level) == ("invalid", "MT703", 0.01)
    assert [found.verdict for found in claim.records] == ["invalid"]


def test_a_registered_claim_can_tighten_its_level():
    with running(RunningClaim(id="t.py::t", key="t.py::t", level=0.2, registered=True)):
        assert check_necessary(prose(), LAYER, prompts(), level=0.15).level == 0.15


@settings(max_examples=2, database=None, deadline=None)
@given(st.integers())
def test_a_statistical_claim_inside_given_is_refused(number):
    """Its p value would be one of many, chosen to fail."""
    with pytest.raises(ClaimInvalid, match="inside @given"):
        assert_necessary(prose(), LAYER, prompts(), level=LEVEL)
    assert check_necessary(prose(), LAYER, prompts(), level=LEVEL).binding == "MT703"


def test_subspace_claims_need_discovery_prompts_that_vary(monkeypatch):
    """Controls are drawn in the discovery half's coordinates; without templates there are none."""
    only_test = of_rows(prompts().test.rows)
    circuit = find_difference_subspace(
        prose(), "blocks.1.hook_out_proj@last", prompts().discovery, rank=2
    )
    invalid("MT703", "discovery half", circuit=circuit, pairs=only_test)
