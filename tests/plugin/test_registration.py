"""What is registered, at which level it is tested, and what is said when it no longer holds."""

import pytest

from mechtest.plugin.accounting import Outcomes, make_rows
from mechtest.plugin.journal import JournalContent
from mechtest.plugin.levels import RegisteredClaim, budget
from mechtest.plugin.plan import PlannedClaim
from mechtest.stats import ClaimFamily, closed_gates, fixed_sequence, holm, static_levels

pytest_plugins = ["pytester"]

TWO = """
pytestmark = mt.family("circuit")

@mt.claim("necessary")
def test_a():
    fake(threshold=0.5)

@mt.claim("sufficient")
def test_b():
    fake(threshold=0.6)

@mt.claim("twin", expect="refuted")
def test_twin():
    fake("refuted", p=0.9)
"""
UNORDERED = """
pytestmark = mt.family("many", ordered=False)

@mt.claim("one")
def test_1():
    fake(p=0.001)

@mt.claim("two")
def test_2():
    fake(p=0.004)
"""


def levels(project):
    return {row["id"].rpartition("::")[2]: row["level"] for row in project.report["claims"]}


def test_levels_without_a_lock_come_from_the_whole_collection(project):
    project.write(test_a=TWO, test_b=UNORDERED).run("-k", "test_1 or test_a")
    found = levels(project)
    assert found["test_a"] == found["test_b"] == found["test_twin"] == 0.025
    assert found["test_1"] == found["test_2"] == 0.0125
    assert project.report["exploratory"]
    assert project.report["family_error"]["source"] == "collection"


def test_deselected_claims_are_listed_and_said_out_loud(project):
    result = project.write(test_a=TWO, test_b=UNORDERED).run("-k", "test_1")
    assert project.verdicts["test_1"] == "supported"
    assert set(project.verdicts.values()) == {"supported", "deselected"}
    result.stdout.fnmatch_lines(["1 of 5 registered claims were checked; levels are those for 5"])
    assert result.ret == 0
    assert not project.report["complete"]


@pytest.mark.parametrize("how", ["option", "CI"])
def test_all_registered_claims_may_be_required(project, how, monkeypatch):
    project.write(test_a=TWO, test_b=UNORDERED)
    if how == "CI":
        monkeypatch.setenv("CI", "true")
    options = ["--mechtest-require-all"] if how == "option" else []
    assert project.run("-k", "test_1", *options).ret == 8
    assert project.run(*options).ret == 0


@pytest.mark.parametrize("way", [[], ["-n", "1"]], ids=["one process", "worker"])
def test_a_lock_is_written_without_running_anything(project, way):
    result = project.write(test_a=TWO, test_b=UNORDERED).run("--mechtest-lock", *way)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["claims/claims.lock: 5 claims", "*5 claims registered in 2*"])
    lock = project.lock
    assert lock["format"] == "mechtest-lock/1"
    assert lock["families"]["circuit"]["claims"] == [
        "claims/test_a.py::test_a",
        "claims/test_a.py::test_b",
        "claims/test_a.py::test_twin",
    ]
    assert lock["claims"]["claims/test_a.py::test_a"]["settings"] == [{"threshold": 0.5}]
    assert not (project.path / "claims-report" / "report.json").exists()
    lines = project.lock_path.read_text().splitlines()
    assert sum("test_a.py::test_b" in line for line in lines) == 2  # its claim, its family


def test_registered_claims_are_confirmatory(project):
    project.write(test_a=TWO, test_b=UNORDERED).run("--mechtest-lock")
    result = project.run()
    assert result.ret == 0
    report = project.report
    assert not report["exploratory"]
    assert all(row["registered"] for row in report["claims"])
    assert report["family_error"]["source"] == "claims/claims.lock"
    assert report["family_error"]["stale"] == []
    assert len(report["provenance"]["lock"]) == 64
    assert project.run("--mechtest-lock=check").ret == 0
    again = project.run("--mechtest-lock")
    again.stdout.fnmatch_lines(["claims/claims.lock: 5 claims, unchanged"])


def test_levels_of_a_lock_do_not_depend_on_what_is_selected(project):
    project.write(test_a=TWO, test_b=UNORDERED).run("--mechtest-lock")
    project.run("claims/test_b.py::test_1")
    assert levels(project) == {"test_1": 0.0125}
    assert project.report["family_error"]["stale"] == []
    assert project.report["family_error"]["registered"] == 5
    assert project.report["family_error"]["selected"] == 1


