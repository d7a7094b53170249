"""Claims are paired, refused field by field, and judged: what can become of a finding."""

import copy
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mechtest.comparison import Rules, compare_reports, status_of
from mechtest.errors import RunError
from tests.report.example import controls, evidence, report_of, row

PROMPTS = 48


def measured(share=0.9, spread=0.02, drop=0, **changes):
    """Return evidence on 12 templates; `drop` prompts are replaced by others."""
    rng = random.Random(3)
    behaviours = [rng.uniform(2, 6) for _ in range(PROMPTS)]
    fresh = [f"{index + (1000 if index < drop else 0):016x}" for index in range(PROMPTS)]
    made = evidence(
        rng, share, prompts=PROMPTS, templates=tuple(f"t{i // 4}" for i in range(PROMPTS)),
        prompt_digests=tuple(fresh), behaviours=tuple(behaviours),
        effects=tuple(share * b + rng.gauss(0, spread) for b in behaviours),
        **{"controls": controls(rng, p=0.0125), "guards": (), **changes},
    )  # fmt: skip
    return json.loads(json.dumps(made))  # as a file gives it back


def claim(name="test_a", parts=None, verdict="supported", seed=0, checkpoint="step-1", **changes):
    model = {"suite": "zoo", "seed": seed, "checkpoint": checkpoint, "sha256": "ab", "dtype": "f",
             "device": "cpu"}  # fmt: skip
    made = row(
        name, name, verdict, [measured()] if parts is None else parts, model=model, **changes
    )
    made["id"] = f"{made['key']}[seed{seed}-{checkpoint}]"
    return made


def compare(before, after, **options):
    old = before if isinstance(before, list) else [before]
    new = after if isinstance(after, list) else [after]
    return compare_reports(report_of(old), report_of(new), **options)


def only(before, after, **options):
    (found,) = compare(before, after, **options)["claims"]
    return found


# -- what becomes of a finding ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "verdict", "change"),
    [
        (0.9, "supported", "held"),
        (0.81, "supported", "held"),  # a tenth less
        (0.75, "supported", "drifted"),  # shown to be more than half the margin less
        (1.3, "supported", "drifted"),  # shown to be more than the margin more
        (0.72, "supported", "inconclusive"),  # at the margin
        (0.5, "supported", "regressed"),
        (0.2, "refuted", "regressed"),
        (-0.9, "refuted", "regressed"),
    ],
)
def test_what_is_kept_of_an_effect_decides(share, verdict, change):
    after = claim(parts=[measured(share, verdict=verdict)], verdict=verdict, checkpoint="step-2")
    assert only(claim(), after)["change"] == change


def test_two_sided_an_effect_that_grew_has_regressed():
    after = claim(parts=[measured(1.3)])
    assert only(claim(), after, rules=Rules(two_sided=True))["change"] == "regressed"


def test_a_wider_margin_is_forgiving():
    after = claim(parts=[measured(0.5)])
    assert only(claim(), after, rules=Rules(margin=0.6))["change"] == "drifted"
    with pytest.raises(RunError, match="a number between 0 and 1"):
        Rules(margin=1)


def test_a_claim_that_misses_its_threshold_by_itself_can_still_be_held():
    part = measured(0.85, verdict="inconclusive")
    found = only(claim(), claim(parts=[part], verdict="inconclusive"))
    assert found["change"] == "held"
    assert "by itself" in found["reason"]


def test_what_is_special_no_longer_is_not_held():
    """A rank among controls is not inherited from the baseline."""
    part = {**measured(0.9, verdict="inconclusive")}
    part["controls"] = {**part["controls"], "p": 0.3}
    found = only(claim(), claim(parts=[part], verdict="inconclusive"))
    assert (found["change"], "rank among controls" in found["reason"]) == ("inconclusive", True)
    part["verdict"] = "refuted"
    found = only(claim(), claim(parts=[part], verdict="refuted", reason="9 of 57 as good"))
    assert found["change"] == "regressed"


@pytest.mark.parametrize(
    ("after", "change"),
    [
        (0.02, "held"), (0.05, "held"), (0.15, "inconclusive"), (0.5, "regressed"),
    ],
)  # fmt: skip
def test_an_absence_holds_as_long_as_the_effect_stays_below_its_threshold(after, change):
    """Its share has no meaning: from .02 to .05 is two and a half times as much, and nothing."""
    kind = {"kind": "absence", "direction": "less", "threshold": 0.15}
    verdict = {"held": "supported", "regressed": "refuted"}.get(change, "inconclusive")
    before = claim(parts=[measured(0.02, **kind)])
    now = measured(after, verdict=verdict, **kind)
    assert only(before, claim(parts=[now], verdict=verdict))["change"] == change


