"""Robustness on a model whose forgetting is known: a filler of k words keeps 2 ** (-k / 4)."""

import json
from dataclasses import replace
from functools import cache

import jaxtyping
import pytest

import mechtest as mt
from fixtures.compiled import FAMILIES
from fixtures.compiled.words import FILLERS
from mechtest.assertions.perturbed_sample import _sample
from mechtest.assertions.question import Question
from mechtest.assertions.retention import Oracle
from mechtest.assertions.search import drawn, look_for
from mechtest.assertions.study import prepare_study
from mechtest.errors import ClaimInvalid, ClaimRefuted, MetricError, PromptError
from mechtest.interventions import ResampleAblation
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from mechtest.tasks.perturbation import Menu, Perturbation

HALF_LIFE = 4
FILL = [mt.Filler(" ".join(FILLERS[:words]), after="value") for words in range(1, 9)]
HARMLESS = mt.Prefix(FILLERS[9])


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Other tests check the shapes of every call; here that would be most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@cache
def build(seed=0):
    return FAMILIES["decay"].build(seed=seed, half_life=HALF_LIFE, templates=24, per_template=2)


@cache
def prompts():
    return build().prompts.filter(behaviour="near")


def circuit(seed=0):
    return build(seed).row("store 0").circuit


def check(perturbations, **options):
    asked = {"level": 0.05, "max_edits": 1, **options}
    return mt.check_robust(
        build().model, circuit(), prompts(), perturbations=perturbations, **asked
    )


def kept(words):
    return 2 ** (-words / HALF_LIFE)


# -- the worst case --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken():
    """Five words are the fewest that keep less than .45."""
    return check([*FILL, HARMLESS], floor=0.45, n=40, max_edits=2)


def test_the_counterexample_is_the_smallest_edit_there_is(broken):
    assert (broken.verdict, broken.binding) == ("refuted", "counter-example")
    found = broken.evidence[0].counterexample
    assert found.operations == (repr(FILL[4]),)
    assert found.retained == pytest.approx(kept(5), abs=1e-3)
    assert found.clean.count(" so then now here there ") == 1
    shortest = min(prompts().test, key=lambda pair: len(pair.clean.split()))
    assert found.base == shortest.id


def test_a_counterexample_can_be_pasted_and_tried_first(broken):
    found = broken.evidence[0].counterexample
    line = found.example.removeprefix("@example(").removesuffix(")")
    again = eval(line, {"mt": mt, "PROMPTS": prompts()})
    first = check([HARMLESS], floor=0.45, n=2, examples=[again])
    assert first.verdict == "refuted"
    assert first.evidence[0].counterexample == found
    assert first.evidence[0].prompts == 1, "nothing else had to be tried"


def test_it_is_kept_in_the_record_and_printed(broken):
    assert ClaimRecord.from_json(broken.to_json()) == broken
    assert json.loads(broken.to_json())["evidence"][0]["counterexample"]["floor"] == 0.45
    with pytest.raises(ClaimRefuted, match=r"^\[MT701\] 0\.42 < 0\.45, counter-example") as raised:
        mt.assert_robust(
            build().model, circuit(), prompts(), perturbations=FILL, floor=0.45, n=20, level=0.05
        )
    assert "@example(mt.perturbed(PROMPTS, 'decay/near-" in str(raised.value)
    assert FILL[4].words in str(raised.value)


def test_no_counterexample_is_a_count_and_no_probability():
    found = check([*FILL[:3], HARMLESS], floor=0.45, n=60)
    assert (found.verdict, found.binding) == ("supported", "no counter-example")
    (evidence,) = found.evidence
    assert evidence.p_effect is None
    assert evidence.effect.low is None
    assert evidence.effect.estimate == pytest.approx(kept(3), abs=1e-3)
    assert f"no counter-example in {evidence.prompts} distinct" in found.reason
    assert "no probability" in found.reason
    assert evidence.prompts <= 60


def test_a_small_space_is_tried_whole_and_said_to_be_small():
    found = check([HARMLESS], floor=0.45, n=100)
    assert found.evidence[0].prompts == len(prompts().test)


def bench():
    study = prepare_study(build().model, [circuit()], prompts(), "logit_difference")
    menu = Menu(prompts().test, [*FILL, HARMLESS], 2, build().model.tokenizer)
    oracle = Oracle(Question(study, "ablate", ResampleAblation(), circuit()), menu.renderer)

    def share(asked):
        base = oracle.moved([Perturbation(one.base, ()) for one in asked])
        return oracle.moved(asked) / base

    return menu, oracle, share


