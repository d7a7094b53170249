"""The verdict is one rule over numbers, written in one place."""

import ast
from pathlib import Path

import pytest

from mechtest.assertions import _decide
from mechtest.assertions._decide import (
    ControlFinding,
    Decision,
    EffectFinding,
    PartFinding,
    decide,
    decide_all,
    decide_every,
    part_verdict,
)
from mechtest.records import Guard, Verdict
from mechtest.stats import ControlTest
from tests.assertions.zoo import interval

SOURCES = Path(_decide.__file__).parent


def effect(p=0.001, low=0.8, high=1.0, *, estimate=0.9, threshold=0.5, direction="greater",
           lowest=None):  # fmt: skip
    return EffectFinding(estimate, threshold, direction, p, interval(low, high), lowest)


def small(p=0.001, low=-0.05, high=0.05):
    return effect(p, low, high, estimate=0, threshold=0.2, direction="less", lowest=-0.2)


def ranked(losses_at=(), drawn=60, *, weak=False, level=0.05):
    """Controls of which those with the given numbers are as good as the claim."""
    test = ControlTest(1.0, level)
    test.feed([2.0 if number in losses_at else 0.0 for number in range(drawn)])
    return ControlFinding("components", test.summary(), weak)


def guard(passed, p=None, name="illusion"):
    return Guard(name, passed, "what was found", p)


YES, NO = True, False
GOOD, BAD = guard(YES, 0.001), guard(NO, 0.9)
OPEN, LATE = guard(None), guard(YES, 0.06)