def test_a_changed_threshold_makes_a_claim_unregistered(project, monkeypatch):
    project.write(test_a=TWO).run("--mechtest-lock")
    project.write(test_a=TWO.replace("0.5", "0.4"))
    result = project.run()
    assert result.ret == 0
    row = project.row("test_a")
    assert not row["registered"]
    assert row["notes"] == ["changed since the lock: threshold 0.5 -> 0.4"]
    assert project.row("test_b")["registered"]
    assert project.report["exploratory"]
    result.stdout.fnmatch_lines(
        [
            "stale lock: claims/test_a.py::test_a changed since the lock: threshold 0.5 -> 0.4",
            "run `pytest claims --mechtest-lock` and commit the diff of claims/claims.lock",
        ]
    )
    assert project.run("--mechtest-lock=check", "-n", "1").ret == 1
    monkeypatch.setenv("CI", "1")
    assert project.run().ret == 1
    monkeypatch.delenv("CI")
    project.run("--mechtest-lock").stdout.fnmatch_lines(
        ["changed claims/test_a.py::test_a: threshold 0.5 -> 0.4"]
    )
    assert project.run("--mechtest-lock=check").ret == 0


def test_new_gone_and_reworded_claims_make_the_lock_stale(project):
    project.write(test_a=TWO).run("--mechtest-lock")
    changed = TWO.replace('"sufficient"', '"enough"').replace("test_twin", "test_other")
    project.write(test_a=changed).run()
    assert project.report["family_error"]["stale"] == [
        "claims/test_a.py::test_other is not in the lock",
        "claims/test_a.py::test_twin is in the lock and no longer in its file",
        "claims/test_a.py::test_b changed since the lock: statement sufficient -> enough",
    ]
    row = project.row("test_b")
    assert not row["registered"]
    assert row["level"] == 0.025  # as if it were a further family
    assert project.row("test_a")["level"] == 0.05


def test_a_lock_of_one_file_leaves_the_others_registered(project):
    project.write(test_a=TWO, test_b=UNORDERED).run("--mechtest-lock")
    project.write(test_b=UNORDERED.replace('"two"', '"zwei"'))
    project.run("--mechtest-lock", "claims/test_b.py")
    assert len(project.lock["claims"]) == 5
    assert project.lock["claims"]["claims/test_b.py::test_2"]["statement"] == "zwei"
    (project.path / "claims" / "test_a.py").unlink()
    project.run("--mechtest-lock")
    assert len(project.lock["claims"]) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-k", "twin"], "is deselected"),
        (["claims/test_a.py::test_a"], "whole files"),
    ],
)
def test_half_a_lock_is_not_written(project, options, why):
    result = project.write(test_a=TWO).run("--mechtest-lock", *options)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"no lock was written: *{why}*"])
    assert not project.lock_path.exists()


@pytest.mark.parametrize(("option", "value"), [("seed", "5"), ("alpha", "0.1")])
def test_another_seed_or_rate_than_the_locks_is_exploratory(project, option, value):
    project.write(test_a=TWO).run("--mechtest-lock")
    result = project.run(f"--mechtest-{option}={value}")
    assert result.ret == 0
    assert project.report["exploratory"]
    assert not project.row("test_a")["registered"]
    result.stdout.fnmatch_lines([f"run with {option} {value}, the lock says *: exploratory"])


def test_claims_of_two_locks_are_refused(project):
    project.write(test_a=TWO).run("--mechtest-lock")
    other = project.path / "claims" / "more"
    other.mkdir()
    (other / "test_c.py").write_text(UNORDERED.replace("pytestmark", "import mechtest as mt\np"))
    (other / "claims.lock").write_text(project.lock_path.read_text())
    result = project.run("-p", "no:cacheprovider")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*claims of two locks in one run*"])
    assert set(project.verdicts.values()) == {"invalid"}


def test_a_broken_lock_is_an_error_and_not_no_lock(project):
    project.write(test_a=TWO)
    project.lock_path.write_text("{<<<<<<< HEAD")
    result = project.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*claims.lock cannot be read as a lock*"])
    assert set(project.verdicts.values()) == {"invalid"}


def test_a_plan_says_what_claims_need(project):
    result = project.write(test_a=TWO, test_b=UNORDERED).run("--mechtest-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*plan of the claims*",
            "necessary*",
            "*0.025 *8/6 *237/237 *1 *300 *1.2 *4,000 *3",
            "in all: 5 of 5 claims, 1,185 controls, 6.2 GFLOP, 20,000 tokens*, up to 3 MiB",
        ]
    )
    assert not (project.path / "claims-report" / "report.json").exists()