@pytest.mark.parametrize(("floor", "tries"), [(0.45, 40), (0.2, 20)])
def test_what_is_tried_is_asked_of_the_model_in_batches(floor, tries):
    """Answers are the same one by one; only the shrinker asks the model for single prompts."""
    asked, found = {}, {}
    for prefetch in (True, False):
        menu, oracle, share = bench()
        oracle.moved([Perturbation(pair, ()) for pair in menu.prompts])
        found[prefetch] = look_for(menu, share, floor, tries=tries, seed=3, prefetch=prefetch)
        asked[prefetch] = oracle.batches - 1
    assert found[True].counterexample == found[False].counterexample
    assert list(found[True].tried) == list(found[False].tried)
    print(f"floor {floor}: the model is asked {asked[True]} times, one by one {asked[False]} times")
    if floor == 0.2:
        assert asked[True] == 1
        assert asked[False] >= 18
    else:
        assert asked[True] < asked[False]


def test_the_same_seed_tries_the_same_prompts():
    menus = [bench()[0] for _ in range(2)]
    first, again = (drawn(menu, tries=30, seed=3) for menu in menus)
    assert first == again
    assert drawn(menus[0], tries=30, seed=4) != first


def test_a_search_takes_no_part_in_the_error_rate():
    claim = RunningClaim(id="t.py::t")
    with running(claim):
        found = check([HARMLESS])
    assert found.verdict == "invalid"
    assert "exact=True" in found.reason
    with running(replace(claim, exact=True)):
        assert check([HARMLESS], n=5).verdict == "supported"


# -- a fair sample ---------------------------------------------------------------------------


def test_the_share_kept_is_estimated_over_templates():
    """Fillers of one to three words, equally likely, keep .715 on average."""
    truth = sum(kept(words) for words in (1, 2, 3)) / 3
    found = check(FILL[:3], form="distribution", rho=0.6, n=16)
    (evidence,) = found.evidence
    assert found.verdict == "supported", found.reason
    assert evidence.effect.low < truth < evidence.effect.high
    assert evidence.effect.estimate == pytest.approx(truth, abs=0.02)
    assert evidence.effect.unit == "share of the unperturbed effect"
    assert evidence.clusters == len(prompts().test.templates)
    assert evidence.prompts == len(prompts().test), "prompts, not draws"
    assert check(FILL[:3], form="distribution", rho=0.8, n=16).verdict == "refuted"


def test_a_fraction_of_templates_has_to_keep_it_on_every_draw():
    keep = {"form": "distribution", "n": 8, "rho": 0.65}
    held = check(FILL[:2], **keep, fraction=0.7)
    assert held.verdict == "supported", held.reason
    (guard,) = [one for one in held.evidence[0].guards if one.name == "fraction"]
    count = len(prompts().test.templates)
    assert guard.p == pytest.approx(0.7**count)
    lost = check(FILL[:3], **keep, fraction=0.7)  # three words keep .595
    assert (lost.verdict, lost.binding) == ("refuted", "fraction")


def test_a_fraction_that_no_data_can_show_is_said_before_anything_runs():
    found = check(FILL[:2], form="distribution", fraction=0.95)
    assert found.verdict == "invalid"
    assert "MT603" in found.reason


def test_every_checkpoint_and_seed_gets_the_same_perturbed_prompts():
    claim = RunningClaim(key="t.py::t", id="t.py::t[seed0-step-1]")
    samples = []
    for seed, name in ((0, "t.py::t[seed0-step-1]"), (1, "t.py::t[seed1-step-9]")):
        menu = Menu(prompts().test, [*FILL, HARMLESS], 2, build(seed).model.tokenizer)
        samples.append(_sample(menu, 3, replace(claim, id=name)))
    assert samples[0] == samples[1]
    assert samples[0] != _sample(menu, 3, replace(claim, key="t.py::u"))


# -- the worst kind --------------------------------------------------------------------------


def test_the_worst_kind_is_looked_for_on_one_half_and_tested_on_the_other():
    found = check([HARMLESS, FILL[3], FILL[4]], form="worst_kind", rho=0.8, n=4)
    assert (found.verdict, found.binding) == ("refuted", "effect")
    assert "Filler is tested here" in found.notes[0]
    assert found.evidence[0].effect.estimate == pytest.approx((kept(4) + kept(5)) / 2, abs=0.03)
    # A circuit that was found on the discovery half may be looked at there.
    fitted = mt.Circuit("blocks.0.state@last", fitted_on=prompts().discovery.fingerprints)
    again = mt.check_robust(
        build().model, fitted, prompts(), perturbations=[HARMLESS], form="worst_kind", n=2,
        level=0.05,
    )  # fmt: skip
    assert again.verdict == "supported", again.reason