TABLE = {
    "everything holds": (effect(), ranked(), [GOOD], "supported", "controls"),
    "effect alone": (effect(), None, [], "supported", "effect"),
    "controls alone": (None, ranked(), [], "supported", "controls"),
    "a guard has the largest p": (effect(), None, [guard(YES, 0.04, "g")], "supported", "g"),
    "interval below the threshold": (effect(1, 0.1, 0.49), None, [], "refuted", "effect"),
    "interval ends at the threshold": (effect(1, 0.1, 0.5), None, [], "inconclusive", "effect"),
    "no upper end": (effect(1, 0.1, None), None, [], "inconclusive", "effect"),
    "p above the level": (effect(0.051), ranked(), [], "inconclusive", "effect"),
    "p at the level": (effect(0.05), None, [], "supported", "effect"),
    "third loss at 13": (effect(), ranked((0, 5, 12)), [], "refuted", "controls"),
    "third loss at 14": (effect(), ranked((0, 5, 13)), [], "inconclusive", "controls"),
    "two losses": (effect(), ranked((0, 5)), [], "supported", "controls"),
    "too few controls yet": (effect(), ranked(drawn=30), [], "inconclusive", "controls"),
    "weak controls": (effect(), ranked(weak=True), [], "inconclusive", "controls"),
    "weak controls refute": (effect(), ranked((0, 1, 2), weak=True), [], "refuted", "controls"),
    "small": (small(), None, [], "supported", "effect"),
    "not shown to be small": (small(0.3, -0.1, 0.3), None, [], "inconclusive", "effect"),
    "large": (small(1, 0.21, 0.4), None, [], "refuted", "effect"),
    "far below": (small(1, -0.5, -0.21), None, [], "refuted", "effect"),
    "large, unbounded": (small(1, 0.21, None), None, [], "refuted", "effect"),
    "far below, unbounded": (small(1, None, -0.21), None, [], "refuted", "effect"),
    "a guard fails": (effect(), ranked(), [BAD], "refuted", "illusion"),
    "a guard is open": (effect(), ranked(), [OPEN], "inconclusive", "illusion"),
    "a guard is late": (effect(), ranked(), [LATE], "inconclusive", "illusion"),
    "guards before effects": (effect(1, 0, 0.1), ranked((0, 1, 2)), [BAD], "refuted", "illusion"),
    "effects before controls": (effect(1, 0, 0.1), ranked((0, 1, 2)), [], "refuted", "effect"),
    "against before missing": (effect(0.4), ranked((0, 1, 2)), [OPEN], "refuted", "controls"),
    "missing effects first": (effect(0.4), ranked(drawn=3), [OPEN], "inconclusive", "effect"),
    "then guards": (effect(), ranked(drawn=3), [OPEN], "inconclusive", "illusion"),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_the_table_of_verdicts(row):
    """Supported when everything holds, refuted when something is contradicted, else neither."""
    effect, controls, guards, verdict, binding = row
    found = decide(0.05, effect=effect, controls=controls, guards=guards)
    assert (found.verdict, found.binding) == (verdict, binding)
    assert found.reason
    assert "None" not in found.reason


def part(p=0.001, against=1.0, name="a"):
    return PartFinding(name, 0.3, 0.02, p, against)


PARTS = {
    "every part holds": ([part(), part(0.04, name="b")], [], "supported", "b"),
    "one part is late": ([part(), part(0.06, name="b")], [], "inconclusive", "b"),
    "one part is refuted": ([part(0.5), part(1.0, 0.05, "b")], [], "refuted", "b"),
    "the opposite is late": ([part(), part(1.0, 0.051, "b")], [], "inconclusive", "b"),
    "a guard fails": ([part()], [BAD], "refuted", "illusion"),
    "a guard is open": ([part()], [OPEN], "inconclusive", "illusion"),
    "a guard has the largest p": ([part()], [guard(YES, 0.04, "g")], "supported", "g"),
}


@pytest.mark.parametrize("row", PARTS.values(), ids=PARTS.keys())
def test_every_part_has_to_hold(row):
    parts, guards, verdict, binding = row
    found = decide_every(0.05, parts, guards=guards)
    assert (found.verdict, found.binding) == (verdict, binding)
    assert part_verdict(0.05, part(0.2)) == "inconclusive"


def test_claims_made_of_claims_are_as_good_as_the_worst():
    good, open_, bad = (Decision(verdict, "effect", "why") for verdict in
                        (Verdict.SUPPORTED, Verdict.INCONCLUSIVE, Verdict.REFUTED))  # fmt: skip
    assert decide_all([("a", good), ("b", good)])[1].verdict == "supported"
    assert decide_all([("a", good), ("b", open_)]) == (
        1, Decision(Verdict.INCONCLUSIVE, "b effect", "b: why"),
    )  # fmt: skip
    assert decide_all([("a", open_), ("b", bad), ("c", good)])[0] == 1


def test_refutation_is_shared_where_a_claim_has_several_parts():
    """At a fifth of the rate, three losses in 13 refute nothing and three of three still do."""
    late, early = ranked((0, 5, 12)).summary, ranked((0, 1, 2)).summary
    assert not ControlFinding("components", late, NO, refutation=0.01).ordinary
    assert ControlFinding("components", early, NO, refutation=0.01).ordinary
    assert ControlFinding("components", late, NO, refutation=0.05).ordinary


def test_three_losses_of_which_the_test_has_not_stopped_refute_nothing():
    """The lower bound is exact at a futile stop only."""
    test = ControlTest(1.0, 0.05, losses=5)
    summary = test.feed([2.0, 2.0, 2.0]).summary()
    assert summary.stop == "running"
    assert not ControlFinding("components", summary, NO).ordinary


def verdicts_made(tree):
    """Return the verdicts a file gives to something, not those it asks about."""
    asked = {
        id(leaf)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Compare, ast.Dict, ast.List, ast.Subscript))
        for leaf in ast.walk(node)
    }
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Verdict"
        and id(node) not in asked
    }


def test_nobody_else_says_supported():
    """Only the rule, identities and the combination over seeds make a claim supported."""
    made = {path.name: verdicts_made(ast.parse(path.read_text())) for path in SOURCES.glob("*.py")}
    makers = {name for name, found in made.items() if "SUPPORTED" in found}
    assert makers == {"_decide.py", "identity.py", "combining_seeds.py"}
    refuters = {name for name, found in made.items() if "REFUTED" in found}
    assert refuters == {"_decide.py", "identity.py", "combining_seeds.py"}


def test_nobody_else_compares_a_p_value_with_a_level():
    """A comparison operator beside a name ending in p or level stands nowhere but in `reaches`."""
    suspects = []
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(
                node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
            ):
                sides = [getattr(s, "attr", getattr(s, "id", "")) for s in
                         (node.left, *node.comparators)]  # fmt: skip
                if any(side == "p" or side.startswith("p_") for side in sides):
                    suspects.append(f"{path.name}:{node.lineno}")
    assert suspects == []