@pytest.mark.parametrize(
    ("verdict", "change"),
    [("supported", "held"), ("refuted", "regressed"), ("inconclusive", "inconclusive")],
)
def test_evidence_without_shares_is_compared_by_verdict_and_says_so(verdict, change):
    kind = {"kind": "subspace match", "controls": None}
    after = claim(parts=[measured(verdict=verdict, **kind)], verdict=verdict)
    found = only(claim(parts=[measured(**kind)]), after)
    assert found["change"] == change
    assert "verdicts compared" in found["reason"]
    assert found["parts"][0]["by"] == "verdicts"


@pytest.mark.parametrize(
    ("verdict", "binding", "change", "status"),
    [
        ("invalid", "MT703", "incomplete", 3),
        ("invalid", "MT705", "regressed", 1),
        ("crashed", "crashed", "incomplete", 3),
        ("not_run", "not_run", "incomplete", 3),
        ("deselected", "deselected", "incomplete", 3),
    ],
)
def test_a_finding_without_a_verdict_is_not_held(verdict, binding, change, status):
    comparison = compare(claim(), claim(parts=[], verdict=verdict, binding=binding, reason="x"))
    assert comparison["claims"][0]["change"] == change
    assert comparison["status"] == status


def test_only_findings_can_be_lost():
    """What was refuted before is no finding, whatever it is now; an expected refutation is one."""
    bad = claim(parts=[measured(0.2, verdict="refuted")], verdict="refuted")
    assert only(bad, bad)["change"] == "no finding"
    assert only(bad, claim())["change"] == "gained"
    assert only(bad, claim(parts=[], verdict="crashed"))["change"] == "no finding"
    expected = {**bad, "expect": "refuted", "as_expected": True}
    assert only(expected, expected)["change"] == "held"
    turned = {**claim(), "expect": "refuted", "as_expected": False}
    assert only(expected, turned)["change"] == "regressed"


def test_the_worst_measurement_decides():
    seeds = [measured(label=f"seed {i}") for i in range(3)]
    after = [*seeds[:2], measured(0.4, label="seed 2")]
    found = only(claim(parts=seeds), claim(parts=after))
    assert found["change"] == "regressed"
    assert [part["change"] for part in found["parts"]] == ["held", "held", "regressed"]
    assert found["reason"].startswith("seed 2: 0.44 [")
    gone = only(claim(parts=seeds), claim(parts=seeds[:2]))
    assert (gone["change"], "not measured again" in gone["reason"]) == ("incomplete", True)


# -- pairing rows ----------------------------------------------------------------------------


def pairs(before, after):
    found = compare(before, after)["claims"]
    sides = [[c[side] and (c[side]["seed"], c[side]["checkpoint"]) for side in ("before", "after")]
             for c in found]  # fmt: skip
    return sorted(sides, key=str), sorted(c["change"] for c in found)


def test_checkpoints_of_one_seed_are_one_claim():
    sides, changes = pairs([claim(seed=s) for s in (0, 1)],
                           [claim(seed=s, checkpoint="step-2") for s in (0, 1)])  # fmt: skip
    assert sides == [[(0, "step-1"), (0, "step-2")], [(1, "step-1"), (1, "step-2")]]
    assert changes == ["held", "held"]


def test_equal_checkpoints_come_first_and_the_rest_is_new_or_removed():
    before = [claim(checkpoint=c) for c in ("step-1", "step-2", "step-3")]
    after = [claim(checkpoint=c) for c in ("step-2", "step-4", "step-5")]
    sides, changes = pairs(before, after)
    assert [(0, "step-2"), (0, "step-2")] in sides
    assert changes == ["held", "new", "new", "removed", "removed"]


def test_one_row_each_is_one_claim_whatever_it_was_checked_on():
    sides, changes = pairs(claim(seed=0), claim(seed=None, checkpoint=""))
    assert (len(sides), changes) == (1, ["held"])


def test_a_removed_finding_counts_and_a_new_claim_does_not():
    assert compare([claim(), claim("test_b")], claim())["status"] == 3
    assert compare(claim(), [claim(), claim("test_b")])["status"] == 0
    bad = claim("test_b", parts=[], verdict="refuted")
    assert compare([claim(), bad], claim())["status"] == 0


# -- what cannot be compared -----------------------------------------------------------------