# -- what cannot be asked --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"form": "best_case"}, "no such form"),
        ({"mode": "keep"}, "no such form"),
        ({"floor": 0.0}, "are shares"),
        ({"rho": 1.5}, "are shares"),
        ({"fraction": 2.0}, "are shares"),
        ({"n": 0}, "n of at least 1"),
        ({"ablations": ("zero", "mean")}, "one ablation"),
        ({"perturbations": HARMLESS}, "come as a list"),
        ({"perturbations": []}, "made by operations"),
        ({"perturbations": ["Lately,"]}, "made by operations"),
        ({"perturbations": [mt.Prefix("Yesterday,")]}, "no prompt allows any"),
        ({"perturbations": [mt.Prefix("Yesterday,")], "form": "distribution"}, "0 of 24 prompts"),
        ({"form": "distribution", "examples": [Perturbation(None, ())]}, "tried by a search"),
        ({"form": "distribution", "level": 1e-9}, "MT603"),
    ],
)
def test_what_cannot_be_tested_is_invalid(options, text):
    asked = {"perturbations": [HARMLESS], "level": 0.05, **options}
    found = mt.check_robust(build().model, circuit(), prompts(), **asked)
    assert found.verdict == "invalid"
    assert text in found.reason


def test_an_example_of_the_discovery_half_is_refused():
    seen = Perturbation(prompts().discovery[0], (HARMLESS,))
    found = check([HARMLESS], examples=[seen])
    assert found.verdict == "invalid"
    assert "not tried" in found.reason


def test_a_circuit_without_an_effect_has_none_to_keep():
    inert = build().row("copy channels 0").circuit
    for form in ("worst_case", "distribution"):
        found = mt.check_robust(
            build().model, inert, prompts(), perturbations=[HARMLESS], form=form, level=0.05
        )
        assert found.verdict == "invalid"
        assert "no effect that could be kept" in found.reason


@pytest.mark.parametrize("form", ["worst_case", "distribution", "worst_kind"])
def test_a_plan_runs_nothing_and_states_what_the_record_will(form):
    with running(RunningClaim(id="t.py::t", exact=True, planning=True)) as claim:
        check([HARMLESS, FILL[0]], form=form, n=3)
    (plan,) = claim.plans
    assert plan["attainable"], plan["problem"]
    assert claim.forward_passes == 0
    assert plan["settings"] == check([HARMLESS, FILL[0]], form=form, n=3).settings


# -- one prompt ------------------------------------------------------------------------------


def test_the_share_of_one_prompt_is_what_the_half_life_says():
    first = prompts().test[0]
    for words in (1, 4, 8):
        asked = mt.perturbed(prompts(), first.id, FILL[words - 1])
        share = mt.retained(build().model, circuit(), asked)
        assert share == pytest.approx(kept(words), abs=1e-3)
    assert mt.retained(build().model, circuit(), Perturbation(first, ())) == 1.0
    restored = mt.retained(build().model, circuit(), asked, mode="restore")
    assert restored == pytest.approx(kept(8), abs=1e-3)


def test_the_body_of_a_given_needs_a_claim_without_an_error_rate():
    asked = mt.perturbed(prompts(), prompts().test[0].id, FILL[7])
    with running(RunningClaim(id="t.py::t")), pytest.raises(ClaimInvalid, match="no p value"):
        mt.must_retain(build().model, circuit(), asked)
    with running(RunningClaim(id="t.py::t", exact=True)) as claim:
        assert mt.must_retain(build().model, circuit(), asked, floor=0.2) > 0.2
        with pytest.raises(ClaimRefuted, match=r"@example\(mt.perturbed"):
            mt.must_retain(build().model, circuit(), asked, floor=0.5)
    assert [record.verdict for record in claim.records] == ["supported", "refuted"], "two floors"
    with running(RunningClaim(id="t.py::t", exact=True, planning=True)) as claim:
        mt.must_retain(build().model, circuit(), asked)
        mt.must_retain(build().model, circuit(), asked)
    assert len(claim.plans) == 1
    assert claim.forward_passes == 0


def test_a_prompt_that_cannot_be_asked_says_why():
    first = prompts().test[0]
    unknown = mt.perturbed(prompts(), first.id, mt.Prefix("Yesterday,"))
    with pytest.raises(PromptError, match="Prefix unknown word"):
        mt.retained(build().model, circuit(), unknown)
    inert = build().row("copy channels 0").circuit
    harmless = mt.perturbed(prompts(), first.id, HARMLESS)
    with pytest.raises(MetricError, match="no effect on decay/near"):
        mt.retained(build().model, inert, harmless)
    fitted = mt.Circuit("blocks.0.state@last", fitted_on=prompts().test.fingerprints)
    with pytest.raises(ClaimInvalid, match="circular"):
        mt.retained(build().model, fitted, harmless)
