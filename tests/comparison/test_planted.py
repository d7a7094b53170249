"""Weights with a circuit weakened, removed, moved or left alone are told apart."""

import copy

import pytest

from mechtest.comparison import compare_reports, evidence, judging
from tests.comparison.planted import EDITS, EMPTY, planted_report


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return {edit: planted_report(folder, edit) for edit in EDITS}


def found(reports, edit, before="as it was"):
    comparison = compare_reports(reports[before], reports[edit])
    claims = {c["id"].rpartition("::")[2].partition("[")[0]: c for c in comparison["claims"]}
    return comparison["status"], claims["test_there"], claims["test_absent"]


def test_an_edit_that_changes_nothing_is_not_flagged(reports):
    """Other weights, the same findings: twice, as they were and with an idle layer changed."""
    for edit in ("as it was", "elsewhere"):
        status, there, absent = found(reports, edit)
        assert (status, there["change"], absent["change"]) == (0, "held", "held")


def test_a_weakened_circuit_has_regressed_though_its_claim_is_still_supported(reports):
    status, there, absent = found(reports, "weakened")
    assert (status, there["change"], absent["change"]) == (1, "regressed", "held")
    assert there["after"]["verdict"] == "supported"
    (part,) = there["parts"]
    assert part["kept"]["high"] < 0.8
    assert part["behaviour_kept"] < 0.9  # what the model does got weaker, too, and it says so
    assert "of the behaviour itself" in there["reason"]


def test_a_removed_circuit_has_regressed_with_the_behaviour(reports):
    """No claim can be tested any more: an answer, and not an accident."""
    status, there, absent = found(reports, "removed")
    assert (status, there["change"], absent["change"]) == (1, "regressed", "regressed")
    assert "behaviour absent" in there["reason"]
    assert "\n" not in there["reason"]


def test_a_moved_circuit_is_found_where_it_is_now(reports):
    status, there, absent = found(reports, "moved")
    assert (status, there["change"], absent["change"]) == (1, "moved", "regressed")
    (place,) = there["parts"][0]["moved_to"]
    assert place["circuit"] == [EMPTY]
    assert place["tested"]
    assert place["after"] > 0.9 > 0.1 > abs(place["before"])
    # And back again, from the other side.
    status, there, absent = found(reports, "as it was", before="moved")
    assert status == 0  # neither was a finding there, so nothing was lost
    assert (there["change"], absent["change"]) == ("gained", "gained")


def test_nothing_moved_where_no_other_place_was_measured(reports):
    """Without evidence of another place it has regressed; nobody guesses where to."""
    alone = {
        edit: {
            **reports[edit],
            "claims": [r for r in reports[edit]["claims"] if "there" in r["id"]],
        }
        for edit in ("as it was", "moved")
    }
    comparison = compare_reports(alone["as it was"], alone["moved"])
    assert [claim["change"] for claim in comparison["claims"]] == ["regressed"]


def test_a_place_that_carried_it_all_along_is_no_new_place(reports):
    """In the first report the other place has to be shown to have had less."""
    before = copy.deepcopy(reports["as it was"])
    there, absent = (row["evidence"][0] for row in before["claims"])
    absent["effects"] = list(there["effects"])
    (claim,) = [
        c for c in compare_reports(before, reports["moved"])["claims"] if "there" in c["id"]
    ]
    assert claim["change"] == "regressed"


# -- false twins: comparisons that are wrong in one way, and do not get the answers above ----------


def _by_position(before, after):
    count = min(len(before["prompt_ids"]), len(after["prompt_ids"]))
    same = tuple(range(count))
    return evidence.Shared(same, same, tuple(before["templates"]), 1.0)


def test_prompts_in_another_order_are_paired_and_a_comparison_by_position_is_caught(
    reports, monkeypatch
):
    shuffled = copy.deepcopy(reports["as it was"])
    for row in shuffled["claims"]:
        for name in ("prompt_ids", "prompt_digests", "templates", "effects", "behaviours"):
            row["evidence"][0][name].reverse()
    pair = {"as it was": reports["as it was"], "shuffled": shuffled}
    kept = found(pair, "shuffled")[1]["parts"][0]["kept"]
    assert (kept["low"], kept["high"]) == (1, 1)
    monkeypatch.setattr(judging, "shared_prompts", _by_position)
    unpaired = found(pair, "shuffled")[1]["parts"][0]["kept"]
    assert unpaired["high"] - unpaired["low"] > 0.05


def test_an_effect_of_the_other_sign_is_lost_and_a_comparison_of_sizes_is_caught(
    reports, monkeypatch
):
    turned = copy.deepcopy(reports["as it was"])
    part = turned["claims"][0]["evidence"][0]
    part["effects"] = [-value for value in part["effects"]]
    pair = {"as it was": reports["as it was"], "turned": turned}
    assert found(pair, "turned")[1]["change"] == "regressed"
    right = evidence.Shared.of_second
    monkeypatch.setattr(
        evidence.Shared, "of_second", lambda self, v: [abs(x) for x in right(self, v)]
    )
    assert found(pair, "turned")[1]["change"] == "held"


def test_maps_are_asked_where_no_claim_measured_the_other_place(reports):
    """A map is looked at, not tested, and the answer says so."""
    rows = {}
    for edit, values in (("as it was", [[0.0], [0.9], [0.1]]), ("moved", [[0.0], [0.1], [0.85]])):
        title = "resample of state, 8 discovery prompts"
        table = {"title": title, "rows": ["layer 0", "layer 1", "layer 2"], "columns": ["last"],
                 "values": values, "unit": "share of behaviour"}  # fmt: skip
        claims = [{**r, "maps": [table]} for r in reports[edit]["claims"] if "there" in r["id"]]
        rows[edit] = {**reports[edit], "claims": claims}
    (claim,) = compare_reports(rows["as it was"], rows["moved"])["claims"]
    assert claim["change"] == "moved"
    (place,) = claim["parts"][0]["moved_to"]
    assert (place["tested"], place["after"]) == (False, pytest.approx(0.85 / 0.9))
    assert "layer 2" in claim["reason"]
    assert "not tested" in claim["reason"]