def settings(**changes):
    return [{"threshold": 0.5, "circuit": ["blocks.0.state@last"], "prompts": "ab", **changes}]


@pytest.mark.parametrize(
    ("before", "after", "field", "values"),
    [
        ({}, {"level": 0.05}, "level", ("0.0125", "0.05 (looser)")),
        ({}, {"expect": "refuted", "as_expected": False}, "expect", ("supported", "refuted")),
        ({"settings": settings()}, {"settings": settings(threshold=0.4)}, "threshold",
         ("0.5", "0.4")),
        ({"settings": settings()}, {"settings": settings(losses=1)}, "losses",
         ("not stated", "1")),
        ({"settings": settings()}, {"settings": settings() * 2}, "assertions",
         ("1 of them", "2 of them")),
        ({}, {"parts": [measured(intervention="zero")]}, "intervention", ("resample", "zero")),
        ({}, {"parts": [measured(metric="accuracy")]}, "metric", ("logit_difference", "accuracy")),
        ({}, {"parts": [measured(drop=12)]}, "prompts",
         ("48 prompts", "48 prompts, 36 of them shared (at least 80%)")),
    ],
)  # fmt: skip
def test_another_question_is_refused_and_the_field_is_named(before, after, field, values):
    comparison = compare(claim(**before), claim(**after))
    (found,) = comparison["claims"]
    assert (found["change"], comparison["status"]) == ("incomparable", 2)
    fields = [*found["fields"], *(f for part in found["parts"] for f in part["fields"])]
    assert fields == [{"field": field, "before": values[0], "after": values[1]}]
    assert f"{field}: {values[0]} before, {values[1]} now" in found["reason"]


def test_another_tokenizer_is_refused():
    part = measured()
    part["model"] = {**part["model"], "tokenizer": "another one"}
    found = only(claim(), claim(parts=[part]))
    assert (found["change"], "tokenizer" in found["reason"]) == ("incomparable", True)


def test_a_looser_error_rate_is_refused_and_a_stricter_level_is_not():
    loose = report_of([claim()])
    loose["family_error"]["alpha"] = 0.1
    (found,) = compare_reports(report_of([claim()]), loose)["claims"]
    assert (found["change"], found["fields"][0]["field"]) == ("incomparable", "alpha")
    assert only(claim(), claim(level=0.001))["change"] == "held"


def test_other_prompts_up_to_a_fifth_are_left_out_and_it_is_said():
    found = only(claim(), claim(parts=[measured(drop=8)]))
    assert found["change"] == "held"
    assert "on the 40 prompts that both share (83%)" in found["reason"]
    assert found["parts"][0]["kept"]["prompts"] == 40


def test_circuits_that_were_found_may_differ_and_declared_ones_may_not():
    for origin, change in (("found on discovery prompts", "held"), ("declared", "incomparable")):
        before = claim(settings=settings(origin=origin))
        after = claim(settings=settings(origin=origin, circuit=["blocks.1.state@last"]))
        assert only(before, after)["change"] == change


def test_a_report_that_does_not_tell_templates_is_refused():
    old = report_of([claim()])
    for name in ("templates", "prompt_digests"):
        del old["claims"][0]["evidence"][0][name]
    with pytest.raises(RunError, match="baseline cannot be compared") as caught:
        compare_reports(old, report_of([claim()]))
    assert "without templates and prompt_digests" in str(caught.value)


def test_the_smallest_status_wins():
    lost = {"change": "regressed", "allowed": None}
    gone = {"change": "removed", "allowed": None}
    other = {"change": "incomparable", "allowed": None}
    assert status_of([gone, other, lost]) == 1
    assert status_of([gone, other]) == 2
    assert status_of([{**lost, "allowed": {"reason": "x"}}, gone]) == 3
    assert status_of([]) == 0


def test_inputs_stay_as_they_are_and_the_result_is_plain_json():
    before, after = report_of([claim()]), report_of([claim(parts=[measured(0.5)])])
    copies = copy.deepcopy((before, after))
    comparison = compare_reports(before, after)
    assert (before, after) == copies
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


def test_comparing_imports_neither_torch_nor_scipy(tmp_path):
    from mechtest.report import write_report

    write_report(report_of([claim()]), tmp_path)
    code = (
        "import sys; from mechtest.cli import main; "
        f"status = main(['compare', {str(tmp_path)!r}, {str(tmp_path)!r}]); "
        "print(status, *[n for n in ('torch', 'scipy', 'statsmodels') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0"