@pytest.mark.parametrize("option", ["--mechtest-plan", "--mechtest-lock"])
def test_a_claim_that_could_never_be_supported_fails_the_plan(project, option):
    code = TWO.replace("threshold=0.6", "needs='6 templates, and there are 3'")
    result = project.write(test_a=code).run(option)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*claims/test_a.py::test_b could never be supported: 6 templates, and there are 3"]
    )
    assert not project.lock_path.exists()


def test_reruns_are_refused(project):
    project.write(test_a=TWO)
    (project.path / "reruns.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--reruns', type=int, default=0)\n"
    )
    result = project.run("-p", "reruns", "--reruns=2")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*claims are not run again*"])


def test_flaky_marks_are_refused(project):
    (project.path / "pytest.ini").write_text("[pytest]\nmarkers = flaky\n")
    project.write(test_a="@pytest.mark.flaky\n@mt.claim('x')\ndef test_a():\n    fake()\n")
    project.run().assert_outcomes(errors=1)


def test_modes_that_run_a_crashing_test_again_are_refused(project):
    result = project.write(test_a=TWO).run("-n", "1", "--dist=loadscope")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*--dist=loadscope starts a test that killed its worker again*"])


# -- levels, gates and adjusted p values without pytest ------------------------------------------


def rows_of(p_values, *, ordered, verdicts=None, families=1):
    verdicts = verdicts or {}
    planned = {
        key: PlannedClaim(
            key, key, key, "f", ordered, "supported", exact=False, file="t.py", line=n
        )
        for n, key in enumerate(p_values)
    }
    facts = {
        key: {"verdict": verdicts.get(key, "supported"), "p": p}
        for key, p in p_values.items()
        if p is not None
    }
    claims = [claim.registered_claim for claim in planned.values()]
    claims += [RegisteredClaim(f"o{n}", f"other{n}") for n in range(families - 1)]
    shared = budget(0.05, claims, {"f": ordered})
    rows = make_rows(planned, Outcomes(facts, JournalContent()), shared, registered=set(planned))
    return {row["id"]: row for row in rows}


def test_levels_are_those_of_the_statistics_room():
    claims = [RegisteredClaim(key, family) for key, family in [("a", "x"), ("b", "x"), ("c", "y")]]
    shared = budget(0.05, claims, {"x": False})
    families = {"x": ClaimFamily(("a", "b"), ordered=False), "y": ClaimFamily(("c",))}
    assert {key: shared.level(key) for key in "abc"} == static_levels(families, 0.05)


def test_identities_and_negative_claims_take_no_part_in_the_error_rate():
    claims = [
        RegisteredClaim("a", "x"),
        RegisteredClaim("b", "x"),
        RegisteredClaim("exact", "x", exact=True),
        RegisteredClaim("twin", "y", expect="refuted"),
    ]
    shared = budget(0.05, claims, {"x": False})
    assert shared.shares == 1
    assert shared.level("a") == 0.025
    assert shared.level("exact") == shared.level("twin") == 0.05
    assert shared.level("nobody") == 0.025


def test_gates_are_those_of_the_statistics_room():
    rows = rows_of({"a": 0.01, "b": 0.3, "c": 0.01}, ordered=True, verdicts={"b": "refuted"})
    closed = [key for key, row in rows.items() if row["gate"] == "closed"]
    supported = {"a": True, "b": False, "c": True}
    assert tuple(closed) == closed_gates(ClaimFamily(("a", "b", "c")), supported) == ("c",)
    assert rows["c"]["verdict"] == "supported"


def test_adjusted_p_values_are_those_of_the_statistics_room():
    p = {"a": 0.01, "b": 0.002, "c": 0.03}
    in_order = [row["p_adjusted"] for row in rows_of(p, ordered=True, families=2).values()]
    assert in_order == pytest.approx([2 * value for value in fixed_sequence(list(p.values()))])
    unordered = [row["p_adjusted"] for row in rows_of(p, ordered=False).values()]
    assert unordered == pytest.approx(holm(list(p.values())))


def test_a_claim_that_was_not_run_counts_as_p_of_one():
    rows = rows_of({"a": 0.01, "b": None, "c": 0.001}, ordered=False)
    assert rows["b"]["verdict"] == "not_run"
    assert rows["c"]["p_adjusted"] == pytest.approx(holm([0.01, 1.0, 0.001])[2])
    assert rows_of({"a": None, "b": 0.01}, ordered=True)["b"]["p_adjusted"] == 1
